"""LoRA factors and PEFT: what we save, peft loads with equal logits; what peft saves, loads here."""

import functools
import json
import shutil

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rational_jax import hub
from rational_jax.errors import UserError
from rational_jax.models import LoraConfig, bind, combine, init_lora, merge_lora

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")
transformers = pytest.importorskip("transformers")

ALL = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")
TOKENS = np.random.default_rng(1).integers(0, 97, (1, 80), dtype=np.int32)


def random_lora(config, lora: LoraConfig) -> dict:
    """Factors that are nowhere zero: an adapter with B at its start would agree with anything."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_lora(config, lora, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(0.1 * random.standard_normal(leaf.shape, np.float32)), shapes)


@functools.partial(jax.jit, static_argnums=(0, 2))
def our_logits(config, params, lora=None) -> jax.Array:
    decoder = bind(config, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), lora)
    return decoder.unembed(decoder(TOKENS)[0])


def their_logits(model) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.from_numpy(TOKENS.astype(np.int64))).logits.numpy()


def error(ours, theirs) -> float:
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize(
    ("name", "targets"), [("mha-tied-bf16", ("q_proj", "v_proj")), ("wide-heads-bias-sharded", ALL)]
)
def test_peft_computes_what_we_compute(name, targets, llama_directory, tmp_path):
    base = llama_directory(name)
    config = hub.load_config(base)
    lora = LoraConfig(rank=3, alpha=5.0, targets=targets)
    params, factors = hub.load_params(base, config), random_lora(config, lora)
    hub.save_adapter(tmp_path / "adapter", config, factors, lora, base_name="someone/base", base_revision="abc")

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain = their_logits(model)
    theirs = their_logits(peft.PeftModel.from_pretrained(model, tmp_path / "adapter"))
    assert error(our_logits(config, combine(params, factors), lora), theirs) <= 1e-4
    assert error(plain, theirs) > 1e-2  # the adapter matters
    # And merging says the same.
    wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params)
    assert error(our_logits(config, merge_lora(wide, factors, config, lora)), theirs) <= 1e-4

    again = hub.load_adapter(tmp_path / "adapter", config)
    assert again.lora == lora and again.base_name == "someone/base"
    for ours, loaded in zip(jax.tree.leaves(factors), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(ours, loaded)
    assert jax.tree.structure(factors) == jax.tree.structure(again.params)


@pytest.fixture(scope="module")
def saved_by_peft(llama_directory, tmp_path_factory):
    """An adapter from peft itself, and the logits it gives there."""
    base = llama_directory("gqa")
    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    settings = peft.LoraConfig(r=4, lora_alpha=6, target_modules=["q_proj", "down_proj"], init_lora_weights=False)
    torch.manual_seed(0)
    model = peft.get_peft_model(model, settings)
    directory = tmp_path_factory.mktemp("peft") / "adapter"
    model.save_pretrained(directory)
    return base, directory, their_logits(model)


def test_what_peft_saved_loads_here(saved_by_peft):
    base, directory, theirs = saved_by_peft
    config = hub.load_config(base)
    adapter = hub.load_adapter(directory, config)
    assert adapter.lora == LoraConfig(rank=4, alpha=6, targets=("q_proj", "down_proj"))
    params = combine(hub.load_params(base, config), adapter.params)
    assert error(our_logits(config, params, adapter.lora), theirs) <= 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"use_rslora": True}, "use_rslora=True is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layers_to_transform": [1]}, "layers_to_transform"),
        ({"rank_pattern": {"q_proj": 2}}, "rank_pattern"),
        ({"peft_type": "LOHA"}, "'LOHA' is not supported"),
        ({"target_modules": ["q_proj", "c_attn"]}, "do not all name a layer; there are q_proj"),
        ({"target_modules": "all-linear"}, "must be a list"),
        ({"target_modules": ["q_proj"]}, "unexpected tensors"),
        ({"target_modules": ["q_proj", "down_proj", "v_proj"]}, "v_proj.lora_A.weight is missing"),
        ({"r": 5}, "has shape [4, 64], base and rank ask for [5, 64]"),
    ],
)
def test_adapters_we_would_misread_are_refused(saved_by_peft, tmp_path, change, message):
    base, directory, _ = saved_by_peft
    shutil.copytree(directory, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError) as caught:
        hub.load_adapter(tmp_path / "adapter", hub.load_config(base))
    assert message in str(caught.value) and str(tmp_path / "adapter") in str(caught.value)


def test_longer_names_of_targets(saved_by_peft, tmp_path):
    base, directory, _ = saved_by_peft
    shutil.copytree(directory, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    change = {"target_modules": ["self_attn.q_proj", "mlp.down_proj"]}
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    assert hub.load_adapter(tmp_path / "adapter", hub.load_config(base)).lora.targets == ("q_proj", "down_proj")


def test_damaged_adapter(saved_by_peft, tmp_path):
    base, directory, _ = saved_by_peft
    shutil.copytree(directory, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut short"):
        hub.load_adapter(tmp_path / "adapter", hub.load_config(base))


def test_factors_of_other_settings_are_not_saved(llama_directory, tmp_path):
    config = hub.load_config(llama_directory("gqa"))
    factors = random_lora(config, LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "v_proj")))
    for wrong, message in [
        (LoraConfig(rank=2, alpha=5.0, targets=("q_proj", "v_proj")), "has rank 3, the run says 2"),
        (LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "k_proj")), "no lora_a for layers.attention.k_proj"),
        (LoraConfig(rank=3, alpha=5.0, targets=("q_proj",)), "account for 6"),
    ]:
        with pytest.raises(UserError, match=message):
            hub.save_adapter(tmp_path / "adapter", config, factors, wrong, base_name="base")
        assert not (tmp_path / "adapter").exists()
