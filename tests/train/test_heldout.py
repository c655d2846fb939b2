"""The loss on held-out rows is that of the definition, on any mesh, and filling up the last batch adds nothing."""

import jax
import jax.numpy as jnp
import pytest

from rational_jax import models, parallel
from rational_jax.data.packing import pack
from rational_jax.train.heldout import HeldOut
from rational_jax.train.loss import loss_sums
from rational_jax.train.step import TrainState, make_measure

LORA = models.LoraConfig(rank=4, alpha=8)


@pytest.mark.parametrize(
    ("sizes", "execution"),
    [({"fsdp": 4, "tensor": 2}, models.Execution()), ({"fsdp": 8}, models.Execution(gather=parallel.FSDP))],
    ids=["partitioned", "gathered"],
)
def test_the_loss_over_all_rows(config, params, examples, sizes, execution):
    packed = pack(examples, length=48)
    assert packed.report.rows % 8, "the last batch has to be filled up"
    mesh, rules, axes = parallel.make_mesh(**sizes), parallel.AxisRules(), models.logical_axes(config, LORA)
    # Factors that are not zero, or an adapter that is left out would not be noticed.
    factors = jax.tree.map(lambda x: x + 0.1, models.init_lora(config, LORA, jax.random.key(5)))
    trainable, frozen = (
        jax.device_put(jax.tree.map(jnp.array, tree), parallel.shardings(mesh, rules, tree, axes))
        for tree in (factors, params)
    )
    measure = make_measure(config, execution, LORA, mesh=mesh, axes=axes, rules=rules)
    placed = jax.sharding.NamedSharding(mesh, rules.spec(("batch", "sequence")))
    found = HeldOut(measure, packed, 8, placed, frozen)(3, TrainState(trainable, None, None))
    batch = {
        name: jnp.asarray(getattr(packed, name)) for name in ("tokens", "segments", "positions", "weights", "kinds")
    }

    @jax.jit
    def alone(params, batch):
        return loss_sums(models.bind(config, params, LORA), batch, models.Execution(scan=False))

    sums = alone(models.combine(params, factors), batch)
    # Another order of about 900 float32 terms.
    assert found["heldout_loss"] == pytest.approx(float(sums.weighted / sums.weight), rel=1e-5)
    assert found["heldout_loss_reasoning"] == pytest.approx(float(sums.reasoning / sums.reasoning_tokens), rel=1e-5)
    assert found["heldout_loss_answer"] == pytest.approx(float(sums.answer / sums.answer_tokens), rel=1e-5)
