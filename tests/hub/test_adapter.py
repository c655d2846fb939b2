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


# Compiled in little time rather than for little time: it runs once or twice.
@functools.partial(jax.jit, static_argnums=(0, 2), compiler_options={"xla_backend_optimization_level": 0})
def our_logits(config, params, lora=None) -> jax.Array:
    decoder = bind(config, jax.tree.map(lambda leaf: leaf.astype(jnp.float32), params), lora)
    return decoder.unembed(decoder(TOKENS)[0])


def their_logits(model) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.from_numpy(TOKENS.astype(np.int64))).logits.numpy()


def error(ours, theirs) -> float:
    return np.abs(ours - theirs).max() / np.abs(theirs).max()


@pytest.mark.parametrize(
    ("name", "lora"),
    [
        ("mha-tied-bf16", LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "v_proj"))),
        ("gqa", LoraConfig(rank=3, alpha=1.5, targets=("*_proj",), rslora=True, layers=(0, 2))),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_peft_computes_what_we_compute(name, lora, llama_directory, tmp_path):
    base = llama_directory(name)
    config = hub.load_config(base)
    params, factors = hub.load_params(base, config), random_lora(config, lora)
    hub.save_adapter(tmp_path / "adapter", config, factors, lora, base_name="someone/base", base_revision="abc")

    model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    plain = their_logits(model)
    theirs = their_logits(peft.PeftModel.from_pretrained(model, tmp_path / "adapter"))
    assert error(our_logits(config, combine(params, factors), lora), theirs) <= hub.TOLERANCE
    assert error(plain, theirs) > 1e-2  # the adapter matters
    again = hub.load_adapter(tmp_path / "adapter", config)
    assert again.lora == lora.spelled_out(config) and again.base_name == "someone/base"
    for ours, loaded in zip(jax.tree.leaves(factors), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(ours, loaded)
    assert jax.tree.structure(factors) == jax.tree.structure(again.params)


def test_merging_says_the_same(llama_directory):
    config = hub.load_config(llama_directory("gqa"))
    lora = LoraConfig(rank=3, alpha=1.5, targets=("*_proj",), rslora=True, layers=(0, 2))
    params, factors = hub.load_params(llama_directory("gqa"), config), random_lora(config, lora)
    beside = our_logits(config, combine(params, factors), lora)
    assert error(our_logits(config, merge_lora(params, factors, config, lora)), beside) <= hub.TOLERANCE


def test_what_is_written_for_others(llama_directory, tmp_path):
    config = hub.load_config(llama_directory("gqa"))
    lora = LoraConfig(rank=2, alpha=3.0, targets=("q_proj", "mlp.*"), dropout=0.05, rslora=True, layers=(0, 2))
    hub.save_adapter(tmp_path / "adapter", config, random_lora(config, lora), lora, base_name="a/b", base_revision="c")
    written = json.loads((tmp_path / "adapter" / "adapter_config.json").read_text())
    expected = {
        "r": 2,
        "lora_alpha": 3.0,
        "lora_dropout": 0.05,
        "use_rslora": True,
        "layers_to_transform": [0, 2],
        "target_modules": ["down_proj", "gate_proj", "q_proj", "up_proj"],
        "base_model_name_or_path": "a/b",
        "revision": "c",
    }
    assert {key: written[key] for key in expected} == expected


@pytest.fixture(scope="module")
def saved_by_peft(llama_directory, tmp_path_factory):
    """A function that makes an adapter with peft itself, and returns where it lies and the logits it gives there."""
    base = llama_directory("gqa")

    def made(**settings):
        model = transformers.AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
        torch.manual_seed(0)
        model = peft.get_peft_model(model, peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, **settings))
        directory = tmp_path_factory.mktemp("peft") / "adapter"
        model.save_pretrained(directory)
        return directory, their_logits(model)

    return made


