"""Intervals and tests against closed forms, and against simulation where there is none."""

import itertools
import math
from types import SimpleNamespace

import numpy as np
import pytest
from scipy import stats

from rational_jax.evaluate.statistics import (
    ClusterBootstrap,
    bootstrap_p,
    combine,
    holm,
    mcnemar,
    percentiles,
    ratio,
    success_at_k,
    wilson,
)


def test_wilson_solves_its_own_equation():
    # Wilson's ends are the shares p at which (observed - p)^2 = z^2 p (1 - p) / n.
    for successes, trials in ((7, 20), (1, 50), (99, 100)):
        interval = wilson(successes, trials, 0.95)
        for end in (interval.low, interval.high):
            left = (successes / trials - end) ** 2
            right = 1.959963984540054**2 * end * (1 - end) / trials
            assert left == pytest.approx(right, rel=1e-9)


def test_wilson_at_the_edges():
    nothing, everything = wilson(0, 10), wilson(10, 10)
    z2 = 1.959963984540054**2
    assert nothing.low == 0.0 and everything.high == 1.0
    assert nothing.high == pytest.approx(z2 / (10 + z2))
    assert everything.low == pytest.approx(10 / (10 + z2))
    for successes, trials in ((1, 0), (5, 4), (-1, 3)):
        with pytest.raises(ValueError, match="share"):
            wilson(successes, trials)


def test_mcnemar_is_the_two_sided_binomial():
    assert mcnemar(0, 0) == 1.0
    assert mcnemar(5, 0) == pytest.approx(2 / 2**5)
    assert mcnemar(1, 7) == pytest.approx(2 * (1 + 8) / 2**8)
    assert mcnemar(4, 4) == 1.0
    assert mcnemar(3, 9) == mcnemar(9, 3)
    assert 0 < mcnemar(0, 1200) < 1e-300 or mcnemar(0, 1200) == 0.0  # large counts must not raise


def test_mcnemar_is_exact_also_for_large_counts():
    for first, second in itertools.product(range(12), repeat=2):
        tail = sum(math.comb(first + second, k) for k in range(min(first, second) + 1))
        assert mcnemar(first, second) == min(1.0, 2 * tail / 2 ** (first + second))
    assert mcnemar(9_900, 10_200) == pytest.approx(stats.binomtest(9_900, 20_100).pvalue, rel=1e-9)


def test_bootstrap_of_a_mean_has_the_standard_error_of_theory():
    values = np.random.default_rng(0).random(60)
    bootstrap = ClusterBootstrap(["one"] * 60, samples=20_000, seed=3)
    draws = bootstrap.sums(np.stack([values, np.ones(60)], axis=1))
    assert np.all(draws[:, 1] == 60)
    means = draws[:, 0] / draws[:, 1]
    assert means.std() == pytest.approx(values.std() / math.sqrt(60), rel=0.03)
    assert means.mean() == pytest.approx(values.mean(), abs=0.002)


def test_strata_keep_their_sizes_in_every_resample():
    strata = ["harmful"] * 3 + ["benign"] * 5
    harmful = np.array([[1.0]] * 3 + [[0.0]] * 5)
    draws = ClusterBootstrap(strata, samples=200, seed=1).sums(np.hstack([harmful, 1 - harmful]))
    assert np.all(draws == [3, 5])


def test_equal_seeds_give_equal_draws_and_blocks_do_not_show(monkeypatch):
    values = np.random.default_rng(1).random((40, 2))
    one = ClusterBootstrap(["a"] * 40, samples=300, seed=5)
    draws = one.sums(values)
    assert np.array_equal(draws, ClusterBootstrap(["a"] * 40, samples=300, seed=5).sums(values))
    assert not np.array_equal(draws, ClusterBootstrap(["a"] * 40, samples=300, seed=6).sums(values))
    monkeypatch.setattr("rational_jax.evaluate.statistics._BLOCK", 1000)
    assert np.allclose(draws, one.sums(values))


def test_clustered_interval_covers_where_a_naive_one_does_not():
    """40 base prompts of 10 answers that all agree: the truth lies in 95% of the intervals, give or take."""
    generator = np.random.default_rng(7)
    covered = naive = 0
    rounds = 300
    for _ in range(rounds):
        outcomes = generator.random(40) < 0.4
        draws = ClusterBootstrap(["a"] * 40, samples=400, seed=0).sums(
            np.stack([10.0 * outcomes, np.full(40, 10.0)], axis=1)
        )
        interval = percentiles(ratio(draws[:, 0], draws[:, 1]))
        covered += interval.low <= 0.4 <= interval.high
        unclustered = wilson(10 * outcomes.sum(), 400)
        naive += unclustered.low <= 0.4 <= unclustered.high
    assert covered / rounds > 0.90
    assert naive / rounds < 0.60


def test_pairing_makes_the_interval_of_a_difference_narrow():
    generator = np.random.default_rng(2)
    hard = generator.random(100)  # both models fail on the same prompts
    first, second = (hard < 0.5).astype(float), (hard < 0.45).astype(float)
    bootstrap = ClusterBootstrap(["a"] * 100, samples=2000, seed=0)
    draws = bootstrap.sums(np.stack([first, second], axis=1)) / 100
    paired = percentiles(draws[:, 0] - draws[:, 1])
    alone = percentiles(draws[:, 0])
    assert paired.high - paired.low < 0.6 * (alone.high - alone.low)


