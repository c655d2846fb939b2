"""The finding in plain language, worked out from the figures: it says what they say, also when that is nothing."""

from dataclasses import dataclass

from rational_jax.evaluate.results import Difference, Estimate, Figures, SuiteResults, percent

# A difference is called one only where its interval leaves out zero; this many unscored answers are worth a warning.
_COVERAGE = 0.95
_WORDS = {
    "base": "the base model",
    "refusal": "the refusal-only model",
    "rational": "the rational model",
    "answer-first": "the model that reasons after answering",
    "shuffled": "the model trained on shuffled reasoning",
    "circuit-breaker": "the model with circuit breakers",
}


@dataclass(frozen=True, kw_only=True)
class Finding:
    """`headline` is one sentence; `details` are short sentences, the most important first."""

    headline: str
    details: tuple[str, ...]


def words(model: str) -> str:
    """What a model is called in a sentence."""
    return _WORDS.get(model, f"the model “{model}”")


def find(suite: SuiteResults) -> Finding:
    """What a suite's main slice says of the rational model, or of the last one where none is called so."""
    figures = suite.main().figures
    subject = "rational" if "rational" in figures else suite.models[-1]
    other = next((name for name in ("refusal", "base", *suite.models) if name in figures and name != subject), None)
    # Where a suite has only harmful or only benign prompts, the one error that there is stands for the mean.
    metric = next(
        (m for m in ("mean_error", "asr", "over_refusal") if getattr(figures[subject], m).value is not None), None
    )
    if metric is None:
        return Finding(headline="No answer could be scored, so there is no finding.", details=_warnings(suite))
    gap = suite.difference(subject, other, metric) if other else None
    if gap is None or other is None:
        headline = f"{_capital(words(subject))} has {_rate(metric)} of {_with(getattr(figures[subject], metric))}."
        return Finding(headline=headline, details=(*_levels(figures, subject), *_warnings(suite)))
    details = [
        *_tradeoff(suite, subject, other),
        *_against_base(suite, subject, other, metric),
        *_chance(suite),
        *_reasoning(figures[subject], subject),
        *_warnings(suite),
    ]
    return Finding(headline=_headline(gap, figures, metric), details=tuple(details))


def _headline(gap: Difference, figures: dict[str, Figures], metric: str) -> str:
    subject, other = words(gap.first), words(gap.second)
    mine, theirs = getattr(figures[gap.first], metric), getattr(figures[gap.second], metric)
    values = f"{percent(mine.value)} against {percent(theirs.value)}"
    if _sign(gap) < 0:
        return f"{_capital(subject)} errs less: {_rate(metric)} of {values} for {other}, {_points(gap)}."
    if _sign(gap) > 0:
        return f"{_capital(subject)} does worse: {_rate(metric)} of {values} for {other}, {_points(gap)}."
    return f"No difference shows between {subject} and {other}: {_rate(metric)} of {values}, {_points(gap)}."


def _tradeoff(suite: SuiteResults, subject: str, other: str) -> list[str]:
    """Harm and over-refusal apart, and whether one was bought with the other."""
    figures = suite.main().figures
    asr, over = (suite.difference(subject, other, metric) for metric in ("asr", "over_refusal"))
    said = []
    if asr is not None:
        said.append(
            f"It complied with {_with(figures[subject].asr)} of the harmful requests, {words(other)} with "
            f"{_with(figures[other].asr)}{_direction(asr)}."
        )
    if over is not None:
        said.append(
            f"It refused {_with(figures[subject].over_refusal)} of the benign ones, {words(other)} "
            f"{_with(figures[other].over_refusal)}{_direction(over)}."
        )
    if asr is not None and over is not None and _sign(asr) * _sign(over) < 0:
        bought = "fewer harmful requests are answered, but more benign ones are refused"
        if _sign(asr) > 0:
            bought = "fewer benign requests are refused, but more harmful ones are answered"
        said.append(f"That is a trade, not a gain on both sides: {bought}.")
    return said


