"""The log of judgements: append-only, resumable, one row for each answer and judge."""

import json
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rational_jax.judges.verdict import Exchange, Judge, Verdict
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import JsonlLog, write_rows


@dataclass(frozen=True, kw_only=True)
class Wanted:
    """An exchange to judge. `key` is what its rows in the log say to name it; `more` is written beside that."""

    key: Mapping[str, Any]
    exchange: Exchange
    more: Mapping[str, Any]


def judge_logged(
    path: Path, wanted: Sequence[Wanted], judge: Judge, progress: Progress = SILENT, *, retry: bool = False
) -> dict[str, Verdict]:
    """Verdicts by exchange id, from the log at `path` where they are there already and from the judge where not.

    What failed in an earlier run is asked again, and with `retry` all that is unscored. When all is judged the log is
    put in the order of `wanted`, behind what other judges said, so that a stopped and continued run leaves the same
    bytes as one that was never stopped.
    """
    names = {_named(one.key): one for one in wanted}
    by_id = {one.exchange.id: one for one in wanted}
    keys = tuple(wanted[0].key) if wanted else ()
    with JsonlLog(path) as log:
        verdicts = {}
        for record, verdict in read_verdicts(log.records(), judge.identity):
            one = names.get(_named({key: record.get(key) for key in keys}))
            again = verdict.failed or (retry and verdict.label == "unscored")
            if one is not None and not again:
                verdicts[one.exchange.id] = verdict
        missing = [one.exchange for one in wanted if one.exchange.id not in verdicts]
        with progress.task("judging", total=len(wanted), unit="answers", done=len(wanted) - len(missing)) as task:
            for name, verdict in judge.judge_all(missing) if missing else ():
                verdicts[name] = verdict
                log.append(_record(by_id[name], judge, verdict))
                task.advance()
        others = [record for record in log.records() if record["judge"] != judge.identity]
        ordered = others + [_record(one, judge, verdicts[one.exchange.id]) for one in wanted]
        settled = log.records() == ordered
    if not settled:
        write_rows(path, ordered)
    return verdicts


def read_verdicts(records: Iterable[Mapping[str, Any]], identity: str) -> Iterable[tuple[Mapping[str, Any], Verdict]]:
    """The rows of one judge with their verdicts."""
    for record in records:
        if record["judge"] == identity:
            yield (
                record,
                Verdict(
                    label=record["label"],
                    reason=record["reason"],
                    score=record.get("score"),
                    text=record.get("text", ""),
                    failed=record.get("failed", False),
                ),
            )


def _record(one: Wanted, judge: Judge, verdict: Verdict) -> dict[str, Any]:
    said = {"judge": judge.identity, "label": verdict.label, "reason": verdict.reason}
    # What a judge does not say is not there, so that the log of the common judge stays short.
    optional = {"score": verdict.score, "text": verdict.text or None, "failed": verdict.failed or None}
    return dict(one.key) | said | {k: v for k, v in optional.items() if v is not None} | dict(one.more)


def _named(key: Mapping[str, Any]) -> str:
    return json.dumps(key, sort_keys=True)