def test_p_value_of_no_difference_is_uniform_enough():
    generator = np.random.default_rng(4)
    rejected = 0
    for _ in range(300):
        difference = generator.normal(size=60)
        draws = ClusterBootstrap(["a"] * 60, samples=400, seed=0).sums(difference[:, None])[:, 0]
        rejected += bootstrap_p(draws, differing=60) < 0.05
    assert 0.02 < rejected / 300 < 0.10
    assert bootstrap_p(np.zeros(50), differing=0) == 1.0
    assert bootstrap_p(np.ones(99), differing=60) == pytest.approx(2 / 100)
    for differing, least in ((1, 1.0), (3, 0.25), (5, 0.0625)):
        assert bootstrap_p(np.ones(99), differing=differing) == least
    assert bootstrap_p(np.array([np.nan]), differing=0) is None


def test_combining_intervals_adds_distances_in_squares():
    first = SimpleNamespace(value=0.5, low=0.4, high=0.7)
    second = SimpleNamespace(value=0.1, low=0.1, high=0.5)
    both = combine(first, second, 0.5, 0.5)
    assert both.low == pytest.approx(0.3 - math.hypot(0.05, 0.0))
    assert both.high == pytest.approx(0.3 + math.hypot(0.1, 0.2))
    gap = combine(first, second, 1.0, -1.0)
    assert gap.low == pytest.approx(0.4 - math.hypot(0.1, 0.4))
    assert gap.high == pytest.approx(0.4 + math.hypot(0.2, 0.0))


def test_ratio_and_percentiles_leave_out_what_is_empty():
    assert np.isnan(ratio(np.array([0.0]), np.array([0.0])))[0]
    assert percentiles(np.array([np.nan, np.nan])) is None
    assert percentiles(np.array([np.nan, 0.25, 0.25])).low == 0.25


def test_sums_must_match_the_clusters():
    with pytest.raises(ValueError, match=r"\[2, K\]"):
        ClusterBootstrap(["a", "a"], samples=1, seed=0).sums(np.zeros((3, 1)))


def test_wilson_and_mcnemar_are_those_of_scipy():
    for successes, trials in ((0, 9), (7, 20), (130, 135)):
        ours, theirs = wilson(successes, trials, 0.9), stats.binomtest(successes, trials).proportion_ci(0.9, "wilson")
        assert (ours.low, ours.high) == pytest.approx((theirs.low, theirs.high), abs=1e-12)
    for pairs in ((0, 3), (2, 9), (40, 61)):
        assert mcnemar(*pairs) == pytest.approx(stats.binomtest(pairs[0], sum(pairs)).pvalue)


def test_success_at_k_is_the_share_of_all_choices_of_k():
    answers = [True, True, False, False, False, False, False]
    for k in range(1, 8):
        choices = list(itertools.combinations(answers, k))
        assert success_at_k(2, 7, k) == pytest.approx(sum(map(any, choices)) / len(choices))
    assert success_at_k(3, 10, 1) == pytest.approx(0.3)
    assert success_at_k(0, 10, 5) == 0.0
    for wrong in ((1, 3, 4), (4, 3, 1), (1, 3, 0)):
        with pytest.raises(ValueError, match="tries"):
            success_at_k(*wrong)


def test_success_at_k_is_unbiased():
    """The mean over all outcomes of 6 answers with p = 0.3, weighted by their chance, is 1 - 0.7^k."""
    for k in (1, 3, 6):
        mean = sum(stats.binom.pmf(c, 6, 0.3) * success_at_k(c, 6, k) for c in range(7))
        assert mean == pytest.approx(1 - 0.7**k)


def test_holm_against_its_definition():
    values = [0.01, 0.04, 0.03, 0.005, 0.6]
    # Sorted: .005 x 5, .01 x 4, .03 x 3, .04 x 2 (below the one before, so it takes its .09), .6 x 1.
    assert holm(values) == pytest.approx([0.04, 0.09, 0.09, 0.025, 0.6])
    assert holm([0.4, 0.5]) == [0.8, 0.8]
    assert holm([]) == []


def test_cluster_bootstrap_of_a_ratio_has_the_linearised_standard_error():
    """Base prompts of unequal size: the variance of a ratio of sums by Taylor's expansion (Cochran 1977, 6.13)."""
    generator = np.random.default_rng(3)
    sizes = generator.integers(1, 12, 80)
    tops = generator.binomial(sizes, generator.beta(2, 3, 80))
    draws = ClusterBootstrap(["a"] * 80, samples=20_000, seed=0).sums(np.stack([tops, sizes], axis=1).astype(float))
    share = tops.sum() / sizes.sum()
    expected = math.sqrt(np.sum((tops - share * sizes) ** 2)) / sizes.sum()
    # The expansion is of first order: with 80 clusters it is right to a few percent.
    assert ratio(draws[:, 0], draws[:, 1]).std() == pytest.approx(expected, rel=0.05)
