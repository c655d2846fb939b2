"""Weights reach sharded arrays in one reading: by rows, layer by layer, and by several processes together."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import family_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rational_jax import hub, models
from rational_jax.hub import load, tensor_files
from rational_jax.parallel import DEFAULT_RULES, make_mesh, shardings

pytest.importorskip("torch")

# Layers of experts, dense layers, and a table of odd height: all ways in which rows are read.
MIXED = ("qwen3_moe", "sparse and dense layers")


@pytest.fixture(scope="module")
def mixed(tmp_path_factory):
    directory = tmp_path_factory.mktemp("models") / "mixed"
    family_cases.make(*MIXED, directory)
    return directory


@pytest.fixture
def counted(monkeypatch):
    """A list that collects how many bytes each read took."""
    read, sizes = tensor_files._read, []
    monkeypatch.setattr(tensor_files, "_read", lambda *a: sizes.append(a[-1].nbytes) or read(*a))
    return sizes


@pytest.mark.parametrize("at_once", [True, False], ids=["whole arrays", "layer by layer"])
def test_columns_on_every_device_from_one_reading(mixed, counted, monkeypatch, at_once):
    monkeypatch.setattr(load, "AT_ONCE_BYTES", 2**30 if at_once else 0)
    config = hub.load_config(mixed)
    expected = hub.weights.FileWeights(config, mixed).tree()
    mesh = make_mesh(replica=2, fsdp=2, tensor=1, devices=jax.devices()[:4])
    placed = shardings(mesh, DEFAULT_RULES, models.abstract_params(config), models.logical_axes(config))
    counted.clear()
    got = hub.load_params(mixed, config, jnp.bfloat16, placed)
    assert sum(counted) == sum(leaf.nbytes for leaf in jax.tree.leaves(expected))
    for ours, theirs, wanted in zip(*map(jax.tree.leaves, (got, expected, placed)), strict=True):
        assert ours.sharding == wanted
        np.testing.assert_array_equal(ours, theirs.astype(jnp.bfloat16))


def test_no_more_than_a_layer_is_on_the_host(mixed, counted, monkeypatch):
    """What is made for the devices at a time is a layer of one array, not a stack of all layers."""
    monkeypatch.setattr(load, "AT_ONCE_BYTES", 0)
    config = hub.load_config(mixed)
    put, sizes = jax.device_put, []
    monkeypatch.setattr(jax, "device_put", lambda x, *a: sizes.append(x.nbytes) or put(x, *a))
    params = hub.load_params(mixed, config)
    layers = [leaf.nbytes // len(leaf) for leaf in jax.tree.leaves(params["layers"])]
    assert max(sizes) == max(*layers, params["embed"]["weight"].nbytes)
    assert sum(sizes) == sum(leaf.nbytes for leaf in jax.tree.leaves(params))


# One of two processes with two devices each: loads its part, and compares it with what is in the files.
PROCESS = """
import json, sys
import jax
jax.config.update("jax_num_cpu_devices", 2)
port, number, directory = sys.argv[1:]
jax.distributed.initialize(f"localhost:{port}", 2, int(number))
import jax.numpy as jnp
import numpy as np
from rational_jax import hub, models
from rational_jax.hub import load, tensor_files
from rational_jax.parallel import DEFAULT_RULES, make_mesh, shardings

read, sizes = tensor_files._read, []
tensor_files._read = lambda *a: sizes.append(a[-1].nbytes) or read(*a)
config = hub.load_config(directory)
placed = shardings(
    make_mesh(replica=2, fsdp=2), DEFAULT_RULES, models.abstract_params(config), models.logical_axes(config)
)
found = []
for load.AT_ONCE_BYTES in (0, 2**30):
    sizes.clear()
    params = hub.load_params(directory, config, shardings=placed)
    found.append(sum(sizes))
    expected = hub.weights.FileWeights(config, directory).tree()
    for ours, theirs, wanted in zip(*map(jax.tree.leaves, (params, expected, placed)), strict=True):
        assert ours.sharding == wanted
        for shard in ours.addressable_shards:
            np.testing.assert_array_equal(shard.data, theirs[shard.index])
print(json.dumps(found))
"""


def test_two_processes_read_half_of_the_model_each(tmp_path):
    family_cases.make("llama", "mha, untied", tmp_path)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = str(free.getsockname()[1])
    path = os.pathsep.join([str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])])
    environment = os.environ | {"PYTHONPATH": path, "JAX_PLATFORMS": "cpu", "XLA_FLAGS": ""}
    processes = [
        subprocess.Popen(
            [sys.executable, "-W", "ignore", "-c", PROCESS, port, str(number), str(tmp_path)],
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for number in range(2)
    ]
    try:
        done = [process.communicate(timeout=120) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], [error[-2000:] for _, error in done]
    size = sum(leaf.nbytes for leaf in jax.tree.leaves(hub.load_params(tmp_path, hub.load_config(tmp_path))))
    for out, _ in done:
        found = json.loads(out.splitlines()[-1])
        assert len(found) == 2
        assert all(0 < read <= 1.1 * size / 2 for read in found), (found, size)
