"""Batches of packed rows: a pure function of seed and step, so a resumed run needs no iterator state."""

import numpy as np

from rational_jax.data.packing import Packed
from rational_jax.errors import UserError


class Batches:
    """Random access to the batches of a run.

    Every epoch shows every row once, in an order of its own; batches go on over the border of two epochs, so a batch
    may be larger than the set. The order depends on `seed`, the number of rows and nothing else.
    """

    def __init__(self, packed: Packed, batch_size: int, seed: int):
        import grain  # here, because it takes a second and only training needs it

        if batch_size < 1:
            raise UserError(f"train.batch_size: {batch_size} is less than 1")
        self._arrays = {
            "tokens": packed.tokens,
            "segments": packed.segments,
            "positions": packed.positions,
            "weights": packed.weights,
            "kinds": packed.kinds,
        }
        self.rows = len(packed.tokens)
        self.batch_size = batch_size
        # shuffle before repeat: every epoch is shuffled by itself.
        self._order = grain.MapDataset.source(range(self.rows)).seed(seed).shuffle().repeat().batch(batch_size)

    def rows_of(self, step: int) -> np.ndarray:
        """Which rows the batch of a step (from 0) holds: [B] indices into the packed set."""
        if step < 0:
            raise ValueError(f"step {step} is less than 0")
        return np.asarray(self._order[step])

    def batch(self, step: int) -> dict[str, np.ndarray]:
        """The batch of a step (from 0): tokens, segments, positions, weights and kinds, each [B, S]."""
        rows = self.rows_of(step)
        return {name: array[rows] for name, array in self._arrays.items()}

    def epochs(self, steps: int) -> float:
        """How many times each row has been shown after that many steps."""
        return steps * self.batch_size / self.rows
