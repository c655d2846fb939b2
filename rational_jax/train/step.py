"""One training step: a pure function of state and batch, compiled once."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rational_jax.models import DecoderConfig, Execution, LoraConfig, bind, combine
from rational_jax.parallel import DEFAULT_RULES, AxisRules
from rational_jax.train.loss import LossSums, loss_sums


class TrainState(NamedTuple):
    """What a checkpoint holds: the trained arrays as a nested dict, the optimizer's state, the steps taken."""

    trainable: dict
    opt_state: Any
    step: jax.Array


def optimizer_shardings(trainable: dict, optimizer: optax.GradientTransformation, mesh: Mesh) -> Any:
    """Where the optimizer's state lies: what is of a parameter's shape as that parameter does, the rest everywhere.

    `trainable` are arrays, or their shapes with shardings.
    """
    replicated = NamedSharding(mesh, PartitionSpec())
    return optax.tree.map_params(
        optimizer,
        # Some keep less of a parameter than one number for each of its own, such as sums of rows and columns.
        lambda leaf, parameter: parameter.sharding if leaf.shape == parameter.shape else replicated,
        jax.eval_shape(optimizer.init, trainable),
        trainable,
        transform_non_params=lambda _: replicated,
    )


def init_state(trainable: dict, optimizer: optax.GradientTransformation, mesh: Mesh) -> TrainState:
    """A state at step zero, the optimizer's part of it where `optimizer_shardings` says."""
    replicated = NamedSharding(mesh, PartitionSpec())
    placed = optimizer_shardings(trainable, optimizer, mesh)
    # Made under jit, where all processes of a mesh agree without asking each other.
    start = jax.jit(lambda x: (optimizer.init(x), jnp.zeros((), jnp.int32)), out_shardings=(placed, replicated))
    return TrainState(trainable, *start(trainable))


class Loss(Protocol):
    """What a step minimises: `sums`, a named tuple of float32 sums that add up over parts of a batch."""

    sums: type[tuple]

    def prepared(self, batch: dict, step: jax.Array) -> dict:
        """The whole batch as its parts are to see it; `step` is from zero."""

    def __call__(self, trainable: dict, frozen: dict, batch: dict, key: jax.Array | None) -> Any:
        """The sums over a part of a batch. `weighted` is differentiated; `key` is of LoRA's dropout."""

    def scale(self, sums: Any) -> jax.Array | float:
        """What the gradient of the whole batch's `weighted` is multiplied by."""

    def metrics(self, sums: Any, scale: jax.Array | float, step: jax.Array) -> dict[str, jax.Array]:
        """Float32 scalars for a person to read, `loss` among them."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class SftLoss:
    """Next-token cross-entropy (`loss_sums`), a mean over the batch's weights."""

    config: DecoderConfig
    execution: Execution
    lora: LoraConfig | None
    z_loss: float = 0.0

    sums = LossSums

    def prepared(self, batch: dict, step: jax.Array) -> dict:
        return batch

    def __call__(self, trainable: dict, frozen: dict, batch: dict, key: jax.Array | None) -> LossSums:
        decoder = bind(self.config, combine(frozen, trainable), self.lora)
        return loss_sums(decoder, batch, self.execution, z_loss=self.z_loss, dropout_key=key)

    def scale(self, sums: LossSums) -> jax.Array:
        return 1 / jnp.maximum(sums.weight, 1e-9)

    def metrics(self, sums: LossSums, scale: jax.Array, step: jax.Array) -> dict[str, jax.Array]:
        return {
            "loss": sums.weighted * scale,
            "loss_reasoning": sums.reasoning / sums.reasoning_tokens,
            "loss_answer": sums.answer / sums.answer_tokens,
        }


@dataclasses.dataclass(frozen=True, kw_only=True)
class StepOptions:
    """What of a step is a matter of choice.

    `micro_batches`: into how many parts the batch is cut, whose gradients are added up (weighted by their tokens, so
    that the result is that of the whole). `z_loss`: see `loss_sums`. `seed`: of LoRA's dropout, which is another one in
    every step.
    """

    micro_batches: int = 1
    z_loss: float = 0.0
    seed: int = 0


