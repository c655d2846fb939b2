"""Intervals and tests for shares: Wilson, the bootstrap over clusters, paired differences, McNemar.

Answers to one base prompt (one object of the micro world, one question in eleven styles) stand or fall together, so
everything here resamples base prompts and never single answers. One `ClusterBootstrap` draws its resamples once and
applies the same ones to every rate and every model asked of it: differences between models are paired by that.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

# Resample counts are drawn in blocks of about this many numbers, so that large suites stay small in memory.
_BLOCK = 4_000_000


@dataclass(frozen=True, kw_only=True)
class Interval:
    """A confidence interval. Both ends in the unit of the figure they belong to."""

    low: float
    high: float


def wilson(successes: float, trials: float, confidence: float = 0.95) -> Interval:
    """Wilson's score interval for a share (Wilson 1927), in [0, 1]. Needs `trials` > 0; they need not be whole."""
    if not 0 <= successes <= trials or trials <= 0:
        raise ValueError(f"{successes} successes in {trials} trials make no share")
    z = NormalDist().inv_cdf(0.5 + confidence / 2)
    share = successes / trials
    centre = (share + z * z / (2 * trials)) / (1 + z * z / trials)
    half = z / (1 + z * z / trials) * math.sqrt(share * (1 - share) / trials + z * z / (4 * trials * trials))
    # At the edges the formula gives the share itself; rounding must not push the end past it.
    low = 0.0 if successes == 0 else max(0.0, centre - half)
    high = 1.0 if successes == trials else min(1.0, centre + half)
    return Interval(low=low, high=high)


def mcnemar(first_only: int, second_only: int) -> float:
    """Two-sided exact p-value of McNemar's test from the discordant pairs (McNemar 1947, exact binomial form)."""
    if first_only < 0 or second_only < 0:
        raise ValueError("counts of pairs cannot be negative")
    pairs = first_only + second_only
    if pairs == 0:
        return 1.0
    # P(X <= k) for X ~ Binomial(pairs, 1/2), in whole numbers so that large counts stay exact.
    # Each binomial coefficient comes from the one before: anew for every term, thousands of pairs take seconds.
    term = tail = 1
    for k in range(min(first_only, second_only)):
        term = term * (pairs - k) // (k + 1)
        tail += term
    return min(1.0, float(2 * tail / 2**pairs))


def success_at_k(successes: int, trials: int, k: int) -> float:
    """Chance that at least one of `k` answers succeeds, from `trials` answers of which `successes` did.

    The unbiased estimator 1 - C(trials - successes, k) / C(trials, k) (Chen et al. 2021, eq. 1). It is no power of the
    single rate: 1 - (1 - p)^k from an estimated p is biased. Needs `k` <= `trials`.
    """
    if not (0 <= successes <= trials and 1 <= k <= trials):
        raise ValueError(f"{successes} successes in {trials} trials say nothing of {k} tries")
    return 1.0 - math.comb(trials - successes, k) / math.comb(trials, k)


def holm(p_values: Sequence[float]) -> list[float]:
    """P-values corrected for their number by Holm's step-down method (Holm 1979), in the order given.

    Each may be compared with the level of the whole family: the chance of one false finding or more stays below it,
    however the tests depend on each other.
    """
    corrected, least = [0.0] * len(p_values), 0.0
    for place, which in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        least = max(least, min(1.0, (len(p_values) - place) * p_values[which]))
        corrected[which] = least
    return corrected


