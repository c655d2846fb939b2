"""What an evaluation found, typed once: results.json, the tables, the terminal and the report all read this.

`results.json` is a pure function of the answers, the judge and the settings: no dates, no paths, no timings. A figure
without anything to divide by has `value` None and an `n` of 0, which is not the same as 0.
"""

from dataclasses import dataclass
from pathlib import Path

from pydantic import TypeAdapter, ValidationError

from rational_jax.errors import UserError
from rational_jax.storage import atomic_write_text

VERSION = 2


@dataclass(frozen=True, kw_only=True)
class Estimate:
    """A share (or a mean of shares) in [0, 1] with its interval.

    Attributes:
        value: the figure, or None where nothing could be counted.
        low, high: the confidence interval, resampled over base prompts; Wilson's on the number of base prompts where
            all of them agree and resampling has nothing to vary.
        n: answers in the denominator.
        clusters: base prompts that these answers belong to.
    """

    value: float | None
    low: float | None
    high: float | None
    n: int
    clusters: int


@dataclass(frozen=True, kw_only=True)
class Shares:
    """The three classes among the scored answers; they sum to 1 where `n` is not 0.

    Of a judge of harm, `compliance` are the harmful ones and `refusal` the harmless ones.
    """

    n: int
    compliance: float
    partial: float
    refusal: float


@dataclass(frozen=True, kw_only=True)
class Coverage:
    """What became of the answers. Only `scored` ones are in the denominators of the figures."""

    answers: int
    scored: int
    truncated_reasoning: int
    truncated_answer: int
    unscored: int
    filtered: int = 0

    @property
    def share(self) -> float | None:
        return self.scored / self.answers if self.answers else None


@dataclass(frozen=True, kw_only=True)
class AtK:
    """The chance that at least one of `k` answers to a harmful request complies."""

    k: int
    asr: Estimate


_NONE = Estimate(value=None, low=None, high=None, n=0, clusters=0)


@dataclass(frozen=True, kw_only=True)
class Figures:
    """The figures of one model on one slice of a suite. Their definitions are in `metrics.DEFINITIONS`."""

    asr: Estimate
    asr_with_partial: Estimate
    unacceptable: Estimate
    asr_with_reasoning: Estimate
    reasoning_leak: Estimate
    over_refusal: Estimate
    mean_error: Estimate
    mean_score: Estimate
    full_marks: Estimate = _NONE  # which results of earlier versions do not have
    premise_accuracy: Estimate
    with_reasoning: Estimate
    names_intent: Estimate
    names_harm: Estimate
    names_decision: Estimate
    verdict_agreement: Estimate
    mean_tokens: float | None
    mean_reasoning_words: float | None
    mean_answer_words: float | None
    asr_at_k: tuple[AtK, ...]
    harmful: Shares
    benign: Shares
    coverage: Coverage


@dataclass(frozen=True, kw_only=True)
class Slice:
    """Figures of every model on the same prompts: `by` is what divides the suite, `name` (and `other`) which part.

    `by` is "all", "headline", "tier" (the prompt's category), or "style x tier", whose `other` is the tier; and of the
    headline's prompts only, where a suite has one: "style", "wrapper" (seen or unseen in SFT) and "sensitive" (benign
    prompts with or without sensitive words).
    """

    by: str
    name: str
    other: str
    figures: dict[str, Figures]


@dataclass(frozen=True, kw_only=True)
class Difference:
    """A paired difference `first` minus `second` on the prompts that both models have a scored answer for.

    Attributes:
        slice: "all" or "headline".
        metric: "asr", "over_refusal" or "mean_error"; negative values favour `first`.
        value, low, high: the difference and its interval, from resamples shared by both models.
        p_bootstrap: two-sided, resampled over base prompts: the one to quote where base prompts repeat. Never below
            what the signs of so many differing base prompts can show.
        p_mcnemar: exact McNemar over the pairs, which takes them for independent.
        p_holm: `p_bootstrap` corrected by Holm's method for the number of differences on this slice of the suite.
        pairs: answers compared. first_only, second_only: pairs in which only that model erred.
    """

    slice: str
    metric: str
    first: str
    second: str
    value: float | None
    low: float | None
    high: float | None
    p_bootstrap: float | None
    p_mcnemar: float
    p_holm: float | None
    pairs: int
    first_only: int
    second_only: int


@dataclass(frozen=True, kw_only=True)
class SuiteResults:
    """One suite: every slice and every paired difference. `headline` says in words what the headline slice is.

    `trained_on` is how many of its prompts the models' training data had: such a suite makes no headline.
    """

    name: str
    title: str
    headline: str
    models: tuple[str, ...]
    prompts: int
    trained_on: int
    slices: tuple[Slice, ...]
    differences: tuple[Difference, ...]

    def slice(self, by: str, name: str = "", other: str = "") -> Slice | None:
        """The slice of that name, or None where the suite has no such part."""
        for one in self.slices:
            if (one.by, one.name, one.other) == (by, name, other):
                return one
        return None

    def parts(self, by: str) -> tuple[Slice, ...]:
        return tuple(one for one in self.slices if one.by == by)

    def main(self) -> Slice:
        """The slice that headlines quote: the headline slice where the suite names one, the whole suite otherwise."""
        found = self.slice("headline") or self.slice("all")
        if found is None:
            raise ValueError(f"suite {self.name} has no slice of its own")
        return found

    def difference(self, first: str, second: str, metric: str) -> Difference | None:
        """The paired difference on the main slice."""
        where = self.main().by
        for one in self.differences:
            if (one.slice, one.first, one.second, one.metric) == (where, first, second, metric):
                return one
        return None


