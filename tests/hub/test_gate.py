"""The export gate passes what is right and names what is wrong."""

import importlib.util
import json
import shutil
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rational_jax import hub
from rational_jax.errors import UserError
from rational_jax.models import LoraConfig, init_lora

pytest.importorskip("peft")

UP = "model.layers.1.mlp.up_proj.weight"
LORA = LoraConfig(rank=2, alpha=4.0, targets=("q_proj", "up_proj"))


@pytest.fixture(scope="module")
def model(llama_directory):
    directory = llama_directory("mha-tied-bf16")
    config = hub.load_config(directory)
    return directory, config, hub.load_params(directory, config), hub.probe_tokens(config, [[1, 2, 3, 4, 5]])


@pytest.fixture
def copy(model, tmp_path) -> Path:
    shutil.copytree(model[0], tmp_path / "model")
    return tmp_path / "model"


def edit(file: Path, change) -> None:
    tensors = load_file(file)
    change(tensors)
    save_file(tensors, file, metadata={"format": "pt"})


def scale(name, factor):
    def change(tensors):
        tensors[name] = (tensors[name].astype(np.float32) * factor).astype(tensors[name].dtype)

    return change


def swap(tensors) -> None:
    a, b = (f"model.layers.0.self_attn.{p}_proj.weight" for p in "qk")
    tensors[a], tensors[b] = tensors[b], tensors[a]


def test_passes_what_was_written(model):
    directory, config, params, rows = model
    checked = hub.verify_model(directory, config, params, rows)
    assert checked.method == "transformers" and checked.tokens == 64 + 64 + 5
    assert 0 < checked.error <= checked.tolerance == 1e-4
    assert hub.verify_model(directory, config, params, rows, mode="self").method == "self"
    assert hub.verify_model(directory, config, params, rows, mode="off").method == "none"


@pytest.mark.parametrize("mode", ["transformers", "self"])
@pytest.mark.parametrize(
    ("change", "named"),
    [(scale(UP, 1.5), UP), (swap, "model.layers.0.self_attn.k_proj.weight"), (scale(UP, float("nan")), UP)],
    ids=["scaled", "swapped", "not a number"],
)
def test_names_the_tensor_that_is_off(model, copy, mode, change, named):
    _, config, params, rows = model
    edit(copy / "model.safetensors", change)
    with pytest.raises(UserError) as caught:
        hub.verify_model(copy, config, params, rows, mode=mode)
    assert f"off: {named}" in str(caught.value) or f", {named} (" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_one_changed_bit_does_not_pass_the_self_check(model, copy):
    _, config, params, rows = model

    def change(tensors):
        tensors[UP].view(np.uint16)[3, 5] ^= 1

    edit(copy / "model.safetensors", change)
    with pytest.raises(UserError, match=UP):
        hub.verify_model(copy, config, params, rows, mode="self")


def test_says_when_it_is_the_configuration(model, copy):
    _, config, params, rows = model
    file = copy / "config.json"
    settings = json.loads(file.read_text())
    settings["rms_norm_eps"] = 0.1
    file.write_text(json.dumps(settings))
    with pytest.raises(UserError, match="all tensors are as they should be"):
        hub.verify_model(copy, config, params, rows)
    with pytest.raises(UserError, match="reads back as"):
        hub.verify_model(copy, config, params, rows, mode="self")


def test_a_tensor_that_transformers_misses(model, copy):
    _, config, params, rows = model
    edit(copy / "model.safetensors", lambda tensors: tensors.update({"model.extra": np.zeros(1, np.float32)}))
    with pytest.raises(UserError, match=r"unexpected_keys model\.extra"):
        hub.verify_model(copy, config, params, rows)


def test_without_torch_it_checks_itself(model, monkeypatch):
    directory, config, params, rows = model
    find_spec = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "torch" else find_spec(name))
    checked = hub.verify_model(directory, config, params, rows)
    assert checked.method == "self" and checked.label.startswith("self-verified")
    with pytest.raises(UserError, match="needs torch"):
        hub.verify_model(directory, config, params, rows, mode="transformers")


@pytest.fixture
def adapter(model, tmp_path):
    _, config, _, _ = model
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_lora(config, LORA, jax.random.key(0)))
    factors = jax.tree.map(lambda leaf: jnp.asarray(0.1 * random.standard_normal(leaf.shape, np.float32)), shapes)
    hub.save_adapter(tmp_path / "adapter", config, factors, LORA, base_name="base")
    return tmp_path / "adapter", factors


def test_adapter_passes_and_a_wrong_one_does_not(model, adapter):
    base, config, _, rows = model
    directory, factors = adapter
    arguments = (directory, base, config, factors, LORA, rows)
    checked = hub.verify_adapter(*arguments)
    assert checked.method == "peft" and 0 < checked.error <= 1e-4
    assert hub.verify_adapter(*arguments, mode="self").method == "self"
    weights = directory / "adapter_model.safetensors"
    kept = weights.read_bytes()
    edit(weights, scale("base_model.model.model.layers.2.mlp.up_proj.lora_B.weight", 2.0))
    for mode in ("transformers", "self"):
        with pytest.raises(UserError, match=r"off: layers\.mlp\.up_proj\.lora_b"):
            hub.verify_adapter(*arguments, mode=mode)
    weights.write_bytes(kept)
    settings = json.loads((directory / "adapter_config.json").read_text())
    (directory / "adapter_config.json").write_text(json.dumps(settings | {"lora_alpha": 8.0}))
    with pytest.raises(UserError, match="all factors are as they should be"):
        hub.verify_adapter(*arguments)
    with pytest.raises(UserError, match=r"alpha=8\.0"):
        hub.verify_adapter(*arguments, mode="self")
