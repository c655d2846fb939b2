"""Kernels, interpreted, against the reference; and the choice between them."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from rational_jax.errors import UserError
from rational_jax.models import DecoderConfig, bind, init_params
from rational_jax.models.attention import attenders, choose
from rational_jax.models.decoder import Execution
from rational_jax.parallel import make_mesh

CONFIG = DecoderConfig(
    family="llama",
    vocab_size=67,
    embed_dim=32,
    num_layers=2,
    num_heads=4,
    num_kv_heads=2,
    head_dim=64,
    mlp_dim=48,
    norm_eps=1e-6,
    rope_theta=10000.0,
    max_positions=4096,
    tie_embeddings=True,
)
# Two packed sequences and padding, and one that fills its row.
SEGMENTS = np.repeat([[1, 2, 0], [1, 1, 1]], [100, 130, 26], axis=1)


def value_and_gradients(implementation, *, window, softcap):
    keys = jax.random.split(jax.random.key(0), 4)
    q, weight = (jax.random.normal(key, (2, 256, 4, 64)) for key in keys[:2])
    k, v = (jax.random.normal(key, (2, 256, 2, 64)) for key in keys[2:])
    weight = weight * (SEGMENTS > 0)[..., None, None]  # what padding looks at is nobody's business

    def total(q, k, v):
        attend = attenders(implementation, jnp.asarray(SEGMENTS), [window], scale=0.3, softcap=softcap)[window]
        return jnp.sum(weight * attend(q, k, v))

    return jax.value_and_grad(total, argnums=(0, 1, 2))(q, k, v)


@pytest.mark.parametrize(
    ("implementation", "window", "softcap"),
    [
        ("splash-interpreted", None, None),
        ("splash-interpreted", 60, 2.0),
        ("triton-interpreted", None, None),
        ("xla", None, None),
        ("xla", 60, 2.0),
    ],
)
def test_every_implementation_equals_the_reference(implementation, window, softcap):
    expected = value_and_gradients("reference", window=window, softcap=softcap)
    got = value_and_gradients(implementation, window=window, softcap=softcap)
    for ours, theirs in zip(jax.tree.leaves(got), jax.tree.leaves(expected), strict=True):
        # Sums of up to 256 float32 terms, in another order: sqrt(256) * 2^-24 is 1e-6, and exp() doubles it twice.
        assert float(jnp.abs(ours - theirs).max()) <= 1e-5 * float(jnp.abs(theirs).max())


@pytest.mark.parametrize("tensor", [2, 4], ids=["heads divide", "fewer key-value heads than devices"])
def test_a_kernel_under_a_mesh_equals_one_device(tensor):
    params = init_params(CONFIG, jax.random.key(1))
    tokens = jax.random.randint(jax.random.key(2), (4, 128), 0, CONFIG.vocab_size)
    run = jax.jit(
        lambda params, tokens: bind(CONFIG, params)(tokens, execution=Execution(attention="splash-interpreted"))[0]
    )
    expected = bind(CONFIG, params)(tokens)[0]
    with jax.set_mesh(make_mesh(fsdp=8 // tensor, tensor=tensor)):
        got = run(params, tokens)
    np.testing.assert_allclose(got, expected, atol=2e-5)


def test_the_kernel_of_the_platform_is_chosen_where_it_can_run():
    silent = []
    assert choose("auto", "tpu", CONFIG, 4096, silent.append) == "splash"
    assert choose("auto", "gpu", CONFIG, 4096, silent.append) == "triton"
    assert choose("auto", "cpu", CONFIG, 4096, silent.append) == "xla"
    assert choose("reference", "tpu", CONFIG, 4096, silent.append) == "reference"
    assert not silent


def test_a_fallback_says_why_and_what_it_costs():
    windowed = dataclasses.replace(CONFIG, window=100)
    warned = []
    assert choose("auto", "gpu", windowed, 4096, warned.append) == "xla"
    assert "sliding window" in warned[0]
    assert "0.25 GiB" in warned[0]
    assert choose("auto", "tpu", CONFIG, 4097, warned.append) == "xla"
    with pytest.raises(UserError, match="4097 tokens"):
        choose("splash", "tpu", CONFIG, 4097)
    with pytest.raises(UserError, match="none of auto, reference, xla, splash, triton"):
        choose("flash", "tpu", CONFIG, 4096)


@pytest.mark.parametrize(
    ("name", "window", "softcap", "length", "message"),
    [
        ("splash", None, None, 32, "sequences of 32 tokens"),
        ("triton", 60, None, 128, "no sliding window"),
        ("triton", None, 2.0, 128, "no soft cap"),
    ],
)
def test_a_kernel_refuses_what_it_would_get_wrong(name, window, softcap, length, message):
    attend = attenders(f"{name}-interpreted", jnp.ones((1, length), int), [window], scale=1.0, softcap=softcap)[window]
    q, k = jnp.ones((1, length, 2, 64)), jnp.ones((1, length, 1, 64))
    with pytest.raises(UserError, match=f"attention '{name}' cannot run this model: .*{message}"):
        attend(q, k, k)
