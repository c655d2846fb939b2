"""A decoder of a few thousand parameters, for tests that need a model and not a family."""

from rational_jax.models import DecoderConfig


def tiny_llama(**changes) -> DecoderConfig:
    """Two layers of Llama with grouped heads and tied embeddings; `changes` are fields of DecoderConfig."""
    sizes = {
        "vocab_size": 64,
        "embed_dim": 32,
        "num_layers": 2,
        "num_heads": 4,
        "num_kv_heads": 2,
        "head_dim": 8,
        "mlp_dim": 48,
        "max_positions": 128,
    }
    options = {"norm_eps": 1e-6, "rope_theta": 10000.0, "tie_embeddings": True}
    return DecoderConfig(**({"family": "llama"} | sizes | options | changes))