@dataclass(frozen=True, kw_only=True)
class Capability:
    """A score of lm-evaluation-harness in [0, 1]: `metric` as the task names it, `stderr` its standard error.

    `mode` is "direct" (the model's text as it is) or "reasoning" (what follows the closing delimiter).
    """

    model: str
    task: str
    metric: str
    mode: str
    value: float
    stderr: float | None
    n: int


@dataclass(frozen=True, kw_only=True)
class Results:
    """Everything that `evaluate` found."""

    version: int
    judge: str
    judge_identity: str
    confidence: float
    bootstrap: int
    seed: int
    samples: int
    suites: tuple[SuiteResults, ...]
    capability: tuple[Capability, ...] = ()


_ADAPTER = TypeAdapter(Results)


def write_results(results: Results, path: Path) -> None:
    """Writes `results` as JSON, atomically; equal results give equal bytes."""
    atomic_write_text(path, _ADAPTER.dump_json(results, indent=1).decode() + "\n")


def read_results(path: Path) -> Results:
    """Reads results.json back. Raises UserError where it is missing or not ours."""
    try:
        return _ADAPTER.validate_json(path.read_bytes(), strict=True)
    except FileNotFoundError:
        raise UserError(f"{path} is missing: run `rational evaluate` first") from None
    except ValidationError as error:
        raise UserError(f"{path} is not what `rational evaluate` writes: {error.errors()[0]['msg']}") from None


@dataclass(frozen=True, kw_only=True)
class SummaryRow:
    """One model's line in the terminal's table and in the report's."""

    suite: str
    model: str
    asr: Estimate
    over_refusal: Estimate
    mean_error: Estimate
    mean_score: Estimate
    full_marks: Estimate
    premise_accuracy: Estimate
    coverage: float | None

    HEADER = ("model", "ASR", "over-refusal", "mean error", "premise accuracy", "coverage")

    def cells(self) -> tuple[str, ...]:
        """The row as text, under `HEADER`."""
        return (
            self.model,
            with_interval(self.asr),
            with_interval(self.over_refusal),
            with_interval(self.mean_error),
            with_interval(self.premise_accuracy),
            percent(self.coverage),
        )

    # Further columns, where a judge gave marks.
    MARKS = ("mean score", "share of 5s")

    def marks(self) -> tuple[str, ...]:
        """The row's text under `MARKS`."""
        return mark(self.mean_score), with_interval(self.full_marks)


def summary_rows(results: Results) -> list[SummaryRow]:
    """The headline figures: a row for each suite and model, in the order of the configuration.

    Suites whose prompts are in the training data make no headline, unless there is no other.
    """
    clean = [suite for suite in results.suites if not suite.trained_on]
    return [
        SummaryRow(
            suite=suite.name,
            model=model,
            asr=figures.asr,
            over_refusal=figures.over_refusal,
            mean_error=figures.mean_error,
            mean_score=figures.mean_score,
            full_marks=figures.full_marks,
            premise_accuracy=figures.premise_accuracy,
            coverage=figures.coverage.share,
        )
        for suite in clean or results.suites
        for model, figures in suite.main().figures.items()
    ]


def percent(value: float | None) -> str:
    """0.213 -> "21%"; a dash for a figure that there is not. Shares between 0 and 1% keep a digit."""
    if value is None:
        return "–"
    # Neither nought nor one hundred may be claimed by rounding.
    if 0 < abs(value) < 0.01 or 0.99 < value < 1:
        return f"{100 * value:.1f}%"
    return f"{100 * value:.0f}%"


def with_interval(estimate: Estimate) -> str:
    """ "21% [14–30]", or a dash."""
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value)
    return f"{percent(estimate.value)} [{100 * estimate.low:.0f}–{100 * estimate.high:.0f}]"


def mark(estimate: Estimate) -> str:
    """A mean of a judge's marks, on its own scale: "3.42 [3.10–3.77]", or a dash."""
    if estimate.value is None:
        return "–"
    if estimate.low is None or estimate.high is None:
        return f"{estimate.value:.2f}"
    return f"{estimate.value:.2f} [{estimate.low:.2f}–{estimate.high:.2f}]"


def points(value: float) -> str:
    """A difference of shares as points with its sign: -0.284 -> "−28", with a digit where it is below one point."""
    text = f"{abs(100 * value):.1f}" if abs(value) < 0.01 else f"{abs(100 * value):.0f}"
    return text if float(text) == 0 else f"{'−' if value < 0 else '+'}{text}"


def p_value(value: float | None) -> str:
    """0.0312 -> "0.031"; below a thousandth only that is said; a dash where there is none."""
    if value is None:
        return "–"
    return "<0.001" if value < 0.001 else f"{value:.2g}"
