"""The decoder: one Flax module for every family, its layers stacked and scanned.

Shapes: B batch, S sequence, D embed, L layers, V vocabulary, N heads, K key-value heads, H head size.
"""

import dataclasses
import functools
from collections.abc import Callable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

from rational_jax.models import attention, cache, layout
from rational_jax.models.cache import Caches, KVCache
from rational_jax.models.config import DecoderConfig, LayerKind
from rational_jax.models.layers import Attention, Mlp, RMSNorm, Stack, normal, times_transposed
from rational_jax.models.lora import LoraConfig
from rational_jax.models.moe import Experts
from rational_jax.models.quantize import PART_NAMES, kind_of
from rational_jax.models.remat import keep, rematerialise
from rational_jax.models.rope import Tables, rotary_tables
from rational_jax.parallel.collectives import gathered, scattered_lookup
from rational_jax.parallel.rules import constrain

LayerWeights = list[list[list[jax.Array]]]
"""For each run of layers, for each of its repeats, the parameters of one period, as `layout.stacked` has them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class Execution:
    """How the forward pass runs, which never changes what it computes beyond rounding.

    `dtype` of the computation; `attention` by name (`attention.attenders`); `scan=False` unrolls the layers, which is
    faster on CPUs, where a loop body is not optimised across iterations; `remat` by name (`remat.POLICIES`). `gather`
    names the mesh axes over which the embed axis of weights is cut, where the pass runs under `shard_map` and has to
    put each layer's weights together itself.
    """

    dtype: jnp.dtype = jnp.float32
    attention: str = "xla"
    scan: bool = True
    remat: str = "none"
    gather: tuple[str, ...] = ()


class Layer(nnx.Module):
    """One block of attention and one of an MLP or experts, on the residual stream."""

    def __init__(self, config: DecoderConfig, lora: LoraConfig | None, quantized: str | None, rngs: nnx.Rngs):
        everywhere = Stack(layers=tuple(range(config.num_layers)), lora=lora, rngs=rngs, quantized=quantized)
        before, after = config.block_norms in ("pre", "both"), config.block_norms in ("post", "both")

        def norm(wanted: bool) -> RMSNorm | None:
            return RMSNorm(config, config.embed_dim, everywhere.layers) if wanted else None

        self.residual_scale = config.residual_scale
        self.attention_norm, self.attention_post_norm = norm(before), norm(after)
        self.attention = Attention(config, everywhere)
        self.mlp_norm, self.mlp_post_norm = norm(before), norm(after)
        dense, sparse = (dataclasses.replace(everywhere, layers=x) for x in (config.dense_layers, config.sparse_layers))
        self.mlp = Mlp(config, dense) if dense.layers else None
        self.experts = Experts(config, sparse) if sparse.layers else None

    def __call__(
        self,
        x_BxSxD: jax.Array,
        kind: LayerKind,
        attend: Callable,
        tables: Tables | None,
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, tuple[jax.Array, jax.Array]]:
        """`attend(q, k, v) -> [B, S, N, H]` looks at this sequence, or at a cache. Returns keys and values too."""
        kept = ()

        def attention_block(x):
            nonlocal kept
            q, k, v = self.attention.project(x, tables, dropout_key)
            kept = (k, v)
            attended = keep(attend(q, k, v).reshape(*x.shape[:2], -1), "attended")
            return keep(self.attention.o_proj(attended, dropout_key), "attention_out")

        x = self._add(x_BxSxD, attention_block, self.attention_norm, self.attention_post_norm)
        mlp_block = self.experts if kind.sparse else functools.partial(self.mlp, dropout_key=dropout_key)
        x = self._add(x, mlp_block, self.mlp_norm, self.mlp_post_norm)
        return constrain(x, ("batch", "sequence", None)), kept

    def _add(self, x: jax.Array, block: Callable, before: RMSNorm | None, after: RMSNorm | None) -> jax.Array:
        y = block(x if before is None else before(x))
        y = y if after is None else after(y)
        return x + (y if self.residual_scale == 1 else y * self.residual_scale)


class Table(nnx.Module):
    """An embedding or output matrix `[V, D]`."""

    def __init__(self, config: DecoderConfig, rngs: nnx.Rngs):
        self.weight = nnx.Param(normal(rngs, (config.vocab_size, config.embed_dim)), axes=("vocab", "embed"))


class Decoder(nnx.Module):
    """A causal language model, random from `Decoder(config, rngs=nnx.Rngs(0))`; `bind` makes one over loaded arrays."""

    def __init__(
        self, config: DecoderConfig, *, lora: LoraConfig | None = None, quantized: str | None = None, rngs: nnx.Rngs
    ):
        self.config = config
        # Layers that LoRA leaves out are of another kind, so that no scan has factors for some of its layers only.
        adapted = () if lora is None or lora.layers is None else lora.layers
        self._sorts = tuple((kind, layer in adapted) for layer, kind in enumerate(config.kinds))
        self.runs = tuple(layout.runs(self._sorts))
        self.embed = Table(config, rngs)
        self.layers = Layer(config, lora, quantized, rngs)
        self.norm = RMSNorm(config, config.embed_dim, None)
        if not config.tie_embeddings:
            self.lm_head = Table(config, rngs)

    def __call__(
        self,
        tokens_BxS: jax.Array,
        positions_BxS: jax.Array | None = None,
        segments_BxS: jax.Array | None = None,
        *,
        execution: Execution = Execution(),
        dropout_key: jax.Array | None = None,
    ) -> tuple[jax.Array, KVCache]:
        """Hidden states after the last norm `[B, S, D]`, and every layer's keys and values as a cache of extent S.

        A token sees the tokens before it in its own segment; without segments the whole row is one. LoRA's dropout
        takes place with a `dropout_key`, another choice for each layer and matrix.
        """
        if positions_BxS is None:
            positions_BxS = jnp.broadcast_to(jnp.arange(tokens_BxS.shape[1]), tokens_BxS.shape)
        if segments_BxS is None:
            segments_BxS = jnp.ones_like(tokens_BxS)
        x, caches = self._run(
            self.runs, lambda x, cache: cache, tokens_BxS, positions_BxS, segments_BxS, execution, dropout_key
        )
        return self.norm(x), _joined(caches)

    def streams(
        self,
        tokens_BxS: jax.Array,
        positions_BxS: jax.Array,
        segments_BxS: jax.Array,
        *,
        depth: int,
        execution: Execution = Execution(),
        dropout_key: jax.Array | None = None,
    ) -> jax.Array:
        """The residual stream after each of the first `depth` layers, `[depth, B, S, D]`; no other layer is run."""
        runs = layout.runs(self._sorts[:depth])
        _, found = self._run(runs, lambda x, cache: x, tokens_BxS, positions_BxS, segments_BxS, execution, dropout_key)
        return _joined(found)

    def _run(
        self,
        runs: Sequence[layout.Run],
        keep_of: Callable,
        tokens_BxS: jax.Array,
        positions_BxS: jax.Array,
        segments_BxS: jax.Array,
        execution: Execution,
        dropout_key: jax.Array | None,
    ) -> tuple[jax.Array, list]:
        """The stream after `runs`, and for each of them `keep_of(stream, cache)` of its layers, stacked."""
        config = self.config
        tables = rotary_tables(config, positions_BxS)
        windows = {kind.window for kind in config.kinds}
        scores = dict(scale=config.score_scale, softcap=config.attention_softcap)
        attend = attention.attenders(execution.attention, segments_BxS, windows, **scores)

        def block(x, layer: Layer, kind: LayerKind, index):
            key = None if dropout_key is None else jax.random.fold_in(dropout_key, index)
            x, (k, v) = layer(x, kind, attend[kind.window], tables[kind.rope], key)
            return x, KVCache(k.swapaxes(1, 2), v.swapaxes(1, 2))

        x = self._embed(tokens_BxS, execution)
        found = []
        for run in runs:
            graphdef, variables, stacks = self._stacks(run)

            def body(x, inputs, run=run, graphdef=graphdef, variables=variables):
                repeat, parts = inputs
                kept = []
                for offset in range(run.period):
                    index = run.start + repeat * run.period + offset
                    kind = config.kinds[run.start + offset]

                    def one(x, parts, index, offset=offset, kind=kind):
                        layer = _layer(graphdef, variables, parts, run, offset, execution)
                        return block(x, layer, kind, index)

                    x, cache = rematerialise(one, execution.remat)(x, parts, index)
                    kept.append(keep_of(x, cache))
                return x, jax.tree.map(lambda *layers: jnp.stack(layers), *kept)

            inputs = (jnp.arange(run.repeats), stacks)
            x, kept = jax.lax.scan(body, x, inputs, unroll=1 if execution.scan else run.repeats)
            found.append(jax.tree.map(lambda leaf: leaf.reshape(-1, *leaf.shape[2:]), kept))
        return x, found

    def layer_weights(self) -> LayerWeights:
        """Every layer's parameters as arrays of their own, for `decode`; a copy."""
        cut = []
        for run in self.runs:
            *_, stacks = self._stacks(run)
            cut.append([[stack[repeat] for stack in stacks] for repeat in range(run.repeats)])
        return cut

    def decode(
        self,
        tokens_B: jax.Array,
        positions_B: jax.Array,
        caches: Caches,
        *,
        execution: Execution = Execution(),
        weights: LayerWeights | None = None,
    ) -> tuple[jax.Array, Caches]:
        """One step for every row: hidden states `[B, D]`, and the caches with this token added at `positions_B`.

        Unrolled layers take their parameters from `weights`, where they are given: what is cut out of a stack in the
        program is copied at every step.
        """
        rows_Bx1 = jnp.arange(tokens_B.shape[0])[:, None]

        # Heads are named one by one: TPUs would lay a slice of them out side by side, and copy the whole cache for it.
        def attend(held, index, q, k, v, **options):
            place_B = positions_B % held.k.shape[3]
            new = KVCache(k[:, 0], v[:, 0])

            def put(old, new):
                return old.at[index, rows_Bx1, jnp.arange(old.shape[2]), place_B[:, None]].set(new)

            held = jax.tree.map(put, held, new)
            one = attention.cached_attention(q[:, 0], held.k[index], held.v[index], positions_B, **options)
            return one[:, None], held

        hidden, caches = self._over(caches, attend, tokens_B[:, None], positions_B[:, None], execution, weights)
        return hidden[:, 0], caches

    def extend(
        self,
        tokens_BxS: jax.Array,
        starts_B: jax.Array,
        counts_B: jax.Array,
        caches: Caches,
        *,
        execution: Execution = Execution(),
    ) -> tuple[jax.Array, Caches]:
        """The next `counts_B` of up to S tokens of every row, the first at `starts_B`, which are cached already.

        Hidden states `[B, S, D]`, of which those behind a row's count mean nothing, and the caches with the tokens.
        """
        rows_Bx1, ahead = jnp.arange(tokens_BxS.shape[0])[:, None], jnp.arange(tokens_BxS.shape[1])
        positions_BxS = starts_B[:, None] + ahead

        def attend(held, index, q, k, v, **options):
            out = attention.extending_attention(q, k, v, held.k[index], held.v[index], starts_B, **options)
            extent = held.k.shape[3]
            # Of tokens that share a place the last one stays; padding is dropped.
            kept = (ahead < counts_B[:, None]) & (ahead >= counts_B[:, None] - extent)
            places = jnp.where(kept, positions_BxS % extent, extent)

            def put(old, new):
                heads = jnp.arange(old.shape[2])
                return old.at[index, rows_Bx1[..., None], heads, places[..., None]].set(new, mode="drop")

            return out, jax.tree.map(put, held, KVCache(k, v))

        return self._over(caches, attend, tokens_BxS, positions_BxS, execution)

    def _over(
        self,
        caches: Caches,
        attend: Callable,
        tokens_BxS: jax.Array,
        positions_BxS: jax.Array,
        execution: Execution,
        weights: LayerWeights | None = None,
    ) -> tuple[jax.Array, Caches]:
        """All layers over caches: `attend(held, index, q, k, v, ...) -> (attended, held)` for layer `index` of one."""
        config = self.config
        tables = rotary_tables(config, positions_BxS)
        scores = dict(scale=config.score_scale, softcap=config.attention_softcap)
        members = [group.layers for group in cache.groups_of(config, caches)]

        def block(x, caches, layer: Layer, kind: LayerKind, number: int, index):
            # The whole cache is carried and updated in place: as a scanned input and output it would be copied.
            def attend_here(q, k, v):
                nonlocal caches
                out, held = attend(caches[number], index, q, k, v, window=kind.window, **scores)
                caches = (*caches[:number], held, *caches[number + 1 :])
                return out

            x, _ = layer(x, kind, attend_here, tables[kind.rope])
            return x, caches

        carry = (self._embed(tokens_BxS, execution), caches)
        if weights is None and not execution.scan:
            weights = self.layer_weights()
        for run, repeats in zip(self.runs, weights or [None] * len(self.runs), strict=True):
            graphdef, variables, stacks = self._stacks(run)

            def body(carry, inputs, run=run, graphdef=graphdef, variables=variables):
                repeat, parts = inputs
                for offset in range(run.period):
                    first = run.start + offset + (0 if execution.scan else repeat * run.period)
                    number, index = next((i, held.index(first)) for i, held in enumerate(members) if first in held)
                    if execution.scan:
                        index += repeat * sum(0 <= layer - run.start < run.period for layer in members[number])
                    layer = _layer(graphdef, variables, parts, run, offset, execution)
                    carry = block(*carry, layer, config.kinds[first], number, index)
                return carry, None

            if execution.scan:
                carry, _ = jax.lax.scan(body, carry, (jnp.arange(run.repeats), stacks))
            else:
                for repeat, parts in enumerate(repeats):
                    carry, _ = body(carry, (repeat, parts))
        x, caches = carry
        return self.norm(x), caches

    def unembed(self, hidden: jax.Array) -> jax.Array:
        """Logits in float32, `[..., V]`. Ask for few positions at a time: the vocabulary is the widest axis."""
        return project_logits(self.config, *self.with_output_matrix(hidden, Execution(dtype=hidden.dtype)))

    def with_output_matrix(self, hidden: jax.Array, execution: Execution) -> tuple[jax.Array, jax.Array]:
        """Hidden states, and what they are multiplied by to give logits: `[V, D]`, whole, in the compute dtype."""
        table = (self.embed if self.config.tie_embeddings else self.lm_head).weight[...]
        if execution.gather:
            # The largest matrix of all is put together after the layers have run, and the gradient for it is scattered
            # before theirs are computed: the barrier works in both directions.
            hidden, table = jax.lax.optimization_barrier((hidden, table))
        return hidden, gathered(table, ("vocab", "embed"), execution.gather, execution.dtype)

    def _embed(self, tokens_BxS: jax.Array, execution: Execution) -> jax.Array:
        table_VxD = self.embed.weight[...]
        if execution.gather:
            x = scattered_lookup(table_VxD.astype(execution.dtype), tokens_BxS, execution.gather)
        else:
            x = table_VxD.astype(execution.dtype)[tokens_BxS]
        if self.config.embed_scale != 1:
            # Rounded to the compute dtype first, as the models were trained.
            x = x * jnp.asarray(self.config.embed_scale, execution.dtype)
        return constrain(x, ("batch", "sequence", None))

    def _stacks(self, run: layout.Run):
        """The layers' graph, their variables by path, and the arrays that a scan over this run takes."""
        graphdef, state = nnx.split(self.layers)
        variables = tuple(nnx.to_flat_state(state))
        return graphdef, variables, [layout.stacked(variable, run) for _, variable in variables]


