"""The same figures as CSV, for spreadsheets and plots: one fact a row."""

import csv
import io
from collections.abc import Iterable, Sequence
from pathlib import Path

from rational_jax.evaluate.outcomes import Outcome
from rational_jax.evaluate.results import Estimate, Figures, Results, summary_rows
from rational_jax.storage import atomic_write_text

ESTIMATES = (
    "asr",
    "asr_with_partial",
    "unacceptable",
    "asr_with_reasoning",
    "reasoning_leak",
    "over_refusal",
    "mean_error",
    "mean_score",
    "full_marks",
    "premise_accuracy",
    "with_reasoning",
    "names_intent",
    "names_harm",
    "names_decision",
    "verdict_agreement",
)


# In the summary only where a judge gave marks.
_MARKS = ("mean_score", "full_marks")


def write_tables(results: Results, outcomes: dict[str, list[Outcome]], directory: Path) -> None:
    """Writes summary.csv, figures.csv, classes.csv, differences.csv and failures.csv; missing figures are empty."""
    _write(
        directory / "summary.csv",
        ("suite", "model", "metric", "value", "low", "high", "n", "base_prompts"),
        (
            (row.suite, row.model, metric, *_estimate(getattr(row, metric)))
            for row in summary_rows(results)
            for metric in ("asr", "over_refusal", "mean_error", "premise_accuracy", *_MARKS)
            if metric not in _MARKS or getattr(row, metric).n
        ),
    )
    slices = [
        (suite.name, one.by, one.name, one.other, model, figures)
        for suite in results.suites
        for one in suite.slices
        for model, figures in one.figures.items()
    ]
    _write(
        directory / "figures.csv",
        ("suite", "by", "name", "other", "model", "metric", "value", "low", "high", "n", "base_prompts"),
        (
            (*where, metric, *_estimate(estimate))
            for *where, figures in slices
            for metric, estimate in (
                *((name, getattr(figures, name)) for name in ESTIMATES),
                *((f"asr_at_{one.k}", one.asr) for one in figures.asr_at_k),
            )
        ),
    )
    _write(
        directory / "classes.csv",
        ("suite", "by", "name", "other", "model", "label", "n", "compliance", "partial", "refusal"),
        ((*where, label, *shares) for *where, figures in slices for label, shares in _classes(figures)),
    )
    _write(
        directory / "coverage.csv",
        (
            "suite",
            "by",
            "name",
            "other",
            "model",
            "answers",
            "scored",
            "truncated_reasoning",
            "truncated_answer",
            "content_filter",
            "unscored",
        ),
        (
            (*where, c.answers, c.scored, c.truncated_reasoning, c.truncated_answer, c.filtered, c.unscored)
            for *where, figures in slices
            for c in (figures.coverage,)
        ),
    )
    _write(
        directory / "costs.csv",
        ("suite", "by", "name", "other", "model", "tokens", "reasoning_words", "answer_words"),
        ((*where, f.mean_tokens, f.mean_reasoning_words, f.mean_answer_words) for *where, f in slices),
    )
    _write(
        directory / "differences.csv",
        (
            "suite",
            "slice",
            "metric",
            "first",
            "second",
            "value",
            "low",
            "high",
            "p_bootstrap",
            "p_mcnemar",
            "p_holm",
            "pairs",
            "first_only",
            "second_only",
        ),
        (
            (
                suite.name,
                d.slice,
                d.metric,
                d.first,
                d.second,
                d.value,
                d.low,
                d.high,
                d.p_bootstrap,
                d.p_mcnemar,
                d.p_holm,
                d.pairs,
                d.first_only,
                d.second_only,
            )
            for suite in results.suites
            for d in suite.differences
        ),
    )
    _write(
        directory / "capability.csv",
        ("model", "task", "metric", "mode", "value", "stderr", "n"),
        ((c.model, c.task, c.metric, c.mode, c.value, c.stderr, c.n) for c in results.capability),
    )
    _write(
        directory / "failures.csv",
        ("model", "answer", "prompt", "sample", "outcome", "reason", "tokens"),
        (
            (model, one.answer.id, one.answer.prompt.id, one.answer.sample, one.label, one.reason, one.answer.tokens)
            for model, rows in outcomes.items()
            for one in rows
            if not one.scored
        ),
    )


def _estimate(estimate: Estimate) -> tuple:
    return estimate.value, estimate.low, estimate.high, estimate.n, estimate.clusters


def _classes(figures: Figures) -> Iterable[tuple[str, tuple]]:
    for label, shares in (("harmful", figures.harmful), ("benign", figures.benign)):
        if shares.n:
            yield label, (shares.n, shares.compliance, shares.partial, shares.refusal)


def _write(path: Path, header: Sequence[str], rows: Iterable[Sequence]) -> None:
    """One table. Full precision; the line end is a single line feed everywhere."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(header)
    writer.writerows(rows)
    atomic_write_text(path, text.getvalue())