def make_train_step(
    config: DecoderConfig,
    optimizer: optax.GradientTransformation,
    execution: Execution,
    lora: LoraConfig | None = None,
    *,
    options: StepOptions = StepOptions(),
    mesh: Mesh | None = None,
    axes: Mapping | None = None,
    rules: AxisRules = DEFAULT_RULES,
    loss: Loss | None = None,
) -> Callable:
    """`(state, frozen, batch) -> (state, metrics)`, to be jitted with the state donated.

    `frozen` is what is not trained: the base under LoRA, nothing for full SFT. `loss` is that of SFT where none is
    given. Metrics are float32 scalars: the loss that is minimised, for SFT its parts on reasoning and on answer tokens
    (nats a token; NaN where a batch has none), and the gradient's norm before clipping; `tokens` (int32) are those of
    the batch, without padding.

    With `execution.gather` the gradient is computed under `shard_map`: each device runs its own rows and gathers a
    layer's weights just before it is run; `mesh`, and the logical `axes` of all arrays, are needed then. Otherwise the
    compiler partitions the program by the arguments' shardings.
    """

    minimised = loss or SftLoss(config=config, execution=execution, lora=lora, z_loss=options.z_loss)

    def objective(trainable, frozen, batch, key) -> tuple[jax.Array, Any]:
        sums = minimised(trainable, frozen, batch, key)
        return sums.weighted, sums

    def gradients(trainable, frozen, batch, key) -> tuple[dict, Any]:
        """Of the weighted sum over the batch, one part after the other."""
        differentiate = jax.grad(objective, has_aux=True)
        parts = options.micro_batches
        if parts == 1:
            return differentiate(trainable, frozen, batch, key)

        def add(total, part):
            number, rows = part
            found = differentiate(trainable, frozen, rows, None if key is None else jax.random.fold_in(key, number))
            return jax.tree.map(jnp.add, total, found), None

        # Rows are dealt out one by one: each part is spread over all devices, as the batch is.
        dealt = jax.tree.map(lambda x: x.reshape(-1, parts, *x.shape[1:]).swapaxes(0, 1), batch)
        wide = jax.tree.map(lambda x: jnp.zeros(x.shape, jnp.float32), trainable)
        start = (wide, minimised.sums(*(jnp.zeros((), jnp.float32),) * len(minimised.sums._fields)))
        return jax.lax.scan(add, start, (jnp.arange(parts), dealt))[0]

    if execution.gather:
        gradients = _sharded(gradients, mesh, axes, rules, execution.gather)

    def train_step(state: TrainState, frozen: dict, batch: dict) -> tuple[TrainState, dict[str, jax.Array]]:
        key = None
        if lora is not None and lora.dropout:
            key = jax.random.fold_in(jax.random.key(options.seed), state.step)
        grads, sums = gradients(state.trainable, frozen, minimised.prepared(batch, state.step), key)
        scale = minimised.scale(sums)
        grads = jax.tree.map(lambda g, x: (g * scale).astype(x.dtype), grads, state.trainable)
        updates, opt_state = optimizer.update(grads, state.opt_state, state.trainable)
        metrics = minimised.metrics(sums, scale, state.step) | {
            "grad_norm": optax.tree.norm(grads),
            "tokens": jnp.count_nonzero(batch["segments"]),
        }
        return TrainState(optax.apply_updates(state.trainable, updates), opt_state, state.step + 1), metrics

    return train_step


def make_measure(
    config: DecoderConfig,
    execution: Execution,
    lora: LoraConfig | None = None,
    *,
    mesh: Mesh | None = None,
    axes: Mapping | None = None,
    rules: AxisRules = DEFAULT_RULES,
) -> Callable:
    """`(trainable, frozen, batch) -> LossSums`, to be jitted: the loss alone, as `make_train_step` has it."""

    def local(trainable, frozen, batch) -> LossSums:
        sums = loss_sums(bind(config, combine(frozen, trainable), lora), batch, execution)
        return jax.lax.psum(sums, tuple(mesh.axis_names)) if execution.gather else sums

    def measure(trainable, frozen, batch) -> LossSums:
        placed = (_specs(trainable, axes, rules), _specs(frozen, axes, rules), rules.spec(("batch", "sequence")))
        whole = PartitionSpec()
        return jax.shard_map(local, mesh=mesh, in_specs=placed, out_specs=whole, check_vma=False)(
            trainable, frozen, batch
        )

    return measure if execution.gather else local


def _specs(tree: Mapping, axes: Mapping, rules: AxisRules) -> dict:
    """Where the arrays of a tree lie, by the tree of their logical axes."""
    return {
        name: _specs(value, axes[name], rules) if isinstance(value, Mapping) else rules.spec(axes[name])
        for name, value in tree.items()
    }


def _sharded(gradients: Callable, mesh: Mesh, axes: Mapping, rules: AxisRules, gathered: tuple[str, ...]) -> Callable:
    """`gradients` run by every device on its own rows and its own parts of the arrays."""
    everywhere = tuple(mesh.axis_names)

    def wrapped(trainable, frozen, batch, key):
        trained = _specs(trainable, axes, rules)

        def local(trainable, frozen, batch, key):
            if key is not None:
                key = jax.random.fold_in(key, jax.lax.axis_index(everywhere))
            grads, sums = gradients(trainable, frozen, batch, key)

            # The transpose of a gather has added up over the axes it gathered; all other axes are left to do.
            def add_up(gradient, spec):
                done = {axis for entry in spec if entry for axis in ((entry,) if isinstance(entry, str) else entry)}
                left = tuple(axis for axis in everywhere if axis not in done & set(gathered))
                return jax.lax.psum(gradient, left)

            return jax.tree.map(add_up, grads, trained), jax.lax.psum(sums, everywhere)

        rows = rules.spec(("batch", "sequence"))
        return jax.shard_map(
            local,
            mesh=mesh,
            in_specs=(trained, _specs(frozen, axes, rules), rows, PartitionSpec()),
            out_specs=(trained, PartitionSpec()),
            check_vma=False,  # kernels do not say over which axes their results vary
        )(trainable, frozen, batch, key)

    return wrapped
