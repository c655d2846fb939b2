"""Attention kernels of accelerators: no `[S, S]` array in memory, and which of them can do what.

Shapes as in `attention.py`. A kernel runs on one device's rows and heads; under a mesh that is not manual already,
`attention.attenders` puts it into a `shard_map`.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable, Iterable

import jax
import jax.numpy as jnp


@dataclasses.dataclass(frozen=True, kw_only=True)
class Kernel:
    """A kernel and what it can do.

    `attend(q, k, v, segments, *, window, scale, softcap, interpret)`; `platform` it is for; whether it knows `windows`,
    `softcaps`, and key-value heads shared by query heads (`grouped`; otherwise they are repeated in memory). All know
    segments. Sequences have to be a multiple of `multiple` tokens, heads one of `head_multiple` elements.
    """

    attend: Callable
    platform: str
    windows: bool
    softcaps: bool
    grouped: bool
    multiple: int = 128
    head_multiple: int = 64

    def lacks(self, *, length: int, head_dim: int, windows: Iterable[int | None], softcap: float | None) -> str | None:
        """Why it cannot run such a model on sequences of that length, in a few words; None where it can."""
        if any(window is not None and window < length for window in windows) and not self.windows:
            return "it knows no sliding window"
        if softcap is not None and not self.softcaps:
            return "it knows no soft cap"
        if length % self.multiple:
            return f"sequences of {length} tokens are no multiple of {self.multiple}"
        if head_dim % self.head_multiple:
            return f"heads of {head_dim} elements are no multiple of {self.head_multiple}"
        return None


def splash(
    q_BxSxNxH: jax.Array,
    k_BxSxKxH: jax.Array,
    v_BxSxKxH: jax.Array,
    segments_BxS: jax.Array,
    *,
    window: int | None,
    scale: float,
    softcap: float | None,
    interpret: bool = False,
) -> jax.Array:
    """JAX's splash kernel for TPUs: blocks that the mask hides are skipped. `[B, S, N, H]`."""
    # Imported where it is used: other platforms need not have what it imports.
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernel
    from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as masks

    _, S, N, _ = q_BxSxNxH.shape
    mask = masks.CausalMask((S, S)) if window is None else masks.LocalMask((S, S), (window - 1, 0), 0)
    block = next(size for size in (512, 256, 128) if S % size == 0)
    names = ("q", "kv", "kv_compute", "q_dkv", "kv_dkv", "kv_dkv_compute", "q_dq", "kv_dq")
    attend = kernel.make_splash_mha(
        masks.MultiHeadMask([mask] * N),
        head_shards=1,
        q_seq_shards=1,
        attn_logits_soft_cap=softcap,
        interpret=interpret,
        block_sizes=kernel.BlockSizes(**{f"block_{name}": block for name in names}),
        # The name by which a remat policy keeps what its backward pass needs.
        residual_checkpoint_name="attended",
    )
    q, k, v = (x.transpose(0, 2, 1, 3) for x in (q_BxSxNxH * scale, k_BxSxKxH, v_BxSxKxH))
    out = jax.vmap(attend)(q, k, v, kernel.SegmentIds(segments_BxS, segments_BxS))
    return out.transpose(0, 2, 1, 3)


def triton(
    q_BxSxNxH: jax.Array,
    k_BxSxKxH: jax.Array,
    v_BxSxKxH: jax.Array,
    segments_BxS: jax.Array,
    *,
    window: int | None,
    scale: float,
    softcap: float | None,
    interpret: bool = False,
) -> jax.Array:
    """JAX's Pallas kernel for GPUs. `[B, S, N, H]`."""
    from jax.experimental.pallas.ops.gpu import attention as kernel

    groups = q_BxSxNxH.shape[2] // k_BxSxKxH.shape[2]
    k, v = (jnp.repeat(x, groups, axis=2) for x in (k_BxSxKxH, v_BxSxKxH))
    return kernel.mha(q_BxSxNxH, k, v, segments_BxS, sm_scale=scale, causal=True, interpret=interpret)


KERNELS = {
    "splash": Kernel(attend=splash, platform="tpu", windows=True, softcaps=True, grouped=True),
    "triton": Kernel(attend=triton, platform="gpu", windows=False, softcaps=False, grouped=False),
}
"""What there is besides the plain XLA attention, which can do everything on every platform."""


def on_one_device(kernel: Kernel, interpret: bool, **options) -> Callable:
    """`attend(q, k, v, segments)` of a kernel, each device of the current mesh on its own rows and heads."""
    attend = functools.partial(kernel.attend, interpret=interpret, **options)
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.manual_axes:
        return attend
    rows = tuple(name for name in mesh.axis_names if name != "tensor")
    tensor = mesh.shape.get("tensor", 1)

    def spread(q, k, v, segments):
        # Fewer key-value heads than devices lie on all of them; each device picks the one of its query heads.
        if (kv_heads := k.shape[2]) % tensor:
            k, v = (jnp.repeat(x, q.shape[2] // kv_heads, axis=2) for x in (k, v))
        heads = jax.P(rows, None, "tensor" if tensor > 1 else None, None)
        specs = (heads, heads, heads, jax.P(rows, None))
        return jax.shard_map(attend, in_specs=specs, out_specs=heads, check_vma=False)(q, k, v, segments)

    return spread
