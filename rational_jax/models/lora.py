"""LoRA (Hu et al., arXiv 2106.09685): a trained low-rank term beside a frozen matrix, in PEFT's shapes and scaling.

A factor pair is `lora_a` `[..., r, in]` and `lora_b` `[..., out, r]`; the update of the matrix is `scale * B A`.
"""

from __future__ import annotations

import dataclasses
import fnmatch
import math
import zlib
from collections.abc import Iterable, Mapping

import jax
import jax.numpy as jnp

from rational_jax.errors import UserError
from rational_jax.models.config import DecoderConfig

ALL_LINEAR = "all-linear"
PROJECTIONS = (
    *("attention.q_proj", "attention.k_proj", "attention.v_proj", "attention.o_proj"),
    *("mlp.gate_proj", "mlp.up_proj", "mlp.down_proj"),
    *("experts.gate_proj", "experts.up_proj", "experts.down_proj"),
)
"""The linear layers that LoRA can sit on, as they are called in the decoder's tree. The router is none of them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which matrices get a low-rank term, and how it is weighted. Carried by checkpoints and exports.

    The weight of the term is `alpha / rank`, or `alpha / sqrt(rank)` with `rslora` (Kalajdzievski, arXiv 2312.03732).
    Targets are names ("q_proj", "mlp.up_proj"), patterns ("*_proj", "attention.*") or "all-linear". As in PEFT, the
    experts of a mixture are meant only where a target says so ("experts.down_proj", "experts.*"). `layers` are the
    layers that have the term (None: all). `dropout` is the probability with which an element of the input of A is
    dropped in training; there is none for experts, where PEFT has none.
    """

    rank: int
    alpha: float
    targets: tuple[str, ...] = (ALL_LINEAR,)
    dropout: float = 0.0
    rslora: bool = False
    layers: tuple[int, ...] | None = None

    def __post_init__(self):
        """Raise UserError for what no model can have."""
        # Lists are what JSON makes of tuples in a checkpoint's metadata.
        object.__setattr__(self, "targets", tuple(self.targets))
        if self.layers is not None:
            object.__setattr__(self, "layers", tuple(sorted(set(self.layers))))
        if self.rank < 1:
            raise UserError(f"the rank of LoRA must be at least 1, got {self.rank}")
        if not (math.isfinite(self.alpha) and self.alpha > 0):
            raise UserError(f"the alpha of LoRA must be a number above 0, got {self.alpha}")
        if not 0 <= self.dropout < 1:
            raise UserError(f"the dropout of LoRA must be at least 0 and below 1, got {self.dropout}")
        if self.layers is not None and (not self.layers or self.layers[0] < 0):
            raise UserError(f"the layers of LoRA must be numbers from 0, got {list(self.layers)}")
        self._require_each_target(PROJECTIONS)
        experts = [target for target in self.targets if target.startswith("experts.")]
        if experts and self.dropout:
            raise UserError(f"LoRA on experts ({', '.join(experts)}) has no dropout in PEFT: set it to 0")

    @property
    def scale(self) -> float:
        """What `B A` is multiplied by."""
        return self.alpha / (math.sqrt(self.rank) if self.rslora else self.rank)

    def matches(self, name: str) -> bool:
        """Whether the linear layer of that name is a target: "q_proj", "experts.up_proj", "layers.attention.q_proj"."""
        return any(_matches(target, name) for target in self.targets)

    def chosen(self, name: str, layers: Iterable[int]) -> tuple[int, ...]:
        """Those of `layers` in which the linear layer of that name has a low-rank term."""
        if not self.matches(name):
            return ()
        return tuple(layer for layer in layers if self.layers is None or layer in self.layers)

    def check(self, config: DecoderConfig) -> None:
        """Raise UserError where a target or a layer is not there in a model of this configuration."""
        self._require_each_target(projections(config))
        absent = [layer for layer in self.layers or () if layer >= config.num_layers]
        if absent:
            raise UserError(f"LoRA is asked for in layer {absent[0]}; there are layers 0 to {config.num_layers - 1}")
        if not any(self.chosen(name, layers) for name, layers in projections(config).items()):
            raise UserError(f"none of the layers {list(self.layers)} has a LoRA target ({', '.join(self.targets)})")

    def spelled_out(self, config: DecoderConfig) -> LoraConfig:
        """The same for a model of this configuration, every target by its name: what is equal there compares equal."""
        held = {name: layers for name, layers in projections(config).items() if self.matches(name)}
        everywhere = all(self.chosen(name, layers) == layers for name, layers in held.items())
        layers = None if everywhere else self.layers
        return dataclasses.replace(self, targets=tuple(map(short_name, held)), layers=layers)

    def _require_each_target(self, names: Iterable[str]) -> None:
        unknown = [target for target in self.targets if not any(_matches(target, name) for name in names)]
        if unknown or not self.targets:
            named = ", ".join(unknown) or "(none given)"
            raise UserError(
                f"no layer named {named} for LoRA; there are {ALL_LINEAR}, {', '.join(map(short_name, names))}"
            )


