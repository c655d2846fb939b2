"""What the engine runs on the device: five compiled programs over a fixed number of slots.

`prefill` reads prompts, `insert` puts them into slots, `begin` samples their first tokens, `advance` decodes several
tokens for all slots at once; `score` gives a prompt's log-probabilities. Only the first two and the last are compiled
for each length of prompts. All are jitted at module level, so engines of one shape share what is compiled.

Shapes: L layers, B slots, K key-value heads, T cache extent, H head size, V vocabulary; P prompts prefilled at once, in
a bucket of S tokens; A slots filled at once.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rational_jax import models
from rational_jax.models import Caches, DecoderConfig, Execution, KVCache, cache
from rational_jax.models.decoder import LayerWeights, project_logits
from rational_jax.parallel import constrain
from rational_jax.sample.sampling import argmax, log_probabilities, next_tokens

VOCABULARY_PIECE = 8192  # tokens whose logits are held at once where a whole prompt is scored
NOTHING = -1  # stands where a slot has produced no token


class Slots(NamedTuple):
    """The device's state, one row a slot. A slot is live while it still owes tokens.

    `tokens` int32 `[B]` is the newest token of each slot, at `positions` int32 in its sequence and not yet in the
    cache; `owed` int32 is how many more may be sampled, 0 once the model has stopped; `first` int32 is a token that
    `begin` sampled and no `advance` has reported yet, or NOTHING, and `first_logprob` float32 its log-probability.
    `seeds` uint32, `top_k` int32, `temperature`, `top_p` and `min_p` float32.
    """

    cache: Caches
    tokens: jax.Array
    positions: jax.Array
    owed: jax.Array
    first: jax.Array
    first_logprob: jax.Array
    seeds: jax.Array
    temperature: jax.Array
    top_p: jax.Array
    top_k: jax.Array
    min_p: jax.Array


class Entries(NamedTuple):
    """What is begun in A slots at once.

    `places` int32 are the slots, B where there is nothing to begin; `lengths` int32 are those of the prompts, `budgets`
    int32 the tokens that may be sampled; the others are as in `Slots`.
    """

    places: jax.Array
    lengths: jax.Array
    budgets: jax.Array
    seeds: jax.Array
    temperature: jax.Array
    top_p: jax.Array
    top_k: jax.Array
    min_p: jax.Array


class Want(NamedTuple):
    """What a program has to do besides plain draws: nuclei, top-k and min-p, log-probabilities."""

    top_p: bool = False
    cuts: bool = False
    logprobs: bool = False


PLAIN, ALL = Want(), Want(top_p=True, cuts=True, logprobs=True)


class Scores(NamedTuple):
    """Of each token of a prompt but the first, given those before it: its log-probability, and the most probable one.

    `logprobs` and `best_logprobs` float32 `[S - 1]`, equal where the token is the most probable one; `best_ids` int32.
    """

    logprobs: jax.Array
    best_ids: jax.Array
    best_logprobs: jax.Array


_CACHE_AXES = KVCache(*[("layers", "batch", "kv_heads", None, None)] * 2)
_AXES = Slots((), *[("batch",)] * (len(Slots._fields) - 1))


def slot_axes(slots: Slots) -> Slots:
    """The logical axes of each array: slots over the batch axes of a mesh, heads over its tensor axis."""
    return _AXES._replace(cache=(_CACHE_AXES,) * len(slots.cache))


def _placed(slots: Slots) -> Slots:
    """Slots where their axes say; as they are where there is no mesh."""
    return jax.tree.map(constrain, slots, slot_axes(slots))


@functools.partial(jax.jit, static_argnames=("config", "slots", "extent", "execution"))
def empty_slots(config: DecoderConfig, slots: int, extent: int, execution: Execution) -> Slots:
    """`slots` free slots over a cache of `extent` positions, laid out for how `execution` runs the layers."""
    whole = functools.partial(jnp.zeros, (slots,))
    return _placed(
        Slots(
            cache=cache.empty(config, slots, extent, execution.dtype, apart=not execution.scan),
            tokens=whole(jnp.int32),
            positions=whole(jnp.int32),
            owed=whole(jnp.int32),
            first=jnp.full((slots,), NOTHING, jnp.int32),
            seeds=whole(jnp.uint32),
            first_logprob=whole(jnp.float32),
            temperature=whole(jnp.float32),
            top_p=whole(jnp.float32),
            top_k=whole(jnp.int32),
            min_p=whole(jnp.float32),
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


@functools.partial(jax.jit, static_argnames="config")
def layer_weights(config: DecoderConfig, params: dict) -> LayerWeights:
    """Every layer's parameters as arrays of their own."""
    return models.bind(config, params).layer_weights()


