"""Batches of packed rows: a pure function of seed and step, so a resumed run needs no iterator state."""

import jax
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

    def batch(self, step: int, part: slice = slice(None)) -> dict[str, np.ndarray]:
        """The batch of a step (from 0) or a part of it: tokens, segments, positions, weights and kinds, each [B, S]."""
        rows = self.rows_of(step)[part]
        return {name: array[rows] for name, array in self._arrays.items()}

    def placed(self, step: int, sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
        """The batch of a step on the devices of `sharding`, of which this process reads only what lies on its own."""
        shape = (self.batch_size, self._arrays["tokens"].shape[1])
        indices = sharding.addressable_devices_indices_map(shape)
        parts = {device: (rows.indices(shape[0]), columns) for device, (rows, columns) in indices.items()}
        read = {rows: self.batch(step, slice(*rows)) for rows, _ in parts.values()}

        def assembled(name: str) -> jax.Array:
            pieces = [jax.device_put(read[rows][name][:, columns], device) for device, (rows, columns) in parts.items()]
            return jax.make_array_from_single_device_arrays(shape, sharding, pieces)

        return {name: assembled(name) for name in self._arrays}

    def epochs(self, steps: int) -> float:
        """How many times each row has been shown after that many steps."""
        return steps * self.batch_size / self.rows
