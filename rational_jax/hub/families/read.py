"""How a configuration of each family, as transformers has it, becomes ours.

Each function takes a `PreTrainedConfig` of its family. They raise UserError for settings that the decoder does not
compute, KeyError and ValueError for nonsense.
"""

from __future__ import annotations

from typing import Any

from rational_jax.errors import UserError
from rational_jax.hub.families.rope import read_scaling
from rational_jax.models.config import DecoderConfig, MoeConfig

_ACTIVATIONS = {
    "silu": "silu",
    "swish": "silu",
    "gelu": "gelu",
    "gelu_new": "gelu_tanh",
    "gelu_pytorch_tanh": "gelu_tanh",
}


def llama(hf: Any) -> DecoderConfig:
    return _dense(hf, **_biases(hf), mlp_bias=bool(hf.mlp_bias))


def mistral(hf: Any) -> DecoderConfig:
    return _dense(hf, window=hf.sliding_window)


def qwen2(hf: Any) -> DecoderConfig:
    return _dense(hf, qkv_bias=True, **_windows(hf))


def qwen3(hf: Any) -> DecoderConfig:
    return _dense(hf, qk_norm="head", **_biases(hf), **_windows(hf))


def qwen3_moe(hf: Any) -> DecoderConfig:
    step, dense = hf.decoder_sparse_step, set(hf.mlp_only_layers)
    marks = tuple(i not in dense and (i + 1) % step == 0 for i in range(hf.num_hidden_layers))
    moe = MoeConfig(
        num_experts=hf.num_experts,
        top_k=hf.num_experts_per_tok,
        mlp_dim=hf.moe_intermediate_size,
        normalise=bool(hf.norm_topk_prob),
        layers=() if all(marks) else marks,
    )
    return _dense(hf, qk_norm="head", moe=moe if any(marks) else None, window=hf.sliding_window, **_biases(hf))


def mixtral(hf: Any) -> DecoderConfig:
    if hf.router_jitter_noise:
        raise UserError("router_jitter_noise is not supported: set it to 0")
    moe = MoeConfig(num_experts=hf.num_local_experts, top_k=hf.num_experts_per_tok, mlp_dim=hf.intermediate_size)
    return _dense(hf, moe=moe, window=hf.sliding_window)


def gemma2(hf: Any) -> DecoderConfig:
    return _gemma(hf, attention_softcap=hf.attn_logit_softcapping)


def gemma3_text(hf: Any) -> DecoderConfig:
    if hf.attn_logit_softcapping is not None:
        raise UserError("attn_logit_softcapping is set, which no gemma3 was trained with: it is not supported")
    return _gemma(hf, qk_norm="head")


def gemma3(hf: Any) -> DecoderConfig:
    """The text tower of a multimodal checkpoint."""
    return _gemma(
        hf.text_config,
        family="gemma3",
        qk_norm="head",
        tensor_prefix="language_model.",
        tie_embeddings=bool(hf.tie_word_embeddings),
    )


def phi3(hf: Any) -> DecoderConfig:
    fraction = float(hf.rope_parameters.get("partial_rotary_factor", 1.0))
    return _dense(hf, window=hf.sliding_window, rotary_fraction=fraction)


def olmo2(hf: Any) -> DecoderConfig:
    return _dense(hf, qk_norm="all", block_norms="post", **_biases(hf))


def smollm3(hf: Any) -> DecoderConfig:
    without = tuple(not has_rope for has_rope in hf.no_rope_layers)
    return _dense(
        hf,
        no_rope_layers=without if any(without) else (),
        mlp_bias=bool(hf.mlp_bias),
        **_biases(hf),
        **_windows(hf, bool(hf.use_sliding_window)),
    )


def granite(hf: Any) -> DecoderConfig:
    return _dense(
        hf,
        mlp_bias=bool(hf.mlp_bias),
        attention_scale=float(hf.attention_multiplier),
        embed_scale=float(hf.embedding_multiplier),
        residual_scale=float(hf.residual_multiplier),
        logit_divisor=float(hf.logits_scaling),
        **_biases(hf),
    )


def _dense(hf: Any, **particular: Any) -> DecoderConfig:
    """What all families say in the same words, and what is particular to one."""
    name = getattr(hf, "hidden_activation", None) or hf.hidden_act
    if name not in _ACTIVATIONS:
        raise UserError(f"activation {name!r} is not supported; supported: {', '.join(_ACTIVATIONS)}")
    rope = hf.rope_parameters
    if "full_attention" in rope:
        local, rope = rope["sliding_attention"], rope["full_attention"]
        if local.get("rope_type", "default") != "default":
            raise UserError(f"rope type {local['rope_type']!r} in layers with a window is not supported, only default")
        particular["local_rope_theta"] = float(local["rope_theta"])
    if float(rope.get("partial_rotary_factor") or 1.0) != particular.get("rotary_fraction", 1.0):
        raise UserError(f"partial_rotary_factor is not supported for {hf.model_type}")
    heads = hf.num_attention_heads
    values = {
        "family": hf.model_type,
        "vocab_size": hf.vocab_size,
        "embed_dim": hf.hidden_size,
        "num_layers": hf.num_hidden_layers,
        "num_heads": heads,
        "num_kv_heads": hf.num_key_value_heads or heads,
        "head_dim": getattr(hf, "head_dim", None) or hf.hidden_size // heads,
        "mlp_dim": hf.intermediate_size,
        "norm_eps": hf.rms_norm_eps,
        "rope_theta": float(rope["rope_theta"]),
        "rope_scaling": read_scaling(rope, hf.max_position_embeddings),
        "max_positions": hf.max_position_embeddings,
        "tie_embeddings": bool(hf.tie_word_embeddings),
        "activation": _ACTIVATIONS[name],
    }
    return DecoderConfig(**(values | particular))


def _gemma(hf: Any, **particular: Any) -> DecoderConfig:
    if hf.use_bidirectional_attention:
        raise UserError("use_bidirectional_attention is not supported: such a model is no causal language model")
    return _dense(
        hf,
        attention_scale=hf.query_pre_attn_scalar**-0.5,
        block_norms="both",
        norm_offset=1.0,
        embed_scale=hf.hidden_size**0.5,
        logit_softcap=hf.final_logit_softcapping,
        **_biases(hf),
        **_windows(hf),
        **particular,
    )


def _biases(hf: Any) -> dict[str, bool]:
    return {"qkv_bias": bool(hf.attention_bias), "output_bias": bool(hf.attention_bias)}


def _windows(hf: Any, used: bool = True) -> dict[str, Any]:
    """The window and the layers that have it, from `layer_types`."""
    known = ("full_attention", "sliding_attention")
    if unknown := sorted(set(hf.layer_types) - set(known)):
        raise UserError(f"layer type {unknown[0]!r} is not supported; supported: {', '.join(known)}")
    marks = tuple(kind == "sliding_attention" for kind in hf.layer_types)
    if not used or not any(marks) or hf.sliding_window is None:
        return {}
    return {"window": hf.sliding_window, "window_layers": () if all(marks) else marks}
