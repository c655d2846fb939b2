"""Quantized weights against a quantizer in float64 that tries every level, and the gradients over them."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import ndtri

from rational_jax import models
from rational_jax.errors import UserError
from rational_jax.models import DecoderConfig, Execution, LoraConfig, MoeConfig, quantize
from rational_jax.models.quantize import NF4_LEVELS
from rational_jax.parallel import DEFAULT_RULES, make_mesh, shardings

# Compiled in little time rather than for little time: each runs once.
QUICKLY = {"xla_backend_optimization_level": 0}


def weights(shape, dtype="float32") -> np.ndarray:
    """Random weights with an outlier, a block of zeros, a row of zeros and one of the smallest numbers."""
    weight = 0.02 * np.random.default_rng(0).standard_normal(shape).astype(np.float32)
    weight[..., 0, 5] = 9.0
    weight[..., 1, 64:128] = 0
    weight[..., 2, :] = 0
    weight[..., 3, :] *= 1e-30
    return weight.astype(jnp.dtype(dtype))


def by_trying(elements: np.ndarray, levels: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Indices of the nearest levels in float64, and the gap by which they are nearer than the second."""
    distances = np.abs(elements[..., None] - levels.astype(np.float64))
    first, second = np.moveaxis(np.sort(distances, axis=-1)[..., :2], -1, 0)
    return distances.argmin(-1), second - first


def test_the_levels_are_the_quantiles_of_the_paper():
    tail = 1 - (1 / 30 + 1 / 32) / 2
    above, below = (ndtri(np.linspace(tail, 0.5, count)[:-1]) for count in (9, 8))
    derived = np.sort([*above, 0, *-below]) / above.max()
    # The published levels were computed in float32, whose rounding the quantile function magnifies a few times.
    np.testing.assert_allclose(NF4_LEVELS, derived, atol=4 * np.finfo(np.float32).eps)


@pytest.mark.parametrize(("shape", "dtype"), [((6, 192), "bfloat16"), ((2, 3, 6, 192), "float32")])
def test_nf4_is_the_nearest_level_of_every_block(shape, dtype):
    weight = weights(shape, dtype)
    found = quantize.quantize(weight, "nf4")
    # As bitsandbytes orders them: blocks of 64 through the flattened matrix, two codes a byte, the first one above.
    flat = weight.astype(np.float64).reshape(-1, 64)
    absmax = np.abs(flat).max(-1)
    np.testing.assert_array_equal(np.asarray(found["nf4_absmax"]).reshape(-1), absmax.astype(np.float32))
    packed = np.asarray(found["nf4_codes"]).reshape(-1)
    codes = np.stack([packed >> 4, packed & 15], axis=-1).reshape(-1, 64)
    expected, gap = by_trying(flat / np.where(absmax > 0, absmax, 1)[:, None], NF4_LEVELS)
    # Dividing in float32 is off by an eps or two, so only elements that near to the middle may go the other way.
    assert ((codes == expected) | (gap < 4 * np.finfo(np.float32).eps)).all()
    assert (codes == expected).mean() > 0.999 and len(np.unique(codes)) == 16
    back = quantize.dequantize(found)
    np.testing.assert_array_equal(back, (NF4_LEVELS[codes] * absmax[:, None].astype(np.float32)).reshape(shape))
    assert quantize.dequantize(found, jnp.bfloat16).dtype == jnp.bfloat16


@pytest.mark.parametrize(("shape", "dtype"), [((6, 131), "bfloat16"), ((2, 3, 6, 130), "float32")])
def test_int8_is_the_nearest_of_255_steps_of_every_row(shape, dtype):
    weight = weights(shape, dtype)
    found = quantize.quantize(weight, "int8")
    rows = weight.astype(np.float64).reshape(-1, shape[-1])
    absmax = np.abs(rows).max(-1)
    eps = np.finfo(np.float32).eps
    np.testing.assert_allclose(np.asarray(found["int8_scale"]).reshape(-1), absmax / 127, rtol=eps)
    codes = np.asarray(found["int8_codes"]).reshape(rows.shape)
    steps = np.arange(-127, 128)
    nearest, gap = by_trying(127 * rows / np.where(absmax > 0, absmax, 1)[:, None], steps)
    assert ((codes == steps[nearest]) | (gap < 127 * 4 * eps)).all()
    assert (codes == steps[nearest]).mean() > 0.999 and np.abs(codes).max() == 127
    np.testing.assert_allclose(
        np.asarray(quantize.dequantize(found)).reshape(rows.shape), codes * (absmax / 127)[:, None], rtol=2 * eps
    )


