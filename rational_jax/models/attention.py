"""Attention over packed sequences, and of one new token over a KV cache.

Shapes: B batch, S sequence, T cache extent, K key-value heads, G query heads a key-value head, H head size.
"""

import functools
import warnings
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp

from rational_jax.errors import UserError
from rational_jax.models.config import DecoderConfig
from rational_jax.models.kernels import KERNELS, on_one_device

# Large enough that exp() of it is zero in float32 and bfloat16, small enough that adding a score does not overflow.
MASKED = -1e30


def attention_bias(segments_BxS: jax.Array, window: int | None = None) -> jax.Array:
    """Float32 `[B, S, S]`: 0 where a token may look, `MASKED` elsewhere.

    It sees its own segment, not ahead, and no further back than the last `window` places, its own among them.
    """
    place = jnp.arange(segments_BxS.shape[1])
    visible = segments_BxS[:, :, None] == segments_BxS[:, None, :]
    visible &= place[:, None] >= place[None, :]
    if window is not None:
        visible &= place[:, None] - place[None, :] < window
    return jnp.where(visible, 0.0, MASKED)


def reference_attention(
    q_BxSxNxH: jax.Array,
    k_BxSxKxH: jax.Array,
    v_BxSxKxH: jax.Array,
    bias_BxSxS: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
) -> jax.Array:
    """The definition, written for reading: what every other implementation is tested against. `[B, S, N, H]`."""
    groups = q_BxSxNxH.shape[2] // k_BxSxKxH.shape[2]
    k, v = (jnp.repeat(x, groups, axis=2) for x in (k_BxSxKxH, v_BxSxKxH))
    scores = scale * jnp.einsum("bqnh,bsnh->bnqs", q_BxSxNxH, k, preferred_element_type=jnp.float32)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    weights = jax.nn.softmax(scores + bias_BxSxS[:, None], axis=-1)
    return jnp.einsum("bnqs,bsnh->bqnh", weights.astype(v.dtype), v)


def xla_attention(
    q_BxSxNxH: jax.Array,
    k_BxSxKxH: jax.Array,
    v_BxSxKxH: jax.Array,
    bias_BxSxS: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
) -> jax.Array:
    """The same in plain XLA with a backward pass of our own; the path that CPUs take. `[B, S, N, H]`.

    On a CPU XLA's derivative of the einsums transposes the `[S, S]` weights in memory, which costs more than the matrix
    products themselves. Here only `[S, H]` operands are transposed: `scripts/bench/cpu_train.py` measures it.
    """
    B, S, N, H = q_BxSxNxH.shape
    K = k_BxSxKxH.shape[2]
    q_BxKxGxSxH = (q_BxSxNxH * scale).reshape(B, S, K, N // K, H).transpose(0, 2, 3, 1, 4)
    k_BxKxSxH, v_BxKxSxH = (x.transpose(0, 2, 1, 3) for x in (k_BxSxKxH, v_BxSxKxH))
    out_BxKxGxSxH = _grouped_attention(softcap, q_BxKxGxSxH, k_BxKxSxH, v_BxKxSxH, bias_BxSxS)
    return out_BxKxGxSxH.transpose(0, 3, 1, 2, 4).reshape(B, S, N, H)


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def _grouped_attention(softcap, q, k, v, bias):
    return _grouped_attention_forward(softcap, q, k, v, bias)[0]


def _grouped_attention_forward(softcap, q, k, v, bias):
    B, K, G, S, H = q.shape
    wide = jnp.promote_types(q.dtype, jnp.float32)
    scores = jnp.einsum("bkmh,bksh->bkms", q.reshape(B, K, G * S, H), k, preferred_element_type=wide)
    bent = None if softcap is None else jnp.tanh(scores / softcap)
    scores = scores if softcap is None else softcap * bent
    scores = scores.reshape(B, K, G, S, S) + bias[:, None, None]
    weights = jnp.exp(scores - scores.max(-1, keepdims=True))
    weights = (weights * (1 / weights.sum(-1, keepdims=True))).reshape(B, K, G * S, S).astype(v.dtype)
    out = jnp.einsum("bkms,bksh->bkmh", weights, v).reshape(q.shape)
    return out, (q, k, v, weights, bent, out)


def _grouped_attention_backward(softcap, residuals, d_out):
    q, k, v, weights, bent, out = residuals
    B, K, G, S, H = q.shape
    wide = jnp.promote_types(q.dtype, jnp.float32)
    inner = jnp.sum((d_out * out).astype(wide), axis=-1).reshape(B, K, G * S, 1)
    q, d_out = q.reshape(B, K, G * S, H), d_out.reshape(B, K, G * S, H)
    dv = jnp.einsum("bkmh,bkms->bkhs", d_out, weights).swapaxes(2, 3)
    d_scores = weights * (jnp.einsum("bkmh,bksh->bkms", d_out, v, preferred_element_type=wide) - inner)
    # The derivative of c tanh(s / c) is 1 - tanh^2.
    d_scores = (d_scores if bent is None else d_scores * (1 - bent * bent)).astype(q.dtype)
    dq = jnp.einsum("bkms,bksh->bkmh", d_scores, k).reshape(B, K, G, S, H)
    dk = jnp.einsum("bkmh,bkms->bkhs", q, d_scores).swapaxes(2, 3)
    return dq, dk, dv, None


_grouped_attention.defvjp(_grouped_attention_forward, _grouped_attention_backward)


def cached_attention(
    q_BxNxH: jax.Array,
    k_BxKxTxH: jax.Array,
    v_BxKxTxH: jax.Array,
    positions_B: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
) -> jax.Array:
    """One new token a row over the cache, which holds that token's key and value too. `[B, N, H]`.

    The cache is a ring: position p stands at place p mod T, and what has been overwritten is out of sight.
    """
    B, N, H = q_BxNxH.shape
    _, K, T, _ = k_BxKxTxH.shape
    q = (q_BxNxH * scale).reshape(B, K, N // K, H)
    scores = jax.lax.platform_dependent(q, k_BxKxTxH, cpu=_scores_on_cpu, default=_scores)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    distance = (positions_B[:, None] - jnp.arange(T)) % T
    visible = distance <= positions_B[:, None]
    if window is not None and window < T:
        visible &= distance < window
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, MASKED), axis=-1)
    return jnp.einsum("bkgt,bkth->bkgh", weights.astype(v_BxKxTxH.dtype), v_BxKxTxH).reshape(B, N, H)


