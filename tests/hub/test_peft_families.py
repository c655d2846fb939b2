"""Adapters of every family and peft: what we save, peft loads with equal logits; what peft saves, loads here."""

import copy
import functools
import warnings

import family_cases
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rational_jax import hub
from rational_jax.errors import UserError
from rational_jax.models import LoraConfig, bind, combine, init_lora

torch = pytest.importorskip("torch")
peft = pytest.importorskip("peft")

TOKENS = np.random.default_rng(1).integers(3, family_cases.SIZES["vocab_size"], (1, 64), dtype=np.int32)


def random_lora(config, lora: LoraConfig) -> dict:
    """Factors that are nowhere zero: an adapter with B at its start would agree with anything."""
    random = np.random.default_rng(0)
    shapes = jax.eval_shape(lambda: init_lora(config, lora, jax.random.key(0)))
    return jax.tree.map(lambda leaf: jnp.asarray(0.1 * random.standard_normal(leaf.shape, np.float32)), shapes)


# Compiled in little time rather than for little time: it runs once or twice.
@functools.partial(jax.jit, static_argnums=(0, 2), compiler_options={"xla_backend_optimization_level": 0})
def our_logits(config, params, lora=None) -> jax.Array:
    decoder = bind(config, params, lora)
    return decoder.unembed(decoder(TOKENS)[0])


def their_logits(model) -> np.ndarray:
    with torch.no_grad():
        return model.eval()(torch.from_numpy(TOKENS.astype(np.int64))).logits.numpy()


def error(ours, theirs) -> float:
    return float(np.abs(ours - theirs).max() / np.abs(theirs).max())


@pytest.fixture(scope="module")
def base(tmp_path_factory):
    """`base(family)`: a copy of the torch model, our configuration and parameters of its first case."""

    @functools.cache
    def made(family):
        directory = tmp_path_factory.mktemp(family)
        model = family_cases.make(family, next(iter(family_cases.CASES[family])), directory)
        config = hub.load_config(directory)
        return model, config, hub.load_params(directory, config)

    def copied(family):
        model, config, params = made(family)
        return copy.deepcopy(model), config, params

    return copied


def everything(config) -> tuple[str, ...]:
    return ("all-linear",) if config.moe is None else ("all-linear", "experts.*")


def agrees(base, directory, family, lora) -> None:
    """Saves random factors, has peft compute with them, and reads them back."""
    model, config, params = base(family)
    factors = random_lora(config, lora)
    hub.save_adapter(directory, config, factors, lora, base_name="someone/base")

    again = hub.load_adapter(directory, config)
    assert again.lora == lora.spelled_out(config)
    assert jax.tree.structure(factors) == jax.tree.structure(again.params)
    for ours, loaded in zip(jax.tree.leaves(factors), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(ours, loaded)

    plain = their_logits(model)
    with warnings.catch_warnings():
        warnings.filterwarnings("error", "Found missing adapter keys")
        adapted = peft.PeftModel.from_pretrained(model, directory)
    theirs = their_logits(adapted)
    assert error(our_logits(config, combine(params, factors), again.lora), theirs) <= hub.TOLERANCE
    assert error(plain, theirs) > 0.05  # the adapter matters


@pytest.mark.parametrize("family", family_cases.CASES)
def test_peft_computes_what_we_compute(base, tmp_path, family):
    agrees(base, tmp_path / "adapter", family, LoraConfig(rank=4, alpha=6.0, targets=everything(base(family)[1])))


@pytest.mark.parametrize(
    ("family", "targets", "more"),
    [
        # Two of the three in qkv_proj, one of the two in gate_up_proj.
        ("phi3", ("q_proj", "v_proj", "up_proj"), {"layers": (0, 2), "rslora": True, "dropout": 0.1}),
        ("mixtral", ("experts.up_proj",), {"layers": (1,)}),
        pytest.param(
            *("qwen3_moe", ("o_proj", "mlp.up_proj", "experts.gate_proj", "experts.up_proj"), {"layers": (0, 1, 2)}),
            marks=pytest.mark.slow,
        ),
    ],
)
def test_parts_of_fused_matrices_in_some_layers(base, tmp_path, family, targets, more):
    agrees(base, tmp_path / "adapter", family, LoraConfig(rank=2, alpha=3.0, targets=targets, **more))


def test_an_untrained_adapter_keeps_its_blocks(base, tmp_path):
    """B is zero at first, so the blocks of a fused matrix cannot be told from its numbers."""
    _, config, _ = base("phi3")
    lora = LoraConfig(rank=2, alpha=3.0, targets=("q_proj", "v_proj"))
    factors = jax.tree.map(jnp.zeros_like, random_lora(config, lora))
    hub.save_adapter(tmp_path / "adapter", config, factors, lora, base_name="someone/base")
    again = hub.load_adapter(tmp_path / "adapter", config)
    assert again.lora == lora
    for ours, loaded in zip(jax.tree.leaves(factors), jax.tree.leaves(again.params), strict=True):
        np.testing.assert_array_equal(ours, loaded)


def test_what_peft_cannot_have_is_refused_before_training(base):
    """No dropout where PEFT adapts a parameter: of experts, and of dense layers in a model that has experts too."""
    with pytest.raises(UserError, match=r"LoRA on experts \(experts.up_proj\) has no dropout in PEFT"):
        LoraConfig(rank=2, alpha=3.0, targets=("experts.up_proj",), dropout=0.1)
    _, config, _ = base("qwen3_moe")
    lora = LoraConfig(rank=2, alpha=3.0, dropout=0.1)
    with pytest.raises(UserError, match=r"LoRA on mlp.gate_proj of qwen3_moe has no dropout in PEFT"):
        hub.check_lora(config, lora)
    hub.check_lora(config, LoraConfig(rank=2, alpha=3.0, dropout=0.1, layers=(1,)))  # which has experts only
    with pytest.raises(UserError, match=r"no layer named experts.up_proj for LoRA"):
        hub.check_lora(base("llama")[1], LoraConfig(rank=2, alpha=3.0, targets=("experts.up_proj",)))


def of_peft(config) -> dict:
    """Everywhere, as far as peft has names for it: in a mixture it takes the names of dense layers for the experts."""
    if config.moe is None:
        where = {"target_modules": "all-linear"}
        return where | ({"exclude_modules": r".*vision_tower.*"} if config.tensor_prefix else {})
    attention = ["q_proj", "k_proj", "v_proj", "o_proj"]
    dense = [f"mlp.{name}_proj.weight" for name in ("gate", "up", "down") if config.dense_layers]
    experts = ["mlp.experts.gate_up_proj", "mlp.experts.down_proj"]
    return {"target_modules": attention, "target_parameters": dense + experts}


@pytest.mark.parametrize("family", family_cases.CASES)
def test_what_peft_saved_loads_here(base, tmp_path, family):
    model, config, params = base(family)
    torch.manual_seed(0)
    settings = peft.LoraConfig(r=4, lora_alpha=6, init_lora_weights=False, **of_peft(config))
    adapted = peft.get_peft_model(model, settings)
    adapted.save_pretrained(tmp_path / "adapter")
    theirs = their_logits(adapted)

    adapter = hub.load_adapter(tmp_path / "adapter", config)
    lora = LoraConfig(rank=4, alpha=6.0, targets=everything(config)).spelled_out(config)
    assert adapter.lora == lora
    assert error(our_logits(config, combine(params, adapter.params), adapter.lora), theirs) <= hub.TOLERANCE
