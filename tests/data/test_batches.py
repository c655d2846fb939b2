import hashlib

import jax
import numpy as np
import pytest

from rational_jax.data.batches import Batches
from rational_jax.data.packing import pack
from rational_jax.errors import UserError
from rational_jax.text.chat import Example


def packed(rows):
    return pack([Example(tokens=np.array([i, i]), kinds=np.array([0, 2])) for i in range(rows)], length=2)


def digest(batches, steps):
    found = hashlib.sha256()
    for step in steps:
        for name, array in sorted(batches.batch(step).items()):
            found.update(name.encode() + str(array.dtype).encode() + array.tobytes())
    return found.hexdigest()


def test_a_batch_is_a_pure_function_of_seed_and_step():
    one, other = Batches(packed(10), 3, seed=5), Batches(packed(10), 3, seed=5)
    forwards = digest(one, range(20))
    other.batch(13)  # what was asked before changes nothing
    assert digest(other, range(20)) == forwards
    assert digest(Batches(packed(10), 3, seed=6), range(20)) != forwards


@pytest.mark.parametrize("batch_size", [1, 3, 10, 25])
def test_every_epoch_shows_every_row_once_in_another_order(batch_size):
    batches = Batches(packed(10), batch_size, seed=0)
    shown = np.concatenate([batches.batch(step)["tokens"][:, 0] for step in range(-(-100 // batch_size))])
    epochs = shown[:100].reshape(10, 10)
    assert (np.sort(epochs, axis=1) == np.arange(10)).all()
    assert len({tuple(epoch) for epoch in epochs}) > 5


def test_shapes_and_content():
    data = packed(4)
    batches = Batches(data, 6, seed=1)
    batch = batches.batch(2)
    assert set(batch) == {"tokens", "segments", "positions", "weights", "kinds"}
    rows = batches.rows_of(2)
    for name, array in batch.items():
        source = getattr(data, name)
        assert array.shape == (6, 2) and array.dtype == source.dtype
        assert (array == source[rows]).all()
    assert batches.epochs(steps=2) == 3.0


def test_one_row_and_bad_sizes():
    assert Batches(packed(1), 4, seed=0).rows_of(7).tolist() == [0, 0, 0, 0]
    with pytest.raises(UserError, match=r"train\.batch_size"):
        Batches(packed(1), 0, seed=0)
    with pytest.raises(ValueError, match="step"):
        Batches(packed(1), 1, seed=0).batch(-1)


def test_a_batch_of_buckets_has_one_length_and_every_row_comes_in_an_epoch():
    lengths = [3] * 7 + [10] * 5 + [20] * 2 + [40] * 4
    examples = [Example(tokens=np.full(n, i), kinds=np.full(n, 2)) for i, n in enumerate(lengths)]
    data = pack(examples, length=40, rows="bucketed")
    batches = Batches(data, 3, seed=1)
    assert batches.lengths == (10, 40)  # two rows of 20 are less than a batch
    epoch = 4 + 2
    seen, found = [], []
    for step in range(2 * epoch):
        batch = batches.batch(step)
        assert batch["tokens"].shape in ((3, 10), (3, 40))
        rows = batches.rows_of(step)
        assert (data.segments[rows, batch["tokens"].shape[1] :] == 0).all()
        seen.append(batch["tokens"].shape[1])
        found.append(set(rows.tolist()))
    for half in (found[:epoch], found[epoch:]):
        assert set.union(*half) == set(range(18))
    assert seen[:epoch] != sorted(seen[:epoch]) and seen[:epoch] != seen[epoch:]
    again = Batches(data, 3, seed=1)
    assert again.rows_of(9).tolist() == batches.rows_of(9).tolist()


def test_the_turns_of_buckets_stay_what_they_were_and_are_counted_once_an_epoch():
    lengths = [3] * 7 + [10] * 5 + [20] * 2 + [40] * 4
    examples = [Example(tokens=np.full(n, i), kinds=np.full(n, 2)) for i, n in enumerate(lengths)]
    batches = Batches(pack(examples, length=40, rows="bucketed"), 3, seed=1)
    turns, reads = batches._turns, []

    class Counted:
        def __getitem__(self, step):
            reads.append(step)
            return turns[step]

    batches._turns = Counted()
    # As computed before anything was counted ahead: a run that was saved then goes on with the same batches.
    assert digest(batches, range(30)) == "f3bce3b85b2f1622556ccf10bb73390e9b74e93fb4f5d56ed17e52a77b500009"
    assert reads == list(range(30))


def test_what_is_placed_is_the_batch():
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:4]).reshape(2, 2), ("fsdp", "tensor"))
    sharding = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp"))
    batches = Batches(packed(10), 4, seed=0)
    whole, placed = batches.batch(3), batches.placed(3, sharding)
    assert whole.keys() == placed.keys()
    for name, array in placed.items():
        assert array.sharding == sharding
        assert array.dtype == whole[name].dtype and (np.asarray(array) == whole[name]).all()
