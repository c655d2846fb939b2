"""Parameters as they are made."""

import jax
import jax.numpy as jnp
import pytest
from tiny import tiny_llama

from rational_jax.errors import UserError
from rational_jax.models import LoraConfig, execution_for, init_lora, init_params


def test_what_is_made_has_a_dtype_of_its_own():
    # A weakly typed array would leave the first training step with another type than it came in, and compile a second.
    key = jax.random.key(0)
    trees = init_params(tiny_llama(), key), init_lora(tiny_llama(), LoraConfig(rank=2, alpha=4.0), key)
    for leaf in jax.tree.leaves(trees):
        assert leaf.dtype == jnp.float32 and not leaf.weak_type


def test_generation_takes_no_kernel_and_no_name_that_is_none():
    names = ("auto", "splash", "triton", "splash-interpreted", "xla", "reference")
    taken = [execution_for("tpu", attention=name).attention for name in names]
    assert taken == ["xla"] * 5 + ["reference"]
    with pytest.raises(UserError, match="attention 'splish' is none of auto, reference, xla, splash, triton"):
        execution_for("tpu", attention="splish")
