"""The verb `evaluate`: answers in, judgements, figures and tables out.

Judging is a log of its own beside the answers: a rerun continues it, and another judge costs no generation. All
figures are computed from answers and judgements afterwards, so results.json is a pure function of the two.
"""

import dataclasses
from collections.abc import Iterable, Mapping
from pathlib import Path

from rational_jax.config import RunConfig
from rational_jax.data.suites import configured_suites, find_suite
from rational_jax.errors import UserError
from rational_jax.evaluate.compute import compute
from rational_jax.evaluate.outcomes import Answer, Outcome, outcome
from rational_jax.evaluate.results import (
    Results,
    percent,
    read_results,
    summary_rows,
    write_results,
)
from rational_jax.evaluate.tables import write_tables
from rational_jax.judges import Exchange, Judge, Verdict, fitting_judge
from rational_jax.judges.load import SUITES
from rational_jax.judges.log import Wanted, judge_logged, read_verdicts
from rational_jax.manifest import FILE as MANIFEST
from rational_jax.manifest import Stage, read_stage
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import read_jsonl, sha256_file, sha256_tree

RESULTS, JUDGEMENTS, CAPABILITY, TABLES = "results.json", "judgements.jsonl", "capability.jsonl", "tables"


def run(config: RunConfig, progress: Progress = SILENT, *, retry_unscored: bool = False) -> Results:
    """Judges the answers of every model in `config.sample.models` and computes the figures.

    Writes judgements.jsonl, results.json and tables/*.csv under `<run>/evaluate`. Finished work is read back, unless
    `retry_unscored` says that what the judge left unscored is to be asked again.
    Raises UserError where a model has not been sampled, or its answers are not those that its manifest names.
    """
    root = Path(config.run)
    judge = configured_judge(config, progress)
    samples = {model: read_stage(root / "sample" / model, verb="sample") for model in config.sample.models}
    stage = Stage.open(
        root / "evaluate",
        verb="evaluate",
        settings={
            "evaluate": config.evaluate.model_dump(mode="json"),
            "judge": judge.identity,
            "seed": config.seed,
            "sample": {"suites": list(config.sample.suites), "limit": config.sample.limit, "models": list(samples)}
            | ({"attacks": list(config.sample.attacks)} if config.sample.attacks else {}),
        },
        inputs={f"sample/{model}": manifest["digest"] for model, manifest in samples.items()},
    )
    if stage.complete and retry_unscored:
        stage.reopen()
    elif stage.complete:
        progress.message("evaluate: already done")
        return read_results(stage.directory / RESULTS)
    answers = {model: read_answers(root, model, samples[model]) for model in samples}
    verdicts = judge_answers(stage.directory / JUDGEMENTS, answers, judge, progress, suites_of(config), retry_unscored)
    outcomes = {model: [outcome(a, verdicts.get((model, a.id))) for a in rows] for model, rows in answers.items()}
    results = compute(config, judge, outcomes, progress, trained_on(root))
    if config.evaluate.capability.tasks:
        # Imported where it is used: it brings the engine, which nothing else here needs.
        from rational_jax.evaluate import capability

        del judge  # with its model, if it had one: the next ones want the memory
        scores = capability.run(config, stage.directory / CAPABILITY, progress)
        results = dataclasses.replace(results, capability=scores)
    write_results(results, stage.directory / RESULTS)
    write_tables(results, outcomes, stage.directory / TABLES)
    failed = [verdict for verdict in verdicts.values() if verdict.failed]
    if failed:
        scored = sum(verdict.label != "unscored" for verdict in verdicts.values())
        raise UserError(
            f"evaluate: {scored:,} of {len(verdicts):,} answers are scored "
            f"(coverage {percent(scored / len(verdicts))}); on {len(failed):,} {failed[0].reason}; "
            f"the figures so far are in {stage.directory}, rerun to go on"
        )
    outputs = sha256_tree(stage.directory, ignore=("manifest.json", ".*"))
    stage.finish(outputs=outputs, figures=_headlines(results))
    return results


def trained_on(root: Path) -> dict[str, int]:
    """Suite -> how many of its prompts are in the run's training data, as `rational curate` found; {} without one."""
    if not (root / "curate" / MANIFEST).is_file():
        return {}
    found = read_stage(root / "curate", verb="curate")["figures"].get("trained_on", {})
    return {str(suite): int(count) for suite, count in found.items() if count}


