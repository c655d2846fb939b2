"""LoRA's settings: which matrices are meant, in which layers, with which weight; and the merge."""

import functools
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rational_jax import models
from rational_jax.errors import UserError
from rational_jax.models import DecoderConfig, MoeConfig
from rational_jax.models.lora import LoraConfig, dropped, merge, merged, projections

ATTENTION = ("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj")
MLP = ("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj")
EXPERTS = ("experts.gate_proj", "experts.up_proj", "experts.down_proj")
SIZES = dict(
    family="llama",
    vocab_size=13,
    embed_dim=8,
    num_layers=3,
    num_heads=2,
    num_kv_heads=1,
    head_dim=4,
    mlp_dim=12,
    norm_eps=1e-5,
    rope_theta=1e4,
    max_positions=16,
    tie_embeddings=True,
)
DENSE = DecoderConfig(**SIZES)
MOE = MoeConfig(num_experts=4, top_k=2, mlp_dim=6, layers=(False, True, True))
MIXED = DecoderConfig(**{**SIZES, "family": "qwen3_moe"}, moe=MOE)


@pytest.mark.parametrize(
    ("targets", "meant"),
    [
        (("q_proj",), ATTENTION[:1]),
        (("all-linear",), ATTENTION + MLP),
        (("*_proj",), ATTENTION + MLP),
        (("attention.*",), ATTENTION),
        (("mlp.up_proj", "[kv]_proj"), (*ATTENTION[1:3], MLP[1])),
        (("gate_proj",), MLP[:1]),  # the experts only where they are named, as in PEFT
        (("experts.*",), EXPERTS),
        (("experts.down_proj", "all-linear"), (*ATTENTION, *MLP, EXPERTS[2])),
    ],
)
def test_which_matrices_a_target_means(targets, meant):
    lora = LoraConfig(rank=2, alpha=4, targets=targets)
    assert tuple(name for name in ATTENTION + MLP + EXPERTS if lora.matches(name)) == meant
    assert tuple(name for name in ATTENTION + MLP + EXPERTS if lora.matches(f"layers.{name}")) == meant
    assert lora.matches("q_proj") == (ATTENTION[0] in meant) and lora.matches("up_proj") == (MLP[1] in meant)
    assert not lora.matches("router") and not lora.matches("experts.router") and not lora.matches("lm_head")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"rank": 0}, "rank of LoRA must be at least 1"),
        ({"alpha": 0.0}, "alpha of LoRA must be a number above 0"),
        ({"alpha": math.nan}, "alpha of LoRA must be a number above 0"),
        ({"dropout": 1.0}, "dropout of LoRA must be at least 0 and below 1"),
        ({"layers": ()}, "layers of LoRA must be numbers from 0"),
        ({"layers": (-1, 2)}, "layers of LoRA must be numbers from 0"),
        ({"targets": ()}, "no layer named (none given) for LoRA; there are all-linear, q_proj, k_proj"),
        ({"targets": ("q_proj", "query", "c_*")}, "no layer named query, c_* for LoRA; there are all-linear, q_proj"),
        ({"targets": ("router",)}, "experts.gate_proj, experts.up_proj, experts.down_proj"),
        ({"targets": ("q_proj", "experts.*"), "dropout": 0.1}, "LoRA on experts (experts.*) has no dropout in PEFT"),
    ],
)
def test_what_no_model_can_have_is_refused(change, message):
    with pytest.raises(UserError) as caught:
        LoraConfig(**{"rank": 4, "alpha": 8.0, **change})
    assert message in str(caught.value)


def test_what_a_model_has_decides():
    assert projections(DENSE) == dict.fromkeys(ATTENTION + MLP, (0, 1, 2))
    assert projections(MIXED) == {
        **dict.fromkeys(ATTENTION, (0, 1, 2)),
        **dict.fromkeys(MLP, (0,)),
        **dict.fromkeys(EXPERTS, (1, 2)),
    }
    lora = LoraConfig(rank=2, alpha=4, targets=("q_proj", "experts.up_proj"), layers=[2, 0, 2])
    assert lora == LoraConfig(rank=2, alpha=4, targets=["q_proj", "experts.up_proj"], layers=(0, 2))
    lora.check(MIXED)
    assert [lora.chosen(name, layers) for name, layers in projections(MIXED).items()] == [
        *[(0, 2), (), (), ()],
        *[(), (), ()],
        *[(), (2,), ()],
    ]
    with pytest.raises(UserError, match=r"no layer named experts.up_proj .* q_proj, .*, down_proj$"):
        lora.check(DENSE)
    with pytest.raises(UserError, match="LoRA is asked for in layer 3; there are layers 0 to 2"):
        LoraConfig(rank=2, alpha=4, layers=(1, 3)).check(DENSE)
    with pytest.raises(UserError, match=r"none of the layers \[0\] has a LoRA target \(experts.\*\)"):
        LoraConfig(rank=2, alpha=4, targets=("experts.*",), layers=(0,)).check(MIXED)


