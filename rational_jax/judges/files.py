"""A file of answers, judged: the judgements beside it and a summary."""

import hashlib
from collections import Counter
from pathlib import Path
from typing import Any

from rational_jax.judges.combined import FittingJudge
from rational_jax.judges.labelled import key_of, read_answers
from rational_jax.judges.log import Wanted, judge_logged
from rational_jax.judges.refusal import RefusalJudge
from rational_jax.judges.verdict import Judge, Verdict
from rational_jax.progress import SILENT, Progress
from rational_jax.stores import is_remote, local_copy


def judge_file(
    path: str | Path, judge: Judge, progress: Progress = SILENT, *, retry_unscored: bool = False
) -> dict[str, Any]:
    """Judges the answers in a file and returns the summary: counts of labels by model, coverage, and where they are.

    Judgements go to PATH with .judgements.jsonl in place of its ending; those that are there are not asked for again,
    but with `retry_unscored` those that are there without a score. Those on a file at an address, which is fetched, go
    to the working directory, with eight digits of the address's SHA-256 in their name: many files are called alike.
    Raises UserError where the file cannot be read.
    """
    if judge.question == "harm":
        judge = FittingJudge(judge, RefusalJudge())
    file = local_copy(path)
    given = read_answers(file)
    log = file.with_name(f"{file.stem}.judgements.jsonl")
    if is_remote(str(path)):
        log = Path(f"{file.stem}-{hashlib.sha256(str(path).encode()).hexdigest()[:8]}.judgements.jsonl")
    wanted = [
        Wanted(
            key={"row": one.row, "answer": key_of(one)},
            exchange=one.exchange,
            more={} if one.exchange.goal == one.asked else {"goal": one.exchange.goal, "asked": one.asked},
        )
        for one in given
        if not one.unfinished
    ]
    verdicts = judge_logged(log, wanted, judge, progress, retry=retry_unscored)
    models: dict[str, Counter] = {}
    reasons: Counter = Counter()
    for one in given:
        verdict = verdicts.get(one.exchange.id) or Verdict(label="unscored", reason=one.unfinished)
        models.setdefault(one.model or "(no model named)", Counter())[verdict.label] += 1
        reasons[verdict.reason] += verdict.label == "unscored"
    unscored = sum(counts["unscored"] for counts in models.values())
    return {
        "judge": judge.name,
        "identity": judge.identity,
        "answers": len(given),
        "coverage": 1 - unscored / len(given),
        "failed": sum(verdict.failed for verdict in verdicts.values()),
        "unscored_reasons": {reason: count for reason, count in reasons.items() if count},
        "models": {model: dict(counts) for model, counts in models.items()},
        "judgements": str(log),
    }
