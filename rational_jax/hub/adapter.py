"""LoRA factors as a PEFT adapter and back: the same numbers, layers taken apart and fused matrices put together."""

from __future__ import annotations

import dataclasses
import json
import math
import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike
from safetensors.numpy import save

from rational_jax.errors import UserError
from rational_jax.hub.adapter_sites import (
    Site,
    check_lora,
    in_memory_name,
    is_target,
    pattern_value,
    sites,
    targets_of,
)
from rational_jax.hub.families import read_json
from rational_jax.hub.load import open_safetensors
from rational_jax.hub.save import write_json
from rational_jax.models import DecoderConfig, LoraConfig
from rational_jax.models.lora import projections, short_name
from rational_jax.storage import atomic_directory

CONFIG_FILE = "adapter_config.json"
WEIGHTS_FILE = "adapter_model.safetensors"
PREFIX = "base_model.model."
# In the metadata of our files: the matrices with factors of their own. Fused ones are blocks of what the file has.
OURS = "rational_jax.targets"

# What an adapter_config.json may say besides what is read here. All else would change the result, if it is switched on.
_READ = {
    *("peft_type", "r", "lora_alpha", "lora_dropout", "use_rslora", "rank_pattern", "alpha_pattern"),
    *("target_modules", "target_parameters", "exclude_modules", "layers_to_transform", "layers_pattern"),
    *("base_model_name_or_path", "revision"),
}
_WITHOUT_EFFECT = {
    *("auto_mapping", "peft_version", "task_type", "inference_mode", "runtime_config", "megatron_core"),
    *("loftq_config", "eva_config", "corda_config", "lora_ga_config", "qalora_group_size", "ensure_weight_tying"),
}
# Other ways to begin change the base as well.
_INITS = (True, False, None, "gaussian", "eva", "orthogonal")

Factors = tuple[np.ndarray, np.ndarray]


@dataclasses.dataclass(frozen=True, kw_only=True)
class Adapter:
    """A LoRA adapter: `params` is the decoder's tree of `lora_a` `[L, r, in]` and `lora_b` `[L, out, r]`.

    L are the layers that `lora` chooses of those with the matrix; factors of experts have an axis for them after it.
    """

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
    check_lora(config, lora)
    factors = _unstacked(config, params, lora)
    chosen = [site for site in sites(config) if any((name, site.layer) in factors for name, _ in site.parts)]
    tensors: dict[str, np.ndarray] = {}
    ranks, alphas = {}, {}
    for site in chosen:
        parts = [(factors[name, site.layer], rows) for name, rows in site.parts if (name, site.layer) in factors]
        a, b = _fused(site, parts)
        prefix = _tensor_prefix(site, chosen)
        tensors[f"{prefix}.lora_A.weight"], tensors[f"{prefix}.lora_B.weight"] = _to_peft(site, a, b)
        if len(parts) > 1:
            # The rank is a multiple, and alpha is the one that keeps the scale.
            key = site.name_in_layer.replace(".", r"\.")
            ranks[key] = len(parts) * lora.rank
            alphas[key] = lora.alpha * (math.sqrt(len(parts)) if lora.rslora else len(parts))
    targets = [short_name(name) for name in projections(config) if lora.matches(name)]
    _save(tensors, directory / WEIGHTS_FILE, {"format": "pt", OURS: ",".join(targets)})
    write_json(
        directory / CONFIG_FILE,
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": base_name,
            "revision": base_revision,
            "r": lora.rank,
            "lora_alpha": lora.alpha,
            "lora_dropout": lora.dropout,
            **targets_of(chosen, config, lora),
            "rank_pattern": ranks,
            "alpha_pattern": alphas,
            "bias": "none",
            "fan_in_fan_out": False,
            "use_rslora": lora.rslora,
            "use_dora": False,
            "inference_mode": True,
        },
    )


def _save(tensors: dict[str, np.ndarray], file: Path, metadata: dict[str, str]) -> None:
    """A safetensors file with the same bytes every time: the library writes metadata in a random order."""
    content = save(tensors, metadata)
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end]) | {"__metadata__": metadata}
    ordered = json.dumps(header, separators=(",", ":"), sort_keys=True).encode().ljust(end - 8)
    file.write_bytes(content[:8] + ordered + content[end:])