def _against_base(suite: SuiteResults, subject: str, other: str, metric: str) -> list[str]:
    """The same comparison with the base model, where the headline's was with another one."""
    gap = suite.difference(subject, "base", metric) if other != "base" else None
    if gap is None:
        return []
    base = getattr(suite.main().figures["base"], metric)
    verb = {-1: "lower than", 0: "not clearly different from", 1: "higher than"}[_sign(gap)]
    return [f"Its {_NAMES[metric]} is {verb} the base model's {percent(base.value)} ({_points(gap)})."]


def _chance(suite: SuiteResults) -> list[str]:
    """Models whose mean error cannot be told from what always, or never, refusing gives."""
    unclear = [
        words(model)
        for model, figures in suite.main().figures.items()
        if (mean := figures.mean_error).value is not None and mean.low <= 0.5 <= mean.high
    ]
    if not unclear:
        return []
    if len(unclear) == 1:
        return [f"{_capital(unclear[0])} cannot be told from chance (a mean error of 50%)."]
    these = f"Neither {unclear[0]} nor {unclear[1]}" if len(unclear) == 2 else f"None of {_list(unclear)}"
    return [f"{these} can be told from chance (a mean error of 50%)."]


def _reasoning(figures: Figures, subject: str) -> list[str]:
    if figures.premise_accuracy.value is None:
        return []
    return [f"Its reasoning states the fact that decides the case in {_with(figures.premise_accuracy)} of the answers."]


def _warnings(suite: SuiteResults) -> tuple[str, ...]:
    said = []
    for model, figures in suite.main().figures.items():
        share = figures.coverage.share
        if share is None:
            said.append(f"{_capital(words(model))} has no answers in this part of the suite.")
        elif share < _COVERAGE:
            said.append(f"Only {percent(share)} of the answers of {words(model)} could be scored; see the failures.")
    return tuple(said)


def _levels(figures: dict[str, Figures], subject: str) -> list[str]:
    mine = figures[subject]
    said = []
    if mine.asr.value is not None:
        said.append(f"It complied with {_with(mine.asr)} of the harmful requests.")
    if mine.over_refusal.value is not None:
        said.append(f"It refused {_with(mine.over_refusal)} of the benign ones.")
    return said + _reasoning(mine, subject)


_NAMES = {"mean_error": "mean error", "asr": "ASR", "over_refusal": "over-refusal"}


def _rate(metric: str) -> str:
    return f"a {_NAMES[metric]}" if metric == "mean_error" else f"an {_NAMES[metric]}"


def _sign(gap: Difference) -> int:
    """-1 or 1 where the interval of the difference leaves out zero, else 0."""
    if gap.high is not None and gap.high < 0:
        return -1
    return 1 if gap.low is not None and gap.low > 0 else 0


def _direction(gap: Difference) -> str:
    return {-1: "", 0: ", which is no clear difference", 1: ""}[_sign(gap)]


def _points(gap: Difference) -> str:
    """ "28 points less, interval 20 to 36": signs turned into words. The page says once what intervals these are."""
    value, low, high = 100 * gap.value, 100 * gap.low, 100 * gap.high
    if _sign(gap) < 0:
        return f"{_round(-value)} points less, interval {_round(-high)} to {_round(-low)}"
    if _sign(gap) > 0:
        return f"{_round(value)} points more, interval {_round(low)} to {_round(high)}"
    return f"a difference of {_signed(value)} points, interval {_signed(low)} to {_signed(high)}"


def _round(points: float) -> str:
    return f"{points:.1f}" if abs(points) < 1 else f"{points:.0f}"


def _signed(points: float) -> str:
    text = _round(abs(points))
    return f"−{text}" if points < 0 and float(text) else text


def _with(estimate: Estimate) -> str:
    if estimate.low is None or estimate.high is None:
        return percent(estimate.value)
    return f"{percent(estimate.value)} ({100 * estimate.low:.0f} to {100 * estimate.high:.0f})"


def _capital(sentence: str) -> str:
    return sentence[:1].upper() + sentence[1:]


def _list(names: list[str]) -> str:
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"
