"""States come back bit for bit, on any mesh and in parts, and damage is named before it is taken for data."""

import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

from rational_jax.checkpoint import Checkpoints
from rational_jax.checkpoint import checkpoints as checkpoints_module
from rational_jax.errors import UserError


def make_state(seed: int) -> dict:
    random = np.random.default_rng(seed)
    trainable = {
        "layers": {"q_proj": {"lora_a": jnp.asarray(random.standard_normal((2, 4, 16), np.float32))}},
        "norm": {"weight": jnp.asarray(random.standard_normal(8), jnp.bfloat16)},
    }
    # A chain with states of every kind there is: empty ones, named tuples, counters.
    optimizer = optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(optax.cosine_decay_schedule(1e-3, 10)))
    return {"trainable": trainable, "opt_state": optimizer.init(trainable), "step": jnp.int32(seed)}


def shapes() -> dict:
    return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), make_state(0))


def assert_equal(ours, theirs) -> None:
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        assert a.dtype == b.dtype
        np.testing.assert_array_equal(a, b)


@pytest.fixture(scope="module")
def written(tmp_path_factory) -> Path:
    """Three saves, of which the last two are kept."""
    directory = tmp_path_factory.mktemp("run") / "checkpoints"
    with Checkpoints(directory, keep=2) as checkpoints:
        assert checkpoints.latest() is None
        for step in (1, 2, 3):
            checkpoints.save(step, make_state(step), {"method": "lora", "lora": {"rank": 4, "targets": ["q_proj"]}})
    return directory


def test_restores_what_was_saved_and_keeps_the_last(written):
    with Checkpoints(written, read_only=True) as checkpoints:
        assert checkpoints.steps() == [2, 3]
        assert checkpoints.latest() == 3
        for step in (2, 3):
            assert_equal(checkpoints.restore(step, shapes()), make_state(step))
        assert checkpoints.metadata(3) == {"method": "lora", "lora": {"rank": 4, "targets": ["q_proj"]}}


def test_reads_a_part_without_knowing_its_shapes(written):
    with Checkpoints(written, read_only=True) as checkpoints:
        part = {"trainable": checkpoints.abstract(3)["trainable"]}
        assert_equal(checkpoints.restore(3, part, partial=True), {"trainable": make_state(3)["trainable"]})


def test_restores_onto_another_mesh(written):
    devices = np.array(jax.devices())
    mesh = jax.sharding.Mesh(devices, ("fsdp",))
    split = jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec("fsdp" if 8 % devices.size == 0 else None))
    target = shapes()
    norm = target["trainable"]["norm"]
    norm["weight"] = jax.ShapeDtypeStruct(norm["weight"].shape, norm["weight"].dtype, sharding=split)
    with Checkpoints(written, read_only=True) as checkpoints:
        restored = checkpoints.restore(3, target)
    assert restored["trainable"]["norm"]["weight"].sharding == split
    assert_equal(restored, make_state(3))


def test_restores_onto_another_dtype(written):
    target = shapes()
    factor = target["trainable"]["layers"]["q_proj"]["lora_a"]
    target["trainable"]["layers"]["q_proj"]["lora_a"] = jax.ShapeDtypeStruct(factor.shape, jnp.bfloat16)
    expected = make_state(3)
    expected["trainable"]["layers"]["q_proj"]["lora_a"] = expected["trainable"]["layers"]["q_proj"]["lora_a"].astype(
        jnp.bfloat16
    )
    with Checkpoints(written, read_only=True) as checkpoints:
        assert_equal(checkpoints.restore(3, target), expected)
        with pytest.raises(UserError, match=r"step is int32\[\], this run has float32\[\]"):
            checkpoints.restore(3, target | {"step": jax.ShapeDtypeStruct((), jnp.float32)})


def test_saved_arrays_may_be_donated_at_once(tmp_path):
    """The train step overwrites the buffers while the save is still being written."""
    update = jax.jit(lambda x: x + 1, donate_argnums=0)
    x = jnp.zeros(1 << 20)
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, {"x": x}, {})
        for _ in range(5):
            x = update(x)
        x.block_until_ready()
        np.testing.assert_array_equal(checkpoints.restore(1, {"x": x})["x"], 0)


def test_a_state_of_other_settings_is_refused_by_name(written):
    with Checkpoints(written, read_only=True) as checkpoints:
        other = make_state(0)
        other["trainable"]["layers"]["q_proj"]["lora_a"] = jnp.zeros((2, 8, 16))
        with pytest.raises(
            UserError, match=r"trainable\.layers\.q_proj\.lora_a is float32\[2, 4, 16\], this run has .*8"
        ):
            checkpoints.restore(3, other)
        with pytest.raises(UserError, match=r"has no trainable\.extra"):
            checkpoints.restore(3, {"trainable": {"extra": jnp.zeros(1)}}, partial=True)
        with pytest.raises(UserError, match=r"has .*opt_state.* which this run does not"):
            checkpoints.restore(3, {"trainable": make_state(0)["trainable"], "step": jnp.int32(0)})
        with pytest.raises(UserError, match="no complete checkpoint of step 1; there are: 2, 3"):
            checkpoints.metadata(1)
    with Checkpoints(written) as checkpoints, pytest.raises(ValueError, match="after step 3"):
        checkpoints.save(3, make_state(3), {})


