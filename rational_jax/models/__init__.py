"""The Flax decoder: one implementation for all families."""

from rational_jax.models.cache import Caches, KVCache
from rational_jax.models.config import DecoderConfig, LayerKind, MoeConfig, RopeScaling
from rational_jax.models.decoder import Decoder, Execution, bind, structure
from rational_jax.models.layers import LoraParam
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
    "Caches",
    "Decoder",
    "DecoderConfig",
    "Execution",
    "KVCache",
    "LayerKind",
    "LoraConfig",
    "LoraParam",
    "MoeConfig",
    "RopeScaling",
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
