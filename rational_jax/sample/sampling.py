"""The choice of the next token, for a whole batch of rows that want different things.

A row's draw depends on its own logits, seed and position alone: not on its neighbours, nor on where in the batch it
stands. Nothing here sorts: a sorted vocabulary costs more than the layers of a small model.

Shapes: B rows, V vocabulary.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp


def next_tokens(
    logits_BxV: jax.Array,
    seeds_B: jax.Array,
    positions_B: jax.Array,
    temperature_B: jax.Array,
    top_p_B: jax.Array | None = None,
    top_k_B: jax.Array | None = None,
    min_p_B: jax.Array | None = None,
) -> jax.Array:
    """One token a row, int32 `[B]`: the most probable where the temperature is 0, a draw elsewhere.

    `logits_BxV` is float32. `seeds_B` is uint32; `positions_B` (int32) are the places that the chosen tokens will have
    in their sequences: a token is drawn with the key `fold_in(key(seed), position)`. A cut that is None is left out of
    the program; rows with top_p 1, top_k 0 (int32) and min_p 0 get the same tokens either way.
    """
    drawn = temperature_B > 0
    scaled = logits_BxV / jnp.where(drawn, temperature_B, 1.0)[:, None]
    weights = jnp.exp(scaled - jnp.max(scaled, axis=-1, keepdims=True))
    if top_k_B is not None:
        weights = jnp.where(most_probable(weights, top_k_B), weights, 0.0)
    if top_p_B is not None:
        weights = jnp.where(nucleus(weights, top_p_B), weights, 0.0)
    if min_p_B is not None:
        weights = jnp.where(weights >= min_p_B[:, None], weights, 0.0)  # the most probable token weighs 1
    keys = jax.vmap(lambda seed, position: jax.random.fold_in(jax.random.key(seed), position))(seeds_B, positions_B)
    uniforms = jax.vmap(lambda key: jax.random.uniform(key, (2,)))(keys)
    return jnp.where(drawn, draw(weights, uniforms), argmax(logits_BxV))


def argmax(logits_BxV: jax.Array) -> jax.Array:
    """The first of the greatest, as `jnp.argmax` has it, by two plain reductions, which CPUs vectorise."""
    vocabulary = logits_BxV.shape[-1]
    greatest = jnp.max(logits_BxV, axis=-1, keepdims=True)
    return jnp.min(jnp.where(logits_BxV == greatest, jnp.arange(vocabulary), vocabulary - 1), axis=-1)


def nucleus(weights_BxV: jax.Array, top_p_B: jax.Array) -> jax.Array:
    """Bool `[B, V]`: the smallest set of heaviest tokens that has at least `top_p` of a row's weight; all for top_p 1.

    Tokens as heavy as the lightest of the set belong to it too, so ties are kept together. Weights are at most 1.
    """
    wanted = top_p_B * jnp.sum(weights_BxV, axis=-1)
    lightest_B = _lightest(weights_BxV, lambda heavy: jnp.sum(jnp.where(heavy, weights_BxV, 0.0), axis=-1) >= wanted)
    return (weights_BxV >= lightest_B[:, None]) | (top_p_B >= 1)[:, None]


def most_probable(weights_BxV: jax.Array, top_k_B: jax.Array) -> jax.Array:
    """Bool `[B, V]`: the `top_k` heaviest tokens of a row and those as heavy as the last of them; all for top_k 0."""
    lightest_B = _lightest(weights_BxV, lambda heavy: jnp.sum(heavy, axis=-1) >= top_k_B)
    return (weights_BxV >= lightest_B[:, None]) | (top_k_B == 0)[:, None]


def _lightest(weights_BxV: jax.Array, enough: Callable[[jax.Array], jax.Array]) -> jax.Array:
    """The greatest weight `[B]` for which all tokens at least as heavy (bool `[B, V]`) are enough (bool `[B]`).

    It is found by bisection. Positive floats are ordered as their bits are, so 30 halvings settle its bits exactly.
    """

    def halve(step, bits_B):
        higher = bits_B | (1 << (29 - step))
        heavy = weights_BxV >= jax.lax.bitcast_convert_type(higher, jnp.float32)[:, None]
        return jnp.where(enough(heavy), higher, bits_B)

    bits_B = jax.lax.fori_loop(0, 30, halve, jnp.zeros(weights_BxV.shape[0], jnp.int32))
    return jax.lax.bitcast_convert_type(bits_B, jnp.float32)


def draw(weights_BxV: jax.Array, uniforms_Bx2: jax.Array) -> jax.Array:
    """A token a row with probability proportional to its weight, int32 `[B]`.

    Inverts the distribution function in two stages: one uniform number chooses a block of about sqrt(V) tokens, the
    other a token in it. So short sums suffice, which round less than one over the vocabulary would, and two random
    numbers a row instead of V.
    """
    rows, vocabulary = weights_BxV.shape
    width = math.isqrt(vocabulary - 1) + 1
    blocks = -(-vocabulary // width)
    padded = jnp.pad(weights_BxV, ((0, 0), (0, blocks * width - vocabulary)))
    weights_BxNxW = padded.reshape(rows, blocks, width)
    block_B = _invert(jnp.sum(weights_BxNxW, axis=-1), uniforms_Bx2[:, 0])
    inside_BxW = jnp.take_along_axis(weights_BxNxW, block_B[:, None, None], axis=1)[:, 0]
    return block_B * width + _invert(inside_BxW, uniforms_Bx2[:, 1])


def _invert(weights_BxN: jax.Array, uniform_B: jax.Array) -> jax.Array:
    """The first index whose cumulative weight exceeds the given share of the total."""
    cumulative = jnp.cumsum(weights_BxN, axis=-1)
    total = jnp.max(cumulative, axis=-1)
    index = jnp.argmax(cumulative > (uniform_B * total)[:, None], axis=-1)
    # A parallel sum may differ in its last bit between neighbours with nothing between them; what weighs nothing must
    # never be drawn, so the last index up to there that weighs something is taken.
    place = jnp.arange(weights_BxN.shape[1])
    possible = (weights_BxN > 0) & (place <= index[:, None])
    return jnp.max(jnp.where(possible, place, 0), axis=-1)


def log_probabilities(logits_BxV: jax.Array, tokens_B: jax.Array) -> jax.Array:
    """Natural logarithm of the probability of one token a row, float32 `[B]`, at temperature 1 and without cuts."""
    chosen = jnp.take_along_axis(logits_BxV, tokens_B[:, None], axis=-1)[:, 0]
    return chosen - jax.nn.logsumexp(logits_BxV, axis=-1)
