"""Batches of packed rows: a pure function of seed and step, so a resumed run needs no iterator state."""

from collections.abc import Callable, Mapping

import jax
import numpy as np

from rational_jax.data.packing import Packed
from rational_jax.errors import UserError


class Batches:
    """Random access to the batches of a run.

    Every epoch shows every row once, in an order of its own; batches go on over the border of two epochs, so a batch
    may be larger than the set. The order depends on `seed`, the lengths of the rows and nothing else. Rows of several
    lengths (buckets) share no batch: each length has an order of its own, and the lengths take turns at random. Then a
    bucket's last batch of an epoch begins its next one, and buckets of less than a batch are filled up to the next.
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
        buckets = _buckets(packed.lengths, batch_size)
        self.lengths = tuple(buckets)
        """The lengths of batches: what a step is compiled for."""
        # shuffle before repeat: every epoch is shuffled by itself.
        self._orders = {
            length: grain.MapDataset.source(rows).seed(seed).shuffle().repeat().batch(batch_size)
            for length, rows in buckets.items()
        }
        each = {length: -(-len(rows) // batch_size) for length, rows in buckets.items()}
        turns = [length for length, count in each.items() for _ in range(count)]
        self._turns = grain.MapDataset.source(turns).seed(seed).shuffle().repeat() if len(buckets) > 1 else None
        self._each, self._epoch = each, len(turns)
        self._counted: tuple[int | None, list[tuple[int, int]]] = (None, [])
        self._last: tuple[int | None, np.ndarray] = (None, np.zeros(0, int))

    def rows_of(self, step: int) -> np.ndarray:
        """Which rows the batch of a step (from 0) holds: [B] indices into the packed set."""
        last = self._last
        if last[0] != step:
            length, number = self._turn(step)
            # Kept, since the parts of a batch are read one after the other.
            last = self._last = step, np.asarray(self._orders[length][number])
        return last[1]

    def batch(self, step: int, part: slice = slice(None)) -> dict[str, np.ndarray]:
        """The batch of a step (from 0) or a part of it: tokens, segments, positions, weights and kinds, each [B, S]."""
        rows, length = self.rows_of(step)[part], self._turn(step)[0]
        return {name: array[rows, :length] for name, array in self._arrays.items()}

    def placed(self, step: int, sharding: jax.sharding.Sharding) -> dict[str, jax.Array]:
        """The batch of a step on the devices of `sharding`, of which this process reads only what lies on its own."""
        return place((self.batch_size, self._turn(step)[0]), lambda part: self.batch(step, part), sharding)

    def epochs(self, steps: int) -> float:
        """How many times each row has been shown after that many steps."""
        return steps * self.batch_size / self.rows

    def _turn(self, step: int) -> tuple[int, int]:
        """The length of a step's batch, and how many batches of that length come before it."""
        if step < 0:
            raise ValueError(f"step {step} is less than 0")
        if self._turns is None:
            return self.lengths[0], step
        epoch, place = divmod(step, self._epoch)
        counted = self._counted
        if counted[0] != epoch:
            counted = self._counted = epoch, self._count(epoch)
        return counted[1][place]

    def _count(self, epoch: int) -> list[tuple[int, int]]:
        """What `_turn` says of each step of an epoch: counted once, or the epoch would cost the square of its steps."""
        so_far = {length: epoch * each for length, each in self._each.items()}
        turns = []
        for step in range(epoch * self._epoch, (epoch + 1) * self._epoch):
            length = self._turns[step]
            turns.append((length, so_far[length]))
            so_far[length] += 1
        return turns


def place(
    shape: tuple[int, int], read: Callable[[slice], Mapping[str, np.ndarray]], sharding: jax.sharding.Sharding
) -> dict[str, jax.Array]:
    """Arrays of that shape on the devices of `sharding`. `read` gives a part of their rows: only what lies here."""
    indices = sharding.addressable_devices_indices_map(shape)
    parts = {device: (rows.indices(shape[0]), columns) for device, (rows, columns) in indices.items()}
    found = {rows: read(slice(*rows)) for rows, _ in parts.values()}

    def assembled(name: str) -> jax.Array:
        pieces = [jax.device_put(found[rows][name][:, columns], device) for device, (rows, columns) in parts.items()]
        return jax.make_array_from_single_device_arrays(shape, sharding, pieces)

    return {name: assembled(name) for name in next(iter(found.values()))}


def _buckets(lengths: np.ndarray, batch_size: int) -> dict[int, list[int]]:
    """The rows of each length; those of a length with less than a batch go to the next one."""
    found: dict[int, list[int]] = {}
    waiting: list[int] = []
    for length in sorted(set(lengths.tolist())):
        waiting += np.flatnonzero(lengths == length).tolist()
        if len(waiting) >= batch_size or length == lengths.max():
            found[length], waiting = waiting, []
    return found
