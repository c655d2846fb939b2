"""LoRA (Hu et al., arXiv 2106.09685): a trained low-rank term beside a frozen matrix, in PEFT's shapes and scaling."""

import dataclasses
from collections.abc import Mapping

import jax
import jax.numpy as jnp

from rational_jax.errors import UserError

TARGETS = ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj")


@dataclasses.dataclass(frozen=True, kw_only=True)
class LoraConfig:
    """Which matrices get a low-rank term; its weight is `alpha / rank`. Carried by checkpoints and exports."""

    rank: int
    alpha: float
    targets: tuple[str, ...] = TARGETS

    def __post_init__(self):
        unknown = [name for name in self.targets if name not in TARGETS]
        if unknown or not self.targets:
            named = ", ".join(unknown) or "(none given)"
            raise UserError(f"no layer named {named} for LoRA; there are {', '.join(TARGETS)}")

    @property
    def scale(self) -> float:
        return self.alpha / self.rank


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


def merge(params: Mapping, lora: Mapping, scale: float) -> dict:
    """The base with `scale * B A` added in float32, then cast back to each matrix's dtype. Both are nested dicts."""
    merged = {}
    for name, value in params.items():
        update = lora.get(name, {})
        if isinstance(value, Mapping):
            merged[name] = merge(value, update, scale)
        elif name == "weight" and "lora_b" in lora:
            delta = jnp.einsum("...or,...ri->...oi", *(lora[x].astype(jnp.float32) for x in ("lora_b", "lora_a")))
            merged[name] = (value.astype(jnp.float32) + scale * delta).astype(value.dtype)
        else:
            merged[name] = value
    return merged
