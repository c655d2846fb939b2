import jax
import jax.numpy as jnp
import pytest
from jax.sharding import NamedSharding, PartitionSpec

from rational_jax.config import TrainSection
from rational_jax.errors import UserError
from rational_jax.parallel import make_mesh
from rational_jax.train import init_state
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
        vector, matrix = fill((2, 3)), fill((2, 3, 3))
        mlp = {"up_proj": {"lora_a": matrix, "bias": vector}}
        return {"layers": {"attention_norm": {"weight": vector}, "mlp": mlp}}

    params = tree(jnp.ones)
    mlp = {"up_proj": {"lora_a": True, "bias": False}}
    assert matrices(params) == {"layers": {"attention_norm": {"weight": False}, "mlp": mlp}}
    section = TrainSection(weight_decay=0.5, learning_rate=1.0, schedule="constant", warmup_steps=0)
    optimizer = make_optimizer(section)
    updates, _ = optimizer.update(tree(jnp.zeros), optimizer.init(params), params)
    assert float(jnp.abs(updates["layers"]["attention_norm"]["weight"]).max()) == 0
    assert float(jnp.abs(updates["layers"]["mlp"]["up_proj"]["bias"]).max()) == 0
    assert float(updates["layers"]["mlp"]["up_proj"]["lora_a"].max()) == pytest.approx(-0.5)


@pytest.mark.parametrize("name", ["lion", "sgd", "adafactor", "novograd", "nadamw", "lars"])
def test_other_optimizers_by_name_on_a_mesh(name):
    """Also those that keep sums of a matrix's rows and columns, which no axis of the matrix describes."""
    mesh = make_mesh(fsdp=2, devices=jax.devices()[:2])
    params = {"w": jax.device_put(jnp.ones((256, 128)), NamedSharding(mesh, PartitionSpec("fsdp")))}
    optimizer = make_optimizer(TrainSection(optimizer=name))
    state = init_state(params, optimizer, mesh)
    updates, _ = jax.jit(optimizer.update)(params, state.opt_state, params)
    assert jnp.isfinite(updates["w"]).all()
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.shape == (256, 128)]
    assert all(leaf.sharding == params["w"].sharding for leaf in moments)


@pytest.mark.parametrize("name", ["sgd", "adam", "adafactor", "novograd"])
def test_decay_that_an_optimizer_does_not_have_is_refused(name):
    with pytest.raises(UserError, match=r"weight_decay=0"):
        make_optimizer(TrainSection(optimizer=name, weight_decay=0.1))


@pytest.mark.parametrize("name", ["sm3", "rprop", "lbfgs", "optimistic_adam"])
def test_an_optimizer_that_takes_no_schedule_is_refused(name):
    with pytest.raises(UserError, match="cannot be used"):
        make_optimizer(TrainSection(optimizer=name))


@pytest.mark.parametrize("name", ["adamx", "chain", "Schedule", "__doc__", "_deprecated_dpsgd"])
def test_what_is_no_optimizer_is_refused(name):
    with pytest.raises(UserError, match="no optimizer of optax"):
        make_optimizer(TrainSection(optimizer=name))
