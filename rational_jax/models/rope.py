"""Rotary position embedding (Su et al., arXiv 2104.09864) in Hugging Face's layout: halves of a head, not pairs."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from rational_jax.models.config import DecoderConfig


def inverse_frequencies(config: DecoderConfig) -> np.ndarray:
    """Radians a position for each of a head's `head_dim / 2` planes, float32, stretched as `rope_scaling` says."""
    # A division, as in transformers: the negative power rounds otherwise, and long contexts multiply the difference.
    exponents = np.arange(0, config.head_dim, 2, dtype=np.float32) / config.head_dim
    plain = 1.0 / (config.rope_theta**exponents)
    scaling = config.rope_scaling
    if scaling is None:
        return plain
    if scaling.kind == "linear":
        return plain / scaling.factor
    if scaling.kind != "llama3":
        raise ValueError(f"unknown rope scaling {scaling.kind!r}; there are linear and llama3")
    # Llama 3.1: short wavelengths stay, long ones are divided by the factor, and those between are interpolated.
    turns = scaling.original_max_positions * plain / (2 * math.pi)
    kept = np.clip((turns - scaling.low_freq_factor) / (scaling.high_freq_factor - scaling.low_freq_factor), 0, 1)
    return (kept * plain + (1 - kept) * plain / scaling.factor).astype(np.float32)


def rotary_tables(config: DecoderConfig, positions_BxS: jax.Array) -> tuple[jax.Array, jax.Array]:
    """Cosine and sine of every position's angles, float32 `[B, S, head_dim / 2]`; computed once, used by all layers."""
    angles = positions_BxS[..., None].astype(jnp.float32) * inverse_frequencies(config)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BxSxNxH: jax.Array, tables: tuple[jax.Array, jax.Array]) -> jax.Array:
    """Rotates queries or keys `[B, S, heads, head_dim]`; float32 inside, the input's dtype outside."""
    cos, sin = (table[:, :, None] for table in tables)
    first, second = jnp.split(x_BxSxNxH.astype(jnp.float32), 2, axis=-1)
    rotated = jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
    return rotated.astype(x_BxSxNxH.dtype)
