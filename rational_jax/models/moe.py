"""A mixture of experts, dropless: every token reaches all the experts that its router chose for it.

Shapes: T tokens, D embed, E experts, F expert width, A assignments (T x experts a token).
"""

import dataclasses

import jax
import jax.numpy as jnp
from flax import nnx

from rational_jax.models.config import DecoderConfig
from rational_jax.models.layers import Linear, Stack, gated
from rational_jax.models.remat import keep


class Experts(nnx.Module):
    """Router and gated MLPs, in place of the MLP of the layers that have them."""

    def __init__(self, config: DecoderConfig, stack: Stack):
        D, E, F = config.embed_dim, config.moe.num_experts, config.moe.mlp_dim
        self.moe = config.moe
        self.activation = config.activation
        self.router = Linear("router", (E, D), (None, "embed"), dataclasses.replace(stack, quantized=None))
        self.gate_proj = ExpertLinear("experts.gate_proj", (F, D), ("mlp", "embed"), stack, experts=E)
        self.up_proj = ExpertLinear("experts.up_proj", (F, D), ("mlp", "embed"), stack, experts=E)
        self.down_proj = ExpertLinear("experts.down_proj", (D, F), ("embed", "mlp"), stack, experts=E)

    def __call__(self, x: jax.Array) -> jax.Array:
        rows_TxD = x.reshape(-1, x.shape[-1])
        scores_TxE = jax.nn.softmax(self.router(rows_TxD).astype(jnp.float32), axis=-1)
        weights, chosen = jax.lax.top_k(scores_TxE, self.moe.top_k)
        if self.moe.normalise:
            weights = weights / weights.sum(axis=-1, keepdims=True)
        # Rows in the order of their experts, so that each expert's rows are one block of a grouped matrix product.
        order_A = jnp.argsort(chosen.reshape(-1), stable=True)
        tokens_A = order_A // self.moe.top_k
        sizes_E = jnp.bincount(chosen.reshape(-1), length=self.moe.num_experts).astype(jnp.int32)
        rows_AxD = rows_TxD[tokens_A]
        gate, up = keep(self.gate_proj(rows_AxD, sizes_E), "gate"), keep(self.up_proj(rows_AxD, sizes_E), "up")
        out_AxD = self.down_proj(gated(self.activation, gate, up), sizes_E) * weights.reshape(-1)[order_A, None].astype(
            x.dtype
        )
        return jnp.zeros_like(rows_TxD).at[tokens_A].add(out_AxD).reshape(x.shape)


class ExpertLinear(Linear):
    """`x W_e^T` for rows grouped by expert e."""

    def __call__(self, rows_AxI: jax.Array, sizes_E: jax.Array) -> jax.Array:
        y = self.times_weight(lambda rows, weight: jax.lax.ragged_dot(rows, weight.swapaxes(1, 2), sizes_E), rows_AxI)
        if self.scale is not None:
            a, b = (f[...].astype(rows_AxI.dtype).swapaxes(1, 2) for f in (self.lora_a, self.lora_b))
            y = y + jax.lax.ragged_dot(jax.lax.ragged_dot(rows_AxI, a, sizes_E) * self.scale, b, sizes_E)
        return y
