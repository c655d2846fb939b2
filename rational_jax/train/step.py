"""One training step: a pure function of state and batch, compiled once."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rational_jax.models import DecoderConfig, Execution, LoraConfig, bind, combine
from rational_jax.train.loss import loss_sums


class TrainState(NamedTuple):
    """What a checkpoint holds: the trained arrays as a nested dict, the optimizer's state, the steps taken."""

    trainable: dict
    opt_state: Any
    step: jax.Array


def init_state(trainable: dict, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A state at step zero; the optimizer's moments lie where their parameters lie, the rest is replicated."""
    replicated = NamedSharding(mesh, PartitionSpec())
    placed = optax.tree.map_params(
        optimizer,
        lambda _, parameter: parameter.sharding,
        jax.eval_shape(optimizer.init, trainable),
        trainable,
        transform_non_params=lambda _: replicated,
    )
    opt_state = jax.jit(optimizer.init, out_shardings=placed)(trainable)
    return TrainState(trainable, opt_state, jax.device_put(jnp.zeros((), jnp.int32), replicated))


def make_train_step(
    config: DecoderConfig, optimizer: optax.GradientTransformation, execution: Execution, lora: LoraConfig | None = None
):
    """`(state, frozen, batch) -> (state, metrics)`, to be jitted with the state donated.

    `frozen` is what is not trained: the base under LoRA, nothing for full SFT. Metrics are float32 scalars: the loss
    that is minimised, its parts on reasoning and on answer tokens (nats a token; NaN where a batch has none), and the
    gradient's norm before clipping.
    """

    def objective(trainable, frozen, batch):
        decoder = bind(config, combine(frozen, trainable), lora)
        sums = loss_sums(decoder, batch, execution)
        return sums.weighted / jnp.maximum(sums.weight, 1e-9), sums

    def train_step(state: TrainState, frozen: dict, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        (loss, sums), grads = jax.value_and_grad(objective, has_aux=True)(state.trainable, frozen, batch)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        metrics = {
            "loss": loss,
            "loss_reasoning": sums.reasoning / sums.reasoning_tokens,
            "loss_answer": sums.answer / sums.answer_tokens,
            "grad_norm": optax.tree.norm(grads),
        }
        return TrainState(optax.apply_updates(state.trainable, updates), opt_state, state.step + 1), metrics

    return train_step
