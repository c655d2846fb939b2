"""The device mesh `(replica, fsdp, tensor)`, whose fsdp axis may be factored over a torus."""

from __future__ import annotations

import math
from collections.abc import Sequence

import jax
import numpy as np
from jax.experimental import mesh_utils
from jax.sharding import AxisType, Mesh

from rational_jax.errors import UserError

FSDP = ("fsdp", "fsdp_y", "fsdp_z")
"""The factors of the fsdp axis, major to minor; those that are not asked for have size 1."""
AXES = ("replica", *FSDP, "tensor")


def make_mesh(
    replica: int = 1, fsdp: int | Sequence[int] = -1, tensor: int = 1, *, devices: Sequence | None = None
) -> Mesh:
    """A mesh over all devices; one size may be -1, which takes what the others leave.

    `fsdp` may be up to three factors, one for each axis of a TPU's torus: collectives that go round one axis at a time
    are real reduce-scatters there, so on TPUs -1 becomes these factors where fsdp is all of a slice. On several slices
    `replica` is what lies on the slow network between them. Raises UserError where the sizes do not multiply to the
    number of devices.
    """
    devices = jax.devices() if devices is None else devices
    factors = (fsdp,) if isinstance(fsdp, int) else tuple(fsdp)
    if not 1 <= len(factors) <= len(FSDP):
        raise UserError(f"mesh fsdp={list(factors)}: it has one to {len(FSDP)} factors")
    sizes = {"replica": replica, **dict.fromkeys(FSDP, 1), "tensor": tensor} | dict(zip(FSDP, factors, strict=False))
    open_axes = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    wanted = ", ".join(f"{name}={size}" for name, size in (("replica", replica), ("fsdp", fsdp), ("tensor", tensor)))
    if len(open_axes) > 1:
        raise UserError(f"mesh {wanted}: only one size may be -1")
    if open_axes and len(devices) % known == 0:
        sizes[open_axes[0]] = len(devices) // known
        if fsdp == -1:
            sizes |= dict(zip(FSDP, _torus(devices, sizes["fsdp"]), strict=False))
    if math.prod(sizes.values()) != len(devices):
        raise UserError(f"mesh {wanted} does not fit {len(devices)} devices: the sizes must multiply to that number")
    # Auto: the compiler propagates shardings from the arguments; jax now makes axes explicit by default.
    return Mesh(_laid_out(tuple(sizes[name] for name in AXES), devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _torus(devices: Sequence, size: int) -> tuple[int, ...]:
    """The axes of a slice's torus that are longer than 1, where they make up `size` devices; else `size` itself."""
    coordinates = [getattr(device, "coords", None) for device in devices]
    if None in coordinates:
        return (size,)
    factors = tuple(n for axis in zip(*coordinates, strict=True) if (n := len(set(axis))) > 1)
    return factors if math.prod(factors) == size and len(factors) <= len(FSDP) else (size,)


def _laid_out(shape: tuple[int, ...], devices: Sequence) -> np.ndarray:
    """The devices as an array of the mesh's shape, neighbours in it being neighbours on the network."""
    slices = {getattr(device, "slice_index", 0) for device in devices}
    if len(slices) == 1:
        return mesh_utils.create_device_mesh(shape, devices, allow_split_physical_axes=True)
    if shape[0] % len(slices):
        raise UserError(f"replica={shape[0]} is no multiple of the {len(slices)} slices, which only replicas may span")
    within = (shape[0] // len(slices), *shape[1:])
    between = (len(slices), *(1,) * (len(shape) - 1))
    return mesh_utils.create_hybrid_device_mesh(within, between, devices, allow_split_physical_axes=True)
