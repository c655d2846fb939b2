"""What of a layer's forward pass is kept for its backward pass, by name.

Values that policies keep are tagged where they are made with `keep`. Kept on the device they cost memory a layer and
token; what is not kept is computed again. `scripts/bench/aot.py` measures each on TPUs.
"""

from __future__ import annotations

import functools
from collections.abc import Callable

import jax
from jax.ad_checkpoint import checkpoint_name

from rational_jax.errors import UserError

# Attention: its inputs and its result. Matrix products: what the projections give.
ATTENTION = ("query", "key", "value", "attended")
PROJECTIONS = ("query", "key", "value", "attended", "attention_out", "gate", "up")

POLICIES: dict[str, str] = {
    "none": "everything is kept: the most memory, nothing is computed twice",
    "save-matmuls": "the results of attention and of all projections but the last are kept",
    "save-mlp": "the two wide products of the MLP are kept",
    "save-attention": "queries, keys, values and what attention makes of them are kept",
    "offload": "as save-attention, but kept in the host's memory",
    "full": "only a layer's input is kept: the least memory, the whole forward pass is computed twice",
}
"""The policies and what each does, from the most memory to the least."""


def keep(x: jax.Array, name: str) -> jax.Array:
    """Tags a value, so that a policy may keep it."""
    return checkpoint_name(x, name)


def rematerialise(layer: Callable, policy: str) -> Callable:
    """`layer` with a backward pass that computes again what the policy does not keep; UserError for an unknown one."""
    if policy not in POLICIES:
        raise UserError(f"remat policy {policy!r} is none of {', '.join(POLICIES)}")
    if policy == "none":
        return layer
    saved = {"save-matmuls": PROJECTIONS, "save-attention": ATTENTION, "save-mlp": ("gate", "up")}
    named = jax.checkpoint_policies
    rule = {
        **{name: named.save_only_these_names(*values) for name, values in saved.items()},
        "offload": named.save_and_offload_only_these_names(
            names_which_can_be_saved=[],
            names_which_can_be_offloaded=list(ATTENTION),
            offload_src="device",
            offload_dst="pinned_host",
        ),
        "full": None,
    }[policy]
    # Inside a scan nothing can be shared between forward and backward pass anyway.
    return functools.partial(jax.checkpoint, policy=rule, prevent_cse=False)(layer)