@pytest.mark.parametrize("kind", quantize.KINDS)
def test_parts_describe_what_is_made(kind):
    described = quantize.parts(kind, "x", (2, 3, 6, 128), ("layers", "experts", "mlp", "embed"))
    found = quantize.quantize(weights((2, 3, 6, 128)), kind)
    assert {name: (part.shape, part.dtype) for name, part in described.items()} == {
        name: (array.shape, array.dtype) for name, array in found.items()
    }
    assert all(len(part.axes) == len(part.shape) for part in described.values())


def test_what_cannot_be_quantized_is_refused():
    with pytest.raises(UserError, match=r"nf4 needs rows of a multiple of 64 elements, .* has 88: use int8"):
        quantize.quantize(np.ones((4, 88), np.float32), "nf4")
    with pytest.raises(UserError, match="no quantization named 'fp4'; there are nf4, int8"):
        quantize.quantize(np.ones((4, 64), np.float32), "fp4")


@pytest.mark.parametrize("kind", quantize.KINDS)
@pytest.mark.parametrize("axes", [("layers", "mlp", "embed"), ("layers", "embed", "mlp")], ids=str)
def test_a_sharded_weight_is_quantized_where_it_lies(kind, axes):
    mesh = make_mesh(replica=1, fsdp=4, tensor=2)
    weight = weights((2, 8, 512))
    described = quantize.parts(kind, "x", weight.shape, axes)
    shapes = {name: jax.ShapeDtypeStruct(part.shape, part.dtype) for name, part in described.items()}
    placed = shardings(mesh, DEFAULT_RULES, shapes, {name: part.axes for name, part in described.items()})
    lies = shardings(mesh, DEFAULT_RULES, {"x": weight}, {"x": axes})["x"]
    compiled = jax.jit(lambda x: quantize.quantize(x, kind), in_shardings=lies, out_shardings=placed)
    found = compiled(weight)
    for name, array in quantize.quantize(weight, kind).items():
        np.testing.assert_array_equal(found[name], array)
        assert found[name].sharding.is_equivalent_to(placed[name], found[name].ndim)
    if kind == "nf4":  # blocks never straddle devices
        assert "all-gather" not in compiled.lower(weight).compile().as_text()


@pytest.mark.parametrize("kind", quantize.KINDS)
def test_trees(kind):
    router = weights((2, 6, 64))
    tree = {
        "embed": {"weight": weights((7, 64))},
        "layers": {
            "attention": {"q_proj": {"weight": weights((2, 6, 64)), "bias": np.ones((2, 6), np.float32)}},
            "experts": {"up_proj": {"weight": weights((2, 3, 4, 64))}, "router": {"weight": router}},
        },
    }
    found = quantize.quantize_tree(tree, kind)
    assert quantize.kind_of(tree) is None and quantize.kind_of(found) == kind
    assert found["embed"]["weight"] is tree["embed"]["weight"]
    assert found["layers"]["experts"]["router"]["weight"] is router
    assert sorted(found["layers"]["attention"]["q_proj"]) == sorted(
        ["bias", *quantize.parts(kind, "x", (64,), (None,))]
    )
    back = quantize.dequantize_tree(found)
    assert jax.tree.structure(back) == jax.tree.structure(tree)
    for (path, plain), changed in zip(jax.tree.leaves_with_path(tree), jax.tree.leaves(back), strict=True):
        linear = jax.tree_util.keystr(path, simple=True, separator=".").endswith("_proj.weight")
        expected = quantize.dequantize(quantize.quantize(plain, kind)) if linear else plain
        np.testing.assert_array_equal(changed, expected)


