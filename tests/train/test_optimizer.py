import jax.numpy as jnp
import pytest

from rational_jax.config import TrainSection
from rational_jax.errors import UserError
from rational_jax.train.optimizer import learning_rate_schedule, make_optimizer, matrices


@pytest.mark.parametrize(
    ("schedule", "halfway", "last"), [("cosine", 0.5, 0.00156), ("linear", 0.5, 0.025), ("constant", 1.0, 1.0)]
)
def test_schedules(schedule, halfway, last):
    rate = learning_rate_schedule(TrainSection(steps=50, warmup_steps=10, learning_rate=1.0, schedule=schedule))
    assert [float(rate(i)) for i in range(10)] == pytest.approx([0.1 * (i + 1) for i in range(10)])
    assert float(rate(30)) == pytest.approx(halfway)
    assert float(rate(49)) == pytest.approx(last, abs=1e-3)


@pytest.mark.parametrize("warmup", [0, 1])
def test_short_warm_up_starts_at_the_peak(warmup):
    rate = learning_rate_schedule(TrainSection(steps=5, warmup_steps=warmup, learning_rate=0.5, schedule="constant"))
    assert [float(rate(i)) for i in range(3)] == pytest.approx([0.5] * 3)


def test_decay_leaves_norms_alone():
    def tree(fill):
        norm, matrix = fill((2, 3)), fill((2, 3, 3))
        return {"layers": {"attention_norm": {"weight": norm}, "mlp": {"up_proj": {"lora_a": matrix}}}}

    params = tree(jnp.ones)
    assert matrices(params) == {"layers": {"attention_norm": {"weight": False}, "mlp": {"up_proj": {"lora_a": True}}}}
    section = TrainSection(weight_decay=0.5, learning_rate=1.0, schedule="constant", warmup_steps=0)
    optimizer = make_optimizer(section)
    updates, _ = optimizer.update(tree(jnp.zeros), optimizer.init(params), params)
    assert float(jnp.abs(updates["layers"]["attention_norm"]["weight"]).max()) == 0
    assert float(updates["layers"]["mlp"]["up_proj"]["lora_a"].max()) == pytest.approx(-0.5)


@pytest.mark.parametrize("name", ["lion", "sgd", "adafactor"])
def test_other_optimizers_by_name(name):
    params = {"w": jnp.ones((3, 3))}
    optimizer = make_optimizer(TrainSection(optimizer=name))
    optimizer.update(params, optimizer.init(params), params)


@pytest.mark.parametrize("name", ["adamx", "chain", "Schedule", "__doc__"])
def test_what_is_no_optimizer_is_refused(name):
    with pytest.raises(UserError, match="no optimizer of optax"):
        make_optimizer(TrainSection(optimizer=name))
