"""Frozen weights in 4 or 8 bits, for QLoRA (Dettmers et al., arXiv 2305.14314).

A quantized matrix takes the place of `weight` in a layer's part of the tree with two arrays, whose names say the kind.
For a weight `[..., out, in]` they are

- "nf4": `nf4_codes`, uint8 `[..., out, in / 2]`, and `nf4_absmax`, float32 `[..., out, in / 64]`. Every 64 elements of
  a row have one scale, their largest magnitude, and each element is the nearest of 16 levels times that scale. The
  codes of two neighbours share a byte, the first in its upper half. Blocks, order and rounding are those of
  bitsandbytes, whose blocks go through a matrix row by row;
- "int8": `int8_codes`, int8 `[..., out, in]`, and `int8_scale`, float32 `[..., out]`. A row's scale is its largest
  magnitude divided by 127, and each element is a whole number from -127 to 127 times it.

Each part is sharded as the weight would be. Nothing is ever dequantized but the layer that computes.
"""

from __future__ import annotations

import functools
from collections.abc import Callable, Mapping
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rational_jax.errors import UserError
from rational_jax.models.lora import PROJECTIONS

KINDS = ("nf4", "int8")
PART_NAMES = {"nf4_codes", "nf4_absmax", "int8_codes", "int8_scale"}
BLOCK = 64
"""Elements that share a scale in NF4."""

NF4_LEVELS = np.array(
    [
        *(-1.0, -0.6961928009986877, -0.5250730514526367, -0.39491748809814453),
        *(-0.28444138169288635, -0.18477343022823334, -0.09105003625154495, 0.0),
        *(0.07958029955625534, 0.16093020141124725, 0.24611230194568634, 0.33791524171829224),
        *(0.44070982933044434, 0.5626170039176941, 0.7229568362236023, 1.0),
    ],
    np.float32,
)
"""The paper's levels: quantiles of the normal distribution, 7 below zero, zero, 8 above, divided by the largest."""

# An element between two of these has the level between them nearest.
_NF4_LIMITS = (NF4_LEVELS[1:] + NF4_LEVELS[:-1]) / 2


class Part(NamedTuple):
    """Shape, dtype and logical axes of one array of a quantized weight."""

    shape: tuple[int, ...]
    dtype: np.dtype
    axes: tuple[str | None, ...]


def is_linear(path: tuple[str, ...]) -> bool:
    """Whether a path in the tree of parameters is that of a weight to quantize: a router's is not."""
    return path[-1] == "weight" and ".".join(path[-3:-1]) in PROJECTIONS


