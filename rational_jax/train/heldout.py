"""The loss on what is not trained on, of reasoning and of answers apart."""

from __future__ import annotations

import math
from collections.abc import Callable

import jax
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rational_jax.data.batches import place
from rational_jax.data.packing import Packed
from rational_jax.train.loss import LossSums
from rational_jax.train.step import TrainState

_ARRAYS = ("tokens", "segments", "positions", "weights", "kinds")


class HeldOut:
    """Measures the loss of a state on all rows of a packed set, `batch_size` of them at a time.

    The last batch is filled up with rows of padding. `measure` is `(trainable, frozen, batch) -> LossSums`, compiled
    here once.
    """

    def __init__(self, measure: Callable, packed: Packed, batch_size: int, sharding: NamedSharding, frozen: dict):
        whole = NamedSharding(sharding.mesh, PartitionSpec())
        self._measure, self._frozen, self._sharding = jax.jit(measure, out_shardings=whole), frozen, sharding
        self._packed, self._batch_size = packed, batch_size

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """`heldout_loss` over all tokens, and `heldout_loss_reasoning` and `_answer` where there are such tokens."""
        rows, width = self._packed.tokens.shape
        sums = []
        for start in range(0, rows, self._batch_size):
            batch = place((self._batch_size, width), lambda part, at=start: self._rows(at, part), self._sharding)
            with jax.set_mesh(self._sharding.mesh):
                sums.append(self._measure(state.trainable, self._frozen, batch))
        total = LossSums(*(math.fsum(map(float, parts)) for parts in zip(*sums, strict=True)))
        pairs = {
            "heldout_loss": (total.weighted, total.weight),
            "heldout_loss_reasoning": (total.reasoning, total.reasoning_tokens),
            "heldout_loss_answer": (total.answer, total.answer_tokens),
        }
        return {name: loss / tokens for name, (loss, tokens) in pairs.items() if tokens and math.isfinite(loss)}

    def _rows(self, start: int, part: slice) -> dict[str, np.ndarray]:
        wanted = np.arange(start, start + self._batch_size)[part]
        there = wanted < len(self._packed.tokens)
        found = {}
        for name in _ARRAYS:
            array = getattr(self._packed, name)
            found[name] = np.zeros((len(wanted), array.shape[1]), array.dtype)
            found[name][there] = array[wanted[there]]
        return found