def read_answers(root: Path, model: str, manifest: dict) -> list[Answer]:
    """The answers of one model, in the order of the requests."""
    path = root / "sample" / model / "answers.jsonl"
    if sha256_file(path) != manifest["outputs"].get(path.name):
        raise UserError(
            f"{path} is not the file that its manifest names; delete the folder {path.parent} and sample again"
        )
    return [Answer.from_json(row, f"{path}:{line}") for line, row in enumerate(read_jsonl(path), start=1)]


def read_outcomes(config: RunConfig) -> dict[str, list[Outcome]]:
    """Answers and judgements of a finished evaluation, joined. Raises UserError where there is none.

    Models and judge are those that it had, whatever the configuration says by now.
    """
    root = Path(config.run)
    settings = read_stage(root / "evaluate", verb="evaluate")["settings"]
    return read_judged(root, settings["sample"]["models"], settings["judge"])


def read_judged(root: Path, models: Iterable[str], identity: str) -> dict[str, list[Outcome]]:
    """Answers of `models` in the run `root`, joined with what the judge of that identity said of them.

    Raises UserError where the evaluation there was of other answers.
    """
    judged = read_stage(root / "evaluate", verb="evaluate")["inputs"]
    said = read_verdicts(read_jsonl(root / "evaluate" / JUDGEMENTS), identity)
    verdicts = {(record["model"], record["answer"]): verdict for record, verdict in said}
    found = {}
    for model in models:
        sampled = read_stage(root / "sample" / model, verb="sample")
        if sampled["digest"] != judged.get(f"sample/{model}"):
            raise UserError(
                f"{root / 'sample' / model} was sampled after it was evaluated: delete {root / 'evaluate'} and run "
                "`rational evaluate` again"
            )
        answers = read_answers(root, model, sampled)
        found[model] = [outcome(answer, verdicts.get((model, answer.id))) for answer in answers]
    return found


def configured_judge(config: RunConfig, progress: Progress = SILENT) -> Judge:
    """What `evaluate.judge` asks for. Raises UserError where there is no such judge, or its model is not said."""
    suites = {name: find_suite(name).judge for name in config.sample.suites}
    return fitting_judge(config.evaluate.judge, config, suites, progress)


def suites_of(config: RunConfig) -> dict[str, str]:
    """Prompt id -> its suite, where judges go by that."""
    if config.evaluate.judge != SUITES:
        return {}
    return {prompt.id: name for name, prompts in configured_suites(config).items() for prompt in prompts}


def judge_answers(
    path: Path,
    answers: dict[str, list[Answer]],
    judge: Judge,
    progress: Progress = SILENT,
    suites: Mapping[str, str] | None = None,
    retry: bool = False,
) -> dict[tuple[str, str], Verdict]:
    """Verdicts by (model, answer id), from the log at `path` and from the judge. `suites` is what `suites_of` gives.

    Answers that the token limit or a filter cut off are not judged. The judge gets the plain goal, which an attack may
    have wrapped; where the two differ the log has the goal, and the answers have the wrapped prompt.
    """
    suite = suites or {}
    wanted = {
        (model, answer.id): Wanted(
            key={"model": model, "answer": answer.id},
            exchange=_exchange(model, answer, suite.get(answer.prompt.id, "")),
            more={"goal": goal} if (goal := answer.prompt.meta.get("goal")) else {},
        )
        for model, rows in answers.items()
        for answer in rows
        if answer.finished
    }
    verdicts = judge_logged(path, list(wanted.values()), judge, progress, retry=retry)
    return {key: verdicts[one.exchange.id] for key, one in wanted.items()}


def _exchange(model: str, answer: Answer, suite: str) -> Exchange:
    prompt = answer.prompt
    return Exchange(
        id=f"{model}:{answer.id}",
        goal=prompt.goal,
        answer=answer.answer,
        category=prompt.category,
        subcategory=prompt.meta.get("subcategory", ""),
        label=prompt.label,
        suite=suite,
    )


def _headlines(results: Results) -> dict:
    """The summary as it goes into the manifest: shown by the commands, part of no digest."""
    return {
        f"{row.suite}/{row.model}": {
            "asr": row.asr.value,
            "over_refusal": row.over_refusal.value,
            "mean_error": row.mean_error.value,
            "coverage": percent(row.coverage),
        }
        for row in summary_rows(results)
    }
