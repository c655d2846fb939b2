"""LoRA factors as a PEFT adapter and back: the same shapes, layers taken apart, names from the weight table."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from safetensors.numpy import save_file

from rational_jax.errors import UserError
from rational_jax.hub.families import Weight, read_json, weight_table
from rational_jax.hub.load import open_safetensors
from rational_jax.hub.save import lookup, write_json
from rational_jax.models import DecoderConfig, LoraConfig, abstract_params
from rational_jax.models.lora import TARGETS
from rational_jax.storage import atomic_directory

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
_FACTORS = {"lora_a": "lora_A", "lora_b": "lora_B"}

# What PEFT's LoRA may add to A and B; each would change the result, and we have none of it. With the values for "off".
_MUST_BE_OFF: dict[str, tuple[Any, ...]] = {
    "use_dora": (False, None),
    "use_rslora": (False, None),
    "bias": ("none", None),
    "lora_bias": (False, None),
    "modules_to_save": (None, []),
    "rank_pattern": ({}, None),
    "alpha_pattern": ({}, None),
    "layers_to_transform": (None,),
    "layer_replication": (None,),
    "fan_in_fan_out": (False, None),
    "target_parameters": (None, []),
    "trainable_token_indices": (None,),
}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter: `params` is the decoder's tree of `lora_a` `[L, r, in]` and `lora_b` `[L, out, r]`."""

    params: dict
    lora: LoraConfig
    base_name: str | None


def save_adapter(
    directory: str | Path,
    config: DecoderConfig,
    params: dict,
    lora: LoraConfig,
    *,
    base_name: str,
    base_revision: str | None = None,
) -> None:
    """Write a PEFT adapter directory, which appears only when complete. The factors keep their dtype.

    `base_name` (a Hub id or a path) and `base_revision` tell PEFT where the base is; the rest comes from the run.
    """
    with atomic_directory(Path(directory)) as partial:
        write_adapter(partial, config, params, lora, base_name=base_name, base_revision=base_revision)


def write_adapter(
    directory: Path,
    config: DecoderConfig,
    params: dict,
    lora: LoraConfig,
    *,
    base_name: str,
    base_revision: str | None = None,
) -> None:
    """As `save_adapter`, into an existing directory and without the promise that it is complete when it is there."""
    tensors: dict[str, np.ndarray] = {}
    for row in _target_rows(config, lora):
        for factor in _FACTORS:
            try:
                stacked = lookup(params, (*row.path[:-1], factor))
            except KeyError as error:
                raise UserError(f"no {factor} for {'.'.join(row.path[:-1])}, a target of this LoRA run") from error
            rank = stacked.shape[1] if factor == "lora_a" else stacked.shape[2]
            if rank != lora.rank:
                raise UserError(f"{'.'.join(row.path[:-1])}.{factor} has rank {rank}, the run says {lora.rank}")
            for name, matrix in zip(_tensor_names(row, factor, config), np.asarray(stacked), strict=True):
                tensors[name] = np.ascontiguousarray(matrix)
    if (held := len(jax.tree.leaves(params)) * config.num_layers) != len(tensors):
        raise UserError(f"the LoRA tree holds {held} matrices, its targets {lora.targets} account for {len(tensors)}")
    save_file(tensors, directory / WEIGHTS_FILE, metadata={"format": "pt"})
    write_json(
        directory / CONFIG_FILE,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_name,
            "revision": base_revision,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": 0.0,
            "target_modules": sorted({row.module.rpartition(".")[2] for row in _target_rows(config, lora)}),
            "bias": "none",
            "fan_in_fan_out": False,
            "use_rslora": False,
            "use_dora": False,
            "inference_mode": True,
        },
    )


def load_adapter(path: str | Path, config: DecoderConfig, dtype: DTypeLike = jnp.float32) -> Adapter:
    """Read a PEFT LoRA adapter, ours or one that `peft` saved, for a base of this configuration.

    Raises UserError naming the file and what in it we cannot represent, or the tensor that is missing, unexpected or
    mis-shaped.
    """
    path = Path(path)
    settings = read_json(path / CONFIG_FILE)
    lora = _read_settings(path / CONFIG_FILE, settings, config)
    file = path / WEIGHTS_FILE
    if not file.is_file() and (path / "adapter_model.bin").is_file():
        raise UserError(f"{path} has its weights as a pickle file, which can run code: save it as safetensors")
    handle = open_safetensors(file)
    left = set(handle.keys())
    tree: dict = {}
    for row in _target_rows(config, lora):
        for factor in _FACTORS:
            matrices = []
            for name in _tensor_names(row, factor, config):
                if name not in left:
                    raise UserError(f"{file}: tensor {name} is missing, although {CONFIG_FILE} targets {row.path[-2]}")
                left.remove(name)
                matrices.append(handle.get_tensor(name).astype(jnp.dtype(dtype)))
                expected = _factor_shape(config, row, factor, lora.rank)
                if matrices[-1].shape != expected:
                    found = list(matrices[-1].shape)
                    raise UserError(f"{file}: tensor {name} has shape {found}, base and rank ask for {list(expected)}")
            node = tree
            for key in row.path[:-1]:
                node = node.setdefault(key, {})
            node[factor] = jax.device_put(np.stack(matrices))
    if left:
        raise UserError(f"{file}: {len(left)} unexpected tensors, for one {min(left)}")
    return Adapter(params=tree, lora=lora, base_name=settings.get("base_model_name_or_path"))


def _read_settings(file: Path, settings: dict[str, Any], config: DecoderConfig) -> LoraConfig:
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{file}: peft_type {settings.get('peft_type')!r} is not supported, only LORA")
    for option, off in _MUST_BE_OFF.items():
        if option in settings and settings[option] not in off:
            raise UserError(f"{file}: {option}={settings[option]!r} is not supported yet")
    known = {row.path[-2]: row.module for row in weight_table(config).values() if _is_linear(row)}
    there_are = ", ".join(known)
    targets = settings.get("target_modules")
    if isinstance(targets, str) or not targets:
        raise UserError(f"{file}: target_modules must be a list of layers, got {targets!r}; there are {there_are}")
    # A target may be spelt with more of its path ("self_attn.q_proj").
    names = [name for target in targets for name, module in known.items() if f".{module}".endswith(f".{target}")]
    if len(names) != len(targets):
        raise UserError(f"{file}: target_modules {sorted(targets)} do not all name a layer; there are {there_are}")
    try:
        ordered = tuple(name for name in known if name in names)
        return LoraConfig(rank=settings["r"], alpha=settings["lora_alpha"], targets=ordered)
    except KeyError as error:
        raise UserError(f"{file}: {error.args[0]} is missing") from error


def _is_linear(row: Weight) -> bool:
    return row.path[-2] in TARGETS and row.path[-1] == "weight"


def _target_rows(config: DecoderConfig, lora: LoraConfig) -> list[Weight]:
    return [row for row in weight_table(config).values() if _is_linear(row) and row.path[-2] in lora.targets]


def _tensor_names(row: Weight, factor: str, config: DecoderConfig) -> list[str]:
    pattern = f"base_model.model.{row.module}.{_FACTORS[factor]}.weight"
    return [pattern.format(i=i) for i in range(config.num_layers)]


def _factor_shape(config: DecoderConfig, row: Weight, factor: str, rank: int) -> tuple[int, int]:
    _, outputs, inputs = lookup(abstract_params(config), row.path).shape
    return (rank, inputs) if factor == "lora_a" else (outputs, rank)
