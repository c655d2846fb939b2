"""The decoder: one Flax module for every family, its layers stacked on a leading axis and scanned.

Parameters keep Hugging Face's layout (`[out, in]`, rotary halves), so that weights and adapters need no transformation
on the way in or out. Shapes: B batch, S sequence, D embed, L layers, V vocabulary, K key-value heads, H head size,
T extent of the cache.
"""

import dataclasses
import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp
from flax import nnx

from rational_jax.models import attention
from rational_jax.models.config import DecoderConfig
from rational_jax.models.lora import LoraConfig, up_project
from rational_jax.models.rope import rotary_tables, rotate
from rational_jax.parallel.rules import constrain

INIT_STD = 0.02


class LoraParam(nnx.Param):
    """A low-rank factor; the filter that makes LoRA training what it is."""


class KVCache(NamedTuple):
    """Keys and values of every layer, `[L, B, K, T, H]`."""

    k: jax.Array
    v: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How the forward pass runs, which never changes what it computes beyond rounding."""

    dtype: jnp.dtype = jnp.float32
    attention: str = "xla"
    scan: bool = True  # False unrolls the layers: faster on CPU, where a loop body is not optimised across iterations
    remat: bool = False


class Linear(nnx.Module):
    """`x W^T + b` for L stacked matrices, with an optional low-rank term. `shape` and `axes` are of `[out, in]`."""

    def __init__(
        self,
        name: str,
        shape: tuple[int, int],
        axes: tuple[str, str],
        *,
        layers: int,
        lora: LoraConfig | None,
        rngs: nnx.Rngs,
        bias: bool = False,
    ):
        out_size, in_size = shape
        out_axis, in_axis = axes
        self.weight = nnx.Param(_normal(rngs, (layers, out_size, in_size)), axes=("layers", out_axis, in_axis))
        self.bias = nnx.Param(jnp.zeros((layers, out_size)), axes=("layers", out_axis)) if bias else None
        if lora is not None and name in lora.targets:
            # PEFT's initialisation: A Kaiming-uniform with a = sqrt(5), which is U(-1/sqrt(in), 1/sqrt(in)); B zero.
            bound = in_size**-0.5
            a = jax.random.uniform(rngs.params(), (layers, lora.rank, in_size), minval=-bound, maxval=bound)
            self.lora_a = LoraParam(a, axes=("layers", None, in_axis))
            self.lora_b = LoraParam(jnp.zeros((layers, out_size, lora.rank)), axes=("layers", out_axis, None))
            self.scale = lora.scale
        else:
            self.scale = None

    def __call__(self, x: jax.Array) -> jax.Array:
        rows = x.reshape(-1, x.shape[-1])
        y = rows @ self.weight[...].astype(x.dtype).T
        if self.scale is not None:
            h = (rows @ self.lora_a[...].astype(x.dtype).T) * self.scale
            y = y + up_project(h, self.lora_b[...].astype(x.dtype))
        if self.bias is not None:
            y = y + self.bias[...].astype(x.dtype)
        return y.reshape(*x.shape[:-1], -1)


class RMSNorm(nnx.Module):
    def __init__(self, config: DecoderConfig, layers: int | None):
        shape = (config.embed_dim,) if layers is None else (layers, config.embed_dim)
        self.weight = nnx.Param(jnp.ones(shape), axes=("norm",) if layers is None else ("layers", "norm"))
        self.epsilon = config.norm_eps

    def __call__(self, x: jax.Array) -> jax.Array:
        wide = x.astype(jnp.float32)
        wide = wide * jax.lax.rsqrt(jnp.mean(wide * wide, axis=-1, keepdims=True) + self.epsilon)
        return self.weight[...].astype(x.dtype) * wide.astype(x.dtype)


class Attention(nnx.Module):
    def __init__(self, config: DecoderConfig, lora: LoraConfig | None, rngs: nnx.Rngs):
        D, N, K, H = config.embed_dim, config.num_heads, config.num_kv_heads, config.head_dim
        stack = dict(layers=config.num_layers, lora=lora, rngs=rngs, bias=config.attention_bias)
        self.head_dim = H
        self.q_proj = Linear("q_proj", (N * H, D), ("heads", "embed"), **stack)
        self.k_proj = Linear("k_proj", (K * H, D), ("kv_heads", "embed"), **stack)
        self.v_proj = Linear("v_proj", (K * H, D), ("kv_heads", "embed"), **stack)
        self.o_proj = Linear("o_proj", (D, N * H), ("embed", "heads"), **stack)

    def project(self, x: jax.Array, tables) -> tuple[jax.Array, jax.Array, jax.Array]:
        """Rotated queries and keys, and values: `[B, S, heads, H]` each."""
        q, k, v = (p(x).reshape(*x.shape[:2], -1, self.head_dim) for p in (self.q_proj, self.k_proj, self.v_proj))
        return rotate(q, tables), rotate(k, tables), v


class Mlp(nnx.Module):
    def __init__(self, config: DecoderConfig, lora: LoraConfig | None, rngs: nnx.Rngs):
        D, F = config.embed_dim, config.mlp_dim
        stack = dict(layers=config.num_layers, lora=lora, rngs=rngs)
        self.gate_proj = Linear("gate_proj", (F, D), ("mlp", "embed"), **stack)
        self.up_proj = Linear("up_proj", (F, D), ("mlp", "embed"), **stack)
        self.down_proj = Linear("down_proj", (D, F), ("embed", "mlp"), **stack)

    def __call__(self, x: jax.Array) -> jax.Array:
        return self.down_proj(jax.nn.silu(self.gate_proj(x)) * self.up_proj(x))


class Layer(nnx.Module):
    def __init__(self, config: DecoderConfig, lora: LoraConfig | None, rngs: nnx.Rngs):
        self.input_norm = RMSNorm(config, config.num_layers)
        self.attention = Attention(config, lora, rngs)
        self.post_attention_norm = RMSNorm(config, config.num_layers)
        self.mlp = Mlp(config, lora, rngs)

    def __call__(self, x_BxSxD: jax.Array, attend, tables) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """`attend(q, k, v) -> [B, S, N, H]` looks at this sequence, or at a cache. Returns keys and values too."""
        q, k, v = self.attention.project(self.input_norm(x_BxSxD), tables)
        mixed = attend(q, k, v)
        x = x_BxSxD + self.attention.o_proj(mixed.reshape(*x_BxSxD.shape[:2], -1))
        x = x + self.mlp(self.post_attention_norm(x))
        return constrain(x, ("batch", "sequence", None)), (k, v)


class Table(nnx.Module):
    """An embedding or output matrix `[V, D]`."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.weight = nnx.Param(_normal(rngs, (config.vocab_size, config.embed_dim)), axes=("vocab", "embed"))