def _joined(parts: list):
    return jax.tree.map(lambda *leaves: jnp.concatenate(leaves) if leaves[1:] else leaves[0], *parts)


def _layer(graphdef, variables, parts: list[jax.Array], run: layout.Run, offset: int, execution: Execution) -> Layer:
    """The layer at `offset` of a period, bound to its arrays."""

    def one(name: str, variable: nnx.Variable, part: jax.Array) -> nnx.Variable:
        value, axes = layout.unstacked(variable, part, run, offset), variable.get_metadata("axes")[1:]
        # The scales of quantized weights keep all their digits.
        dtype = value.dtype if name in PART_NAMES else execution.dtype
        return variable.replace(gathered(value, axes, execution.gather, dtype))

    bound = [(path, one(path[-1], variable, part)) for (path, variable), part in zip(variables, parts, strict=True)]
    return nnx.merge(graphdef, nnx.from_flat_state(bound))


def project_logits(config: DecoderConfig, hidden: jax.Array, matrix_VxD: jax.Array) -> jax.Array:
    """Logits in float32, `[..., V]`, of hidden states `[..., D]`; the matrix is cast to their dtype."""
    rows = hidden.reshape(-1, hidden.shape[-1])
    logits = times_transposed(rows, matrix_VxD.astype(hidden.dtype), jnp.float32)
    return bend_logits(config, logits.reshape(*hidden.shape[:-1], -1))


def bend_logits(config: DecoderConfig, scores: jax.Array) -> jax.Array:
    """Logits from the products of hidden states and output matrix: divided and soft-capped as the model asks."""
    if config.logit_divisor != 1:
        scores = scores / config.logit_divisor
    if (cap := config.logit_softcap) is not None:
        scores = cap * jnp.tanh(scores / cap)
    return scores


@functools.cache
def structure(config: DecoderConfig, lora: LoraConfig | None = None, quantized: str | None = None):
    """The graph and the abstract state (float32) of a decoder, without allocating it: `(graphdef, state)`."""
    return nnx.split(nnx.eval_shape(lambda: Decoder(config, lora=lora, quantized=quantized, rngs=nnx.Rngs(0))))


def bind(config: DecoderConfig, params: dict, lora: LoraConfig | None = None) -> Decoder:
    """A decoder over a nested dict of arrays, as `hub.load_params` and checkpoints have them; nothing is copied.

    Its linear layers are those of `quantize_tree` where the dict is.
    """
    graphdef, state = structure(config, lora, kind_of(params))
    return nnx.merge(graphdef, jax.tree.unflatten(jax.tree.structure(state), jax.tree.leaves(params)))
