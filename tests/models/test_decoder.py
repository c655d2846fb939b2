"""The decoder against transformers, and against itself by other roads (cache, unrolled, packed)."""

from typing import get_args

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.test_util import check_grads

from rational_jax import models
from rational_jax.config import TrainSection
from rational_jax.errors import UserError
from rational_jax.models import DecoderConfig, Execution, LoraConfig, bind
from rational_jax.models.attention import IMPLEMENTATIONS, attention_bias
from rational_jax.models.remat import POLICIES, rematerialise

CONFIG = DecoderConfig(
    family="llama",
    vocab_size=131,
    embed_dim=48,
    num_layers=3,
    num_heads=4,
    num_kv_heads=2,
    head_dim=12,
    mlp_dim=80,
    norm_eps=1e-6,
    rope_theta=10000.0,
    max_positions=256,
    tie_embeddings=True,
)


# Offloading moves arrays to a memory that a CPU does not have apart.
REMAT = [name for name in POLICIES if name not in ("none", "offload")]


def relative(a, b) -> float:
    return float(np.abs(np.asarray(a) - np.asarray(b)).max() / np.abs(np.asarray(b)).max())


@pytest.fixture(scope="module")
def params():
    # Ten times the usual deviation: at 0.02 the layers barely move the residual stream and a wrong one would pass.
    plain = models.init_params(CONFIG, jax.random.key(0))
    return jax.tree.map(lambda x: x * (10 if x.std() > 0 else 1), plain)


@pytest.fixture(scope="module")
def tokens():
    return jax.random.randint(jax.random.key(1), (2, 40), 0, CONFIG.vocab_size)


@pytest.mark.parametrize(
    "execution",
    [Execution(scan=False), Execution(attention="reference"), *(Execution(remat=name) for name in REMAT)],
    ids=["unrolled", "reference attention", *REMAT],
)
def test_execution_changes_neither_values_nor_gradients(params, tokens, execution):
    def loss(params, execution):
        decoder = bind(CONFIG, params)
        hidden, _ = decoder(tokens, execution=execution)
        return jnp.mean(jax.nn.logsumexp(decoder.unembed(hidden), axis=-1) ** 2)

    expected = jax.value_and_grad(loss)(params, Execution())
    got = jax.value_and_grad(loss)(params, execution)
    assert jax.tree.reduce(max, jax.tree.map(relative, got, expected)) < 2e-5


def test_a_packed_row_equals_its_examples_apart(params, tokens):
    decoder = bind(CONFIG, params)
    row = jnp.concatenate([tokens[0, :23], tokens[1, :17], jnp.zeros(8, jnp.int32)])[None]
    segments = jnp.repeat(jnp.array([1, 2, 0]), jnp.array([23, 17, 8]))[None]
    positions = jnp.concatenate([jnp.arange(n) for n in (23, 17, 8)])[None]
    packed, _ = decoder(row, positions, segments)
    assert relative(packed[0, :23], decoder(tokens[:1, :23])[0][0]) < 1e-5
    assert relative(packed[0, 23:40], decoder(tokens[1:, :17])[0][0]) < 1e-5


@pytest.mark.parametrize("scan", [True, False])
def test_prefill_and_decode_equal_the_full_pass(params, tokens, scan):
    execution = Execution(scan=scan)
    decoder = bind(CONFIG, params)
    full, _ = decoder(tokens, execution=execution)
    _, cache = decoder(tokens[:, :10], execution=execution)
    cache = (jax.tree.map(lambda x: jnp.pad(x, ((0, 0), (0, 0), (0, 0), (0, 54), (0, 0))), cache),)
    # The second row runs three tokens behind: every row has its own position.
    for index in range(10, 30):
        places = jnp.array([index, index - 3])
        hidden, cache = decoder.decode(tokens[jnp.arange(2), places], places, cache, execution=execution)
        if index > 13:
            assert relative(hidden, full[jnp.arange(2), places]) < 1e-5


def test_lora_starts_as_nothing_and_merges_to_the_same(params, tokens):
    lora = LoraConfig(rank=4, alpha=6, targets=("q_proj", "o_proj", "down_proj"))
    factors = models.init_lora(CONFIG, lora, jax.random.key(2))
    base, _ = bind(CONFIG, params)(tokens)
    at_init, _ = bind(CONFIG, models.combine(params, factors), lora)(tokens)
    assert jnp.array_equal(base, at_init)
    leaves, tree = jax.tree.flatten(factors)
    leaves = [jax.random.normal(jax.random.key(i), leaf.shape) * 0.3 for i, leaf in enumerate(leaves)]
    factors = jax.tree.unflatten(tree, leaves)
    beside, _ = bind(CONFIG, models.combine(params, factors), lora)(tokens)
    merged, _ = bind(CONFIG, models.merge_lora(params, factors, CONFIG, lora))(tokens)
    assert relative(beside, merged) < 1e-5
    assert relative(beside, base) > 0.1


@pytest.mark.parametrize("softcap", [None, 0.7])
def test_gradients_agree_with_finite_differences(softcap):
    with jax.enable_x64(True):
        q, k, v = (jax.random.normal(jax.random.key(i), (2, 9, n, 4), jnp.float64) for i, n in enumerate((4, 2, 2)))
        bias = attention_bias(jnp.array([[1] * 5 + [2] * 4, [1] * 9]), window=4).astype(jnp.float64)
        weight = jax.random.normal(jax.random.key(9), (2, 9, 4, 4), jnp.float64)

        def loss(*qkv):
            return jnp.sum(IMPLEMENTATIONS["xla"](*qkv, bias, scale=0.4, softcap=softcap) * weight)

        check_grads(loss, (q, k, v), order=1, modes=["rev"], rtol=1e-6)


def test_axes_follow_the_parameters():
    lora = LoraConfig(rank=2, alpha=2)
    axes = models.logical_axes(CONFIG, lora)
    key = jax.random.key(0)
    shapes = models.combine(models.init_params(CONFIG, key), models.init_lora(CONFIG, lora, key))
    same = jax.tree.map(lambda leaf, names: leaf.ndim == len(names), shapes, axes)
    assert all(jax.tree.leaves(same))


def test_a_run_may_ask_for_every_remat_policy_and_no_other():
    assert set(get_args(TrainSection.model_fields["remat"].annotation)) == set(POLICIES)
    with pytest.raises(UserError, match="'some' is none of none, save-matmuls"):
        rematerialise(lambda x: x, "some")
