"""Parameters as they are made."""

import jax
import jax.numpy as jnp
from tiny import tiny_llama

from rational_jax.models import LoraConfig, init_lora, init_params


def test_what_is_made_has_a_dtype_of_its_own():
    # A weakly typed array would leave the first training step with another type than it came in, and compile a second.
    key = jax.random.key(0)
    trees = init_params(tiny_llama(), key), init_lora(tiny_llama(), LoraConfig(rank=2, alpha=4.0), key)
    for leaf in jax.tree.leaves(trees):
        assert leaf.dtype == jnp.float32 and not leaf.weak_type