@functools.partial(jax.jit, static_argnames=("config", "execution"), donate_argnames="caches")
def prefill_chunk(
    config: DecoderConfig,
    execution: Execution,
    params: dict,
    caches: Caches,
    tokens_1xS: jax.Array,
    start_1: jax.Array,
    count_1: jax.Array,
) -> tuple[Caches, jax.Array]:
    """Reads the next `count_1` tokens of one long prompt, from position `start_1` on, and gives the logits `[1, V]`."""
    decoder = models.bind(config, params)
    hidden, caches = decoder.extend(tokens_1xS, start_1, count_1, caches, execution=execution)
    return caches, decoder.unembed(hidden[jnp.arange(1), count_1 - 1])


@functools.partial(jax.jit, static_argnames="config", donate_argnames="slots")
def insert(
    config: DecoderConfig,
    slots: Slots,
    prompts: KVCache | Caches,
    logits_PxV: jax.Array,
    rows_A: jax.Array,
    lengths_A: jax.Array,
    places_A: jax.Array,
) -> tuple[Slots, jax.Array]:
    """Copies prefilled prompts into the cache of slots, and gives their logits `[A, V]`.

    The prompt in row `rows_A[i]`, of `lengths_A[i]` tokens, goes to slot `places_A[i]`, or nowhere where that is B.
    """
    chosen = jax.tree.map(lambda leaf: leaf[:, rows_A], prompts)
    # What was read by chunks is laid out already.
    into = cache.groups_of(config, slots.cache)
    whole = isinstance(chosen, KVCache)
    new = cache.grouped(chosen, lengths_A, into) if whole else cache.split(config, chosen, into)

    def copy(old, new):
        return old.at[:, places_A, :, : new.shape[3]].set(new, mode="drop")

    return _placed(slots._replace(cache=jax.tree.map(copy, slots.cache, new))), logits_PxV[rows_A]


@functools.partial(jax.jit, static_argnames="want", donate_argnames="slots")
def begin(want: Want, stop_ids: jax.Array, slots: Slots, logits_AxV: jax.Array, entries: Entries) -> Slots:
    """Samples the first tokens of slots whose prompts have been inserted, which makes them live.

    `stop_ids` (int32) are the tokens that end a sequence.
    """
    tokens, logprobs = _choose(want, logits_AxV, entries, entries.lengths)
    owed = jnp.where(_is_stop(tokens, stop_ids), 0, entries.budgets - 1)
    new = (tokens, entries.lengths, owed, tokens, logprobs, *entries[3:])
    rest = (old.at[entries.places].set(value, mode="drop") for old, value in zip(slots[1:], new, strict=True))
    return _placed(Slots(slots.cache, *rest))


@functools.partial(jax.jit, static_argnames=("config", "execution", "steps", "want"), donate_argnames="slots")
def advance(
    config: DecoderConfig,
    execution: Execution,
    steps: int,
    want: Want,
    stop_ids: jax.Array,
    params: dict,
    weights: LayerWeights | None,
    slots: Slots,
    free_enough: jax.Array,
) -> tuple[Slots, tuple[jax.Array, jax.Array]]:
    """Decodes up to `steps` tokens for every live slot; returns early when `free_enough` slots are free.

    The tokens come as int32 `[1 + steps, B]`: the first row holds what `begin` sampled, the others what each step did,
    with NOTHING where a slot had nothing to do. Their log-probabilities come beside them, float32, zeros if unwanted.
    `weights` are those of `layer_weights` where the layers are unrolled.
    """
    decoder = models.bind(config, params)
    size = slots.tokens.shape[0]
    history = (
        jnp.full((1 + steps, size), NOTHING, jnp.int32).at[0].set(slots.first),
        jnp.zeros((1 + steps, size), jnp.float32).at[0].set(slots.first_logprob),
    )
    slots = slots._replace(first=jnp.full_like(slots.first, NOTHING))

    def unfinished(carry):
        step, slots, _ = carry
        return (step < steps) & (jnp.sum(slots.owed == 0) < free_enough)

    def decode(carry):
        step, slots, (history, logprobs) = carry
        live = slots.owed > 0
        hidden, caches = decoder.decode(
            slots.tokens, slots.positions, slots.cache, execution=execution, weights=weights
        )
        positions = slots.positions + live
        chosen, logprob = _choose(want, decoder.unembed(hidden), slots, positions)
        owed = jnp.where(live & ~_is_stop(chosen, stop_ids), slots.owed - 1, 0)
        history = history.at[1 + step].set(jnp.where(live, chosen, NOTHING))
        tokens = jnp.where(live, chosen, slots.tokens)
        slots = slots._replace(cache=caches, tokens=tokens, positions=positions, owed=owed)
        return step + 1, _placed(slots), (history, logprobs.at[1 + step].set(logprob))

    _, slots, history = jax.lax.while_loop(unfinished, decode, (jnp.int32(0), slots, history))
    return slots, history


