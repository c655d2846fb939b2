"""The two layouts of key-value caches."""

import jax.numpy as jnp
import pytest
from tiny import tiny_llama

from rational_jax.models import cache


@pytest.mark.parametrize("narrow", [(), (0, 1, 2), (1, 3), (0,), (0, 1, 2, 3)], ids=str)
def test_layers_keep_their_caches_when_they_are_taken_apart(narrow):
    marks = tuple(layer in narrow for layer in range(4)) if narrow else ()
    config = tiny_llama(num_layers=4, num_kv_heads=1, head_dim=4, window=8 if narrow else None, window_layers=marks)
    stacked = cache.empty(config, 2, 24, jnp.float32)
    groups = cache.groups_of(config, stacked)
    assert groups == cache.groups(config, 24)
    numbered = tuple(
        cache.KVCache(*(leaf + jnp.array(group.layers)[:, None, None, None, None] + 1 for leaf in held))
        for held, group in zip(stacked, groups, strict=True)
    )
    apart = cache.empty(config, 2, 24, jnp.float32, apart=True)
    into = cache.groups_of(config, apart)
    assert [group.layers for group in into] == [(0,), (1,), (2,), (3,)]
    found = cache.split(config, numbered, into)
    for layer, (held, room) in enumerate(zip(found, apart, strict=True)):
        assert held.k.shape == room.k.shape == (1, 2, 1, 8 if layer in narrow else 24, 4)
        assert (held.k == layer + 1).all() and (held.v == layer + 1).all()
    assert cache.split(config, numbered, groups) is numbered
