"""A decoder of a few thousand parameters, for tests that need a model and not a family."""

import shutil
from pathlib import Path

import jax

from rational_jax import hub, models
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


def save_readable(directory: Path, seed: int = 0) -> Path:
    """A random model of one small layer in a folder, that reads and writes as the packaged one does."""
    micro = hub.resolve("micro")
    config = tiny_llama(vocab_size=hub.load_config(micro).vocab_size, num_layers=1, norm_eps=1e-5)
    hub.save_model(directory, config, models.init_params(config, jax.random.key(seed)))
    for file in micro.iterdir():
        if not (directory / file.name).exists() and file.suffix != ".safetensors":
            shutil.copy(file, directory)
    return directory
