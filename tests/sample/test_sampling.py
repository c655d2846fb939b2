"""The choice of tokens: distributions against softmax, the nucleus against its definition, seeds."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rational_jax.sample.sampling import argmax, draw, next_tokens, nucleus

VOCABULARY = 50
DRAWS = 40_000

# Compiled for one number of rows: that takes longer than all the draws.
_choose = jax.jit(next_tokens)
_keep = jax.jit(nucleus)


@pytest.fixture(scope="module")
def logits():
    return np.random.default_rng(0).normal(size=VOCABULARY).astype(np.float32) * 1.5


def choose(logits, seeds, positions, temperature, top_p=None):
    """The chosen tokens of as many rows as `seeds` has, padded to DRAWS; every other argument may be one for all."""
    rows = len(seeds)

    def full(values, dtype, shape=()):
        padded = np.zeros((DRAWS, *shape), dtype)
        padded[:rows] = values
        return padded

    arguments = (
        full(logits, np.float32, (VOCABULARY,)),
        full(seeds, np.uint32),
        full(positions, np.int32),
        full(temperature, np.float32),
    )
    return np.asarray(_choose(*arguments, None if top_p is None else full(top_p, np.float32)))[:rows]


def softmax(logits):
    weights = np.exp(logits.astype(np.float64) - logits.max())
    return weights / weights.sum()


def chi_square(tokens, probabilities):
    """Pearson's statistic over its degrees of freedom, for cells that expect at least five draws."""
    expected = probabilities * len(tokens)
    observed = np.bincount(tokens, minlength=len(probabilities))
    cells = expected >= 5
    assert expected[~cells].sum() < len(tokens) / 100
    return ((observed - expected)[cells] ** 2 / expected[cells]).sum() / (cells.sum() - 1)


@pytest.mark.parametrize("temperature", [0.6, 1.0, 2.0])
def test_draws_follow_the_softmax(logits, temperature):
    tokens = choose(logits, range(DRAWS), 7, temperature)
    # About 45 degrees of freedom: above 1.6 is a probability of 0.6%, and the seeds are fixed.
    assert chi_square(tokens, softmax(logits / temperature)) < 1.6
    # Another temperature's softmax is told apart, so the bound above means something.
    assert chi_square(tokens, softmax(logits / (temperature * 1.1))) > 3


def test_consecutive_positions_of_one_request_are_independent_draws(logits):
    tokens = choose(logits, [0] * DRAWS, range(DRAWS), 1.0)
    assert chi_square(tokens, softmax(logits)) < 1.6
    top = logits.argmax()
    assert abs(np.corrcoef(tokens[:-1] == top, tokens[1:] == top)[0, 1]) < 0.02


@pytest.mark.parametrize("top_p", [0.05, 0.5, 0.9, 0.999])
def test_nucleus_is_the_smallest_set_with_that_mass(logits, top_p):
    kept = np.asarray(_keep(np.exp(logits - logits.max())[None], np.array([top_p], np.float32)))[0]
    probabilities = softmax(logits)
    order = np.argsort(-probabilities)
    needed = np.searchsorted(np.cumsum(probabilities[order]), top_p) + 1
    assert set(np.flatnonzero(kept)) == set(order[:needed])


def test_top_p_draws_follow_the_renormalised_softmax(logits):
    tokens = choose(logits, range(DRAWS), 7, 1.0, 0.7)
    kept = np.unique(tokens)
    probabilities = softmax(logits)
    order = np.argsort(-probabilities)
    assert set(kept) == set(order[: np.searchsorted(np.cumsum(probabilities[order]), 0.7) + 1])
    masked = np.where(np.isin(np.arange(VOCABULARY), kept), probabilities, 0)
    assert chi_square(tokens, masked / masked.sum()) < 1.8


def test_ties_are_kept_together():
    weights = np.zeros((1, VOCABULARY), np.float32)
    weights[0, :4] = 1.0, 0.5, 0.5, 0.25
    assert np.flatnonzero(_keep(weights, np.array([0.5], np.float32))).tolist() == [0, 1, 2]


def test_top_p_one_changes_nothing_beside_a_row_that_wants_less(logits):
    without = choose(logits, range(64), range(64), 1.3)
    mixed = choose(logits, range(64), range(64), 1.3, [1.0, 0.2] * 32)
    assert np.array_equal(without[::2], mixed[::2])
    assert not np.array_equal(without[1::2], mixed[1::2])


def test_greedy_rows_take_the_argmax_beside_drawn_ones():
    logits = np.random.default_rng(1).normal(size=(32, VOCABULARY))
    tokens = choose(logits, range(32), 0, [0.0, 5.0] * 16)
    greatest = logits.argmax(axis=-1)
    assert np.array_equal(tokens[::2], greatest[::2])
    assert not np.array_equal(tokens[1::2], greatest[1::2])


def test_argmax_takes_the_first_of_equals():
    logits = np.array([[1, 3, 3], [2, 2, 0], [-np.inf, -np.inf, -1]], np.float32)
    assert jax.jit(argmax)(logits).tolist() == logits.argmax(axis=-1).tolist() == [1, 0, 2]


def test_a_draw_depends_on_seed_and_position_and_not_on_the_row(logits):
    seeds, positions = np.array([5, 9, 5, 5, 9, 5]), np.array([1, 2, 3, 1, 2, 4])
    tokens = choose(logits, seeds, positions, 3.0)
    assert tokens[0] == tokens[3] and tokens[1] == tokens[4]
    assert len({tokens[0], tokens[2], tokens[5]}) > 1
    order = np.array([4, 2, 0, 5, 1, 3])
    assert np.array_equal(choose(logits, seeds[order], positions[order], 3.0), tokens[order])
    one = _choose(logits[None], np.uint32([5]), np.int32([1]), np.float32([3.0]))
    assert one[0] == tokens[0]


def test_what_weighs_nothing_is_never_drawn():
    weights = np.zeros((3, 200), np.float32)
    weights[0, 199], weights[1, 0], weights[2, [3, 150]] = 1e-30, 1.0, (1e-3, 1.0)
    edges = [0.0, 0.5, 1 - 2**-24]
    uniforms = np.array([(first, second) for first in edges for second in edges], np.float32)
    tokens = np.asarray(jax.jit(draw)(np.repeat(weights, len(uniforms), axis=0), np.tile(uniforms, (3, 1))))
    last, first, two = tokens.reshape(3, -1)
    assert (last == 199).all() and (first == 0).all() and set(two) == {3, 150}


@pytest.mark.parametrize("vocabulary", [1, 2, 17])
def test_every_token_of_a_vocabulary_can_be_drawn(vocabulary):
    uniforms = np.random.default_rng(0).random((2000, 2), np.float32)
    tokens = jax.jit(draw)(jnp.ones((2000, vocabulary)), uniforms)
    assert set(np.asarray(tokens)) == set(range(vocabulary))