@functools.partial(jax.jit, static_argnames=("config", "execution"))
def score(config: DecoderConfig, execution: Execution, params: dict, tokens_S: jax.Array) -> Scores:
    """Log-probabilities of the tokens of a prompt that is read at once."""
    decoder = models.bind(config, params)
    return _scores(config, decoder, decoder(tokens_S[None], execution=execution)[0][0, :-1], tokens_S[1:])


@functools.partial(jax.jit, static_argnames=("config", "execution"), donate_argnames="caches")
def score_chunk(
    config: DecoderConfig,
    execution: Execution,
    params: dict,
    caches: Caches,
    tokens_S: jax.Array,
    wanted_S: jax.Array,
    start_1: jax.Array,
    count_1: jax.Array,
) -> tuple[Caches, Scores]:
    """As `prefill_chunk`; gives the scores of `wanted_S`, the token after each of these."""
    decoder = models.bind(config, params)
    hidden, caches = decoder.extend(tokens_S[None], start_1, count_1, caches, execution=execution)
    return caches, _scores(config, decoder, hidden[0], wanted_S)


def _scores(config: DecoderConfig, decoder: models.Decoder, hidden_SxD: jax.Array, wanted_S: jax.Array) -> Scores:
    """The vocabulary comes in pieces, so that logits are never held for all of it at all places."""
    matrix_VxD = (decoder.embed if config.tie_embeddings else decoder.lm_head).weight[...]
    size = min(VOCABULARY_PIECE, config.vocab_size)

    def piece(carry, number):
        total_S, chosen_S, best_S, best_ids_S = carry
        # The last piece reaches back into the one before it, so that all are as wide; what was counted is masked.
        first = jnp.minimum(number * size, config.vocab_size - size)
        names_C = first + jnp.arange(size)
        rows_CxD = jax.lax.dynamic_slice_in_dim(matrix_VxD, first, size)
        logits_SxC = project_logits(config, hidden_SxD, rows_CxD)
        new_SxC = jnp.where(names_C >= number * size, logits_SxC, -jnp.inf)
        total_S = jnp.logaddexp(total_S, jax.nn.logsumexp(new_SxC, axis=-1))
        chosen_S += jnp.sum(jnp.where((names_C == wanted_S[:, None]) & (new_SxC > -jnp.inf), logits_SxC, 0.0), axis=-1)
        top_S = jnp.max(new_SxC, axis=-1)
        best_ids_S = jnp.where(top_S > best_S, first + argmax(new_SxC), best_ids_S)
        return (total_S, chosen_S, jnp.maximum(best_S, top_S), best_ids_S), None

    lowest = jnp.full(wanted_S.shape, -jnp.inf)
    begin = lowest, jnp.zeros(wanted_S.shape), lowest, jnp.zeros(wanted_S.shape, jnp.int32)
    (total_S, chosen_S, best_S, best_ids_S), _ = jax.lax.scan(piece, begin, jnp.arange(-(-config.vocab_size // size)))
    return Scores(chosen_S - total_S, best_ids_S, best_S - total_S)


def _choose(want: Want, logits: jax.Array, rows: Slots | Entries, positions: jax.Array) -> tuple[jax.Array, jax.Array]:
    """A token a row and its log-probability, or zero where nobody wants that."""
    tokens = next_tokens(
        logits,
        rows.seeds,
        positions,
        rows.temperature,
        rows.top_p if want.top_p else None,
        *((rows.top_k, rows.min_p) if want.cuts else ()),
    )
    return tokens, log_probabilities(logits, tokens) if want.logprobs else jnp.zeros(tokens.shape, jnp.float32)


def _is_stop(tokens: jax.Array, stop_ids: jax.Array) -> jax.Array:
    return jnp.any(tokens[..., None] == stop_ids, axis=-1)
