"""Tiny random models of every family, as `transformers` makes and saves them; what a case changes is its point."""

from __future__ import annotations

from pathlib import Path
from typing import Any

# Sizes that divide by little, so that a swapped pair of axes does not pass; an odd vocabulary.
SIZES = {
    "vocab_size": 131,
    "hidden_size": 48,
    "intermediate_size": 80,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 1024,
    # Weights this large let every layer change the result: at the usual 0.02 a wrong layer could pass.
    "initializer_range": 0.2,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
MHA = {"num_key_value_heads": 4}
MQA = {"num_key_value_heads": 1}
YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "original_max_position_embeddings": 256}
LLAMA3 = {
    "rope_type": "llama3",
    "rope_theta": 500000.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 128,
}
LONGROPE = {
    "rope_type": "longrope",
    "rope_theta": 10000.0,
    "short_factor": [1.0, 1.1, 1.2, 1.5, 1.9, 2.0],
    "long_factor": [1.0, 1.3, 2.0, 3.1, 4.5, 7.0],
    "original_max_position_embeddings": 256,
}


def _rope(kind: str, **more: Any) -> dict[str, Any]:
    return {"rope_parameters": {"rope_type": kind, "rope_theta": 10000.0, **more}}


MOE = {"num_experts_per_tok": 2}
VISION = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 28,
    "patch_size": 14,
}

# Family -> name of the case -> what it changes. The first case of each family is the one that every check runs on.
CASES: dict[str, dict[str, dict[str, Any]]] = {
    "llama": {
        "gqa, tied, biases": {"tie_word_embeddings": True, "attention_bias": True, "mlp_bias": True},
        "mha, untied": MHA,
        "mqa, own head size, linear rope": MQA | {"head_dim": 20} | _rope("linear", factor=4.0),
        "dynamic rope": _rope("dynamic", factor=4.0),
        "llama3 rope": {"rope_parameters": LLAMA3},
        "yarn rope": {"rope_parameters": YARN},
        "longrope": {"rope_parameters": LONGROPE},
    },
    "mistral": {
        "window": {"sliding_window": 40, "head_dim": 16},
        "no window, mha, tied": MHA | {"sliding_window": None, "tie_word_embeddings": True},
    },
    "qwen2": {
        "biases, window in the upper layers": {
            "use_sliding_window": True,
            "sliding_window": 50,
            "max_window_layers": 1,
        },
        "tied, yarn": {"tie_word_embeddings": True, "rope_parameters": YARN},
        "mha": MHA,
    },
    "qwen3": {
        "q/k norms": {"head_dim": 20},
        "biases, tied, window": {
            "attention_bias": True,
            "tie_word_embeddings": True,
            "use_sliding_window": True,
            "sliding_window": 33,
            "max_window_layers": 2,
            "head_dim": 12,
        },
        "mha, yarn": MHA | {"rope_parameters": YARN, "head_dim": 16},
    },
    "gemma2": {
        # Five layers: two periods of window and no window, and one layer over.
        "alternating windows, soft caps": {
            "num_hidden_layers": 5,
            "sliding_window": 37,
            "head_dim": 20,
            "query_pre_attn_scalar": 24,
            "attn_logit_softcapping": 3.0,
            "final_logit_softcapping": 5.0,
        },
        "no soft caps, mha": MHA
        | {"sliding_window": 900, "head_dim": 12, "attn_logit_softcapping": None, "final_logit_softcapping": None},
    },
    "gemma3_text": {
        # Eight layers of period six leave two over.
        "windows, two ropes": {
            "num_hidden_layers": 8,
            "sliding_window": 37,
            "head_dim": 20,
            "query_pre_attn_scalar": 24,
            "rope_parameters": {
                "sliding_attention": {"rope_type": "default", "rope_theta": 1000.0},
                "full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 100000.0},
            },
        },
        "soft cap, mqa": MQA | {"sliding_window": 900, "head_dim": 12, "final_logit_softcapping": 4.0},
    },
    "gemma3": {"with its other towers": {"sliding_window": 37, "head_dim": 20, "query_pre_attn_scalar": 24}},
    "mixtral": {
        "experts": MOE | {"num_local_experts": 5},
        "window, mha, top 3": MHA | {"num_local_experts": 4, "num_experts_per_tok": 3, "sliding_window": 45},
    },
    "qwen3_moe": {
        # Sparse, dense, sparse, dense, and a dense one by name: two stacks, one of them with a gap.
        "sparse and dense layers": MOE
        | {
            "num_hidden_layers": 6,
            "num_experts": 6,
            "moe_intermediate_size": 28,
            "decoder_sparse_step": 2,
            "mlp_only_layers": [3],
            "head_dim": 12,
            "norm_topk_prob": True,
        },
        "all sparse, weights as they are": MOE
        | {"num_experts": 3, "moe_intermediate_size": 20, "norm_topk_prob": False, "head_dim": 12},
    },
    "phi3": {
        "fused": {},
        "longrope, window": {
            "rope_parameters": LONGROPE,
            "original_max_position_embeddings": 256,
            "sliding_window": 50,
        },
        "three quarters of the head rotated": {
            "hidden_size": 64,
            "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.75},
        },
    },
    "olmo2": {"post norms": {}, "mha, tied, biases": MHA | {"tie_word_embeddings": True, "attention_bias": True}},
    "smollm3": {
        "layers without positions": {"num_hidden_layers": 5, "no_rope_layer_interval": 2, "tie_word_embeddings": True},
        "window, untied, biases": {
            "no_rope_layers": [1, 0, 1],
            "use_sliding_window": True,
            "sliding_window": 41,
            "tie_word_embeddings": False,
            "attention_bias": True,
            "mlp_bias": True,
        },
    },
    "granite": {
        "multipliers": {
            "embedding_multiplier": 6.0,
            "residual_multiplier": 0.22,
            "attention_multiplier": 0.05,
            "logits_scaling": 8.0,
            "tie_word_embeddings": True,
        },
        "mha, biases": MHA | {"attention_bias": True, "mlp_bias": True, "attention_multiplier": 0.3},
    },
}
ALL = [(family, case) for family, cases in CASES.items() for case in cases]
FIRST = [(family, next(iter(cases))) for family, cases in CASES.items()]


def hf_config(family: str, case: str) -> Any:
    """The configuration of a case as transformers has it."""
    from transformers import AutoConfig

    values = SIZES | CASES[family][case]
    if family != "gemma3":
        return AutoConfig.for_model(family, **values)
    return AutoConfig.for_model("gemma3", text_config=values, vision_config=VISION, mm_tokens_per_image=4)


def make(family: str, case: str, directory: Path, *, dtype: str = "float32", shards: str = "1GB") -> Any:
    """A random torch model of a case, saved in `directory` as transformers saves it; returns it in eval mode."""
    import torch
    from transformers import AutoModelForCausalLM, AutoModelForImageTextToText

    torch.manual_seed(0)
    auto = AutoModelForImageTextToText if family == "gemma3" else AutoModelForCausalLM
    # Eager attention is the one that applies every family's soft caps.
    model = auto.from_config(hf_config(family, case), attn_implementation="eager").eval()
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            # Norms and biases begin as ones and zeros, which a wrong one would pass for.
            if parameter.ndim == 1:
                parameter.add_(torch.randn_like(parameter) * 0.2)
            if name.endswith(("mlp.gate.weight", "router.weight")):
                parameter.copy_(torch.randn_like(parameter))
    model = model.to(getattr(torch, dtype))
    model.save_pretrained(directory, max_shard_size=shards)
    return model
