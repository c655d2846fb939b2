"""What each Hugging Face model family is made of: its configuration and its weight table, both readable either way.

A table has one row for each of our arrays: its path in the parameter tree and the name of the Hugging Face tensor that
it comes from, with `{i}` for the layer where our array stacks all layers. Loading, saving and the names in a PEFT
adapter are all derived from these rows, so they cannot disagree. Shapes and logical axes belong to the decoder and are
taken from there. A new family is one more `Family` in `FAMILIES`.
"""

from __future__ import annotations

import dataclasses
import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

from rational_jax.errors import UserError
from rational_jax.models.config import DecoderConfig, RopeScaling

TreePath = tuple[str, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Weight:
    """One row of a weight table: `path` in our tree, `name` of the Hugging Face tensor (`{i}`: one per layer)."""

    path: TreePath
    name: str

    @property
    def stacked(self) -> bool:
        """Whether our array has a leading axis of layers."""
        return "{i}" in self.name

    @property
    def module(self) -> str:
        """The Hugging Face module that owns the tensor: the name PEFT puts its adapter under."""
        return self.name.rpartition(".")[0]

    def names(self, layers: int) -> list[str]:
        """The tensors that make up our array, in the order of the layers (one, where it is not stacked)."""
        return [self.name.format(i=i) for i in range(layers)] if self.stacked else [self.name]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Family:
    """One `model_type`: `read` and `write` translate its config.json, `weights` gives the rows a configuration has.

    `read(write(config)) == config` for every configuration that `read` accepts. `ignored` matches the names of tensors
    that old checkpoints carry and nobody needs.
    """

    name: str
    read: Callable[[Mapping[str, Any]], DecoderConfig]
    write: Callable[[DecoderConfig], dict[str, Any]]
    weights: Callable[[DecoderConfig], Iterator[Weight]]
    ignored: re.Pattern[str]


def family_of(model_type: object) -> Family:
    """The family of that `model_type`; UserError listing those there are."""
    if model_type not in FAMILIES:
        raise UserError(f"model type {model_type!r} is not supported; supported: {', '.join(sorted(FAMILIES))}")
    return FAMILIES[model_type]


def weight_table(config: DecoderConfig) -> dict[TreePath, Weight]:
    """The rows of this model by our path."""
    return {row.path: row for row in family_of(config.family).weights(config)}


def load_config(path: str | Path) -> DecoderConfig:
    """The configuration of the model in a Hugging Face directory. Raises UserError naming the file."""
    file = Path(path) / "config.json"
    try:
        return read_config(read_json(file))
    except UserError as error:
        raise UserError(f"{file}: {str(error).removeprefix(f'{file}: ')}") from error


def read_config(hf: Mapping[str, Any]) -> DecoderConfig:
    """The configuration that a parsed config.json describes. Raises UserError for what we cannot run faithfully."""
    if "quantization_config" in hf:
        raise UserError("the weights are quantized, which is not supported: use the original checkpoint")
    family = family_of(hf.get("model_type"))
    try:
        return family.read(hf)
    except KeyError as error:
        raise UserError(f"key {error.args[0]!r} is missing") from error
    except ValueError as error:
        raise UserError(str(error)) from error


def write_config(config: DecoderConfig) -> dict[str, Any]:
    """A config.json for this model, for weights that have no Hugging Face directory to come from."""
    return family_of(config.family).write(config)


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


def _read_llama(hf: Mapping[str, Any]) -> DecoderConfig:
    activation = hf.get("hidden_act", "silu")
    if activation != "silu":
        raise UserError(f"hidden_act={activation!r} is not supported for llama (only 'silu')")
    if hf.get("mlp_bias"):
        raise UserError("mlp_bias=true is not supported")
    theta, scaling = _read_rope(hf)
    heads = hf["num_attention_heads"]
    return DecoderConfig(
        family="llama",
        vocab_size=hf["vocab_size"],
        embed_dim=hf["hidden_size"],
        num_layers=hf["num_hidden_layers"],
        num_heads=heads,
        num_kv_heads=hf.get("num_key_value_heads") or heads,
        head_dim=hf.get("head_dim") or hf["hidden_size"] // heads,
        mlp_dim=hf["intermediate_size"],
        norm_eps=hf.get("rms_norm_eps", 1e-6),
        rope_theta=theta,
        rope_scaling=scaling,
        max_positions=hf.get("max_position_embeddings", 2048),
        tie_embeddings=bool(hf.get("tie_word_embeddings", False)),
        attention_bias=bool(hf.get("attention_bias", False)),
    )


def _write_llama(config: DecoderConfig) -> dict[str, Any]:
    return {
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
        "attention_bias": config.attention_bias,
        "mlp_bias": False,
        **_write_rope(config),
    }


def _llama_weights(config: DecoderConfig) -> Iterator[Weight]:
    layer = "model.layers.{i}."
    yield Weight(path=("embed", "weight"), name="model.embed_tokens.weight")
    yield Weight(path=("layers", "input_norm", "weight"), name=layer + "input_layernorm.weight")
    for projection in ("q_proj", "k_proj", "v_proj", "o_proj"):
        for kind in ("weight", "bias") if config.attention_bias else ("weight",):
            path = ("layers", "attention", projection, kind)
            yield Weight(path=path, name=f"{layer}self_attn.{projection}.{kind}")
    yield Weight(path=("layers", "post_attention_norm", "weight"), name=layer + "post_attention_layernorm.weight")
    for projection in ("gate_proj", "up_proj", "down_proj"):
        yield Weight(path=("layers", "mlp", projection, "weight"), name=f"{layer}mlp.{projection}.weight")
    yield Weight(path=("norm", "weight"), name="model.norm.weight")
    if not config.tie_embeddings:
        yield Weight(path=("lm_head", "weight"), name="lm_head.weight")


def _read_rope(hf: Mapping[str, Any]) -> tuple[float, RopeScaling | None]:
    """Base and scaling of the rotary frequencies, as transformers 5 writes them (`rope_parameters`) or as 4 did."""
    rope = hf.get("rope_parameters") or {"rope_theta": hf.get("rope_theta", 10000.0), **(hf.get("rope_scaling") or {})}
    theta = float(rope.get("rope_theta", 10000.0))
    # Older files say "type" for "rope_type".
    kind = rope.get("rope_type", rope.get("type", "default"))
    if kind == "default":
        return theta, None
    if kind == "linear":
        return theta, RopeScaling(kind=kind, factor=float(rope["factor"]))
    if kind == "llama3":
        return theta, RopeScaling(
            kind=kind,
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_positions=rope["original_max_position_embeddings"],
        )
    raise UserError(f"rope type {kind!r} is not supported; supported: default, linear, llama3")


def _write_rope(config: DecoderConfig) -> dict[str, Any]:
    """Both spellings: `rope_parameters` for transformers 5, `rope_theta` and `rope_scaling` for older readers."""
    if (scaling := config.rope_scaling) is None:
        return {
            "rope_theta": config.rope_theta,
            "rope_parameters": {"rope_type": "default", "rope_theta": config.rope_theta},
        }
    values: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        values |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    return {
        "rope_theta": config.rope_theta,
        "rope_scaling": values,
        "rope_parameters": {**values, "rope_theta": config.rope_theta},
    }


FAMILIES: dict[object, Family] = {
    family.name: family
    for family in (
        Family(
            name="llama",
            read=_read_llama,
            write=_write_llama,
            weights=_llama_weights,
            ignored=re.compile(r".*\.rotary_emb\.inv_freq"),
        ),
    )
}
