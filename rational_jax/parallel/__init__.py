"""Meshes, the rules that lay logical axes on them, and the set-up of a process."""

from rational_jax.parallel.mesh import FSDP, make_mesh
from rational_jax.parallel.rules import DEFAULT_RULES, AxisRules, constrain, replicate_kv_heads, shardings

__all__ = ["DEFAULT_RULES", "FSDP", "AxisRules", "constrain", "make_mesh", "replicate_kv_heads", "shardings"]