@pytest.mark.parametrize("kind", quantize.KINDS)
def test_a_product_keeps_no_plain_weight_for_its_gradient(kind):
    weight, rows = weights((8, 128)), np.random.default_rng(1).standard_normal((5, 128)).astype(np.float32)
    frozen = quantize.quantize(weight, kind)
    plain = quantize.dequantize(frozen)

    def product(rows, weight):
        return rows @ weight.T

    found, backward = jax.vjp(lambda rows: quantize.multiply(product, rows, frozen), rows)
    expected, reference = jax.vjp(lambda rows: product(rows, plain), rows)
    # Sums of 128 terms in another order; the outlier of 9 makes the terms that cancel.
    np.testing.assert_allclose(found, expected, atol=1e-5)
    np.testing.assert_allclose(backward(found)[0], reference(found)[0], atol=1e-5)

    def held(function) -> list[int]:
        return [leaf.size for leaf in jax.tree.leaves(function) if jnp.issubdtype(leaf.dtype, jnp.floating)]

    assert weight.size in held(reference) and not {weight.size, weight.size // 2} & set(held(backward))


SIZES = dict(
    family="llama",
    vocab_size=61,
    embed_dim=64,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=16,
    mlp_dim=128,
    norm_eps=1e-5,
    rope_theta=1e4,
    max_positions=64,
    tie_embeddings=True,
    qkv_bias=True,
)
MOE = MoeConfig(num_experts=4, top_k=2, mlp_dim=64)
MIXED = MoeConfig(num_experts=4, top_k=2, mlp_dim=64, layers=(False, True, True))


def test_both_ways_to_look_a_level_up():
    codes = jnp.arange(16, dtype=jnp.uint8)
    np.testing.assert_array_equal(quantize._selected(codes), NF4_LEVELS)


@pytest.mark.parametrize(
    ("kind", "moe", "execution"),
    [
        ("nf4", MOE, Execution(remat="full")),
        pytest.param("int8", None, Execution(), marks=pytest.mark.slow),
        pytest.param("nf4", None, Execution(scan=False), marks=pytest.mark.slow),
        pytest.param("int8", MIXED, Execution(), marks=pytest.mark.slow),
    ],
    ids=["nf4 experts, recomputed", "int8", "nf4, unrolled", "int8 experts"],
)
def test_qlora_has_the_gradients_of_the_dequantized_base(kind, moe, execution):
    config = DecoderConfig(**SIZES, moe=moe)
    targets = ("all-linear",) if moe is None else ("all-linear", "experts.*")
    lora = LoraConfig(rank=4, alpha=8.0, targets=targets, layers=(0, 2) if moe is MIXED else None)
    random = np.random.default_rng(0)
    shapes = models.abstract_params(config), jax.eval_shape(lambda: models.init_lora(config, lora, jax.random.key(0)))
    params, factors = jax.tree.map(lambda leaf: 0.1 * random.standard_normal(leaf.shape, np.float32), shapes)
    base = jax.jit(quantize.quantize_tree, static_argnums=1, compiler_options=QUICKLY)(params, kind)
    tokens = random.integers(0, config.vocab_size, (2, 16))

    def loss(factors, base, execution):
        decoder = models.bind(config, models.combine(base, factors), lora)
        return jnp.mean(jnp.sin(decoder.unembed(decoder(tokens, execution=execution)[0])))

    gradient = jax.jit(jax.value_and_grad(loss), static_argnums=2, compiler_options=QUICKLY)
    expected = gradient(factors, quantize.dequantize_tree(base), Execution())
    found = gradient(factors, base, execution)
    for (path, ours), theirs in zip(jax.tree.leaves_with_path(found), jax.tree.leaves(expected), strict=True):
        # The same sums of the same numbers; a compiler may order them differently.
        largest = float(jnp.abs(theirs).max())
        np.testing.assert_allclose(ours, theirs, atol=1e-5 * largest, err_msg=jax.tree_util.keystr(path))
        assert largest > 0
    abstract = models.abstract_params(config, jnp.float32, kind)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), abstract) == jax.tree.map(lambda x: (x.shape, x.dtype), base)
    one = make_mesh(fsdp=1, devices=jax.devices()[:1])
    placed = shardings(one, DEFAULT_RULES, abstract, models.logical_axes(config, lora, kind))
    assert jax.tree.structure(placed) == jax.tree.structure(base)
