"""Weights that are quantized while they are loaded."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rational_jax import hub
from rational_jax.errors import UserError
from rational_jax.models import DecoderConfig, abstract_params, logical_axes, quantize
from rational_jax.parallel import DEFAULT_RULES, make_mesh, shardings

CONFIG = DecoderConfig(
    family="llama",
    vocab_size=48,
    embed_dim=128,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=32,
    mlp_dim=192,
    norm_eps=1e-5,
    rope_theta=10000.0,
    max_positions=128,
    tie_embeddings=True,
)


@pytest.fixture(scope="module")
def directory(tmp_path_factory):
    random = np.random.default_rng(0)
    made = tmp_path_factory.mktemp("base") / "model"
    shapes = abstract_params(CONFIG, jnp.bfloat16)
    hub.save_model(made, CONFIG, jax.tree.map(lambda s: jnp.asarray(random.standard_normal(s.shape), s.dtype), shapes))
    return made


@pytest.mark.parametrize("kind", ["nf4", pytest.param("int8", marks=pytest.mark.slow)])
def test_loading_quantizes_what_is_stored(directory, kind):
    mesh = make_mesh(replica=4, fsdp=2)
    axes = logical_axes(CONFIG, quantized=kind)
    placed = shardings(mesh, DEFAULT_RULES, abstract_params(CONFIG, jnp.float32, kind), axes)
    found = hub.load_params(directory, CONFIG, jnp.float32, placed, quantized=kind)
    expected = quantize.quantize_tree(hub.load_params(directory, CONFIG), kind)
    assert jax.tree.structure(found) == jax.tree.structure(expected)
    for (path, ours), theirs, where in zip(
        jax.tree.leaves_with_path(found), jax.tree.leaves(expected), jax.tree.leaves(placed), strict=True
    ):
        np.testing.assert_array_equal(np.asarray(ours, np.float32), np.asarray(theirs, np.float32), err_msg=str(path))
        assert ours.sharding.is_equivalent_to(where, ours.ndim)
    assert found["norm"]["weight"].dtype == jnp.float32
    assert found["layers"]["mlp"]["up_proj"][f"{kind}_codes"].dtype == (jnp.uint8 if kind == "nf4" else jnp.int8)


def test_rows_that_make_no_blocks_are_named(llama_directory):
    base = llama_directory("gqa")
    config = hub.load_config(base)
    with pytest.raises(UserError, match=r"multiple of 64 elements, layers\.mlp\.down_proj\.weight has 88: use int8"):
        hub.load_params(base, config, quantized="nf4")
    assert quantize.kind_of(hub.load_params(base, config, quantized="int8")) == "int8"