def parts(kind: str, name: str, shape: tuple[int, ...], axes: tuple[str | None, ...] = ()) -> dict[str, Part]:
    """What a weight `[..., out, in]` of that shape and those logical axes (none: all None) becomes.

    Raises UserError, with `name`, where its rows cannot be cut into blocks.
    """
    *lead, size = shape
    axes = axes or (None,) * len(shape)
    if kind == "int8":
        return {
            "int8_codes": Part(shape, np.dtype(np.int8), axes),
            "int8_scale": Part((*lead,), np.dtype(np.float32), axes[:-1]),
        }
    if kind != "nf4":
        raise UserError(f"no quantization named {kind!r}; there are {', '.join(KINDS)}")
    if size % BLOCK:
        raise UserError(f"nf4 needs rows of a multiple of {BLOCK} elements, {name} has {size}: use int8")
    return {
        "nf4_codes": Part((*lead, size // 2), np.dtype(np.uint8), axes),
        "nf4_absmax": Part((*lead, size // BLOCK), np.dtype(np.float32), axes),
    }


def quantize(
    weight: jax.Array | np.ndarray, kind: str, shardings: Mapping[str, jax.sharding.Sharding] | None = None
) -> dict[str, jax.Array]:
    """The parts of a weight `[..., out, in]`, with these shardings (None: as they come out).

    A stack of layers is taken one by one, so that little more than the weight and its parts is ever held.
    """
    parts(kind, "this matrix", weight.shape)
    matrix = functools.partial(_quantize, kind=kind)
    over_experts = matrix if weight.ndim < 4 else jax.vmap(matrix)
    whole = matrix if weight.ndim < 3 else functools.partial(jax.lax.map, over_experts)
    return jax.jit(whole, out_shardings=shardings)(weight)


def _quantize(weight: jax.Array, kind: str) -> dict[str, jax.Array]:
    wide = weight.astype(jnp.float32)
    if kind == "int8":
        scale = jnp.abs(wide).max(-1) / 127
        codes = jnp.round(wide * _inverse(scale)[:, None])
        return {"int8_codes": codes.astype(jnp.int8), "int8_scale": scale}
    blocks = wide.reshape(wide.shape[0], -1, BLOCK)
    absmax = jnp.abs(blocks).max(-1)
    relative = blocks * _inverse(absmax)[..., None]
    # The number of limits below an element is the number of its level; comparing is what every backend does fast.
    codes = sum((relative > limit).astype(jnp.uint8) for limit in _NF4_LIMITS)
    pairs = codes.reshape(wide.shape[0], -1, 2)
    return {"nf4_codes": pairs[..., 0] << 4 | pairs[..., 1], "nf4_absmax": absmax}


def _inverse(scale: jax.Array) -> jax.Array:
    return jnp.where(scale > 0, 1 / jnp.where(scale > 0, scale, 1), 0)


def dequantize(quantized: Mapping[str, jax.Array], dtype: DTypeLike = jnp.float32) -> jax.Array:
    """The weight `[..., out, in]` of these parts: computed in float32, then cast to `dtype`."""
    if "int8_codes" in quantized:
        codes, scale = quantized["int8_codes"], quantized["int8_scale"]
        return (codes.astype(jnp.float32) * scale[..., None]).astype(dtype)
    halves = jnp.stack(_nf4_halves(quantized, dtype), axis=-1)
    return halves.reshape(*halves.shape[:-2], -1)


def _nf4_halves(quantized: Mapping[str, jax.Array], dtype: DTypeLike) -> list[jax.Array]:
    """The weight's even and odd columns, `[..., out, in / 2]` each."""
    codes, absmax = quantized["nf4_codes"], quantized["nf4_absmax"]
    scale = jnp.repeat(absmax, BLOCK // 2, axis=-1)
    look_up = functools.partial(jax.lax.platform_dependent, cpu=lambda x: jnp.asarray(NF4_LEVELS)[x], default=_selected)
    return [(look_up(half) * scale).astype(dtype) for half in (codes >> 4, codes & 15)]


def _selected(codes: jax.Array) -> jax.Array:
    """`NF4_LEVELS[codes]` as a tree of selections, one for each bit: on a TPU a gather goes element by element."""
    found = list(NF4_LEVELS)
    for bit in range(4):
        odd = (codes >> bit & 1).astype(bool)
        found = [jnp.where(odd, high, low) for low, high in zip(found[::2], found[1::2], strict=True)]
    return found[0]


def kind_of(node: Mapping) -> str | None:
    """How the weights of a nested dict of parameters are quantized: "nf4", "int8", or None where they are not."""
    for name, value in node.items():
        if isinstance(value, Mapping):
            if kind := kind_of(value):
                return kind
        elif (kind := name.removesuffix("_codes")) in KINDS:
            return kind
    return None


def multiply(product: Callable, rows: jax.Array, quantized: Mapping[str, jax.Array]) -> jax.Array:
    """`product(rows, weight)` with a weight that exists only inside: it is dequantized again for the derivative.

    The weight has the dtype of `rows`; there is no gradient of it. `product` contracts the last axis of both, and is
    taken of even and odd columns apart where codes lie in pairs: to put the weight's columns beside each other would
    take a TPU several times as long as the product.
    """

    def dequantized(rows, frozen):
        frozen = jax.lax.stop_gradient(frozen)
        if "int8_codes" in frozen:
            return product(rows, dequantize(frozen, rows.dtype))
        pairs = rows.reshape(*rows.shape[:-1], -1, 2)
        even, odd = _nf4_halves(frozen, rows.dtype)
        return product(pairs[..., 0], even) + product(pairs[..., 1], odd)

    return jax.checkpoint(dequantized, prevent_cse=False)(rows, dict(quantized))


def quantize_tree(params: Mapping, kind: str) -> dict:
    """A nested dict of parameters with the weights of all linear layers quantized; the router's stays as it is."""

    def walk(node: Mapping, path: tuple[str, ...]) -> dict:
        result = {
            name: walk(value, (*path, name)) if isinstance(value, Mapping) else value for name, value in node.items()
        }
        if "weight" in result and is_linear((*path, "weight")):
            result |= quantize(result.pop("weight"), kind)
        return result

    return walk(params, ())


def dequantize_tree(params: Mapping, dtype: DTypeLike = jnp.float32) -> dict:
    """A nested dict of parameters with every quantized weight as a plain one: the base that a QLoRA run trained on."""
    result = {
        name: dequantize_tree(value, dtype) if isinstance(value, Mapping) else value for name, value in params.items()
    }
    kept = {name: result.pop(name) for name in PART_NAMES & result.keys()}
    return result | {"weight": dequantize(kept, dtype)} if kept else result
