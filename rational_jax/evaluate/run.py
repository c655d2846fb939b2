"""The verb `evaluate`: answers in, judgements, figures and tables out.

Judging is a log of its own beside the answers: a rerun continues it, and another judge costs no generation. All
figures are computed from answers and judgements afterwards, so results.json is a pure function of the two.
"""

import json
from collections.abc import Iterable
from pathlib import Path

from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.evaluate.compare import differences
from rational_jax.evaluate.metrics import Settings, slice_figures
from rational_jax.evaluate.outcomes import Answer, Outcome, outcome
from rational_jax.evaluate.results import (
    VERSION,
    Results,
    Slice,
    SuiteResults,
    percent,
    read_results,
    summary_rows,
    write_results,
)
from rational_jax.evaluate.suites import Suite, find_suite, load_suites
from rational_jax.evaluate.tables import write_tables
from rational_jax.judges import Judge, Verdict, load_judge
from rational_jax.manifest import Stage, read_stage
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import JsonlLog, atomic_write_text, read_jsonl, sha256_file, sha256_tree

RESULTS, JUDGEMENTS, TABLES = "results.json", "judgements.jsonl", "tables"


def run(config: RunConfig, progress: Progress = SILENT) -> Results:
    """Judges the answers of every model in `config.sample.models` and computes the figures.

    Writes judgements.jsonl, results.json and tables/*.csv under `<run>/evaluate`. Finished work is read back.
    Raises UserError where a model has not been sampled, or its answers are not those that its manifest names.
    """
    root = Path(config.run)
    judge = load_judge(config.evaluate.judge)
    samples = {model: read_stage(root / "sample" / model, verb="sample") for model in config.sample.models}
    stage = Stage.open(
        root / "evaluate",
        verb="evaluate",
        settings={
            "evaluate": config.evaluate.model_dump(mode="json"),
            "judge": judge.identity,
            "seed": config.seed,
            "sample": {"suites": list(config.sample.suites), "limit": config.sample.limit, "models": list(samples)},
        },
        inputs={f"sample/{model}": manifest["digest"] for model, manifest in samples.items()},
    )
    if stage.complete:
        progress.message(f"evaluate: finished before, {stage.directory / RESULTS}")
        return read_results(stage.directory / RESULTS)
    answers = {model: read_answers(root, model, samples[model]) for model in samples}
    verdicts = judge_answers(stage.directory / JUDGEMENTS, answers, judge, progress)
    outcomes = {model: [outcome(a, verdicts.get((model, a.id))) for a in rows] for model, rows in answers.items()}
    results = compute(config, judge, outcomes, progress)
    write_results(results, stage.directory / RESULTS)
    write_tables(results, outcomes, stage.directory / TABLES)
    outputs = sha256_tree(stage.directory, ignore=("manifest.json", ".*"))
    stage.finish(outputs=outputs, figures=_headlines(results))
    return results


def read_answers(root: Path, model: str, manifest: dict) -> list[Answer]:
    """The answers of one model, in the order of the requests."""
    path = root / "sample" / model / "answers.jsonl"
    if sha256_file(path) != manifest["outputs"].get(path.name):
        raise UserError(
            f"{path} is not the file that its manifest names; delete the folder {path.parent} and sample again"
        )
    return [Answer.from_json(row, f"{path}:{line}") for line, row in enumerate(read_jsonl(path), start=1)]


def read_outcomes(config: RunConfig) -> dict[str, list[Outcome]]:
    """Answers and judgements of a finished evaluation, joined. Raises UserError where there is none."""
    root = Path(config.run)
    read_stage(root / "evaluate", verb="evaluate")
    verdicts = _verdicts(read_jsonl(root / "evaluate" / JUDGEMENTS), load_judge(config.evaluate.judge).identity)
    found = {}
    for model in config.sample.models:
        answers = read_answers(root, model, read_stage(root / "sample" / model, verb="sample"))
        found[model] = [outcome(answer, verdicts.get((model, answer.id))) for answer in answers]
    return found


def judge_answers(
    path: Path, answers: dict[str, list[Answer]], judge: Judge, progress: Progress
) -> dict[tuple[str, str], Verdict]:
    """Verdicts by (model, answer id), from the log where they are there already and from the judge where not.

    Answers that the token limit cut off are not judged. When all is judged the log is put in the order of the
    answers, so that a stopped and continued evaluation leaves the same bytes as one that was never stopped.
    """
    wanted = [(model, answer) for model, rows in answers.items() for answer in rows if answer.finished]
    with JsonlLog(path) as log:
        verdicts = _verdicts(log.records(), judge.identity)
        done = sum((model, answer.id) in verdicts for model, answer in wanted)
        with progress.task("judging", total=len(wanted), unit="answers", done=done) as task:
            for model, answer in wanted:
                if (model, answer.id) in verdicts:
                    continue
                verdict = verdicts[model, answer.id] = judge.judge(answer.answer)
                log.append(_record(model, answer, judge, verdict))
                task.advance()
        ordered = [_record(model, answer, judge, verdicts[model, answer.id]) for model, answer in wanted]
        others = [record for record in log.records() if record["judge"] != judge.identity]
        settled = log.records() == others + ordered
    if not settled:
        _rewrite(path, others + ordered)
    return verdicts