def test_the_weight_of_the_update():
    assert LoraConfig(rank=16, alpha=8).scale == 0.5
    assert LoraConfig(rank=16, alpha=8, rslora=True).scale == 2.0


def test_merge_adds_in_float32_and_casts_once():
    random = np.random.default_rng(0)
    # Steps of bfloat16 around 1 are 2**-7, so a sum made of rounded parts would lose most of these updates.
    weight = jnp.ones((3, 5, 4), jnp.bfloat16)
    a, b = (random.standard_normal(shape).astype(np.float32) / 16 for shape in [(2, 2, 4), (2, 5, 2)])
    config = DecoderConfig(**{**SIZES, "embed_dim": 4})
    lora = LoraConfig(rank=2, alpha=5, targets=("q_proj",), layers=(0, 2))
    tree = {"embed": {"weight": weight}, "layers": {"attention": {"q_proj": {"weight": weight}}}}
    found = merge(tree, {"layers": {"attention": {"q_proj": {"lora_a": a, "lora_b": b}}}}, config, lora)

    expected = np.ones((3, 5, 4))
    expected[[0, 2]] += 2.5 * np.einsum("lor,lri->loi", b.astype(np.float64), a.astype(np.float64))
    changed = found["layers"]["attention"]["q_proj"]["weight"]
    assert changed.dtype == jnp.bfloat16 and jax.tree.structure(found) == jax.tree.structure(tree)
    np.testing.assert_array_equal(changed, expected.astype(np.float32).astype(jnp.bfloat16))
    assert (changed[1] == 1).all() and (np.asarray(changed[0], np.float32) != 1).any()
    np.testing.assert_array_equal(found["embed"]["weight"], weight)
    np.testing.assert_array_equal(merged(weight[0], a[0], b[0], lora.scale), changed[0])
    quantized = {"layers": {"attention": {"q_proj": {"int8_codes": a, "int8_scale": b}}}}
    with pytest.raises(ValueError, match=r"layers\.attention\.q_proj is quantized"):
        merge(quantized, {"layers": {"attention": {"q_proj": {"lora_a": a, "lora_b": b}}}}, config, lora)


def test_dropout_drops_elements_of_the_input_of_a():
    rate, size = 0.25, 64
    x = 1 + jax.random.uniform(jax.random.key(0), (300, size))
    found = np.asarray(dropped(x, rate, jax.random.key(1), "q_proj"))
    kept = found != 0
    np.testing.assert_allclose(found[kept], np.asarray(x)[kept] / 0.75, rtol=1e-6)
    # Five standard deviations of the mean of so many coins.
    assert abs(kept.mean() - 0.75) < 5 * math.sqrt(rate * (1 - rate) / kept.size)
    others = [dropped(x, rate, jax.random.key(1), "k_proj"), dropped(x, rate, jax.random.key(2), "q_proj")]
    assert all(0.2 < ((other != 0) != kept).mean() < 0.55 for other in others)


def test_dropout_is_for_training_alone_and_for_lora_alone():
    config = DecoderConfig(**SIZES)
    lora = LoraConfig(rank=2, alpha=4, dropout=0.5)
    random = np.random.default_rng(0)
    shapes = models.abstract_params(config), jax.eval_shape(lambda: models.init_lora(config, lora, jax.random.key(0)))
    params, factors = jax.tree.map(lambda leaf: 0.3 * random.standard_normal(leaf.shape, np.float32), shapes)
    tokens = jnp.arange(12)[None]

    @functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
    def hidden(factors, key):
        return models.bind(config, models.combine(params, factors), lora)(tokens, dropout_key=key)[0]

    plain = hidden(factors, None)
    first, again, second = (hidden(factors, jax.random.key(seed)) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert all(np.abs(a - b).max() > 1e-3 for a, b in ((first, plain), (first, second)))
    # Nothing but LoRA's input is dropped: with B at zero the key changes nothing.
    zero = jax.tree.map(jnp.zeros_like, factors)
    np.testing.assert_array_equal(hidden(zero, jax.random.key(0)), hidden(zero, None))
