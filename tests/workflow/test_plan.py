"""The plan of a step: what is refused before it is compiled, and a small step compiled for a pod that is not there."""

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from rational_jax.config import load_config
from rational_jax.errors import UserError
from rational_jax.models.remat import POLICIES
from rational_jax.workflow import plan

REPOSITORY = Path(__file__).parents[2]
needs_libtpu = pytest.mark.skipif(importlib.util.find_spec("libtpu") is None, reason="libtpu is not installed")

MODEL = {
    "model_type": "llama",
    "hidden_size": 256,
    "intermediate_size": 512,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "head_dim": 128,
    "vocab_size": 512,
    "max_position_embeddings": 4096,
    "rms_norm_eps": 1e-5,
    "rope_theta": 500000.0,
    "tie_word_embeddings": False,
}
SMALL = ("model.dtype=bfloat16", "train.sequence_length=1024", "train.batch_size=16", "train.remat=full")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A directory with a configuration and no weights, which is all that a plan needs."""
    directory = tmp_path_factory.mktemp("model")
    (directory / "config.json").write_text(json.dumps(MODEL))
    return directory


def planned(model, topology, *words, code=0) -> dict | str:
    """What `rational plan` prints: as JSON, or the complaint where it fails."""
    given = [f"--topology={topology}", "--json", f"model.name={model}"]
    command = [sys.executable, "-m", "rational_jax.cli", "plan", *given]
    environment = os.environ | {"PYTHONPATH": str(REPOSITORY), "JAX_PLATFORMS": "cpu"}
    found = subprocess.run([*command, *words], env=environment, capture_output=True, text=True)
    assert found.returncode == code, found.stderr[-3000:]
    return found.stderr if code else json.loads(found.stdout)


@needs_libtpu
def test_a_small_step_compiled_for_a_pod(model):
    """Splash attention over packed segments, parameters over the torus, nothing that gathers the whole model."""
    found = planned(model, "v5e:4x4", *SMALL, "train.method=full")
    assert found["fits"] and found["chips"] == 16
    # fsdp=-1 follows the torus.
    assert {axis: size for axis, size in found["mesh"].items() if size > 1} == {"fsdp": 4, "fsdp_y": 4}
    assert 0 < found["peak_gib"] < 1 < found["limit_gib"]
    assert found["figures_are"] == "compiled estimate"
    assert 0 < found["bound"] < 100
    # Full remat runs the forward kernel twice a layer.
    kernels = {name.split("_")[2]: times for name, times in found["kernels"].items() if name.startswith("splash_mha")}
    assert kernels == {"fwd": 4, "dq": 2, "dkv": 2}
    scattered = found["collectives"]["reduce-scatter"]
    layers = 2 * 256 * (2 * 256 + 2 * 128 + 3 * 512)
    # Gradients cross the links once each way of the torus; all-reduces are left with norms and sums.
    assert scattered["gib"] * 2**30 >= layers * 2
    assert found["collectives"].get("all-reduce", {"gib": 0})["gib"] * 2**30 < layers
    assert found["compile_seconds"] > 0


@needs_libtpu
def test_what_does_not_fit_says_what_to_change(model):
    found = planned(model, "v5e:1x1", *SMALL, "train.remat=none", "train.batch_size=2048")
    assert not found["fits"]
    assert found["bound"] is None
    assert found["advice"][0].startswith("train.remat=")
    assert any(change.startswith("train.micro_batches=") for change in found["advice"])


@needs_libtpu
@pytest.mark.parametrize(
    ("topology", "words", "complaint"),
    [
        ("v5e:4x4", ["train.batch_size=24"], "train.batch_size=24 cannot be divided over 16"),
        ("v5e:3x5", ["train.batch_size=16"], "v5e:3x5"),
        ("v5e:4x4", ["train.batch_size=16", "mesh.tensor=3", "mesh.fsdp=4"], "does not fit 16 devices"),
    ],
)
def test_settings_that_fit_nothing(model, topology, words, complaint):
    config = load_config(None, [f"model.name={model}", *words])
    with pytest.raises(UserError, match=complaint):
        plan.run(config, topology)


def test_unknown_chips_and_missing_models(model, tmp_path):
    with pytest.raises(UserError, match=r"v7x:2x2.*v5e"):
        plan.run(load_config(None, [f"model.name={model}"]), "v7x:2x2")
    with pytest.raises(UserError, match=r"config\.json"):
        plan.run(load_config(None, [f"model.name={tmp_path}"]), "v5e:2x2")


def test_advice_is_in_order_of_cost():
    """More computing, then smaller parts, then other arithmetic, then other methods, then other hardware."""
    config = load_config(None, ["train.method=full", "train.remat=none", "train.batch_size=64"])
    found = plan.advice(config, groups=16, given_gib=2.0, limit_gib=15.75)
    starts = ["train.remat=save-matmuls", "train.micro_batches=2", "train.parameters=bfloat16", "train.method=lora"]
    assert [change.split(":")[0].split(",")[0] for change in found[:4]] == starts
    assert "larger topology" in found[-1]
    assert list(POLICIES)[-1] == "full"


@pytest.mark.parametrize(
    ("batch_size", "micro_batches", "groups", "advised"),
    [(112, 2, 8, [7]), (24, 1, 8, [3]), (64, 4, 16, []), (36, 3, 4, [9]), (64, 2, 8, [4])],
)
def test_more_micro_batches_are_advised_only_where_they_divide_the_batch(batch_size, micro_batches, groups, advised):
    sizes = [f"train.batch_size={batch_size}", f"train.micro_batches={micro_batches}"]
    found = plan.advice(load_config(None, sizes), groups=groups, given_gib=2.0, limit_gib=15.75)
    of = [int(change.split(":")[0].split("=")[1]) for change in found if change.startswith("train.micro_batches=")]
    assert of == advised
    assert not any(change.startswith("train.batch_size") for change in found)


def test_advice_where_the_parameters_alone_are_too_large():
    config = load_config(None, ["train.method=lora", "train.remat=none", "train.batch_size=64"])
    found = plan.advice(config, groups=16, given_gib=40.0, limit_gib=15.75)
    assert found[0].startswith("train.method=qlora")
    assert "3 times as many chips" in found[-1]


@pytest.mark.slow
@needs_libtpu
def test_the_engine_compiled_for_a_slice(model):
    """The cache is divided over the chips; one that is too large is told so."""
    small = ("--generate", "model.dtype=bfloat16", "engine.slots=8", "engine.max_length=1024")
    one, four = (planned(model, topology, *small) for topology in ("v5e:1x1", "v5e:2x2"))
    assert one["fits"] and four["fits"] and four["chips"] == 4
    # The model has one key-value head, so the slots are divided and the weights are not.
    assert four["cache"] == pytest.approx(one["cache"] / 4, rel=1e-3)
    assert four["parameters"] == pytest.approx(one["parameters"], rel=1e-3)
    layers, heads, size = 2, 1, 128
    assert one["cache"] * 2**30 == pytest.approx(8 * 1024 * layers * heads * size * 2 * 2, rel=1e-3)
    assert one["parameters"] + one["cache"] < one["peak_gib"] < one["limit"]
    large = planned(model, "v5e:1x1", *small, "engine.slots=16384", "engine.max_length=2048")
    assert not large["fits"] and large["advice"][0].startswith("engine.slots=8192")
