"""What a device says to the others where it runs its own part of a program, under `shard_map`.

All arrays that are cut are cut along their `embed` axis, over the mesh axes that are passed in (major to minor).
"""

from __future__ import annotations

import jax
import jax.numpy as jnp


def gathered(x: jax.Array, axes: tuple[str | None, ...], over: tuple[str, ...], dtype: jnp.dtype) -> jax.Array:
    """A whole array from the parts that lie along its embed axis; as it is where it has none, or nothing to gather.

    Floating point numbers are cast to `dtype` first, so that fewer bytes travel, and so does the gradient on its way
    back: the transpose adds up and scatters. One mesh axis is gathered after the other, which is what makes both a
    real gather and a real scatter on a torus (XLA does a padded all-reduce for several at once).
    """
    if not over or "embed" not in axes:
        return x
    if jnp.issubdtype(x.dtype, jnp.floating):
        x = x.astype(dtype)
    for name in reversed(over):
        x = jax.lax.all_gather(x, name, axis=axes.index("embed"), tiled=True)
    return x


def scattered_lookup(table_Vxd: jax.Array, tokens_BxS: jax.Array, over: tuple[str, ...]) -> jax.Array:
    """Rows of a table `[V, D]` of which each device holds d columns: `[B, S, D]` for its own tokens.

    Every device looks up everybody's tokens in its own columns and sends them home. That moves the tokens' embeddings
    instead of the table, which is larger than they are for all batches that fit.
    """
    everybody_NxBxS = tokens_BxS[None]
    for name in reversed(over):
        everybody_NxBxS = jax.lax.all_gather(everybody_NxBxS, name, axis=0, tiled=True)
    columns_NxBxSxd = table_Vxd[everybody_NxBxS]
    return jax.lax.all_to_all(columns_NxBxSxd, over, split_axis=0, concat_axis=3, tiled=True)[0]