@pytest.mark.parametrize(
    ("settings", "lora"),
    [
        ({"target_modules": ["q_proj", "down_proj"]}, {"targets": ("q_proj", "down_proj")}),
        ({"target_modules": "all-linear", "lora_dropout": 0.1}, {"targets": ALL, "dropout": 0.1}),
        (
            {"target_modules": r".*\.(1|2)\.(mlp\.up|self_attn\.k)_proj"},
            {"targets": ("k_proj", "up_proj"), "layers": (1, 2)},
        ),
        (
            {
                "target_modules": ["o_proj"],
                "layers_to_transform": [0, 2],
                "layers_pattern": "layers",
                "use_rslora": True,
            },
            {"targets": ("o_proj",), "layers": (0, 2), "rslora": True},
        ),
        # Not the same layers for all: what is not there is zero.
        (
            {
                "target_modules": ["self_attn.q_proj", "model.layers.1.mlp.up_proj"],
                "exclude_modules": ["0.self_attn.q_proj"],
            },
            {"targets": ("q_proj", "up_proj"), "layers": (1, 2)},
        ),
        # Ranks of 4, 7 and 2 in one stack of 7, and scales of 1.5, 6/7, 5.5 and 3.
        (
            {
                "target_modules": ["v_proj", "down_proj"],
                "rank_pattern": {"down_proj": 7, r"0\.self_attn\.v_proj": 2},
                "alpha_pattern": {r"layers\.2\.mlp\.down_proj": 38.5},
            },
            {"targets": ("v_proj", "down_proj"), "rank": 7, "alpha": 10.5},
        ),
    ],
    ids=["names", "all-linear", "regex", "layers", "some layers", "patterns"],
)
def test_what_peft_saved_loads_here(saved_by_peft, llama_directory, settings, lora):
    directory, theirs = saved_by_peft(**settings)
    base = llama_directory("gqa")
    config = hub.load_config(base)
    adapter = hub.load_adapter(directory, config)
    assert adapter.lora == LoraConfig(**{"rank": 4, "alpha": 6, **lora})
    params = hub.load_params(base, config)
    assert error(our_logits(config, combine(params, adapter.params), adapter.lora), theirs) <= hub.TOLERANCE
    assert error(our_logits(config, params), theirs) > 1e-2


@pytest.fixture(scope="module")
def simple(saved_by_peft):
    return saved_by_peft(target_modules=["q_proj", "down_proj"])[0]


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"use_dora": True}, "use_dora=True is not supported"),
        ({"an_option_of_tomorrow": {"x": 1}}, "an_option_of_tomorrow={'x': 1} is not supported"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa' is not supported"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"layers_to_transform": [1]}, "unexpected tensors"),
        ({"rank_pattern": {"q_proj": 2}}, "has shape [4, 64], base and rank ask for [2, 64]"),
        ({"peft_type": "LOHA"}, "'LOHA' is not supported"),
        ({"target_modules": ["c_attn"]}, "name no layer; there are self_attn.q_proj, self_attn.k_proj"),
        ({"target_modules": None}, "name no layer; there are self_attn.q_proj, self_attn.k_proj"),
        ({"target_modules": "all-linear"}, "k_proj.lora_A.weight is missing"),
        ({"target_modules": ["q_proj"]}, "6 unexpected tensors"),
        ({"target_modules": ["q_proj", "down_proj", "v_proj"]}, "v_proj.lora_A.weight is missing"),
        ({"r": None}, "r must be a number above 0, got None"),
        ({"lora_alpha": "6"}, "lora_alpha must be a number above 0, got '6'"),
        ({"rank_pattern": {"q_proj": 0}}, "rank_pattern of 'q_proj' must be a number above 0, got 0"),
        ({"target_modules": "*q_proj"}, "'*q_proj' is no regular expression"),
        ({"r": 5}, "has shape [4, 64], base and rank ask for [5, 64]"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_adapters_we_would_misread_are_refused(simple, llama_directory, tmp_path, change, message):
    shutil.copytree(simple, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
    with pytest.raises(UserError) as caught:
        hub.load_adapter(tmp_path / "adapter", hub.load_config(llama_directory("gqa")))
    assert message in str(caught.value) and str(tmp_path / "adapter") in str(caught.value)


def test_damaged_adapter(simple, llama_directory, tmp_path):
    shutil.copytree(simple, tmp_path / "adapter")
    file = tmp_path / "adapter" / "adapter_model.safetensors"
    file.write_bytes(file.read_bytes()[:-1])
    with pytest.raises(UserError, match="cut short"):
        hub.load_adapter(tmp_path / "adapter", hub.load_config(llama_directory("gqa")))


def test_factors_of_other_settings_are_not_saved(llama_directory, tmp_path):
    config = hub.load_config(llama_directory("gqa"))
    factors = random_lora(config, LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "v_proj")))
    for wrong, message in [
        (LoraConfig(rank=2, alpha=5.0, targets=("q_proj", "v_proj")), "has rank 3, the run says 2"),
        (LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "k_proj")), "no lora_a for layers.attention.k_proj"),
        (LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "v_proj"), layers=(1,)), "is for 3 layers, the run has 1"),
        (LoraConfig(rank=3, alpha=5.0, targets=("q_proj", "v_proj"), layers=(3,)), "there are layers 0 to 2"),
        (LoraConfig(rank=3, alpha=5.0, targets=("q_proj",)), "holds 4 arrays, its targets q_proj account for 2"),
    ]:
        with pytest.raises(UserError, match=message):
            hub.save_adapter(tmp_path / "adapter", config, factors, wrong, base_name="base")
        assert not (tmp_path / "adapter").exists()