def load_adapter(path: str | Path, config: DecoderConfig, dtype: DTypeLike = jnp.float32) -> Adapter:
    """Read a PEFT LoRA adapter, ours or one that `peft` saved, for a base of this configuration.

    One rank and one scale hold for all of it: lower ranks are filled up with zeros and B is multiplied where an adapter
    has others. Raises UserError naming the file and what in it we cannot represent, or the tensor that is missing,
    unexpected or mis-shaped.
    """
    path = Path(path)
    settings = read_json(path / CONFIG_FILE)
    _check_settings(path / CONFIG_FILE, settings, config)
    file = path / WEIGHTS_FILE
    if not file.is_file() and (path / "adapter_model.bin").is_file():
        raise UserError(f"{path} has its weights as a pickle file, which can run code: save it as safetensors")
    handle = open_safetensors(file)
    ours = (handle.metadata() or {}).get(OURS, "").split(",")
    left = {PREFIX + in_memory_name(name.removeprefix(PREFIX)): name for name in handle.keys()}
    targeted = [site for site in sites(config) if is_target(site, settings)]
    scale = _scale(settings, settings["r"], settings["lora_alpha"])
    factors: dict[tuple[str, int], Factors] = {}
    for site in targeted:
        rank = pattern_value(settings.get("rank_pattern"), site, settings["r"])
        alpha = pattern_value(settings.get("alpha_pattern"), site, settings["lora_alpha"])
        pair = []
        for factor, shape in zip(("lora_A", "lora_B"), _peft_shapes(site, rank), strict=True):
            name = f"{_tensor_prefix(site, targeted)}.{factor}.weight"
            if name not in left:
                raise UserError(f"{file}: tensor {name} is missing, although {CONFIG_FILE} targets {site.name}")
            array = handle.get_tensor(left.pop(name)).astype(jnp.dtype(dtype))
            if array.shape != shape:
                found, expected = list(array.shape), list(shape)
                raise UserError(f"{file}: tensor {name} has shape {found}, base and rank ask for {expected}")
            pair.append(array)
        a, b = _from_peft(site, rank, *pair)
        if (ratio := _scale(settings, rank, alpha) / scale) != 1:
            b = (b.astype(np.float32) * ratio).astype(b.dtype)
        factors |= _parted(site, a, b, ours)
    if left:
        raise UserError(
            f"{file}: {len(left)} unexpected tensors, for one {min(left.values())}: {CONFIG_FILE} does not target it "
            f"or its layer is none of {_there_are(config)}"
        )
    lora, params = _stacked(config, settings, scale, factors)
    return Adapter(params=params, lora=lora, base_name=settings.get("base_model_name_or_path"))


def _check_settings(file: Path, settings: Mapping[str, Any], config: DecoderConfig) -> None:
    if settings.get("peft_type") != "LORA":
        raise UserError(f"{file}: peft_type {settings.get('peft_type')!r} is not supported, only LORA")
    for option, value in settings.items():
        off = value in _INITS if option == "init_lora_weights" else value in (None, False, "none", {}, [])
        if option not in _READ | _WITHOUT_EFFECT and not off:
            raise UserError(f"{file}: {option}={value!r} is not supported")
    numbers = {option: settings.get(option) for option in ("r", "lora_alpha")}
    for option in ("rank_pattern", "alpha_pattern"):
        numbers |= {f"{option} of {pattern!r}": value for pattern, value in (settings.get(option) or {}).items()}
    for what, value in numbers.items():
        if isinstance(value, bool) or not isinstance(value, int | float) or not value > 0:
            raise UserError(f"{file}: {what} must be a number above 0, got {value!r}")
    patterns = [*(settings.get("rank_pattern") or ()), *(settings.get("alpha_pattern") or ())]
    patterns += [settings[key] for key in ("target_modules", "exclude_modules") if isinstance(settings.get(key), str)]
    for pattern in patterns:
        try:
            re.compile(pattern)
        except re.error as error:
            raise UserError(f"{file}: {pattern!r} is no regular expression ({error})") from error
    if not any(is_target(site, settings) for site in sites(config)):
        raise UserError(f"{file}: target_modules and target_parameters name no layer; there are {_there_are(config)}")


def _there_are(config: DecoderConfig) -> str:
    return ", ".join(dict.fromkeys(site.name_in_layer for site in sites(config)))


def _scale(settings: Mapping[str, Any], rank: int, alpha: float) -> float:
    return LoraConfig(rank=rank, alpha=alpha, rslora=bool(settings.get("use_rslora"))).scale


def _unstacked(config: DecoderConfig, params: dict, lora: LoraConfig) -> dict[tuple[str, int], Factors]:
    """The factors of each projection in each layer. Raises UserError where the tree is not the one of `lora`."""
    found: dict[tuple[str, int], Factors] = {}
    arrays = 0
    for name, held in projections(config).items():
        if not (layers := lora.chosen(name, held)):
            continue
        block, projection = name.split(".")
        node = params.get("layers", {}).get(block, {}).get(projection, {})
        for factor, axis in (("lora_a", -2), ("lora_b", -1)):
            if factor not in node:
                raise UserError(f"no {factor} for layers.{name}, a target of this LoRA run")
            if (rank := node[factor].shape[axis]) != lora.rank:
                raise UserError(f"layers.{name}.{factor} has rank {rank}, the run says {lora.rank}")
            if len(node[factor]) != len(layers):
                raise UserError(f"layers.{name}.{factor} is for {len(node[factor])} layers, the run has {len(layers)}")
            arrays += 1
        pairs = zip(np.asarray(node["lora_a"]), np.asarray(node["lora_b"]), strict=True)
        found |= {(name, layer): pair for layer, pair in zip(layers, pairs, strict=True)}
    if (held := len(jax.tree.leaves(params))) != arrays:
        raise UserError(
            f"the LoRA tree holds {held} arrays, its targets {', '.join(lora.targets)} account for {arrays}"
        )
    return found


