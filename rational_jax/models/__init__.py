"""The Flax decoder: one implementation for all families."""

from rational_jax.models.config import DecoderConfig
from rational_jax.models.decoder import Decoder, Execution, KVCache, LoraParam, bind, structure
from rational_jax.models.lora import LoraConfig
from rational_jax.models.params import (
    abstract_params,
    combine,
    execution_for,
    init_lora,
    init_params,
    logical_axes,
    merge_lora,
)

__all__ = [
    "Decoder",
    "DecoderConfig",
    "Execution",
    "KVCache",
    "LoraConfig",
    "LoraParam",
    "abstract_params",
    "bind",
    "combine",
    "execution_for",
    "init_lora",
    "init_params",
    "logical_axes",
    "merge_lora",
    "structure",
]
