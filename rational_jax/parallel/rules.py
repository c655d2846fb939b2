"""Which logical axis of an array lies on which axis of the mesh: one object, and nothing else decides it."""

import dataclasses
import math

import jax
from jax.sharding import AbstractMesh, Mesh, NamedSharding, PartitionSpec

from rational_jax.errors import UserError
from rational_jax.parallel.mesh import FSDP

Axes = tuple[str | None, ...]


@dataclasses.dataclass(frozen=True, kw_only=True)
class AxisRules:
    """Mesh axes for each logical axis; None replicates. FSDP shards every matrix on its embedding side."""

    batch: str | tuple[str, ...] | None = ("replica", *FSDP)
    sequence: str | None = None
    embed: str | tuple[str, ...] | None = FSDP
    heads: str | None = "tensor"
    kv_heads: str | None = "tensor"
    mlp: str | None = "tensor"
    vocab: str | None = "tensor"
    experts: str | None = None
    layers: str | None = None
    rank: str | None = None
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
            parts = _parts(mesh, placed)
            if size % parts:
                raise UserError(
                    f"{where}: axis {logical!r} of size {size} does not divide over {parts} devices of mesh axis "
                    f"{placed!r}; choose another mesh"
                )
        result[name] = NamedSharding(mesh, spec)
    return result


DEFAULT_RULES = AxisRules()
"""Parameters over `fsdp`, layers cut over `tensor`, the batch over `replica` and `fsdp`."""


def constrain(x: jax.Array, axes: Axes, rules: AxisRules = DEFAULT_RULES) -> jax.Array:
    """Fixes the sharding of an intermediate value under `jax.set_mesh`; without a mesh it does nothing.

    An axis that does not divide over its devices is replicated, as key-value heads are that are fewer than they.
    """
    mesh = jax.sharding.get_abstract_mesh()
    if mesh.empty or mesh.size == 1 or mesh.manual_axes:
        return x
    spec = rules.spec(axes)
    fitting = [placed if size % _parts(mesh, placed) == 0 else None for size, placed in zip(x.shape, spec, strict=True)]
    return jax.lax.with_sharding_constraint(x, PartitionSpec(*fitting))


def replicate_kv_heads(rules: AxisRules, mesh: Mesh, num_kv_heads: int) -> AxisRules:
    """The rules for a model with fewer key-value heads than devices to lay them on: every device holds them all.

    Their matrices could be cut inside a head, but each attention would then begin by putting the heads together.
    """
    divides = num_kv_heads % _parts(mesh, rules.kv_heads) == 0
    return rules if divides else dataclasses.replace(rules, kv_heads=None)


def _parts(mesh: Mesh | AbstractMesh, placed: str | tuple[str, ...] | None) -> int:
    """Over how many devices an axis with this placement is cut."""
    return math.prod(mesh.shape[axis] for axis in ((placed,) if isinstance(placed, str) else placed or ()))
