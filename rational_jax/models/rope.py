"""Rotary position embedding (Su et al., arXiv 2104.09864) in Hugging Face's layout: halves of a head, not pairs."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rational_jax.models.config import DecoderConfig, RopeScaling

SCALINGS = ("linear", "dynamic", "llama3", "yarn", "longrope")

Tables = tuple[jax.Array, jax.Array]


def inverse_frequencies(config: DecoderConfig, *, local: bool = False) -> np.ndarray:
    """Radians a position for each of the `rotary_dim / 2` planes, float32, stretched as `rope_scaling` says.

    `local`: those of the layers with a window, where the model has a base of their own. Formulas are those of
    transformers' rope functions; the papers are named in `RopeScaling`.
    """
    size = config.rotary_dim
    # A division, as in transformers: the negative power rounds otherwise, and long contexts multiply the difference.
    exponents = np.arange(0, size, 2, dtype=np.float32) / size
    if local:
        return 1.0 / (config.local_rope_theta**exponents)
    plain = 1.0 / (config.rope_theta**exponents)
    context = config.context or config.max_positions
    match scaling := config.rope_scaling:
        case None:
            return plain
        case RopeScaling(kind="linear"):
            return plain / scaling.factor
        case RopeScaling(kind="dynamic"):
            longest = max(context, config.max_positions)
            growth = scaling.factor * longest / config.max_positions - (scaling.factor - 1)
            base = config.rope_theta * growth ** (size / (size - 2))
            return (1.0 / (base**exponents)).astype(np.float32)
        case RopeScaling(kind="llama3"):
            turns = scaling.original_max_positions * plain / (2 * math.pi)
            kept = (turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor)
            kept = np.clip(kept, 0, 1)
        case RopeScaling(kind="yarn"):
            kept = 1 - _yarn_ramp(config, scaling)
        case RopeScaling(kind="longrope"):
            long = context > scaling.original_max_positions
            factors = np.asarray(scaling.long_factors if long else scaling.short_factors, np.float32)
            if factors.shape != plain.shape:
                raise ValueError(f"longrope has {len(factors)} factors for {len(plain)} rotary planes")
            return (1.0 / (factors * config.rope_theta**exponents)).astype(np.float32)
        case _:
            raise ValueError(f"unknown rope scaling {scaling.kind!r}; there are {', '.join(SCALINGS)}")
    return (kept * plain + (1 - kept) * plain / scaling.factor).astype(np.float32)


def _yarn_ramp(config: DecoderConfig, scaling: RopeScaling) -> np.ndarray:
    """How far each plane is interpolated: 0 for those that turn often within the original context, 1 for the slow."""
    size = config.rotary_dim

    def plane(turns: float) -> float:
        length = scaling.original_max_positions / (turns * 2 * math.pi)
        return size * math.log(length) / (2 * math.log(config.rope_theta))

    low, high = plane(scaling.beta_fast), plane(scaling.beta_slow)
    if scaling.truncate:
        low, high = math.floor(low), math.ceil(high)
    low, high = max(low, 0), min(high, size - 1)
    width = high - low or 0.001
    return np.clip((np.arange(size // 2, dtype=np.float32) - low) / width, 0, 1)


def rotary_tables(config: DecoderConfig, positions_BxS: jax.Array) -> dict[str | None, Tables | None]:
    """Cosine and sine of every position's angles, float32 `[B, S, rotary_dim / 2]`, for each `LayerKind.rope`.

    Computed once and used by all layers.
    """
    magnitude = 1.0 if config.rope_scaling is None else config.rope_scaling.magnitude
    found: dict[str | None, Tables | None] = {}
    for rope in {kind.rope for kind in config.kinds}:
        if rope is None:
            found[rope] = None
            continue
        local = rope == "local"
        angles = positions_BxS[..., None].astype(jnp.float32) * inverse_frequencies(config, local=local)
        scale = 1.0 if local else magnitude
        found[rope] = (jnp.cos(angles) * scale, jnp.sin(angles) * scale)
    return found


def rotate(x_BxSxNxH: jax.Array, tables: Tables | None) -> jax.Array:
    """Rotates queries or keys `[B, S, heads, head_dim]`; float32 inside, the input's dtype outside.

    Where the tables are narrower than half a head, the rest of the head passes as it is.
    """
    if tables is None:
        return x_BxSxNxH
    cos, sin = (table[:, :, None] for table in tables)
    half = cos.shape[-1]
    wide = x_BxSxNxH.astype(jnp.float32)
    first, second, rest = wide[..., :half], wide[..., half : 2 * half], wide[..., 2 * half :]
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin, rest], axis=-1)
    return rotated.astype(x_BxSxNxH.dtype)
