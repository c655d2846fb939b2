"""Paired differences between models: the same prompts, the same resamples."""

import dataclasses
from collections.abc import Iterable

import numpy as np
from numpy.typing import NDArray

from rational_jax.evaluate.metrics import SHARES, Settings, base_prompts, estimate, sums_by_base_prompt
from rational_jax.evaluate.outcomes import Outcome
from rational_jax.evaluate.results import Difference
from rational_jax.evaluate.statistics import Interval, bootstrap_p, combine, holm, mcnemar, percentiles, ratio

# Which prompts a metric counts errors on.
_LABELS = {"asr": ("harmful",), "over_refusal": ("benign",), "mean_error": ("harmful", "benign")}


# All that a difference counts, once for each of two models.
_COUNTS = tuple(dict.fromkeys(name for metric in ("asr", "over_refusal") for name in SHARES[metric]))

# Who is compared with whom: each model with those that stand before it here, so that a difference reads "what the
# later one adds". Names that are not here come between the first two and the last.
_ORDER = {"base": 0, "refusal": 1, "rational": 3}
# Of more models than this not every two are compared: their number grows with the square, and with it what Holm's
# correction asks of each.
FEW = 5


def differences(by_model: dict[str, list[Outcome]], *, where: str, settings: Settings) -> list[Difference]:
    """Paired differences of the `pairs` on the slice called `where`: rational - refusal, rational - base, ..."""
    found = [
        difference
        for first, second in pairs(by_model)
        for difference in _pair(first, second, by_model, where=where, settings=settings)
    ]
    tests = [place for place, one in enumerate(found) if one.p_bootstrap is not None]
    for place, p in zip(tests, holm([found[place].p_bootstrap for place in tests]), strict=True):
        found[place] = dataclasses.replace(found[place], p_holm=p)
    return found


def pairs(names: Iterable[str]) -> list[tuple[str, str]]:
    """Which models are compared: every two; of more than FEW each with the first, and the arms with each other."""
    models = sorted(names, key=lambda name: _ORDER.get(name, 2))
    every = [(first, second) for place, first in enumerate(models) for second in models[:place]]
    if len(models) <= FEW:
        return every
    return [pair for pair in every if pair[1] == models[0] or set(pair) <= set(_ORDER)]


def _pair(
    first: str, second: str, by_model: dict[str, list[Outcome]], *, where: str, settings: Settings
) -> list[Difference]:
    scored = [
        {(o.answer.prompt.id, o.answer.sample): o for o in by_model[name] if o.scored} for name in (first, second)
    ]
    shared = [key for key in scored[0] if key in scored[1]]
    if not shared:
        return []
    ours, theirs = ([one[key] for key in shared] for one in scored)
    clusters, strata = base_prompts(ours)
    sums_CxMK = np.hstack([sums_by_base_prompt(one, clusters, _COUNTS) for one in (ours, theirs)])
    draws_BxMK = settings.bootstrap(strata).sums(sums_CxMK)
    totals_1xMK = sums_CxMK.sum(axis=0)[None, :]
    found: list[Difference] = []
    vary = True
    for metric, labels in _LABELS.items():
        value = float(_rates(totals_1xMK, metric, 0)[0] - _rates(totals_1xMK, metric, 1)[0])
        if np.isnan(value):  # no harmful, or no benign, prompt that both have a score for
            continue
        draws_B = _rates(draws_BxMK, metric, 0) - _rates(draws_BxMK, metric, 1)
        interval = percentiles(draws_B, settings.confidence)
        vary = vary and interval is not None and interval.low < interval.high
        if not vary and metric == "mean_error":  # or the uncertainty of a part that does not vary would be lost
            interval = combine(*found, 0.5, 0.5)
        elif interval is None or interval.low == interval.high:
            interval = _apart(sums_CxMK, metric, settings.confidence)
        # One answer a prompt: several samples of one prompt are no independent pairs.
        errors = [
            (one.erred, other.erred)
            for one, other in zip(ours, theirs, strict=True)
            if one.answer.sample == 0 and one.answer.prompt.label in labels
        ]
        first_only, second_only = errors.count((True, False)), errors.count((False, True))
        found.append(
            Difference(
                slice=where,
                metric=metric,
                first=first,
                second=second,
                value=value,
                low=interval.low,
                high=interval.high,
                p_bootstrap=bootstrap_p(draws_B, differing=_differing(sums_CxMK, metric)),
                p_mcnemar=mcnemar(first_only, second_only),
                p_holm=None,
                pairs=len(errors),
                first_only=first_only,
                second_only=second_only,
            )
        )
    return found


def _rates(sums_BxMK: NDArray[np.float64], metric: str, model: int) -> NDArray[np.float64]:
    """[B] rates of one of the two models from sums [B, 2 * counts]."""
    if metric == "mean_error":
        return (_rates(sums_BxMK, "asr", model) + _rates(sums_BxMK, "over_refusal", model)) / 2
    numerator, denominator = (model * len(_COUNTS) + _COUNTS.index(name) for name in SHARES[metric])
    return ratio(sums_BxMK[:, numerator], sums_BxMK[:, denominator])


def _differing(sums_CxMK: NDArray[np.float64], metric: str) -> int:
    """How many base prompts the two models differ on; for the mean error, in either of its two parts."""
    parts = ("asr", "over_refusal") if metric == "mean_error" else (metric,)
    # A base prompt without such prompts (NaN) differs in nothing.
    gaps = [np.nan_to_num(_rates(sums_CxMK, part, 0) - _rates(sums_CxMK, part, 1)) for part in parts]
    return int(np.any(gaps, axis=0).sum())


def _apart(sums_CxMK: NDArray[np.float64], metric: str, confidence: float) -> Interval:
    """Interval of the difference of a share whose resamples do not vary: from Wilson's of both, as if unpaired."""
    nothing_drawn = np.full(1, np.nan)
    models = []
    for model in (0, 1):
        numerator, denominator = (model * len(_COUNTS) + _COUNTS.index(name) for name in SHARES[metric])
        models.append(estimate(sums_CxMK[:, numerator], sums_CxMK[:, denominator], nothing_drawn, confidence))
    return combine(*models, 1.0, -1.0)
