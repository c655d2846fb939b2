"""What can be wrong with a model directory is found before an array is made, and named."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file, save_file

from rational_jax import hub
from rational_jax.errors import UserError


@pytest.fixture
def copy(llama_directory, tmp_path) -> Path:
    """A sharded model to break."""
    shutil.copytree(llama_directory("wide-heads-bias-sharded"), tmp_path / "model")
    return tmp_path / "model"


def shard_with(directory: Path, tensor: str) -> Path:
    index = json.loads((directory / "model.safetensors.index.json").read_text())
    return directory / index["weight_map"][tensor]


def load(directory: Path) -> dict:
    return hub.load_params(directory, hub.load_config(directory))


def refused(directory: Path) -> str:
    with pytest.raises(UserError) as caught:
        load(directory)
    assert "\n" not in str(caught.value)
    return str(caught.value)


UP = "model.layers.1.mlp.up_proj.weight"


def test_truncated_file(copy):
    file = shard_with(copy, UP)
    file.write_bytes(file.read_bytes()[:-100])
    assert str(file) in refused(copy) and "cut short" in refused(copy)


def test_missing_shard(copy):
    file = shard_with(copy, UP)
    file.unlink()
    assert f"{file} is missing" in refused(copy)


def test_index_that_promises_too_much(copy):
    index = json.loads((copy / "model.safetensors.index.json").read_text())
    index["weight_map"][UP] = shard_with(copy, "model.embed_tokens.weight").name
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert f"{UP} is not in it" in refused(copy)
    index["weight_map"][UP] = "../model.safetensors"
    (copy / "model.safetensors.index.json").write_text(json.dumps(index))
    assert "no safetensors file beside it" in refused(copy)
    (copy / "model.safetensors.index.json").write_text("{")
    assert "not valid JSON" in refused(copy)


def one_file(directory: Path, change) -> None:
    tensors = {name: value for file in directory.glob("*.safetensors") for name, value in load_file(file).items()}
    for file in [*directory.glob("*.safetensors"), directory / "model.safetensors.index.json"]:
        file.unlink(missing_ok=True)
    change(tensors)
    save_file(tensors, directory / "model.safetensors")


def test_missing_unexpected_and_misshapen_tensors(copy):
    one_file(copy, lambda tensors: tensors.pop(UP))
    assert f"tensor {UP} is missing" in refused(copy)
    one_file(copy, lambda tensors: tensors.update({UP: np.zeros((3, 3), np.float32)}))
    message = refused(copy)
    assert f"{copy / 'model.safetensors'}: tensor {UP} has shape [3, 3]" in message and "[88, 64]" in message
    extra = "model.layers.3.mlp.up_proj.weight"
    right = np.zeros((88, 64), np.float32)
    one_file(copy, lambda tensors: tensors.update({UP: right, extra: right}))
    assert f"tensor {extra} is unexpected" in refused(copy)
    one_file(copy, lambda tensors: (tensors.pop(extra), tensors.update({UP: right.astype(np.float16)})))
    assert "differ in dtype" in refused(copy)
    one_file(copy, lambda tensors: tensors.update({UP: right.astype(np.int8)}))
    assert f"tensor {UP} has dtype I8" in refused(copy)


def test_what_old_checkpoints_carry_is_passed_over(copy, llama_directory, tmp_path):
    one_file(copy, lambda t: t.update({"model.layers.0.self_attn.rotary_emb.inv_freq": np.zeros(4, np.float32)}))
    load(copy)
    shutil.copytree(llama_directory("llama3-rope"), tmp_path / "tied")
    one_file(tmp_path / "tied", lambda t: t.update({"lm_head.weight": t["model.embed_tokens.weight"]}))
    assert "lm_head" not in load(tmp_path / "tied")


def test_pickles_and_emptiness_are_refused(copy):
    config = hub.load_config(copy)
    for file in [*copy.glob("*.safetensors"), copy / "model.safetensors.index.json"]:
        file.unlink()
    assert "has no safetensors weights" in refused(copy)
    (copy / "pytorch_model.bin").write_bytes(b"not to be opened")
    assert "pickle" in refused(copy)
    with pytest.raises(UserError, match="is not a directory"):
        hub.load_params(copy / "nowhere", config)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"model_type": "gpt2"}, "'gpt2' is not supported; supported: gemma2, gemma3, gemma3_text, granite, llama,"),
        ({"hidden_size": None}, "key 'hidden_size' is missing"),
        ({"hidden_act": "relu"}, "activation 'relu' is not supported; supported: silu,"),
        ({"quantization_config": {"bits": 4}}, "quantized"),
        ({"num_key_value_heads": 3}, "no multiple of num_kv_heads=3"),
        ({"rope_parameters": {"rope_type": "ntk", "rope_theta": 1e4}}, "'ntk' is not supported; supported: default,"),
        ({"rope_parameters": {"rope_type": "linear", "rope_theta": 1e4}}, "'factor'"),
        ({"rope_parameters": {"rope_type": "default", "partial_rotary_factor": 0.5}}, "not supported for llama"),
    ],
)
def test_configurations_we_cannot_run(copy, change, message):
    file = copy / "config.json"
    settings = json.loads(file.read_text()) | change
    file.write_text(json.dumps({key: value for key, value in settings.items() if value is not None}))
    with pytest.raises(UserError) as caught:
        hub.load_config(copy)
    assert message in str(caught.value) and str(file) in str(caught.value)


def test_missing_configuration(tmp_path):
    with pytest.raises(UserError, match=r"config\.json is missing"):
        hub.load_config(tmp_path)
    (tmp_path / "config.json").write_text("[1]")
    with pytest.raises(UserError, match="expected a JSON object"):
        hub.load_config(tmp_path)


def test_older_spelling_of_rope(llama_directory, tmp_path):
    """transformers 4 wrote rope_theta and rope_scaling, and once "type" for "rope_type"."""
    settings = json.loads((llama_directory("llama3-rope") / "config.json").read_text())
    now = hub.read_config(settings)
    scaling = settings.pop("rope_parameters")
    older = settings | {"rope_theta": scaling.pop("rope_theta"), "rope_scaling": scaling}
    assert hub.read_config(older) == now
    scaling["type"] = scaling.pop("rope_type")
    assert hub.read_config(older) == now


def test_parameters_of_another_source_are_not_saved_under_its_name(copy, llama_directory, tmp_path):
    other = llama_directory("gqa")
    with pytest.raises(UserError, match="another architecture"):
        hub.save_model(tmp_path / "out", hub.load_config(copy), load(copy), source=other)
    assert not (tmp_path / "out").exists()


def test_companions_come_along(copy, tmp_path):
    names = {"generation_config.json", "tokenizer.json", "chat_template.jinja", "LICENSE.txt"}
    for name in names - {"generation_config.json"}:
        (copy / name).write_text(f"the content of {name}")
    for name in ("pytorch_model.bin", "modeling_llama.py", "README.md"):
        (copy / name).write_text("stays behind")
    hub.save_model(tmp_path / "out", hub.load_config(copy), load(copy), source=copy)
    out = {f.name for f in (tmp_path / "out").iterdir()}
    assert out == names | {"config.json", "model.safetensors"}
    assert all((tmp_path / "out" / name).read_bytes() == (copy / name).read_bytes() for name in names)


def test_a_new_model_needs_no_source(copy, tmp_path):
    config = hub.load_config(copy)
    hub.save_model(tmp_path / "out", config, load(copy))
    assert hub.load_config(tmp_path / "out") == config
