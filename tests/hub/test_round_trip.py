"""A model goes from Hugging Face's layout to ours and back without losing a bit, and computes the same in between."""

import json
from pathlib import Path

import family_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from safetensors import safe_open

from rational_jax import hub
from rational_jax.models import abstract_params

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


def index(directory: Path) -> tuple[dict, set[str]]:
    """What an index says, apart from which file a tensor is in."""
    read = json.loads((directory / "model.safetensors.index.json").read_text())
    return read["metadata"], set(read["weight_map"])


def opened(directory: Path):
    """The model as transformers has it, which must find every tensor it looks for and no other."""
    model, report = transformers.AutoModelForCausalLM.from_pretrained(directory, output_loading_info=True)
    assert not any(report[key] for key in ("missing_keys", "unexpected_keys", "mismatched_keys"))
    return model


@pytest.mark.parametrize(("family", "case"), family_cases.ALL)
def test_back_in_the_same_bits(family, case, tmp_path):
    source, out = tmp_path / "source", tmp_path / "out"
    theirs = family_cases.make(family, case, source)
    config = hub.load_config(source)
    hub.save_model(out, config, hub.load_params(source, config), source=source)
    assert tensors(out) == tensors(source)
    assert not (out / "model.safetensors.index.json").exists()
    settings = [json.loads((directory / "config.json").read_text()) for directory in (source, out)]
    assert settings[0].pop("dtype") == settings[1].pop("torch_dtype") == "float32"
    assert settings[0] == settings[1]
    assert type(opened(out)) is type(theirs)


@pytest.mark.parametrize(("family", "case"), family_cases.FIRST)
def test_many_files_in_bfloat16(family, case, tmp_path):
    source, out, again = (tmp_path / name for name in ("source", "out", "again"))
    family_cases.make(family, case, source, dtype="bfloat16", shards="40KB")
    config = hub.load_config(source)
    # Shards cut elsewhere than transformers cuts them.
    hub.save_model(out, config, hub.load_params(source, config), source=source, shard_bytes=50_000)
    assert len(list(out.glob("*.safetensors"))) > 1
    assert tensors(out) == tensors(source)
    assert {dtype for dtype, _, _ in tensors(out).values()} == {"bfloat16"}
    assert index(out) == index(source)
    assert opened(out).dtype == torch.bfloat16
    hub.save_model(again, config, hub.load_params(out, config), source=out, shard_bytes=50_000)
    assert {f.name: f.read_bytes() for f in out.iterdir()} == {f.name: f.read_bytes() for f in again.iterdir()}


@pytest.mark.parametrize(("family", "case"), family_cases.ALL)
def test_table_covers_the_decoder_exactly(family, case):
    config = hub.read_config(family_cases.hf_config(family, case).to_dict())
    shapes = {
        tuple(key.key for key in where): leaf.shape
        for where, leaf in jax.tree.leaves_with_path(abstract_params(config))
    }
    table = hub.weight_table(config)
    assert set(table) == set(shapes)
    rows: dict[str, list[tuple[int, int]]] = {}
    for path, row in table.items():
        for piece in row.pieces():
            rows.setdefault(piece.name, []).append(
                piece.rows.indices(shapes[path][len(piece.index)])[:2] if not row.rows else row.rows
            )
    for name, parts in rows.items():
        assert [start for start, _ in parts] == [0, *(stop for _, stop in parts[:-1])], (
            f"{name} has a gap, or two owners"
        )


@pytest.mark.parametrize("name", NAMES)
def test_configuration_survives_being_written(name, llama_directory):
    config = hub.load_config(llama_directory(name))
    assert hub.read_config(json.loads(json.dumps(hub.write_config(config)))) == config
    # And transformers understands the written one as it understands its own.
    theirs = transformers.LlamaConfig(**hub.write_config(config))
    source = transformers.LlamaConfig.from_pretrained(llama_directory(name))
    assert theirs.rope_parameters == source.rope_parameters
    assert theirs.tie_word_embeddings == source.tie_word_embeddings


def test_cast_rounds_as_torch_does(llama_directory, tmp_path):
    source = llama_directory("gqa")
    config = hub.load_config(source)
    hub.save_model(tmp_path / "out", config, hub.load_params(source, config), source=source, dtype=jnp.bfloat16)
    ours = hub.load_params(tmp_path / "out", config, jnp.float32)
    model = transformers.AutoModelForCausalLM.from_pretrained(source, dtype=torch.bfloat16)
    theirs = model.model.layers[1].mlp.up_proj.weight.detach().float().numpy()
    np.testing.assert_array_equal(ours["layers"]["mlp"]["up_proj"]["weight"][1], theirs)
    assert transformers.AutoConfig.from_pretrained(tmp_path / "out").dtype == torch.bfloat16