class ClusterBootstrap:
    """Resamples of clusters, drawn once and shared by every rate that is asked for.

    Args:
        strata: for each cluster the name of the stratum it is resampled in. Harmful and benign base prompts are
            strata, so that no resample loses one of the two.
        samples: number of resamples B.
        seed: of the generator; equal arguments give equal resamples on any machine.
    """

    def __init__(self, strata: Sequence[str], *, samples: int, seed: int) -> None:
        if samples < 1:
            raise ValueError("at least one resample is needed")
        self.clusters = len(strata)
        self.samples = samples
        self._seed = seed
        names = np.asarray(strata, dtype=object)
        self._members = [np.flatnonzero(names == name) for name in sorted(set(strata))]

    def sums(self, values_CxK: NDArray[np.float64]) -> NDArray[np.float64]:
        """Sums over every resample: [clusters, K] sums by cluster -> [B, K] float64."""
        values_CxK = np.asarray(values_CxK, dtype=np.float64)
        if values_CxK.ndim != 2 or len(values_CxK) != self.clusters:
            raise ValueError(f"sums by cluster must be [{self.clusters}, K], not {list(values_CxK.shape)}")
        total_BxK = np.zeros((self.samples, values_CxK.shape[1]))
        # Every call draws anew from the seed: the counts are the same each time and need not be kept.
        for stratum, members in enumerate(self._members):
            generator = np.random.default_rng((self._seed, stratum))
            size = len(members)
            step = max(1, _BLOCK // size)
            for start in range(0, self.samples, step):
                rows = min(step, self.samples - start)
                draws = generator.integers(0, size, (rows, size))
                draws += np.arange(rows)[:, None] * size
                counts_RxM = np.bincount(draws.ravel(), minlength=rows * size).reshape(rows, size)
                total_BxK[start : start + rows] += counts_RxM @ values_CxK[members]
        return total_BxK


def ratio(numerators: NDArray[np.float64], denominators: NDArray[np.float64]) -> NDArray[np.float64]:
    """Elementwise ratio with NaN where there is nothing to divide by."""
    empty = denominators == 0
    return np.where(empty, np.nan, numerators / np.where(empty, 1.0, denominators))


def percentiles(draws: NDArray[np.float64], confidence: float = 0.95) -> Interval | None:
    """The percentile interval of bootstrap draws. Draws without a value (NaN) are left out; None if none is left."""
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return None
    low, high = np.quantile(draws, [0.5 - confidence / 2, 0.5 + confidence / 2])
    return Interval(low=float(low), high=float(high))


class Bounded(Protocol):
    """A figure with an interval around it."""

    @property
    def value(self) -> float | None: ...
    @property
    def low(self) -> float | None: ...
    @property
    def high(self) -> float | None: ...


def combine(first: Bounded, second: Bounded, weight: float, other_weight: float) -> Interval:
    """Interval of `weight * first + other_weight * second` for independent figures from their own intervals.

    The method of variance estimates recovery (Zou and Donner 2008): distances to the ends are added in squares. It is
    used where a figure of 0 or 1 leaves resampling nothing to vary, so that its uncertainty is not lost.
    """
    value = weight * first.value + other_weight * second.value
    below = above = 0.0
    for one, w in ((first, weight), (second, other_weight)):
        ends = (w * (one.value - one.low), w * (one.high - one.value))
        lower, upper = ends if w >= 0 else (-ends[1], -ends[0])
        below += lower**2
        above += upper**2
    return Interval(low=value - math.sqrt(below), high=value + math.sqrt(above))


def bootstrap_p(draws: NDArray[np.float64], *, differing: int) -> float | None:
    """Two-sided p-value of "no difference" from bootstrap draws of a difference: how rarely they lie beyond zero.

    The +1 keeps it away from an impossible zero (Davison and Hinkley 1997, 4.2): the least is 2 / (B + 1).
    Where a few clusters all differ to one side, every resample does, however few they are. So p is never below what
    the signs of the `differing` clusters can show, those whose own difference is not zero: 2 / 2^differing.
    """
    draws = draws[~np.isnan(draws)]
    if not len(draws):
        return None
    below, above = int(np.sum(draws <= 0)), int(np.sum(draws >= 0))
    least = 2 * 0.5**differing if differing else 0.0
    return min(1.0, max(least, 2 * (min(below, above) + 1) / (len(draws) + 1)))
