"""TPU topologies that are not there: what XLA needs to compile for them on any machine with libtpu installed."""

from __future__ import annotations

import importlib.util
import math
import os

from rational_jax.errors import UserError

# libtpu would otherwise ask the machine which TPU it is on.
_ENVIRONMENT = {
    "TPU_SKIP_MDS_QUERY": "1",
    "TPU_ACCELERATOR_TYPE": "v5litepod-16",
    "TPU_WORKER_HOSTNAMES": "localhost",
    "ALLOW_MULTIPLE_LIBTPU_LOAD": "1",
}
# Devices that share a host. The topology has to be a multiple of it; smaller ones and v5e's host of eight say so.
_ONE_CHIP = {"v5e": "1x1", "v6e": "1x1", "v5p": "1x1x1"}
_ONE_HOST_OF_EIGHT = ("v5e:2x4", "v6e:2x4")
HBM_GIB = {"v5e": 15.75, "v6e": 31.25, "v5p": 95.74, "v4": 30.75}
"""Memory a chip, GiB: the limit that the compiler enforces."""


def topology_devices(name: str, slices: int = 1) -> list:
    """The devices of a topology by name, such as "v5e:4x4" or "v5p:2x2x2"; `slices` of them for multislice.

    Raises UserError where libtpu is not installed or knows no such topology. Set `JAX_PLATFORMS=cpu` before importing
    jax in a process that only compiles.
    """
    if importlib.util.find_spec("libtpu") is None:
        raise UserError("compiling for a TPU needs libtpu: pip install 'rational_jax[tpu]'")
    for key, value in _ENVIRONMENT.items():
        os.environ.setdefault(key, value)
    from jax.experimental import topologies

    kind, _, shape = name.partition(":")
    options: dict = {} if slices == 1 else {"num_slices": slices}
    if shape == _ONE_CHIP.get(kind):
        options["chips_per_host_bounds"] = (1, 1, 1)
    elif name in _ONE_HOST_OF_EIGHT:
        options["chips_per_host_bounds"] = (2, 4, 1)
    elif kind == "v4":
        options |= {"chip_config_name": "megacore", "chips_per_host_bounds": (2, 2, 1), "wrap": (False,) * 3}
    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=name, **options).devices
    except (RuntimeError, ValueError) as error:
        why = " ".join(str(error).split())[:200]
        raise UserError(f"topology {name!r}: {why}; topologies are called like v5e:4x4, v6e:8x8, v5p:2x2x2") from error
    if len(found) != slices * math.prod(int(n) for n in shape.split("x")):
        raise UserError(f"topology {name!r} has {len(found)} devices")
    return list(found)