def _fused(site: Site, parts: list[tuple[Factors, slice]]) -> Factors:
    """Factors of the whole site, `[..., r, in]` and `[..., out, r]`: those of its parts below and beside each other."""
    a = np.concatenate([a for (a, _), _ in parts], axis=-2)
    first = parts[0][0][1]
    b = np.zeros((*first.shape[:-2], site.outputs, a.shape[-2]), first.dtype)
    for index, ((_, part), rows) in enumerate(parts):
        rank = part.shape[-1]
        b[..., rows, index * rank : (index + 1) * rank] = part
    return a, b


def _parted(site: Site, a: np.ndarray, b: np.ndarray, ours: Iterable[str]) -> dict[tuple[str, int], Factors]:
    """The factors of each part of a site: its block where we made the file, else all of A and its rows of B."""
    own = [part for part in site.parts if short_name(part[0]) in ours]
    if not own:
        return {(name, site.layer): (a, b[..., rows, :]) for name, rows in site.parts}
    rank = a.shape[-2] // len(own)
    blocks = [slice(index * rank, (index + 1) * rank) for index in range(len(own))]
    return {
        (name, site.layer): (a[..., block, :], b[..., rows, block])
        for (name, rows), block in zip(own, blocks, strict=True)
    }


def _stacked(
    config: DecoderConfig, settings: Mapping[str, Any], scale: float, factors: Mapping[tuple[str, int], Factors]
) -> tuple[LoraConfig, dict]:
    """Settings and parameter tree for these factors."""
    rank = max(a.shape[-2] for a, _ in factors.values())
    rslora = bool(settings.get("use_rslora"))
    alpha = settings["lora_alpha"]
    named = {name for name, _ in factors}
    lora = LoraConfig(
        rank=rank,
        alpha=alpha if rank == settings["r"] else scale * (math.sqrt(rank) if rslora else rank),
        targets=tuple(short_name(name) for name in projections(config) if name in named),
        dropout=settings.get("lora_dropout") or 0.0,
        rslora=rslora,
        layers=tuple({layer for _, layer in factors}),
    ).spelled_out(config)
    tree: dict = {}
    for name, held in projections(config).items():
        if name not in named:
            continue
        any_a, any_b = next(pair for (other, _), pair in factors.items() if other == name)
        pairs = [_filled(factors.get((name, layer)), any_a, any_b, rank) for layer in lora.chosen(name, held)]
        block, projection = name.split(".")
        stacks = {
            key: jax.device_put(np.stack(x))
            for key, x in zip(("lora_a", "lora_b"), zip(*pairs, strict=True), strict=True)
        }
        tree.setdefault(block, {})[projection] = stacks
    return lora, {"layers": tree}


def _filled(pair: Factors | None, like_a: np.ndarray, like_b: np.ndarray, rank: int) -> Factors:
    """A pair of this rank: filled up with zeros, or nothing but zeros where a layer has none."""
    a = np.zeros((*like_a.shape[:-2], rank, like_a.shape[-1]), like_a.dtype)
    b = np.zeros((*like_b.shape[:-1], rank), like_b.dtype)
    if pair is not None:
        a[..., : pair[0].shape[-2], :], b[..., : pair[1].shape[-1]] = pair
    return a, b


def _tensor_prefix(site: Site, targeted: Iterable[Site]) -> str:
    """What the names of a site's tensors begin with: parameters of one module are wrapped one around the other."""
    same = [other for other in targeted if other.module == site.module]
    return f"{PREFIX}{site.module}{'.base_layer' * (len(same) - 1 - same.index(site))}"


def _peft_shapes(site: Site, rank: int) -> tuple[tuple[int, int], tuple[int, int]]:
    width = rank * (site.experts or 1)
    return (width, site.inputs), (site.outputs, width)


def _to_peft(site: Site, a: np.ndarray, b: np.ndarray) -> Factors:
    """Two matrices: of experts, A holds expert after expert, in B the experts of one rank lie beside each other."""
    if site.experts is not None:
        a, b = a.reshape(-1, site.inputs), b.transpose(1, 2, 0).reshape(site.outputs, -1)
    return np.ascontiguousarray(a), np.ascontiguousarray(b)


def _from_peft(site: Site, rank: int, a: np.ndarray, b: np.ndarray) -> Factors:
    if site.experts is None:
        return a, b
    return a.reshape(site.experts, rank, site.inputs), b.reshape(site.outputs, rank, site.experts).transpose(2, 0, 1)