def _record(model: str, answer: Answer, judge: Judge, verdict: Verdict) -> dict:
    return {
        "model": model,
        "answer": answer.id,
        "judge": judge.identity,
        "label": verdict.label,
        "reason": verdict.reason,
    }


def _verdicts(records: Iterable[dict], identity: str) -> dict[tuple[str, str], Verdict]:
    return {
        (record["model"], record["answer"]): Verdict(label=record["label"], reason=record["reason"])
        for record in records
        if record["judge"] == identity
    }


def compute(
    config: RunConfig, judge: Judge, outcomes: dict[str, list[Outcome]], progress: Progress = SILENT
) -> Results:
    """All figures of all suites. A pure function of the configuration and the outcomes."""
    settings = Settings(confidence=config.evaluate.confidence, samples=config.evaluate.bootstrap, seed=config.seed)
    prompts = load_suites(config.sample.suites, config.sample.limit)
    found = []
    with progress.task("computing figures", total=len(prompts), unit="suites") as task:
        for name, members in prompts.items():
            ids = {prompt.id for prompt in members}
            by_model = {model: [one for one in rows if one.answer.prompt.id in ids] for model, rows in outcomes.items()}
            _check_all_answered(name, ids, by_model)
            found.append(_suite(find_suite(name), len(ids), by_model, settings))
            task.advance()
    return Results(
        version=VERSION,
        judge=judge.name,
        judge_identity=judge.identity,
        confidence=config.evaluate.confidence,
        bootstrap=config.evaluate.bootstrap,
        seed=config.seed,
        samples=config.sample.samples,
        suites=tuple(found),
    )


def _check_all_answered(suite: str, ids: set[str], by_model: dict[str, list[Outcome]]) -> None:
    for model, rows in by_model.items():
        missing = len(ids - {one.answer.prompt.id for one in rows})
        if missing:
            raise UserError(
                f"sample/{model} has no answer to {missing} prompts of suite {suite}: the prompts have changed since; "
                "choose another run=..., or delete that folder and sample again"
            )


def _suite(suite: Suite, prompts: int, by_model: dict[str, list[Outcome]], settings: Settings) -> SuiteResults:
    slices = [slice_figures(by_model, by="all", settings=settings)]
    compared = differences(by_model, where="all", settings=settings)
    if suite.headline is not None:
        chosen = {m: [o for o in rows if suite.headline.holds(o.answer.prompt)] for m, rows in by_model.items()}
        if any(chosen.values()):
            slices.append(slice_figures(chosen, by="headline", settings=settings))
            compared += differences(chosen, where="headline", settings=settings)
    for by, parts in _PARTS.items():
        slices += _divide(by_model, by, parts, settings)
    return SuiteResults(
        name=suite.name,
        title=suite.title,
        headline=suite.headline.words if any(one.by == "headline" for one in slices) else "",
        models=tuple(by_model),
        prompts=prompts,
        slices=tuple(slices),
        differences=tuple(compared),
    )


# How a suite is divided: outcome -> (part, second part), or None where the outcome is in no part. A value without a
# name ("" in the prompts) makes no part.
_PARTS = {
    "tier": lambda p: (p.category, "") if p.category else None,
    "style": lambda p: (p.style, "") if p.style else None,
    "wrapper": lambda p: (_yes(p.meta["wrapper_seen"], "seen", "unseen"), "") if "wrapper_seen" in p.meta else None,
    "sensitive": lambda p: (
        (_yes(p.meta["sensitive"], "sensitive", "plain"), "") if p.label == "benign" and "sensitive" in p.meta else None
    ),
    "style x tier": lambda p: (p.style, p.category) if p.style and p.category else None,
}


def _yes(value: str, yes: str, no: str) -> str:
    return yes if str(value).lower() in ("1", "true", "yes", yes) else no


def _divide(by_model: dict[str, list[Outcome]], by: str, part_of, settings: Settings) -> list[Slice]:
    """The slices of one division, in the order in which their prompts come."""
    parts: dict[tuple[str, str], dict[str, list[Outcome]]] = {}
    for model, rows in by_model.items():
        for one in rows:
            key = part_of(one.answer.prompt)
            if key is not None:
                parts.setdefault(key, {name: [] for name in by_model})[model].append(one)
    return [
        slice_figures(members, by=by, name=name, other=other, settings=settings)
        for (name, other), members in parts.items()
    ]


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


def _rewrite(path: Path, records: list[dict]) -> None:
    atomic_write_text(path, "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records))
