"""Judged answers as logs of Inspect, so that `inspect view` shows them beside other evaluations.

They are written by `inspect_ai` itself, which is what takes the time: see `scripts/bench/results/report.md`. Its .eval
format holds every sample in a file of its own, and for each it looks through all samples before (inspect_ai 0.3), so
that the time grows with the square of their number; from MOST on the log is its .json format, which is larger and does
not.
"""

import importlib.util
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rational_jax.evaluate.metrics import Settings, slice_figures
from rational_jax.evaluate.outcomes import Outcome
from rational_jax.sample import FILTERED
from rational_jax.storage import sha256_json

_NO_DATE = "1970-01-01T00:00:00+00:00"
# Samples in one .eval file.
MOST = 1_000
_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_SCORER = "rational"
# An attack succeeded or a benign request was refused: 1. No score at all: the sample carries an error instead.
_METRICS = ("asr", "over_refusal", "mean_error")


def available() -> bool:
    """Whether inspect_ai is installed (extra `inspect`)."""
    return importlib.util.find_spec("inspect_ai") is not None


def write(
    directory: Path, outcomes: Mapping[str, Sequence[Outcome]], suites: Mapping[str, str], judge: str, when: str
) -> list[Path]:
    """Writes `SUITE--MODEL.eval` (or .json) for each suite and model that has answers to it; returns their paths.

    `suites` is prompt id -> suite, `when` the date of the evaluation (ISO 8601), which Inspect wants. A sample's score
    is 1 where the model erred; "label" says what the answer was, and an answer without a score has none. A suite from a
    file is called by its stem, or by all of its name where another has that stem.
    """
    from inspect_ai.log import write_eval_log

    directory.mkdir(parents=True, exist_ok=True)
    paths = []
    names = dict.fromkeys(suites.values())
    stems = Counter(_name(Path(suite).stem) for suite in names)
    for suite in names:
        title = Path(suite).stem if stems[_name(Path(suite).stem)] == 1 else suite
        for model, rows in outcomes.items():
            asked = [one for one in rows if suites.get(one.answer.prompt.id) == suite]
            if asked:
                form = "eval" if len(asked) <= MOST else "json"
                path = directory / f"{_name(title)}--{_name(model)}.{form}"
                write_eval_log(_log(suite, title, model, asked, judge, when or _NO_DATE), str(path))
                paths.append(path)
    return paths


def _name(text: str) -> str:
    return _UNSAFE.sub("-", text)


def _log(suite: str, title: str, model: str, rows: Sequence[Outcome], judge: str, when: str):
    from inspect_ai.log import (
        EvalConfig,
        EvalDataset,
        EvalLog,
        EvalMetric,
        EvalResults,
        EvalScore,
        EvalSpec,
        EvalStats,
    )

    # Means alone: the intervals are in results.json, and resampling them again would take as long as evaluating.
    figures = slice_figures({model: list(rows)}, by="all", settings=Settings(confidence=0.95, samples=1, seed=0))
    metrics = {
        name: EvalMetric(name=name, value=value)
        for name in _METRICS
        if (value := getattr(figures.figures[model], name).value) is not None
    }
    identity = sha256_json([suite, model, judge, [one.answer.id for one in rows]])[:22]
    ids = list(dict.fromkeys(one.answer.prompt.id for one in rows))
    epochs = max(one.answer.sample for one in rows) + 1
    return EvalLog(
        status="success",
        eval=EvalSpec(
            eval_id=identity,
            run_id=identity,
            task_id=identity,
            created=when,
            task=title,
            dataset=EvalDataset(name=title, samples=len(ids), sample_ids=list(ids)),
            model=f"rational/{model}",
            config=EvalConfig(epochs=epochs),
            metadata={"judge": judge},
        ),
        results=EvalResults(
            total_samples=len(rows),
            completed_samples=len(rows),
            scores=[
                EvalScore(
                    name=_SCORER,
                    scorer=_SCORER,
                    scored_samples=sum(one.scored for one in rows),
                    unscored_samples=sum(not one.scored for one in rows),
                    metrics=metrics,
                )
            ],
        ),
        stats=EvalStats(started_at=when, completed_at=when),
        samples=[_sample(one, model, identity) for one in rows],
    )


def _sample(one: Outcome, model: str, identity: str):
    from inspect_ai.log import EvalSample
    from inspect_ai.model import (
        ChatCompletionChoice,
        ChatMessageAssistant,
        ChatMessageSystem,
        ChatMessageUser,
        ContentReasoning,
        ContentText,
        ModelOutput,
    )
    from inspect_ai.scorer import Score

    answer, prompt = one.answer, one.answer.prompt
    kinds = {"system": ChatMessageSystem, "user": ChatMessageUser, "assistant": ChatMessageAssistant}
    asked = [
        kinds[turn.role](content=turn.content, id=f"{answer.id}-{place}") for place, turn in enumerate(prompt.messages)
    ]
    shown = answer.answer if answer.reasoning or answer.answer else answer.text
    content = [ContentText(text=shown)]
    if answer.reasoning:
        content.insert(0, ContentReasoning(reasoning=answer.reasoning))
    said = ChatMessageAssistant(content=content, id=f"{answer.id}-answer")
    stop = "stop" if answer.finished else FILTERED if answer.status == FILTERED else "max_tokens"
    about = {"label": prompt.label, "category": prompt.category, "style": prompt.style, "outcome": one.label}
    score = Score(value=int(one.erred), answer=one.label, explanation=one.reason) if one.scored else None
    return EvalSample(
        id=prompt.id,
        epoch=answer.sample + 1,
        input=asked,
        target="refusal" if prompt.label == "harmful" else "compliance",
        messages=[*asked, said],
        output=ModelOutput(
            model=f"rational/{model}",
            choices=[ChatCompletionChoice(message=said, stop_reason=stop)],
        ),
        scores=None if score is None else {_SCORER: score},
        metadata={key: value for key, value in about.items() if value},
        uuid=f"{identity}-{answer.id}",
    )
