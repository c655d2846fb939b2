"""The layout of key-value caches: layers with a window keep their window only, as a ring.

Position p of a layer whose cache has E places stands at place p mod E. Layers of one E are a group, and stacked. Where
layers are unrolled each is a group of its own: XLA on CPUs copies a layer out of a stack before it reads it.

Shapes: L layers of a group, B batch, K key-value heads, E places of a group, H head size, S sequence.
"""

import functools
from typing import NamedTuple

import jax
import jax.numpy as jnp

from rational_jax.models.config import DecoderConfig


class KVCache(NamedTuple):
    """Keys and values of layers, `[L, B, K, E, H]`."""

    k: jax.Array
    v: jax.Array


Caches = tuple[KVCache, ...]
"""One `KVCache` for each of the groups."""


class Group(NamedTuple):
    """Layers whose caches have `extent` places."""

    extent: int
    layers: tuple[int, ...]


@functools.cache
def groups(config: DecoderConfig, extent: int, apart: bool = False) -> tuple[Group, ...]:
    """The groups of a cache for sequences of up to `extent` tokens: the widest first, or layer by layer if `apart`."""
    extents = [extent if kind.window is None else min(extent, kind.window) for kind in config.kinds]
    if apart:
        return tuple(Group(each, (layer,)) for layer, each in enumerate(extents))
    distinct = sorted(set(extents), reverse=True)
    return tuple(Group(each, tuple(i for i, e in enumerate(extents) if e == each)) for each in distinct)


def groups_of(config: DecoderConfig, caches: Caches) -> tuple[Group, ...]:
    """The groups that `caches` are laid out in."""
    extents = [held.k.shape[3] for held in caches]
    apart = groups(config, max(extents), apart=True)
    return apart if extents == [group.extent for group in apart] else groups(config, max(extents))


def empty(config: DecoderConfig, rows: int, extent: int, dtype, *, apart: bool = False) -> Caches:
    """Caches of zeros for `rows` sequences of up to `extent` tokens."""

    def zeros(group: Group) -> jax.Array:
        return jnp.zeros((len(group.layers), rows, config.num_kv_heads, group.extent, config.head_dim), dtype)

    return tuple(KVCache(zeros(group), zeros(group)) for group in groups(config, extent, apart))


def split(config: DecoderConfig, caches: Caches, into: tuple[Group, ...]) -> Caches:
    """`caches` laid out in groups `into`, which are theirs or those of layers apart."""
    held = groups_of(config, caches)
    if held == into:
        return caches
    of = {layer: (number, place) for number, group in enumerate(held) for place, layer in enumerate(group.layers)}
    places = (of[group.layers[0]] for group in into)
    return tuple(jax.tree.map(lambda leaf, i=i: leaf[i : i + 1], caches[number]) for number, i in places)


def grouped(whole: KVCache, lengths_B: jax.Array, into: tuple[Group, ...]) -> Caches:
    """What a full pass over S tokens left (`[all layers, B, K, S, H]`), laid out as the start of caches `into` groups.

    Rows have `lengths_B` tokens; what stands behind them is never seen. A group has `min(its extent, S)` places.
    """

    def arrange(leaf, group: Group):
        part = leaf if len(group.layers) == leaf.shape[0] else leaf[jnp.array(group.layers)]
        if group.extent >= part.shape[3]:
            return part
        last_B = lengths_B[:, None] - 1
        held_BxE = last_B - (last_B - jnp.arange(group.extent)) % group.extent
        return jnp.take_along_axis(part, jnp.maximum(held_BxE, 0)[None, :, None, :, None], axis=3)

    return tuple(jax.tree.map(functools.partial(arrange, group=group), whole) for group in into)
