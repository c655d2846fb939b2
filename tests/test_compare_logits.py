"""scripts/compare_logits.py: what it prints and how it ends."""

import json

import family_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from loaded_scripts import loaded_script

from rational_jax import hub
from rational_jax.models import LoraConfig, init_lora

torch = pytest.importorskip("torch")
pytest.importorskip("peft")


@pytest.fixture(scope="module")
def script():
    with loaded_script("compare_logits.py") as module:
        yield module


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    """A model stored in bfloat16."""
    made = tmp_path_factory.mktemp("models") / "llama"
    family_cases.make("llama", "gqa, tied, biases", made, dtype="bfloat16")
    return made


def test_a_model_as_it_is_stored(script, directory, capsys):
    assert script.main([str(directory), "--tokens", "80", "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["agree"] and 0 < figures["error"] <= 1e-4 and figures["same_best_token"] == 1
    assert (figures["tokens"], figures["documents"], figures["family"]) == (80, [80], "llama")


def test_packed_with_an_adapter(script, directory, tmp_path, capsys):
    config = hub.load_config(directory)
    lora = LoraConfig(rank=2, alpha=3.0)
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_lora(config, lora, jax.random.key(0)))
    factors = jax.tree.map(lambda leaf: jnp.asarray(0.1 * random.standard_normal(leaf.shape, np.float32)), shapes)
    hub.save_adapter(tmp_path / "adapter", config, factors, lora, base_name="x")
    words = [str(directory), "--tokens", "96", "--packed", "--adapter", str(tmp_path / "adapter")]
    assert script.main([*words, "--json"]) == 0
    figures = json.loads(capsys.readouterr().out)
    assert figures["with"] == "peft" and figures["documents"] == [48, 32, 16] and len(figures["errors"]) == 3
    assert 0 < figures["error"] <= 1e-4


def test_a_difference_ends_with_one(script, directory, capsys, monkeypatch):
    load = hub.load_params

    def wrong(*args, **options):
        params = load(*args, **options)
        return params | {"norm": {"weight": params["norm"]["weight"] * 1.01}}

    monkeypatch.setattr(hub, "load_params", wrong)
    assert script.main([str(directory), "--tokens", "80"]) == 1
    assert "DIFFERS from transformers" in capsys.readouterr().out
    assert script.main([str(directory), "--tokens", "80", "--tolerance", "0.5"]) == 0
    assert "agrees with transformers" in capsys.readouterr().out


def test_nan_agrees_with_nothing(script, directory, monkeypatch, capsys):
    monkeypatch.setattr(script, "our_logits", lambda *_: [np.full((80, 131), np.nan, np.float32)])
    assert script.main([str(directory), "--tokens", "80"]) == 1


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--tokens", "2000"], "this model takes 6 to 1024"),
        (["--tokens", "5"], "this model takes 6 to 1024"),
        (["--adapter", "nowhere"], "adapter_config.json is missing"),
    ],
)
def test_what_the_user_can_mend(script, directory, capsys, words, message):
    assert script.main([str(directory), *words]) == 2
    assert message in capsys.readouterr().err


def test_without_torch_it_says_what_to_install(script, directory, capsys, monkeypatch):
    monkeypatch.setattr(script.importlib.util, "find_spec", lambda name: None)
    assert script.main([str(directory)]) == 2
    assert "needs torch and transformers: pip install 'rational-jax[torch]'" in capsys.readouterr().err


def test_documents_on_both_sides_of_a_switch_of_frequencies(script, tmp_path, capsys):
    family_cases.make("phi3", "longrope, window", tmp_path / "model")
    assert script.main([str(tmp_path / "model"), "--tokens", "600", "--packed"]) == 2
    assert "switch at 256 tokens" in capsys.readouterr().err


def test_layers_are_wide_only_while_they_run(script, tmp_path):
    """To the bit, in a family that has a number of its own that loading rounds."""
    from transformers import AutoModelForCausalLM

    family_cases.make("gemma2", "alternating windows, soft caps", tmp_path / "model", dtype="bfloat16")
    tokens = torch.arange(3, 67)[None]
    kept, wide = (
        AutoModelForCausalLM.from_pretrained(tmp_path / "model", dtype=dtype, attn_implementation="eager").eval()
        for dtype in (torch.bfloat16, torch.float32)
    )
    script.compute_in_float32(kept)
    seen = []
    kept.model.layers[1].mlp.register_forward_hook(lambda module, _, __: seen.append(module.up_proj.weight.dtype))
    with torch.no_grad():
        np.testing.assert_array_equal(kept(tokens).logits.numpy(), wide(tokens).logits.numpy())
    assert seen == [torch.float32]
    assert {parameter.dtype for parameter in kept.model.layers.parameters()} == {torch.bfloat16}
