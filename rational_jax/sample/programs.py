"""What the engine runs on the device: four compiled programs over a fixed number of slots.

`prefill` reads prompts, `insert` puts them into slots, `begin` samples their first tokens, `advance` decodes several
tokens for all slots at once. Only the first two are compiled for each length of prompts. All are jitted at module
level, so engines of one shape share what is compiled.

Shapes: L layers, B slots, K key-value heads, T cache extent, H head size, V vocabulary; P prompts prefilled at once, in
a bucket of S tokens; A slots filled at once.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rational_jax import models
from rational_jax.models import Caches, DecoderConfig, Execution, KVCache, cache
from rational_jax.parallel import constrain
from rational_jax.sample.sampling import next_tokens

NOTHING = -1  # stands where a slot has produced no token


class Slots(NamedTuple):
    """The device's state, one row a slot. A slot is live while it still owes tokens.

    `tokens` int32 `[B]` is the newest token of each slot, at `positions` int32 in its sequence and not yet in the
    cache; `owed` int32 is how many more may be sampled, 0 once the model has stopped; `first` int32 is a token that
    `begin` sampled and no `advance` has reported yet, or NOTHING. `seeds` uint32, `temperature` and `top_p` float32.
    """

    cache: Caches
    tokens: jax.Array
    positions: jax.Array
    owed: jax.Array
    first: jax.Array
    seeds: jax.Array
    temperature: jax.Array
    top_p: jax.Array


class Entries(NamedTuple):
    """What is begun in A slots at once.

    `places` int32 are the slots, B where there is nothing to begin; `lengths` int32 are those of the prompts, `budgets`
    int32 the tokens that may be sampled; `seeds` uint32, `temperature` and `top_p` float32.
    """

    places: jax.Array
    lengths: jax.Array
    budgets: jax.Array
    seeds: jax.Array
    temperature: jax.Array
    top_p: jax.Array


_CACHE_AXES = KVCache(*[("layers", "batch", "kv_heads", None, None)] * 2)
_AXES = Slots(
    cache=(),
    tokens=("batch",),
    positions=("batch",),
    owed=("batch",),
    first=("batch",),
    seeds=("batch",),
    temperature=("batch",),
    top_p=("batch",),
)


def _placed(slots: Slots) -> Slots:
    """Slots over the batch axes of the mesh and heads over its tensor axis; as they are where there is no mesh."""
    return jax.tree.map(constrain, slots, _AXES._replace(cache=(_CACHE_AXES,) * len(slots.cache)))


@functools.partial(jax.jit, static_argnames=("config", "slots", "extent", "dtype"))
def empty_slots(config: DecoderConfig, slots: int, extent: int, dtype) -> Slots:
    """`slots` free slots over a cache of `extent` positions."""
    whole = functools.partial(jnp.zeros, (slots,))
    return _placed(
        Slots(
            cache=cache.empty(config, slots, extent, dtype),
            tokens=whole(jnp.int32),
            positions=whole(jnp.int32),
            owed=whole(jnp.int32),
            first=jnp.full((slots,), NOTHING, jnp.int32),
            seeds=whole(jnp.uint32),
            temperature=whole(jnp.float32),
            top_p=whole(jnp.float32),
        )
    )


@functools.partial(jax.jit, static_argnames=("config", "execution"))
def prefill(
    config: DecoderConfig, execution: Execution, params: dict, tokens_PxS: jax.Array, lengths_P: jax.Array
) -> tuple[KVCache, jax.Array]:
    """Keys and values `[L, P, K, S, H]` of P prompts of `lengths_P` tokens, padded to S, and the logits `[P, V]` after.

    What stands in the padding is never seen: attention looks back only, and decoding writes over it.
    """
    decoder = models.bind(config, params)
    hidden, whole = decoder(tokens_PxS, execution=execution)
    last = jnp.take_along_axis(hidden, lengths_P[:, None, None] - 1, axis=1)[:, 0]
    return whole, decoder.unembed(last)


@functools.partial(jax.jit, static_argnames=("config", "extent"), donate_argnames="slots")
def insert(
    config: DecoderConfig,
    extent: int,
    slots: Slots,
    prompts: KVCache,
    logits_PxV: jax.Array,
    rows_A: jax.Array,
    lengths_A: jax.Array,
    places_A: jax.Array,
) -> tuple[Slots, jax.Array]:
    """Copies prefilled prompts into the cache of slots, for sequences up to `extent`, and gives their logits `[A, V]`.

    The prompt in row `rows_A[i]`, of `lengths_A[i]` tokens, goes to slot `places_A[i]`, or nowhere where that is B.
    """
    chosen = jax.tree.map(lambda leaf: leaf[:, rows_A], prompts)
    new = cache.grouped(config, chosen, lengths_A, extent)

    def copy(old, new):
        return old.at[:, places_A, :, : new.shape[3]].set(new, mode="drop")

    return _placed(slots._replace(cache=jax.tree.map(copy, slots.cache, new))), logits_PxV[rows_A]


@functools.partial(jax.jit, static_argnames="use_top_p", donate_argnames="slots")
def begin(use_top_p: bool, stop_ids: jax.Array, slots: Slots, logits_AxV: jax.Array, entries: Entries) -> Slots:
    """Samples the first tokens of slots whose prompts have been inserted, which makes them live.

    `stop_ids` (int32) are the tokens that end a sequence.
    """
    nucleus = entries.top_p if use_top_p else None
    tokens = next_tokens(logits_AxV, entries.seeds, entries.lengths, entries.temperature, nucleus)
    owed = jnp.where(_is_stop(tokens, stop_ids), 0, entries.budgets - 1)
    new = (tokens, entries.lengths, owed, tokens, entries.seeds, entries.temperature, entries.top_p)
    rest = (old.at[entries.places].set(value, mode="drop") for old, value in zip(slots[1:], new, strict=True))
    return _placed(Slots(slots.cache, *rest))


@functools.partial(jax.jit, static_argnames=("config", "execution", "steps", "use_top_p"), donate_argnames="slots")
def advance(
    config: DecoderConfig,
    execution: Execution,
    steps: int,
    use_top_p: bool,
    stop_ids: jax.Array,
    params: dict,
    slots: Slots,
    free_enough: jax.Array,
) -> tuple[Slots, jax.Array]:
    """Decodes up to `steps` tokens for every live slot; returns early when `free_enough` slots are free.

    The tokens come as int32 `[1 + steps, B]`: the first row holds what `begin` sampled, the others what each step did,
    with NOTHING where a slot had nothing to do.
    """
    decoder = models.bind(config, params)
    size = slots.tokens.shape[0]
    history = jnp.full((1 + steps, size), NOTHING, jnp.int32).at[0].set(slots.first)
    slots = slots._replace(first=jnp.full_like(slots.first, NOTHING))

    def unfinished(carry):
        step, slots, _ = carry
        return (step < steps) & (jnp.sum(slots.owed == 0) < free_enough)

    def decode(carry):
        step, slots, history = carry
        live = slots.owed > 0
        hidden, caches = decoder.decode(slots.tokens, slots.positions, slots.cache, execution=execution)
        positions = slots.positions + live
        chosen = next_tokens(
            decoder.unembed(hidden), slots.seeds, positions, slots.temperature, slots.top_p if use_top_p else None
        )
        owed = jnp.where(live & ~_is_stop(chosen, stop_ids), slots.owed - 1, 0)
        history = history.at[1 + step].set(jnp.where(live, chosen, NOTHING))
        tokens = jnp.where(live, chosen, slots.tokens)
        slots = slots._replace(cache=caches, tokens=tokens, positions=positions, owed=owed)
        return step + 1, _placed(slots), history

    _, slots, history = jax.lax.while_loop(unfinished, decode, (jnp.int32(0), slots, history))
    return slots, history


def _is_stop(tokens: jax.Array, stop_ids: jax.Array) -> jax.Array:
    return jnp.any(tokens[..., None] == stop_ids, axis=-1)