class Decoder(nnx.Module):
    """A causal language model, random from `Decoder(config, rngs=nnx.Rngs(0))`; `bind` makes one over loaded arrays."""

    def __init__(self, config: DecoderConfig, *, lora: LoraConfig | None = None, rngs: nnx.Rngs):
        self.config = config
        self.embed = Table(config, rngs)
        self.layers = Layer(config, lora, rngs)
        self.norm = RMSNorm(config, None)
        if not config.tie_embeddings:
            self.lm_head = Table(config, rngs)

    def __call__(
        self,
        tokens_BxS: jax.Array,
        positions_BxS: jax.Array | None = None,
        segments_BxS: jax.Array | None = None,
        *,
        execution: Execution = Execution(),
    ) -> tuple[jax.Array, KVCache]:
        """Hidden states after the last norm `[B, S, D]`, and every layer's keys and values as a cache of extent S.

        A token sees the tokens before it in its own segment; without segments the whole row is one.
        """
        if positions_BxS is None:
            positions_BxS = jnp.broadcast_to(jnp.arange(tokens_BxS.shape[1]), tokens_BxS.shape)
        if segments_BxS is None:
            segments_BxS = jnp.ones_like(tokens_BxS)
        bias = attention.attention_bias(segments_BxS)
        tables = rotary_tables(self.config, positions_BxS)
        attend = functools.partial(attention.IMPLEMENTATIONS[execution.attention], bias_BxSxS=bias)
        graphdef, stacked = nnx.split(self.layers)

        def body(x, layer_state):
            x, (k, v) = nnx.merge(graphdef, layer_state)(x, attend, tables)
            return x, KVCache(k.swapaxes(1, 2), v.swapaxes(1, 2))

        if execution.remat:
            body = jax.checkpoint(body)
        x = self._embed(tokens_BxS, execution)
        x, cache = jax.lax.scan(body, x, stacked, unroll=1 if execution.scan else self.config.num_layers)
        return self.norm(x), cache

    def decode(
        self, tokens_B: jax.Array, positions_B: jax.Array, cache: KVCache, *, execution: Execution = Execution()
    ) -> tuple[jax.Array, KVCache]:
        """One step for every row: hidden states `[B, D]`, and the cache with this token added at `positions_B`."""
        tables = rotary_tables(self.config, positions_B[:, None])
        graphdef, stacked = nnx.split(self.layers)
        rows = jnp.arange(tokens_B.shape[0])

        def body(carry, inputs):
            # The whole cache is carried and updated in place: as a scanned input and output it would be copied.
            x, cache = carry
            index, layer_state = inputs

            def attend(q, k, v):
                nonlocal cache
                new = KVCache(k[:, 0], v[:, 0])
                cache = jax.tree.map(lambda old, x: old.at[index, rows, :, positions_B].set(x), cache, new)
                return attention.cached_attention(q[:, 0], cache.k[index], cache.v[index], positions_B)[:, None]

            x, _ = nnx.merge(graphdef, layer_state)(x, attend, tables)
            return (x, cache), None

        x = self._embed(tokens_B[:, None], execution)
        layers = self.config.num_layers
        if execution.scan:
            (x, cache), _ = jax.lax.scan(body, (x, cache), (jnp.arange(layers), stacked))
        else:
            for index in range(layers):
                (x, cache), _ = body((x, cache), (index, jax.tree.map(lambda leaf, i=index: leaf[i], stacked)))
        return self.norm(x)[:, 0], cache

    def unembed(self, hidden: jax.Array) -> jax.Array:
        """Logits in float32, `[..., V]`. Ask for few positions at a time: the vocabulary is the widest axis."""
        table = self.embed if self.config.tie_embeddings else self.lm_head
        weight = table.weight[...].astype(hidden.dtype)
        return jnp.einsum("...d,vd->...v", hidden, weight, preferred_element_type=jnp.float32)

    def _embed(self, tokens: jax.Array, execution: Execution) -> jax.Array:
        x = self.embed.weight[...].astype(execution.dtype)[tokens]
        return constrain(x, ("batch", "sequence", None))


def _normal(rngs: nnx.Rngs, shape: tuple[int, ...]) -> jax.Array:
    return INIT_STD * jax.random.normal(rngs.params(), shape)


@functools.cache
def structure(config: DecoderConfig, lora: LoraConfig | None = None):
    """The graph and the abstract state (float32) of a decoder, without allocating it: `(graphdef, state)`."""
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, lora=lora, rngs=nnx.Rngs(0))))


def bind(config: DecoderConfig, params: dict, lora: LoraConfig | None = None) -> Decoder:
    """A decoder over a nested dict of arrays, as `hub.load_params` and checkpoints have them; nothing is copied."""
    graphdef, state = structure(config, lora)
    return nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(params)))