def projections(config: DecoderConfig) -> dict[str, tuple[int, ...]]:
    """The linear layers that LoRA can sit on in such a model, with the numbers of the layers that have them."""
    held = {
        "attention": tuple(range(config.num_layers)),
        "mlp": config.dense_layers,
        "experts": config.sparse_layers,
    }
    return {name: layers for name in PROJECTIONS if (layers := held[name.partition(".")[0]])}


def _matches(target: str, name: str) -> bool:
    *above, short = name.split(".")
    block = above[-1] if above else None
    if block is None:
        block = next((known.partition(".")[0] for known in PROJECTIONS if known.endswith(f".{short}")), None)
    full = f"{block}.{short}"
    if full not in PROJECTIONS:
        return False
    if block == "experts":
        return target.startswith("experts.") and fnmatch.fnmatchcase(full, target)
    return target == ALL_LINEAR or fnmatch.fnmatchcase(short, target) or fnmatch.fnmatchcase(full, target)


def short_name(name: str) -> str:
    """A projection as a target is usually spelt: "q_proj", but "experts.up_proj"."""
    return name if name.startswith("experts.") else name.partition(".")[2]


@jax.custom_vjp
def up_project(h_TxR: jax.Array, b_OxR: jax.Array) -> jax.Array:
    """`h B^T`, `[T, out]`. Its own derivative, since XLA's transposes `[T, out]` in memory for B's gradient."""
    return h_TxR @ b_OxR.T


def _up_project_forward(h, b):
    return up_project(h, b), (h, b)


def _up_project_backward(residuals, d_out):
    h, b = residuals
    return d_out @ b, jnp.einsum("tr,to->ro", h, d_out).T


up_project.defvjp(_up_project_forward, _up_project_backward)


def dropped(rows: jax.Array, rate: float, key: jax.Array, name: str) -> jax.Array:
    """Elements zero with probability `rate`, the others divided by `1 - rate`; another choice for each `name`."""
    kept = jax.random.bernoulli(jax.random.fold_in(key, zlib.crc32(name.encode())), 1 - rate, rows.shape)
    return jnp.where(kept, rows / (1 - rate), 0)


def merged(weight: jax.Array, a: jax.Array, b: jax.Array, scale: float) -> jax.Array:
    """`weight + scale * B A` in float32, cast back to the dtype of `weight` at the end.

    `weight` is `[..., out, in]` with `a` `[..., r, in]` and `b` `[..., out, r]`: one matrix, or a stack of them.
    """
    factors = (factor.astype(jnp.float32) for factor in (b, a))
    # TPUs multiply float32 as bfloat16 unless they are told otherwise.
    delta = jnp.einsum("...or,...ri->...oi", *factors, precision=jax.lax.Precision.HIGHEST)
    return (weight.astype(jnp.float32) + scale * delta).astype(weight.dtype)


def merge(params: Mapping, factors: Mapping, config: DecoderConfig, lora: LoraConfig) -> dict:
    """The base with every low-rank term added as `merged` does. `params` and `factors` are nested dicts."""
    held = projections(config)

    def walk(base: Mapping, update: Mapping, path: tuple[str, ...]) -> dict:
        if "lora_b" in update and "weight" not in base:
            raise ValueError(f"{'.'.join(path)} is quantized: merge into the original base")
        result = {}
        for name, value in base.items():
            if isinstance(value, Mapping):
                result[name] = walk(value, update.get(name, {}), (*path, name))
            elif name == "weight" and "lora_b" in update:
                layers = held[".".join(path[-2:])]
                at = jnp.asarray([layers.index(layer) for layer in lora.chosen(".".join(path), layers)])
                changed = merged(value[at], update["lora_a"], update["lora_b"], lora.scale)
                result[name] = jnp.asarray(value).at[at].set(changed)
            else:
                result[name] = value
        return result

    return walk(params, factors, ())
