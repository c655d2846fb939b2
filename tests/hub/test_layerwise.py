"""The gate for models that are too large to be held: a layer at a time, in every family; what is off is named."""

import dataclasses
import functools
import json
import shutil
from pathlib import Path

import family_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rational_jax import hub
from rational_jax.errors import UserError
from rational_jax.hub import layerwise, verify
from rational_jax.models import LoraConfig, init_lora

torch = pytest.importorskip("torch")
pytest.importorskip("peft")

# Two rows of unequal length, one of them longer than the windows of all cases.
ROWS = [np.random.default_rng(0).integers(3, 131, length, dtype=np.int32) for length in (55, 9)]


@pytest.fixture(autouse=True)
def small(monkeypatch):
    """The vocabulary in two parts, and layers compiled in little time rather than for little time."""
    monkeypatch.setattr(layerwise, "_VOCABULARY_PART", 100)
    monkeypatch.setattr(layerwise, "_run_layer", quickly_compiled)


quickly_compiled = jax.jit(
    layerwise._run_layer.__wrapped__,
    static_argnums=(0, 1),
    compiler_options={"xla_backend_optimization_level": 0},
)


def random_factors(config, lora: LoraConfig) -> dict:
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_lora(config, lora, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(0.1 * random.standard_normal(leaf.shape, np.float32)), shapes)


@functools.cache
def made(family: str, case: str, directory: Path):
    model = family_cases.make(family, case, directory)
    config = hub.load_config(directory)
    return model, config, hub.FileWeights(config, directory)


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """`base(family, case)`: directory, torch model, our configuration and weights."""
    root = tmp_path_factory.mktemp("models")

    def of(family, case):
        directory = root / f"{family}-{case}".replace(" ", "-")
        return directory, *made(family, case, directory)

    return of


# Rotary frequencies that switch with the length of a call are those of the rows here, not of the model's context.
LONGROPE = ("phi3", "longrope, window")


# The others differ from these by what the layers compute, not by how they are taken apart.
DISTINCT = {"gemma2", "gemma3", "mixtral", "smollm3"}


@pytest.mark.parametrize(
    ("family", "case"),
    [
        pytest.param(*pair, marks=() if pair[0] in DISTINCT or pair == LONGROPE else pytest.mark.slow)
        for pair in [*family_cases.FIRST, LONGROPE]
    ],
)
def test_every_family(base, family, case):
    directory, model, config, weights = base(family, case)
    config = dataclasses.replace(config, context=max(map(len, ROWS)))
    theirs = list(layerwise.their_steps(directory, config, ROWS))
    # The steps are those of the whole model, so nothing is left out on both sides alike.
    logits = np.concatenate([part for where, part in theirs if where == layerwise.LOGITS], axis=1)
    with torch.no_grad():
        whole = [model(torch.from_numpy(row[None].astype(np.int64))).logits[0].numpy() for row in ROWS]
    np.testing.assert_allclose(logits, np.concatenate(whole), rtol=0, atol=1e-5 * np.abs(logits).max())
    error, where = layerwise.largest_error(layerwise.our_steps(weights, config, ROWS), iter(theirs), hub.TOLERANCE)
    assert where == layerwise.LOGITS and 0 < error <= hub.TOLERANCE


@pytest.mark.parametrize("family", ["llama", "gemma3", "qwen3_moe"])
def test_adapters_of_some_layers(base, family, tmp_path):
    directory, _, config, _ = base(family, next(iter(family_cases.CASES[family])))
    experts = () if config.moe is None else ("experts.*",)
    lora = LoraConfig(rank=2, alpha=3.0, targets=("all-linear", *experts), layers=(0, 2))
    factors = random_factors(config, lora)
    hub.save_adapter(tmp_path, config, factors, lora, base_name="someone/base")
    checked = hub.verify_adapter(tmp_path, directory, config, factors, lora, ROWS, mode="layerwise")
    assert checked.layerwise and checked.method == "peft" and 0 < checked.error <= hub.TOLERANCE
    if family == "llama":
        with pytest.raises(UserError, match=r"layer 0 differ from peft by .* off: layers\."):
            twice = jax.tree.map(lambda leaf: leaf * 2, factors)
            hub.verify_adapter(tmp_path, directory, config, twice, lora, ROWS, mode="layerwise")


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("model.layers.1.mlp.up_proj.weight", "layer 1 differ from transformers"),
        ("model.embed_tokens.weight", "the embedding differ"),
        ("model.norm.weight", "the logits differ"),
    ],
)
def test_the_step_and_the_tensor_that_are_off(base, tmp_path, name, message):
    directory, _, config, weights = base("llama", "mha, untied")
    shutil.copytree(directory, tmp_path / "copy")
    tensors = load_file(tmp_path / "copy" / "model.safetensors")
    # Every row of a table, since the gate sees those of its tokens only.
    tensors[name] = tensors[name] * np.float32(1.001)
    save_file(tensors, tmp_path / "copy" / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(UserError) as caught:
        hub.verify_model(tmp_path / "copy", config, weights, ROWS, mode="layerwise")
    assert message in str(caught.value) and f"off: {name} (by" in str(caught.value)


def test_a_tensor_that_transformers_does_not_know(base, tmp_path):
    directory, _, config, weights = base("llama", "mha, untied")
    shutil.copytree(directory, tmp_path / "copy")
    settings = json.loads((directory / "config.json").read_text()) | {"mlp_bias": True}
    (tmp_path / "copy" / "config.json").write_text(json.dumps(settings))
    with pytest.raises(UserError, match=r"missing_keys model\.layers\.0\.mlp\.down_proj\.bias"):
        hub.verify_model(tmp_path / "copy", config, weights, ROWS, mode="layerwise")


def test_the_memory_decides(base, monkeypatch):
    directory, _, config, weights = base("llama", "mha, untied")
    assert not hub.verify_model(directory, config, weights, ROWS).layerwise
    size = sum(array.size for array in jax.tree.leaves(weights.tree()))
    monkeypatch.setattr(verify, "_free_memory", lambda: 16 * size - 1)
    assert hub.verify_model(directory, config, weights, ROWS).layerwise
    assert not hub.verify_model(directory, config, weights, ROWS, mode="transformers").layerwise


def test_distance_from_quantized_is_that_of_the_whole(base):
    directory, _, config, weights = base("llama", "mha, untied")
    lora = LoraConfig(rank=2, alpha=3.0, layers=(1,))
    arguments = (directory, config, weights, random_factors(config, lora), lora, "int8", ROWS)
    whole = hub.distance_from_quantized(*arguments, mode="transformers")
    assert hub.distance_from_quantized(*arguments, mode="layerwise") == pytest.approx(whole, rel=1e-3)
    assert whole > 1e-3
