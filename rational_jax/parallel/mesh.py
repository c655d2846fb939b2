"""The device mesh `(replica, fsdp, tensor)`."""

import math
from collections.abc import Sequence

import jax
from jax.sharding import AxisType, Mesh

from rational_jax.errors import UserError

AXES = ("replica", "fsdp", "tensor")


def make_mesh(replica: int = 1, fsdp: int = -1, tensor: int = 1, *, devices: Sequence | None = None) -> Mesh:
    """A mesh over all devices; one size may be -1, which takes what the others leave.

    Raises UserError where the sizes do not multiply to the number of devices.
    """
    devices = jax.devices() if devices is None else devices
    sizes = dict(zip(AXES, (replica, fsdp, tensor), strict=True))
    open_axes = [name for name, size in sizes.items() if size == -1]
    known = math.prod(size for size in sizes.values() if size != -1)
    wanted = ", ".join(f"{name}={size}" for name, size in sizes.items())
    if len(open_axes) > 1:
        raise UserError(f"mesh {wanted}: only one size may be -1")
    if open_axes and len(devices) % known == 0:
        sizes[open_axes[0]] = len(devices) // known
    if math.prod(sizes.values()) != len(devices):
        raise UserError(f"mesh {wanted} does not fit {len(devices)} devices: the sizes must multiply to that number")
    # Auto: the compiler propagates shardings from the arguments; jax now makes axes explicit by default.
    return jax.make_mesh(tuple(sizes.values()), AXES, axis_types=(AxisType.Auto,) * 3, devices=devices)
