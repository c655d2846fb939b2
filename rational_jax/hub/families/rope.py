"""The rotary settings of a Hugging Face configuration as ours."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from rational_jax.errors import UserError
from rational_jax.models.config import RopeScaling
from rational_jax.models.rope import SCALINGS


def read_scaling(rope: Mapping[str, Any], max_positions: int) -> RopeScaling | None:
    """The scaling that one set of `rope_parameters` asks for, None for the plain frequencies.

    Defaults are those of transformers. Raises UserError for a kind that we do not have, KeyError for a missing number.
    """
    kind = rope.get("rope_type", "default")
    if kind == "default":
        return None
    if kind not in SCALINGS:
        raise UserError(f"rope type {kind!r} is not supported; supported: default, {', '.join(SCALINGS)}")
    if kind in ("linear", "dynamic"):
        return RopeScaling(kind=kind, factor=float(rope["factor"]))
    original = rope.get("original_max_position_embeddings") or max_positions
    if kind == "llama3":
        return RopeScaling(
            kind=kind,
            factor=float(rope["factor"]),
            low_freq_factor=float(rope["low_freq_factor"]),
            high_freq_factor=float(rope["high_freq_factor"]),
            original_max_positions=original,
        )
    factor = float(rope.get("factor") or max_positions / original)
    magnitude = rope.get("attention_factor")
    if kind == "yarn":
        return RopeScaling(
            kind=kind,
            factor=factor,
            original_max_positions=original,
            beta_fast=float(rope.get("beta_fast") or 32),
            beta_slow=float(rope.get("beta_slow") or 1),
            truncate=bool(rope.get("truncate", True)),
            magnitude=_yarn_magnitude(rope, factor) if magnitude is None else float(magnitude),
        )
    if magnitude is None:
        magnitude = math.sqrt(1 + math.log(factor) / math.log(original)) if factor > 1 else 1.0
    return RopeScaling(
        kind=kind,
        factor=factor,
        original_max_positions=original,
        short_factors=tuple(map(float, rope["short_factor"])),
        long_factors=tuple(map(float, rope["long_factor"])),
        magnitude=float(magnitude),
    )


def _yarn_magnitude(rope: Mapping[str, Any], factor: float) -> float:
    """How much larger cosine and sine are made for a context stretched by `factor` (arXiv 2309.00071, section 3.4)."""

    def magnitude(strength: float) -> float:
        return 0.1 * strength * math.log(factor) + 1.0 if factor > 1 else 1.0

    strengths = rope.get("mscale"), rope.get("mscale_all_dim")
    return magnitude(strengths[0]) / magnitude(strengths[1]) if all(strengths) else magnitude(1.0)


def write_rope(theta: float, scaling: RopeScaling | None) -> dict[str, Any]:
    """Both spellings: `rope_parameters` for transformers 5, `rope_theta` and `rope_scaling` for older readers.

    Knows the kinds that models without a Hugging Face directory are made with: plain, linear and llama3.
    """
    if scaling is None:
        return {"rope_theta": theta, "rope_parameters": {"rope_type": "default", "rope_theta": theta}}
    values: dict[str, Any] = {"rope_type": scaling.kind, "factor": scaling.factor}
    if scaling.kind == "llama3":
        values |= {
            "low_freq_factor": scaling.low_freq_factor,
            "high_freq_factor": scaling.high_freq_factor,
            "original_max_position_embeddings": scaling.original_max_positions,
        }
    elif scaling.kind != "linear":
        raise UserError(f"no config.json is written for a new model with rope scaling {scaling.kind!r}")
    return {"rope_theta": theta, "rope_scaling": values, "rope_parameters": {**values, "rope_theta": theta}}
