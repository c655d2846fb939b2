"""Which logical axis of an array lies on which axis of the mesh: one object, and nothing else decides it."""

import dataclasses
import math

import jax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rational_jax.errors import UserError

Axes = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxisRules:
    """Mesh axes for each logical axis; None replicates. FSDP shards every matrix on its embedding side."""

    batch: str | tuple[str, ...] | None = ("replica", "fsdp")
    sequence: str | None = None
    embed: str | None = "fsdp"
    heads: str | None = "tensor"
    kv_heads: str | None = "tensor"
    mlp: str | None = "tensor"
    vocab: str | None = "tensor"
    layers: str | None = None
    norm: str | None = None

    def spec(self, axes: Axes) -> PartitionSpec:
        """The partition of an array with these logical axes; UserError where two of them want one mesh axis."""
        placed = tuple(None if name is None else getattr(self, name) for name in axes)
        used = [axis for entry in placed if entry for axis in ((entry,) if isinstance(entry, str) else entry)]
        twice = {axis for axis in used if used.count(axis) > 1}
        if twice:
            raise UserError(f"axis rules lay two of {axes} on mesh axis {sorted(twice)[0]!r}: change one of the rules")
        return PartitionSpec(*placed)


def shardings(mesh: Mesh, rules: AxisRules, shapes: dict, axes: dict, path: str = "") -> dict:
    """NamedShardings for a nested dict of arrays (or shapes) by its tree of logical axes.

    Raises UserError naming the array and the axis where a size does not divide.
    """
    result = {}
    for name, value in shapes.items():
        where = f"{path}{name}"
        if isinstance(value, dict):
            result[name] = shardings(mesh, rules, value, axes[name], f"{where}.")
            continue
        spec = rules.spec(axes[name])
        for size, logical, placed in zip(value.shape, axes[name], spec, strict=True):
            parts = math.prod(mesh.shape[a] for a in ((placed,) if isinstance(placed, str) else placed or ()))
            if size % parts:
                raise UserError(
                    f"{where}: axis {logical!r} of size {size} does not divide over {parts} devices of mesh axis "
                    f"{placed!r}; choose another mesh"
                )
        result[name] = NamedSharding(mesh, spec)
    return result


DEFAULT_RULES = AxisRules()


def constrain(x: jax.Array, axes: Axes, rules: AxisRules = DEFAULT_RULES) -> jax.Array:
    """Fixes the sharding of an intermediate value under `jax.set_mesh`; without a mesh it does nothing."""
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return x
    return jax.lax.with_sharding_constraint(x, rules.spec(axes))
