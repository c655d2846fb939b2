"""Where PEFT can put low-rank factors in a model that transformers has in memory, and which of our matrices those are.

A model in memory is not the one on disk: a mixture's experts are two parameters of three axes, gate and up being rows
of one of them, and the text tower of a multimodal model has another prefix. PEFT's factors are named after the model in
memory. It reaches linear modules through `target_modules`, parameters through `target_parameters`.
"""

from __future__ import annotations

import dataclasses
import functools
import re
from collections.abc import Mapping, Sequence
from typing import Any

from rational_jax.errors import UserError
from rational_jax.hub.families import Weight, weight_table
from rational_jax.models import DecoderConfig, LoraConfig, abstract_params
from rational_jax.models.lora import PROJECTIONS

_FUSED_EXPERTS = {"gate_proj": "gate_up_proj", "up_proj": "gate_up_proj", "down_proj": "down_proj"}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Site:
    """A matrix of one layer that PEFT can adapt: `module`, or the `parameter` of it where that is not None.

    Its shape is `[outputs, inputs]`, or `[experts, outputs, inputs]`. `parts` are our matrices in it, each with its
    rows; more than one where transformers fuses them.
    """

    layer: int
    module: str
    parameter: str | None
    outputs: int
    inputs: int
    experts: int | None
    parts: tuple[tuple[str, slice], ...]

    @property
    def name(self) -> str:
        """What patterns of ranks and alphas are matched with."""
        return self.module if self.parameter is None else f"{self.module}.{self.parameter}"

    @property
    def name_in_layer(self) -> str:
        """The name without the part that numbers the layer."""
        return self.name.partition(f"layers.{self.layer}.")[2]


@functools.lru_cache(maxsize=8)
def sites(config: DecoderConfig) -> tuple[Site, ...]:
    """Every site of a model, layer by layer and in the order in which PEFT meets them."""
    shapes = abstract_params(config)["layers"]
    found: dict[tuple[int, str], Site] = {}
    for row in weight_table(config).values():
        block, projection = row.path[1], row.path[-2]
        if f"{block}.{projection}" not in PROJECTIONS or row.path[-1] != "weight":
            continue
        outputs, inputs = shapes[block][projection]["weight"].shape[-2:]
        for layer in row.layers:
            module, parameter = _in_memory(config, row, layer)
            before = found.get((layer, f"{module}.{parameter}"))
            start = before.outputs if before else 0
            site = Site(
                layer=layer,
                module=module,
                parameter=parameter,
                outputs=start + outputs,
                inputs=inputs,
                experts=row.experts,
                parts=((*before.parts,) if before else ())
                + ((f"{block}.{projection}", slice(start, start + outputs)),),
            )
            found[layer, f"{module}.{parameter}"] = site
    return tuple(site for _, site in sorted(found.items(), key=lambda item: item[0][0]))


def _in_memory(config: DecoderConfig, row: Weight, layer: int) -> tuple[str, str | None]:
    module = in_memory_name(row.module.format(i=layer, e=0))
    if row.experts is not None:
        return f"{module.partition(f'layers.{layer}.')[0]}layers.{layer}.mlp.experts", _FUSED_EXPERTS[row.path[-2]]
    if config.moe is not None and row.path[1] == "mlp":
        # Where a model has experts too, PEFT takes the name of this module for theirs, so it has to be the parameter.
        return module, "weight"
    return module, None


def in_memory_name(name: str) -> str:
    """A module or tensor of a file by its name in memory: multimodal models have their text tower below `model`."""
    return re.sub(r"^language_model\.model\.", "model.language_model.", name)


def check_lora(config: DecoderConfig, lora: LoraConfig) -> None:
    """Raise UserError for LoRA that this model cannot have, or that PEFT could not represent."""
    lora.check(config)
    if lora.dropout:
        for site in sites(config):
            names = [name for name, _ in site.parts if lora.chosen(name, (site.layer,))]
            if names and site.parameter is not None:
                raise UserError(f"LoRA on {names[0]} of {config.family} has no dropout in PEFT: set it to 0")


def targets_of(chosen: Sequence[Site], config: DecoderConfig, lora: LoraConfig) -> dict[str, Any]:
    """The part of an adapter_config.json that says where factors are."""
    modules = sorted({site.module.rpartition(".")[2] for site in chosen if site.parameter is None})
    settings: dict[str, Any] = {"target_modules": modules}
    if modules and lora.layers is not None:
        settings["layers_to_transform"] = list(lora.layers)
    if parameters := [site for site in chosen if site.parameter is not None]:
        # Their names end in a target, so one without a layer is meant in every layer.
        settings["target_parameters"] = sorted(
            {site.name_in_layer if lora.layers is None else site.name for site in parameters}
        )
    if config.tensor_prefix:
        settings["exclude_modules"] = r".*\.(vision_tower|multi_modal_projector)\..*"
    return settings


def is_target(site: Site, settings: Mapping[str, Any]) -> bool:
    """Whether an adapter with these settings has factors at this site, by PEFT's own rules."""
    if site.parameter is not None:
        return _ends_in(site.name, settings.get("target_parameters") or ())
    excluded, targets = settings.get("exclude_modules") or (), settings.get("target_modules") or ()
    if re.fullmatch(excluded, site.name) if isinstance(excluded, str) else _ends_in(site.name, excluded):
        return False
    if isinstance(targets, str):
        return targets.lower() == "all-linear" or re.fullmatch(targets, site.name) is not None
    if site.name in targets:
        return True
    return _ends_in(site.name, targets) and _in_layers(site, settings)


def _in_layers(site: Site, settings: Mapping[str, Any]) -> bool:
    layers = settings.get("layers_to_transform")
    if layers is None or layers == []:
        return True
    patterns = settings.get("layers_pattern") or r"[^.]*"
    patterns = [patterns] if isinstance(patterns, str) else patterns
    found = next((m for p in patterns if (m := re.match(rf"(?:^|.*?\.){p}\.(\d+)\.", site.name))), None)
    return found is not None and int(found[1]) in ([layers] if isinstance(layers, int) else layers)


def pattern_value(patterns: Mapping[str, Any] | None, site: Site, otherwise: Any) -> Any:
    """The value of the first pattern (a regular expression for the end of a name) that this site matches."""
    for pattern, value in (patterns or {}).items():
        if re.match(rf"(.*\.)?({pattern})$", site.name):
            return value
    return otherwise


def _ends_in(name: str, targets: Sequence[str]) -> bool:
    return any(f".{name}".endswith(f".{target}") for target in targets)
