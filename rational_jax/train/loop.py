"""The training loop: dispatch a step, then read the last one's metrics while the device works."""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rational_jax.checkpoint import Checkpoints
from rational_jax.errors import UserError
from rational_jax.parallel import DEFAULT_RULES, AxisRules
from rational_jax.progress import SILENT, Progress
from rational_jax.train.metrics import MetricsLog
from rational_jax.train.step import TrainState


class Compiled(NamedTuple):
    """A jitted step and where its batches go."""

    step: Callable
    batch_sharding: NamedSharding


def jit_step(train_step: Callable, mesh: Mesh, state: TrainState, compiler_options: dict | None = None) -> Callable:
    """Jits a step whose state keeps its shardings, so that the second call finds the first one's program."""
    replicated = NamedSharding(mesh, jax.sharding.PartitionSpec())
    kept = jax.tree.map(lambda leaf: leaf.sharding, state)
    shardings = (kept, replicated)
    return jax.jit(train_step, donate_argnums=0, out_shardings=shardings, compiler_options=compiler_options)


def compile_step(
    train_step: Callable,
    mesh: Mesh,
    state: TrainState,
    rules: AxisRules = DEFAULT_RULES,
    compiler_options: dict | None = None,
) -> Compiled:
    """A jitted step, and the sharding of the batches that it takes."""
    step = jit_step(train_step, mesh, state, compiler_options)
    return Compiled(step, NamedSharding(mesh, rules.spec(("batch", "sequence"))))


def fit(
    compiled: Compiled,
    state: TrainState,
    frozen: dict,
    batch_at: Callable[[int], dict[str, np.ndarray | jax.Array]],
    *,
    mesh: Mesh,
    steps: int,
    checkpoints: Checkpoints | None = None,
    save_every: int = 0,
    metadata: dict | None = None,
    metrics: MetricsLog | None = None,
    log_every: int = 1,
    description: str = "train",
    progress: Progress = SILENT,
) -> TrainState:
    """Takes the state from the step it stands at to `steps`. `batch_at(i)` gives the batch of the i-th step, from zero.

    Raises UserError where a loss is not finite, naming the step: the last checkpoint before it stands.
    """
    start = int(state.step)
    pending = None  # the metrics of the step before, still on the device
    clock = time.perf_counter()  # when the last metrics came, or a checkpoint was handed over
    with jax.set_mesh(mesh), progress.task(description, total=steps, unit="steps", done=start) as task:

        def settle(pending) -> None:
            nonlocal clock
            step, values = pending
            values = {name: float(value) for name, value in values.items()}
            tokens = values.pop("tokens")
            if not math.isfinite(values["loss"]):
                loss = values["loss"]
                raise UserError(f"{description}: the loss is {loss} at step {step}; lower train.learning_rate")
            now = time.perf_counter()
            values["tokens_per_second"] = tokens / (now - clock)
            clock = now
            if metrics and step % log_every == 0:
                metrics.write(step, values)
            task.advance()
            task.note(f"loss {values['loss']:.3f}  {values['tokens_per_second']:,.0f} tokens/s")

        for index in range(start, steps):
            batch = batch_at(index)
            placed = jax.device_put(batch, compiled.batch_sharding)
            state, values = compiled.step(state, frozen, placed)
            if compiled.step._cache_size() > 1:
                raise RuntimeError("the training step was compiled a second time: a shape or a sharding changed")
            if pending:
                settle(pending)
            pending = (index + 1, values)
            if checkpoints and (index + 1 == steps or (save_every and (index + 1) % save_every == 0)):
                settle(pending)  # a state whose loss was not finite is never saved
                pending = None
                checkpoints.save(index + 1, state._asdict(), metadata or {})
                clock = time.perf_counter()
        if pending:
            settle(pending)
        if checkpoints:
            checkpoints.wait()
    return state
