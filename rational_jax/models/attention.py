"""Attention over packed sequences, and of one new token over a KV cache.

Shapes: B batch, S sequence, T cache extent, K key-value heads, G query heads a key-value head, H head size.
"""

import jax
import jax.numpy as jnp

# Large enough that exp() of it is zero in float32 and bfloat16, small enough that adding a score does not overflow.
MASKED = -1e30


def attention_bias(segments_BxS: jax.Array) -> jax.Array:
    """Float32 `[B, S, S]`: 0 where a token may look (same segment, not ahead), `MASKED` elsewhere."""
    place = jnp.arange(segments_BxS.shape[1])
    same = segments_BxS[:, :, None] == segments_BxS[:, None, :]
    return jnp.where(same & (place[:, None] >= place[None, :]), 0.0, MASKED)


def reference_attention(
    q_BxSxNxH: jax.Array, k_BxSxKxH: jax.Array, v_BxSxKxH: jax.Array, bias_BxSxS: jax.Array
) -> jax.Array:
    """The definition, written for reading: what every other implementation is tested against. `[B, S, N, H]`."""
    groups = q_BxSxNxH.shape[2] // k_BxSxKxH.shape[2]
    k, v = (jnp.repeat(x, groups, axis=2) for x in (k_BxSxKxH, v_BxSxKxH))
    scores = jnp.einsum("bqnh,bsnh->bnqs", q_BxSxNxH, k, preferred_element_type=jnp.float32)
    weights = jax.nn.softmax(scores / q_BxSxNxH.shape[-1] ** 0.5 + bias_BxSxS[:, None], axis=-1)
    return jnp.einsum("bnqs,bsnh->bqnh", weights.astype(v.dtype), v)


def xla_attention(
    q_BxSxNxH: jax.Array, k_BxSxKxH: jax.Array, v_BxSxKxH: jax.Array, bias_BxSxS: jax.Array
) -> jax.Array:
    """The same in plain XLA with a backward pass of our own; the path that CPUs take. `[B, S, N, H]`.

    On a CPU XLA's derivative of the einsums transposes the `[S, S]` weights in memory, which costs more than the matrix
    products themselves. Here only `[S, H]` operands are transposed: `scripts/bench/cpu_train.py` measures it.
    """
    B, S, N, H = q_BxSxNxH.shape
    K = k_BxSxKxH.shape[2]
    q_BxKxGxSxH = (q_BxSxNxH * H**-0.5).reshape(B, S, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k_BxKxSxH, v_BxKxSxH = (x.transpose(0, 2, 1, 3) for x in (k_BxSxKxH, v_BxSxKxH))
    out_BxKxGxSxH = _grouped_attention(q_BxKxGxSxH, k_BxKxSxH, v_BxKxSxH, bias_BxSxS)
    return out_BxKxGxSxH.transpose(0, 3, 1, 2, 4).reshape(B, S, N, H)


@jax.custom_vjp
def _grouped_attention(q, k, v, bias):
    return _grouped_attention_forward(q, k, v, bias)[0]


def _grouped_attention_forward(q, k, v, bias):
    B, K, G, S, H = q.shape
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bkmh,bksh->bkms", q.reshape(B, K, G * S, H), k, preferred_element_type=wide)
    scores = scores.reshape(B, K, G, S, S) + bias[:, None, None]
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    weights = (weights * (1 / weights.sum(-1, keepdims=True))).reshape(B, K, G * S, S).astype(v.dtype)
    out = jnp.einsum("bkms,bksh->bkmh", weights, v).reshape(q.shape)
    return out, (q, k, v, weights, out)


def _grouped_attention_backward(residuals, d_out):
    q, k, v, weights, out = residuals
    B, K, G, S, H = q.shape
    wide = jnp.promote_types(q.dtype, jnp.float32)
    inner = jnp.sum((d_out * out).astype(wide), axis=-1).reshape(B, K, G * S, 1)
    q, d_out = q.reshape(B, K, G * S, H), d_out.reshape(B, K, G * S, H)
    dv = jnp.einsum("bkmh,bkms->bkhs", d_out, weights).swapaxes(2, 3)
    d_scores = jnp.einsum("bkmh,bksh->bkms", d_out, v, preferred_element_type=wide) - inner
    d_scores = (weights * d_scores).astype(q.dtype)
    dq = jnp.einsum("bkms,bksh->bkmh", d_scores, k).reshape(B, K, G, S, H)
    dk = jnp.einsum("bkmh,bkms->bkhs", q, d_scores).swapaxes(2, 3)
    return dq, dk, dv, None


_grouped_attention.defvjp(_grouped_attention_forward, _grouped_attention_backward)


def cached_attention(
    q_BxNxH: jax.Array, k_BxKxTxH: jax.Array, v_BxKxTxH: jax.Array, positions_B: jax.Array
) -> jax.Array:
    """One new token a row over the cache, which holds that token's key and value at `positions_B`. `[B, N, H]`."""
    B, N, H = q_BxNxH.shape
    _, K, T, _ = k_BxKxTxH.shape
    q = (q_BxNxH * H**-0.5).reshape(B, K, N // K, H)
    scores = jnp.einsum("bkgh,bkth->bkgt", q, k_BxKxTxH, preferred_element_type=jnp.float32)
    visible = jnp.arange(T) <= positions_B[:, None]
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, MASKED), axis=-1)
    return jnp.einsum("bkgt,bkth->bkgh", weights.astype(v_BxKxTxH.dtype), v_BxKxTxH).reshape(B, N, H)


IMPLEMENTATIONS = {"reference": reference_attention, "xla": xla_attention}

