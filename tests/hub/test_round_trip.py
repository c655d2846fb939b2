"""A model goes from Hugging Face's layout to ours and back without losing a bit, and computes the same in between."""

import json
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from rational_jax import hub
from rational_jax.hub import load
from rational_jax.models import abstract_params, bind

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")

NAMES = ("gqa", "mha-tied-bf16", "wide-heads-bias-sharded", "llama3-rope", "linear-rope")


def tensors(directory: Path) -> dict[str, tuple[str, tuple[int, ...], bytes]]:
    found = {}
    for file in sorted(directory.glob("*.safetensors")):
        with safe_open(file, framework="numpy") as handle:
            for name in handle.keys():
                value = handle.get_tensor(name)
                found[name] = (str(value.dtype), value.shape, value.tobytes())
    return found


@pytest.mark.parametrize("name", NAMES)
def test_back_in_the_same_bits(name, llama_directory, tmp_path):
    source = llama_directory(name)
    config = hub.load_config(source)
    out = tmp_path / "out"
    # Shards cut elsewhere than transformers cuts them.
    hub.save_model(out, config, hub.load_params(source, config), source=source, shard_bytes=50_000)
    assert tensors(out) == tensors(source)
    assert len(list(out.glob("*.safetensors"))) > 1
    index = json.loads((out / "model.safetensors.index.json").read_text())
    assert index["metadata"]["total_size"] == sum(len(data) for _, _, data in tensors(source).values())
    assert set(index["weight_map"]) == set(tensors(source))
    model, report = transformers.AutoModelForCausalLM.from_pretrained(out, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    assert str(model.dtype).endswith(str(jax.tree.leaves(hub.load_params(source, config))[0].dtype))
    hub.save_model(tmp_path / "again", config, hub.load_params(out, config), source=out, shard_bytes=50_000)
    assert {f.name: f.read_bytes() for f in out.iterdir()} == {
        f.name: f.read_bytes() for f in (tmp_path / "again").iterdir()
    }


@pytest.mark.parametrize("name", NAMES)
def test_logits_are_those_of_transformers(name, llama_directory):
    source = llama_directory(name)
    config = hub.load_config(source)
    tokens = np.random.default_rng(0).integers(0, config.vocab_size, (1, 600), dtype=np.int32)
    params = hub.load_params(source, config, jnp.float32)

    @jax.jit
    def logits(params):
        decoder = bind(config, params)
        return decoder.unembed(decoder(tokens)[0])

    ours = np.asarray(logits(params))
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.float32)
    with torch.no_grad():
        theirs = model(torch.from_numpy(tokens.astype(np.int64))).logits.numpy()
    assert np.abs(ours - theirs).max() / np.abs(theirs).max() <= 1e-4


@pytest.mark.parametrize("name", NAMES)
def test_table_covers_the_decoder_exactly(name, llama_directory):
    config = hub.load_config(llama_directory(name))
    paths = {tuple(key.key for key in where) for where, _ in jax.tree.leaves_with_path(abstract_params(config))}
    table = hub.weight_table(config)
    assert set(table) == paths
    names = [piece.name for row in table.values() for piece in row.pieces()]
    assert len(set(names)) == len(names)


@pytest.mark.parametrize("name", NAMES)
def test_configuration_survives_being_written(name, llama_directory):
    config = hub.load_config(llama_directory(name))
    assert hub.read_config(json.loads(json.dumps(hub.write_config(config)))) == config
    # And transformers understands the written one as it understands its own.
    theirs = transformers.LlamaConfig(**hub.write_config(config))
    source = transformers.LlamaConfig.from_pretrained(llama_directory(name))
    assert theirs.rope_parameters == source.rope_parameters
    assert theirs.tie_word_embeddings == source.tie_word_embeddings


def test_nothing_is_read_twice_for_many_devices(llama_directory, monkeypatch):
    """Rows over one mesh axis, copies over the other: the parts that devices hold together are all that is read."""
    source = llama_directory("wide-heads-bias-sharded")
    config = hub.load_config(source)
    whole = hub.load_params(source, config)
    devices = np.array(jax.devices())
    mesh = jax.sharding.Mesh(devices.reshape(-1, 2 if len(devices) % 2 == 0 else 1), ("rows", "copies"))

    def sharding(leaf: jax.Array) -> jax.sharding.NamedSharding:
        rows = "rows" if leaf.ndim == 3 else None
        return jax.sharding.NamedSharding(mesh, jax.sharding.PartitionSpec(*[None, rows][: leaf.ndim]))

    read, sizes = load.TensorFiles.read, []
    monkeypatch.setattr(load.TensorFiles, "read", lambda *a: sizes.append((part := read(*a)).size) or part)
    shardings = jax.tree.map(sharding, whole)
    placed = hub.load_params(source, config, jnp.bfloat16, shardings)
    assert sum(sizes) == sum(leaf.size for leaf in jax.tree.leaves(whole))
    for ours, theirs, wanted in zip(*map(jax.tree.leaves, (placed, whole, shardings)), strict=True):
        assert ours.sharding == wanted
        np.testing.assert_array_equal(ours, theirs.astype(jnp.bfloat16))


def test_cast_rounds_as_torch_does(llama_directory, tmp_path):
    source = llama_directory("gqa")
    config = hub.load_config(source)
    hub.save_model(tmp_path / "out", config, hub.load_params(source, config), source=source, dtype=jnp.bfloat16)
    ours = hub.load_params(tmp_path / "out", config, jnp.float32)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    theirs = model.model.layers[1].mlp.up_proj.weight.detach().float().numpy()
    np.testing.assert_array_equal(ours["layers"]["mlp"]["up_proj"]["weight"][1], theirs)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
