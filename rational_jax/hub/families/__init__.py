"""What each Hugging Face model family is made of: how its config.json becomes ours, and its weight table.

A new family is one more entry in `FAMILIES`: a function that reads its configuration, and names where they differ from
Llama's. Where it computes something that the decoder cannot, the decoder gets a named option. README.md beside this
file walks through it.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rational_jax.errors import UserError
from rational_jax.hub.families import read
from rational_jax.hub.families.rope import write_rope
from rational_jax.hub.families.table import Names, Piece, TreePath, Weight, rows
from rational_jax.models.config import DecoderConfig

__all__ = [
    "FAMILIES",
    "Family",
    "Names",
    "Piece",
    "TreePath",
    "Weight",
    "family_of",
    "load_config",
    "read_config",
    "read_json",
    "weight_table",
    "write_config",
]


LLAMA_NAMES = Names()


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One `model_type`: `read` translates its configuration, `names` says how its tensors are called.

    `required` are the keys without which a config.json says too little to trust the defaults of transformers. `carried`
    matches the names of tensors of other towers: not loaded, and copied as they are when a model is exported. `ignored`
    matches tensors that old checkpoints carry and nobody needs.
    """

    read: Callable[[Any], DecoderConfig]
    names: Names = LLAMA_NAMES
    required: tuple[str, ...] = (
        "vocab_size",
        "hidden_size",
        "intermediate_size",
        "num_hidden_layers",
        "num_attention_heads",
    )
    carried: re.Pattern[str] | None = None
    ignored: re.Pattern[str] = re.compile(r".*\.rotary_emb\.inv_freq")


FAMILIES: dict[str, Family] = {
    "gemma2": Family(read=read.gemma2),
    "gemma3": Family(
        read=read.gemma3,
        required=("text_config",),
        carried=re.compile(r"(vision_tower|multi_modal_projector)\..*"),
    ),
    "gemma3_text": Family(read=read.gemma3_text, required=("hidden_size", "num_hidden_layers")),
    "granite": Family(read=read.granite),
    "llama": Family(read=read.llama),
    "mistral": Family(read=read.mistral),
    "mixtral": Family(
        read=read.mixtral,
        names=Names(
            router="block_sparse_moe.gate",
            experts="block_sparse_moe.experts.{e}",
            expert_projections=("w1", "w3", "w2"),
        ),
    ),
    "olmo2": Family(read=read.olmo2),
    "phi3": Family(read=read.phi3, names=Names(fused=True)),
    "qwen2": Family(read=read.qwen2),
    "qwen3": Family(read=read.qwen3),
    "qwen3_moe": Family(read=read.qwen3_moe),
    "smollm3": Family(read=read.smollm3),
}
"""The families by their `model_type`; an entry here and its tables are all that a family is."""


def family_of(model_type: object) -> Family:
    """The family of that `model_type`; UserError listing those there are."""
    if model_type not in FAMILIES:
        raise UserError(f"model type {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def weight_table(config: DecoderConfig) -> dict[TreePath, Weight]:
    """The rows of this model by our path."""
    return {row.path: row for row in rows(config, family_of(config.family).names)}


def load_config(path: str | Path) -> DecoderConfig:
    """The configuration of the model in a Hugging Face directory. Raises UserError naming the file."""
    file = Path(path) / "config.json"
    try:
        return read_config(read_json(file))
    except UserError as error:
        raise UserError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error


def read_config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The configuration that a parsed config.json describes. Raises UserError for what we cannot run faithfully.

    transformers fills in what the file leaves out, and brings the spellings of older files up to date.
    """
    # Slow to import, and not needed by those who only look a name up in the table.
    from transformers.models.auto.configuration_auto import CONFIG_MAPPING

    if "quantization_config" in hf:
        raise UserError("the weights are quantized, which is not supported: use the original checkpoint")
    family = family_of(hf.get("model_type"))
    if missing := [key for key in family.required if hf.get(key) is None]:
        raise UserError(f"key {missing[0]!r} is missing")
    # transformers writes into nested dicts.
    copied = json.loads(json.dumps(hf))
    try:
        return family.read(CONFIG_MAPPING[hf["model_type"]].from_dict(copied))
    except KeyError as error:
        raise UserError(f"key {error.args[0]!r} is missing") from error
    except (ValueError, TypeError, AttributeError) as error:
        raise UserError(" ".join(str(error).split())) from error


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """A config.json for a Llama whose weights have no Hugging Face directory to come from.

    Raises UserError for another family, and where a Llama cannot have what the configuration asks for.
    """
    if config.family != "llama":
        raise UserError(
            f"a new {config.family} model has to start from a Hugging Face directory, which says its config.json"
        )
    written = {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": config.vocab_size,
        "hidden_size": config.embed_dim,
        "num_hidden_layers": config.num_layers,
        "num_attention_heads": config.num_heads,
        "num_key_value_heads": config.num_kv_heads,
        "head_dim": config.head_dim,
        "intermediate_size": config.mlp_dim,
        "hidden_act": "silu",
        "rms_norm_eps": config.norm_eps,
        "max_position_embeddings": config.max_positions,
        "tie_word_embeddings": config.tie_embeddings,
        "attention_bias": config.qkv_bias,
        "mlp_bias": config.mlp_bias,
        **write_rope(config.rope_theta, config.rope_scaling),
    }
    if (back := read_config(written)) != dataclasses.replace(config, context=None):
        raise UserError(f"a llama config.json cannot say this configuration; it would read {back}")
    return written


def read_json(file: Path) -> dict[str, Any]:
    """A JSON object from a file of a model directory. Raises UserError naming the file."""
    try:
        parsed = json.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: {file.parent} is not a complete Hugging Face directory") from error
    except ValueError as error:
        raise UserError(f"{file}: not valid JSON ({error})") from error
    if not isinstance(parsed, dict):
        raise UserError(f"{file}: expected a JSON object, got {type(parsed).__name__}")
    return parsed
