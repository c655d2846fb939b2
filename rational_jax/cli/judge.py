"""`rational judge`."""

import sys
from collections import Counter
from typing import Annotated

import typer

from rational_jax.cli.session import FAILED, session

File = Annotated[str | None, typer.Argument(metavar="ANSWERS", help="Answers to judge, .jsonl or .csv.")]
Words = Annotated[
    list[str] | None,
    typer.Argument(metavar="CONFIG|KEY=VALUE", help="Settings of the judge, such as evaluate.judge_model.name=..."),
]
Against = Annotated[
    str | None, typer.Option("--validate", metavar="FILE", help="Compare with the labels of people in this file.")
]
Form = Annotated[
    str,
    typer.Option(
        "--format", help="Of the labelled file: xstest, gptfuzz, jbb, or columns=answer:NAME,label:NAME,goal:NAME,..."
    ),
]
Judge = Annotated[
    str | None, typer.Option("--judge", metavar="NAME", help="Instead of evaluate.judge; several with commas between.")
]
Retry = Annotated[bool, typer.Option("--retry-unscored", help="Ask again about answers that were left unscored.")]
Json = Annotated[bool, typer.Option("--json", help="Print JSON; `report.validation` takes that of --validate.")]


def judge(
    answers: File = None,
    words: Words = None,
    validate: Against = None,
    form: Form = "columns",
    name: Judge = None,
    retry_unscored: Retry = False,
    as_json: Json = False,
) -> None:
    """Judges any answers; measures judges against people.

    \b
    ANSWERS is what `rational sample` left, or any .jsonl or .csv file with a prompt and an answer in each row. Its
    judgements are written beside it, to ANSWERS.judgements.jsonl; running it again continues. A file in a bucket or on
    the web is fetched (not one of a run at an address, which lies in pieces), and its judgements are written here.
      rational judge answers.jsonl
      rational judge runs/demo/sample/base/answers.jsonl --judge refusal-rules
      rational judge answers.jsonl --judge strongreject evaluate.judge_model.name=llama-3.3-70b \\
          evaluate.judge_model.endpoint=http://localhost:8000/v1
      rational judge --validate xstest_v2_completions_mistralinstruct.csv --format xstest
      rational judge --validate labelled.csv --format columns=answer:reply,label:human --json > kappa.json

    \b
    Judges: refusal (the default), refusal-rules, guard, fulfilment, hex-phi, strongreject, coconot; several with
    commas between them are a majority. The exit status is 2 where the judge failed on some answers.
    """
    if (answers is None) == (validate is None) and not (validate and "=" in answers):
        raise typer.BadParameter("give a file of answers, or --validate FILE")
    changes = list(words or ())
    if validate is not None and answers is not None:  # a setting stands in the place of the file
        changes.insert(0, answers)
    with session(changes, False) as (config, progress):
        from rational_jax import judges
        from rational_jax.judges.labelled import read_labelled
        from rational_jax.judges.validate import validate as measure
        from rational_jax.stores import local_copy

        if as_json:  # which is all that may stand on the standard output
            from rational_jax.progress import SILENT

            progress = SILENT
        chosen = judges.load_judge(name or config.evaluate.judge, config, progress)
        if validate is not None:
            found = measure(read_labelled(local_copy(validate), form), chosen, progress)
            if form == "xstest" and "refusal" in chosen.name.split(","):
                sys.stderr.write(
                    "the refusal judge was fitted on XSTest's published completions: on these its agreement flatters "
                    "it, and scripts/fit_refusal_judge.py has that on models and prompts that it did not see\n"
                )
            _print(found, as_json, _validation)
            failed = found["failed"]
        else:
            summary = judges.judge_file(answers, chosen, progress, retry_unscored=retry_unscored)
            _print(summary, as_json, _summary)
            failed = summary["failed"]
    if failed:
        sys.stdout.flush()
        sys.stderr.write(f"error: the judge failed on {failed:,} answers; run the same command again\n")
        raise typer.Exit(FAILED)


def _print(found: dict, as_json: bool, show) -> None:
    import json

    from rational_jax.text.terminal import plain

    lines = json.dumps(found, indent=2).split("\n") if as_json else show(found)
    for line in lines:
        sys.stdout.write((line if as_json else plain(line)) + "\n")


def _validation(found: dict) -> list[str]:
    wide = max(len("all"), *(len(model) for model in found["by_model"]))
    lines = [f"{found['judge']} against people: {found['items']:,} answers scored, coverage {found['coverage']:.1%}"]
    lines += [f"  {count:,} unscored: {reason}" for reason, count in found["unscored_reasons"].items()]
    lines.append(f"{'':<{wide}}  answers  accuracy  kappa [95% interval]   all classes")
    for model, one in {"all": found, **found["by_model"]}.items():
        interval = f"{one['kappa']:.3f} [{one['kappa_low']:.3f}, {one['kappa_high']:.3f}]"
        lines.append(
            f"{model:<{wide}}{one['items']:>9,}{one['accuracy']:>10.3f}  {interval:<22}{one['kappa_all']:>10.3f}"
        )
    lines.append(f"worst model: {found['worst_model']}")
    labels = sorted({label for row in found["confusion"].values() for label in row})
    lines.append("people \\ judge  " + "".join(f"{label:>12}" for label in labels))
    lines += [
        f"{person:<16}" + "".join(f"{row.get(label, 0):>12,}" for label in labels)
        for person, row in found["confusion"].items()
    ]
    return lines


def _summary(found: dict) -> list[str]:
    labels = list(Counter(label for row in found["models"].values() for label in row))
    wide = max(len("model"), *(len(model) for model in found["models"]))
    lines = [f"{'model':<{wide}}" + "".join(f"{label:>13}" for label in labels)]
    for model, row in found["models"].items():
        lines.append(f"{model:<{wide}}" + "".join(f"{row.get(label, 0):>13,}" for label in labels))
    lines.append(f"coverage {found['coverage']:.1%} of {found['answers']:,} answers, judge {found['judge']}")
    lines += [f"  {count:,} unscored: {reason}" for reason, count in found["unscored_reasons"].items()]
    return [*lines, f"wrote {found['judgements']}"]
