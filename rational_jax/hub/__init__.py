"""Hugging Face on disk: models and PEFT adapters in, the same models and adapters out, and the proof that they are."""

from rational_jax.hub.adapter import Adapter, load_adapter, save_adapter, write_adapter
from rational_jax.hub.adapter_sites import check_lora
from rational_jax.hub.families import FAMILIES, Weight, load_config, read_config, weight_table, write_config
from rational_jax.hub.load import load_params
from rational_jax.hub.resolve import MICRO, has_tokenizer, identity, load_tokenizer, resolve
from rational_jax.hub.save import save_model, write_model
from rational_jax.hub.verify import (
    TOLERANCE,
    Verification,
    distance_from_quantized,
    is_computed,
    probe_tokens,
    verify_adapter,
    verify_model,
)
from rational_jax.hub.weights import FileWeights, TreeWeights, Weights

__all__ = [
    "FAMILIES",
    "MICRO",
    "TOLERANCE",
    "Adapter",
    "FileWeights",
    "TreeWeights",
    "Verification",
    "Weight",
    "Weights",
    "check_lora",
    "distance_from_quantized",
    "has_tokenizer",
    "identity",
    "is_computed",
    "load_adapter",
    "load_config",
    "load_params",
    "load_tokenizer",
    "probe_tokens",
    "read_config",
    "resolve",
    "save_adapter",
    "save_model",
    "verify_adapter",
    "verify_model",
    "weight_table",
    "write_adapter",
    "write_config",
    "write_model",
]
