"""A QLoRA step over a mesh is the LoRA step on the base that its quantized weights stand for."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_llama

from rational_jax import models, parallel, train
from rational_jax.config import TrainSection
from rational_jax.models import quantize

# Rows of 128 elements make two blocks of NF4, which lie on two devices.
CONFIG = tiny_llama(embed_dim=128, mlp_dim=128, head_dim=32)
LORA = models.LoraConfig(rank=4, alpha=8, rslora=True, layers=(1,))
SECTION = TrainSection(steps=3, warmup_steps=1, learning_rate=1e-2)


def trained(base: dict, batches, *, kind: str | None, gather: tuple[str, ...] = ()):
    """Trainable arrays and metrics after three steps on a mesh of eight devices."""
    sizes = {"replica": 4, "fsdp": 2} if gather else {"replica": 2, "fsdp": 2, "tensor": 2}
    mesh = parallel.make_mesh(**sizes)
    axes, rules = models.logical_axes(CONFIG, LORA, kind), parallel.AxisRules()

    def place(tree):
        return jax.device_put(tree, parallel.shardings(mesh, rules, tree, axes))

    optimizer = train.make_optimizer(SECTION)
    state = train.init_state(place(models.init_lora(CONFIG, LORA, jax.random.key(5))), optimizer, mesh)
    frozen = place(base)
    execution = models.Execution(gather=gather)
    step = train.make_train_step(CONFIG, optimizer, execution, LORA, mesh=mesh, axes=axes)
    compiled = train.compile_step(step, mesh, state)
    metrics = []
    with jax.set_mesh(mesh):
        for index in range(SECTION.steps):
            batch = jax.device_put(batches.batch(index), compiled.batch_sharding)
            state, values = compiled.step(state, frozen, batch)
            metrics.append(float(values["loss"]))
    assert compiled.step._cache_size() == 1
    return state.trainable, metrics


@pytest.mark.slow
@pytest.mark.parametrize("gather", [(), parallel.FSDP], ids=["partitioned by the compiler", "gathered by hand"])
def test_steps_are_those_on_the_dequantized_base(batches, gather):
    random = np.random.default_rng(0)
    shapes = models.abstract_params(CONFIG)
    params = jax.tree.map(lambda leaf: jnp.asarray(0.1 * random.standard_normal(leaf.shape, np.float32)), shapes)
    base = quantize.quantize_tree(params, "nf4")
    ours, losses = trained(base, batches, kind="nf4", gather=gather)
    theirs, expected = trained(quantize.dequantize_tree(base), batches, kind=None)
    # The same numbers in sums of another order: a few eps of float32, which Adam's division magnifies.
    np.testing.assert_allclose(losses, expected, rtol=1e-5)
    assert losses[2] < losses[0]
    assert jax.tree.structure(ours) == jax.tree.structure(theirs)
    for a, b in zip(jax.tree.leaves(ours), jax.tree.leaves(theirs), strict=True):
        np.testing.assert_allclose(a, b, atol=1e-4)
    assert all(leaf.shape[0] == 1 for leaf in jax.tree.leaves(ours)), "factors are allocated for the chosen layers only"