def _scores(q_BxKxGxH: jax.Array, k_BxKxTxH: jax.Array) -> jax.Array:
    return jnp.einsum("bkgh,bkth->bkgt", q_BxKxGxH, k_BxKxTxH, preferred_element_type=jnp.float32)


def _scores_on_cpu(q_BxKxGxH: jax.Array, k_BxKxTxH: jax.Array) -> jax.Array:
    """As `_scores`, with the cache on the left, where it is not packed again; the barrier keeps XLA from turning it."""
    turned = jnp.einsum("bkth,bkgh->bktg", k_BxKxTxH, q_BxKxGxH, preferred_element_type=jnp.float32)
    return jax.lax.optimization_barrier(turned).swapaxes(2, 3)


def extending_attention(
    q_BxSxNxH: jax.Array,
    k_BxSxKxH: jax.Array,
    v_BxSxKxH: jax.Array,
    old_k_BxKxTxH: jax.Array,
    old_v_BxKxTxH: jax.Array,
    starts_B: jax.Array,
    *,
    scale: float,
    softcap: float | None = None,
    window: int | None = None,
) -> jax.Array:
    """S new tokens a row, the first at position `starts_B`, over the ring of those before and over each other.

    The ring does not hold the new ones yet: they may overwrite what the first of them still see. `[B, S, N, H]`.
    """
    B, S, N, H = q_BxSxNxH.shape
    _, K, T, _ = old_k_BxKxTxH.shape
    q = (q_BxSxNxH * scale).reshape(B, S, K, N // K, H)
    old = jnp.einsum("bskgh,bkth->bkgst", q, old_k_BxKxTxH, preferred_element_type=jnp.float32)
    new = jnp.einsum("bskgh,btkh->bkgst", q, k_BxSxKxH, preferred_element_type=jnp.float32)
    scores = jnp.concatenate([old, new], axis=-1)
    if softcap is not None:
        scores = softcap * jnp.tanh(scores / softcap)
    last_Bx1 = starts_B[:, None] - 1
    held_BxT = last_Bx1 - (last_Bx1 - jnp.arange(T)) % T  # the position that each place holds, negative if none
    places_BxS = starts_B[:, None] + jnp.arange(S)
    held = jnp.concatenate([held_BxT, places_BxS], axis=1)[:, None]
    distance = places_BxS[..., None] - held
    visible = (held >= 0) & (distance >= 0)
    if window is not None:
        visible &= distance < window
    weights = jax.nn.softmax(jnp.where(visible[:, None, None], scores, MASKED), axis=-1).astype(v_BxSxKxH.dtype)
    out = jnp.einsum("bkgst,bkth->bskgh", weights[..., :T], old_v_BxKxTxH)
    return (out + jnp.einsum("bkgst,btkh->bskgh", weights[..., T:], v_BxSxKxH)).reshape(B, S, N, H)


IMPLEMENTATIONS = {"reference": reference_attention, "xla": xla_attention}


def attenders(
    implementation: str,
    segments_BxS: jax.Array,
    windows: Iterable[int | None],
    *,
    scale: float,
    softcap: float | None = None,
) -> dict[int | None, Callable[[jax.Array, jax.Array, jax.Array], jax.Array]]:
    """Attention over these segments for each window: functions of q, k and v.

    `implementation` is one of `IMPLEMENTATIONS`, which share one bias over all layers, or of `kernels.KERNELS`;
    "NAME-interpreted" runs a kernel's Python on any platform, for tests. A kernel raises UserError when it is called on
    what it cannot do, which some would compute wrongly.
    """
    name, _, interpreted = implementation.partition("-")
    if name in KERNELS:
        options = dict(interpret=bool(interpreted), scale=scale, softcap=softcap)
        found = {w: on_one_device(KERNELS[name], window=w, **options) for w in set(windows)}
        return {w: _with_segments(name, attend, segments_BxS, w, softcap) for w, attend in found.items()}
    attend = functools.partial(IMPLEMENTATIONS[implementation], scale=scale, softcap=softcap)
    return {w: functools.partial(attend, bias_BxSxS=attention_bias(segments_BxS, w)) for w in set(windows)}


def _with_segments(
    kernel: str, attend: Callable, segments_BxS: jax.Array, window: int | None, softcap: float | None
) -> Callable:
    def checked(q, k, v):
        _, S, _, H = q.shape
        if lack := KERNELS[kernel].lacks(length=S, head_dim=H, windows=(window,), softcap=softcap):
            raise UserError(f"attention {kernel!r} cannot run this model: {lack}")
        return attend(q, k, v, segments_BxS)

    return checked


def is_kernel(wanted: str) -> bool:
    """Whether that is one of `kernels.KERNELS`. Raises UserError for a name that is none."""
    if wanted.partition("-")[0] in KERNELS:
        return True
    if wanted != "auto" and wanted not in IMPLEMENTATIONS:
        raise UserError(f"attention {wanted!r} is none of auto, {', '.join([*IMPLEMENTATIONS, *KERNELS])}")
    return False


def choose(
    wanted: str, platform: str, config: DecoderConfig, length: int, warn: Callable[[str], None] = warnings.warn
) -> str:
    """The implementation for a platform ("cpu", "gpu", "tpu"), where `wanted` is "auto": its kernel, if it can.

    What it cannot do falls back to plain XLA, and `warn` is told why and what that costs. Raises UserError for a name
    that is none, and for a kernel that was asked for by name and cannot run the model.
    """
    if not is_kernel(wanted) and wanted != "auto":
        return wanted
    names = [name for name, kernel in KERNELS.items() if kernel.platform == platform] if wanted == "auto" else [wanted]
    if not names:
        return "xla"
    lack = KERNELS[names[0].partition("-")[0]].lacks(
        length=length,
        head_dim=config.head_dim,
        windows={kind.window for kind in config.kinds},
        softcap=config.attention_softcap,
    )
    if lack is None:
        return names[0]
    if wanted != "auto":
        raise UserError(f"attention {wanted!r} cannot run this model: {lack}")
    gib = config.num_heads * length * length * 4 / 2**30
    warn(f"attention without {names[0]}: {lack}. Each layer holds {gib:.2g} GiB of scores for every sequence instead")
    return "xla"
