"""FLOPs against counts of the same model made elsewhere, and against sums over every pair of tokens."""

import dataclasses

import pytest
from tiny import tiny_llama

from rational_jax.models import MoeConfig
from rational_jax.models.flops import matrix_parameters, model_flops, splash_flops

LLAMA_8B = tiny_llama(
    vocab_size=128256,
    embed_dim=4096,
    num_layers=32,
    num_heads=32,
    num_kv_heads=8,
    head_dim=128,
    mlp_dim=14336,
    max_positions=131072,
    tie_embeddings=False,
)


def test_llama_3_1_8b():
    """7,504,658,432 parameters stand in matrices (8,030,261,248 in all, less embedding and norms)."""
    attention = 32 * 12 * 4096 * (4096 / 2)
    assert model_flops(LLAMA_8B, "full", 4096) == 6 * 7_504_658_432 + attention
    assert model_flops(LLAMA_8B, "lora", 4096) == 4 * 7_504_658_432 + attention


def test_kernels_of_one_sequence_of_4096():
    """36 of 64 blocks of 512 are on or below the diagonal; 2, 3 and 4 products of a block's size in each."""
    product = 2 * 32 * 128 * 512 * 512 * 36
    expected = {"splash_mha_fwd": 2 * product, "splash_mha_dq": 3 * product, "splash_mha_dkv": 4 * product}
    assert splash_flops(LLAMA_8B, 4096) == expected


@pytest.mark.parametrize("window", [100, 128, 513, 700, 5000])
def test_windows_by_counting_pairs(window):
    length, block = 1024, 512
    config = dataclasses.replace(LLAMA_8B, window=window, num_layers=2, window_layers=(True, True))
    places = range(length)
    seen = sum(1 for query in places for key in places if 0 <= query - key < window)
    linear = 4 * matrix_parameters(config)
    asked = (model_flops(config, "lora", length) - linear) / (12 * 32 * 128 * 2)
    # The average is taken as if tokens were infinitely small: half a token at each end of the ramp.
    assert asked == pytest.approx(seen / length, abs=0.5)
    blocks = {(q // block, k // block) for q in places for k in places if 0 <= q - k < window}
    assert splash_flops(config, length)["splash_mha_fwd"] == 2 * 2 * 32 * 128 * block * block * len(blocks)


def test_experts_that_are_not_chosen_cost_nothing():
    moe = MoeConfig(num_experts=8, top_k=2, mlp_dim=24)
    dense = tiny_llama(mlp_dim=48)
    assert matrix_parameters(tiny_llama(moe=moe)) - matrix_parameters(dense) == 2 * 32 * 8
