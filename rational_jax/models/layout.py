"""Which layers are run by one scan: a model's layers cut into runs that repeat a pattern.

A model whose layers are all alike is one run of period 1. Gemma 3's five layers with a window and one without are a run
of period 6; what is left at the end is a run of its own. Layers may also differ by having LoRA factors or not.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Hashable, Sequence

import jax
import jax.numpy as jnp
from flax import nnx

MAX_PERIOD = 8


@dataclasses.dataclass(frozen=True, kw_only=True)
class Run:
    """Layers `start` to `start + period * repeats`, of which those `period` apart are of the same kind."""

    start: int
    period: int
    repeats: int

    @property
    def stop(self) -> int:
        return self.start + self.period * self.repeats


def runs(kinds: Sequence[Hashable]) -> list[Run]:
    """The layers in as few runs as a greedy search finds: each the longest that starts where the last one ended."""
    found: list[Run] = []
    start = 0
    while start < len(kinds):
        candidates = []
        for period in range(1, min(MAX_PERIOD, len(kinds) - start) + 1):
            stop = start + period
            while stop < len(kinds) and kinds[stop] == kinds[stop - period]:
                stop += 1
            repeats = (stop - start) // period
            if repeats > 1 or period == 1:
                candidates.append(Run(start=start, period=period, repeats=repeats))
        # The longest; of equally long ones that of the smallest body.
        found.append(max(candidates, key=lambda run: (run.stop, -run.period)))
        start = found[-1].stop
    return found


def stacked(variable: nnx.Variable, run: Run) -> jax.Array:
    """The part of a stacked parameter that a run needs, `[repeats, layers of it in a period, ...]`.

    `[repeats, ...]` where that is one layer: on CPUs XLA copies what is reshaped before it is scanned. A variable knows
    by its metadata `layers` which layers it holds. Nothing is copied for a run over all of them.
    """
    held = variable.get_metadata("layers")
    before = sum(layer < run.start for layer in held)
    inside = sum(run.start <= layer < run.stop for layer in held)
    value = variable[...]
    part = value if inside == len(held) else jax.lax.slice_in_dim(value, before, before + inside)
    if inside == run.repeats:
        return part
    return part.reshape(run.repeats, inside // run.repeats, *part.shape[1:])


def unstacked(variable: nnx.Variable, part: jax.Array, run: Run, offset: int) -> jax.Array:
    """One layer's parameter from what `stacked` gives of a period, for the layer at `offset`.

    A layer without low-rank factors gets factors of rank zero, which add nothing; one without a parameter of another
    sort (experts in a dense layer) gets an empty array, which nothing reads.
    """
    held = variable.get_metadata("layers")
    one = sum(run.start <= layer < run.start + run.period for layer in held) == 1
    if run.start + offset in held:
        return part if one else part[sum(run.start <= layer < run.start + offset for layer in held)]
    axes = variable.get_metadata("axes")[1:]
    sizes = part.shape[-len(axes) :] if "rank" in axes else (0,) * len(axes)
    return jnp.zeros([0 if axis == "rank" else size for axis, size in zip(axes, sizes, strict=True)], part.dtype)