def cut(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def change(file: Path) -> None:
    content = bytearray(file.read_bytes())
    content[len(content) // 2] ^= 0x55
    file.write_bytes(content)


@pytest.mark.parametrize("damage", [Path.unlink, cut, change])
def test_no_damage_is_taken_for_data(written, tmp_path, damage):
    """Whichever file is damaged: the state comes back right, or the error says what to do."""
    files = [f.relative_to(written / "3") for f in sorted((written / "3").rglob("*")) if f.is_file()]
    refused = []
    for number, name in enumerate(files):
        copy = tmp_path / str(number)
        shutil.copytree(written, copy)
        damage(copy / "3" / name)
        with Checkpoints(copy, read_only=True) as checkpoints:
            try:
                assert_equal(checkpoints.restore(3, make_state(0)), make_state(3))
            except UserError as error:
                refused.append(str(name))
                assert str(copy / "3") in str(error)
                assert "delete that directory to continue from step 2" in str(error)
                assert_equal(checkpoints.restore(2, make_state(0)), make_state(2))
    assert {str(name) for name in files if name.parts[0] in ("state", "run")} <= set(refused)


def test_advice_for_the_first_step_is_to_start_again(written, tmp_path):
    shutil.copytree(written / "2", tmp_path / "2")
    cut(tmp_path / "2" / "state" / "manifest.ocdbt")
    with Checkpoints(tmp_path, read_only=True) as checkpoints:
        with pytest.raises(UserError, match=r"manifest\.ocdbt has .* bytes.*to start again from the beginning"):
            checkpoints.restore(2, make_state(0))


def test_a_half_deleted_old_step_is_no_obstacle(written, tmp_path):
    """Killed while the oldest step was being removed."""
    shutil.copytree(written, tmp_path / "run")
    shutil.rmtree(tmp_path / "run" / "2" / "state")
    (tmp_path / "run" / "2" / "_CHECKPOINT_METADATA").unlink()
    with Checkpoints(tmp_path / "run", keep=2) as checkpoints:
        assert checkpoints.latest() == 3
        assert_equal(checkpoints.restore(3, make_state(0)), make_state(3))
        checkpoints.save(4, make_state(4), {})
        assert checkpoints.steps() == [3, 4]


def test_a_reader_leaves_everything_alone(written, tmp_path):
    shutil.copytree(written, tmp_path / "run")
    unfinished = tmp_path / "run" / "4.orbax-checkpoint-tmp"
    unfinished.mkdir()
    with Checkpoints(tmp_path / "run", read_only=True) as checkpoints:
        assert checkpoints.latest() == 3
        with pytest.raises(ValueError, match="opened to be read"):
            checkpoints.save(5, make_state(5), {})
    assert unfinished.is_dir()
    with Checkpoints(tmp_path / "run") as checkpoints:
        assert checkpoints.latest() == 3
        checkpoints.save(5, make_state(5), {})
    assert not unfinished.exists()
    with pytest.raises(UserError, match="there are no checkpoints"):
        Checkpoints(tmp_path / "nowhere", read_only=True)


def test_experts_are_cut_one_by_one(tmp_path, monkeypatch):
    """An export reads one expert of one layer at a time, and must not read the others with it."""
    monkeypatch.setattr(checkpoints_module, "_CHUNK_BYTES", 5000)
    state = {"up_proj": jnp.zeros((2, 4, 32, 32)), "q_proj": jnp.zeros((3, 32, 32)), "norm": jnp.zeros(7)}
    with Checkpoints(tmp_path) as checkpoints:
        checkpoints.save(1, state, {})
        chunks = {name: checkpoints.opened(1, name).chunk_layout.read_chunk.shape for name in state}
    assert chunks == {"up_proj": (1, 1, 32, 32), "q_proj": (1, 32, 32), "norm": (7,)}


def test_keeps_the_last_every_so_many_and_the_best(tmp_path):
    def save(steps, scores):
        with Checkpoints(tmp_path, keep=2, keep_every=4, keep_best="heldout_loss") as checkpoints:
            for step, score in zip(steps, scores, strict=True):
                checkpoints.save(step, {"x": jnp.float32(step)}, {"metrics": {"heldout_loss": score} if score else {}})
            return checkpoints.steps()

    assert save(range(1, 7), [3.0, 1.0, 2.0, None, 4.0, None]) == [2, 4, 5, 6]
    # Another process knows what was the best before it.
    assert save(range(7, 10), [1.5, None, 0.5]) == [4, 8, 9]


@pytest.mark.parametrize("name", ["llama#2", "50% of a?b", "a%20b"])
def test_arrays_are_opened_in_folders_of_any_name(tmp_path, name):
    # What the name would be if it were taken for a URL: the wrong folder.
    for folder, value in ((name, 1.0), (name.replace("%20", " "), 2.0)):
        if not (tmp_path / folder).exists():
            with Checkpoints(tmp_path / folder) as checkpoints:
                checkpoints.save(1, {"x": jnp.full(3, value)}, {})
    with Checkpoints(tmp_path / name, read_only=True) as checkpoints:
        assert checkpoints.opened(1, "x").read().result().tolist() == [1.0] * 3


def test_a_folder_that_orbax_takes_for_a_pattern_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"'\['"):
        Checkpoints(tmp_path / "runs [x]")
