"""Floating point operations of training: what the model asks for, and what the attention kernels execute."""

from __future__ import annotations

from rational_jax.models.config import DecoderConfig


def matrix_parameters(decoder: DecoderConfig) -> int:
    """Parameters of the matrices that each token is multiplied by: without the embedding and experts not chosen."""
    return decoder.vocab_size * decoder.embed_dim + _layer_parameters(decoder, decoder.num_layers)


def model_flops(decoder: DecoderConfig, method: str, length: int) -> float:
    """FLOPs that training asks for a token in sequences of `length`: nothing computed twice, attention causal.

    6 a parameter, or 4 where the parameters are frozen ("lora", "qlora"), since their gradients are not wanted.
    """
    linear = (6 if method == "full" else 4) * matrix_parameters(decoder)
    return linear + 12 * decoder.num_heads * decoder.head_dim * _seen(decoder, decoder.num_layers, length)


def rerouting_flops(decoder: DecoderConfig, depth: int, length: int) -> float:
    """The same of representation rerouting: two forward passes through the first `depth` layers, one of them and back.

    6 a parameter, since the parameters are frozen, and no output matrix.
    """
    linear = 6 * _layer_parameters(decoder, depth)
    return linear + 16 * decoder.num_heads * decoder.head_dim * _seen(decoder, depth, length)


def _layer_parameters(decoder: DecoderConfig, depth: int) -> int:
    heads = 2 * decoder.head_dim * (decoder.num_heads + decoder.num_kv_heads)
    total = 0
    for layer in decoder.kinds[:depth]:
        mlp = 3 * decoder.mlp_dim
        if layer.sparse:
            mlp = 3 * decoder.moe.mlp_dim * decoder.moe.top_k + decoder.moe.num_experts
        total += decoder.embed_dim * (heads + mlp)
    return total


def _seen(decoder: DecoderConfig, depth: int, length: int) -> float:
    """Places that a token sees on average, over the first `depth` layers together."""
    seen = 0.0
    for layer in decoder.kinds[:depth]:
        window = min(layer.window or length, length)
        seen += window - window * window / (2 * length)
    return seen


def splash_flops(decoder: DecoderConfig, length: int) -> dict[str, float]:
    """FLOPs of one execution of each splash kernel for one sequence, by the beginning of its name.

    Of the blocks on the edge of the mask a part is computed in vain. Layers may have different windows but run equally
    often, so this is their mean.
    """
    block = next((size for size in (512, 256, 128) if length % size == 0), length)
    blocks = 0
    for layer in decoder.kinds:
        window = min(layer.window or length, length)
        first = (max(0, (start - window + 1) // block) for start in range(0, length, block))
        blocks += sum(row - column + 1 for row, column in enumerate(first))
    product = 2 * decoder.num_heads * decoder.head_dim * block * block * blocks / len(decoder.kinds)
    products = {"splash_mha_fwd": 2, "splash_mha_dq": 3, "splash_mha_dkv": 4}
    return {name: count * product for name, count in products.items()}
