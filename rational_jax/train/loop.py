"""The training loop: dispatch a step, then read the last one's metrics while the device works."""

import dataclasses
import math
import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import NamedTuple

import jax
import numpy as np
from jax.sharding import Mesh, NamedSharding

from rational_jax.checkpoint import Checkpoints
from rational_jax.errors import Preempted, UserError
from rational_jax.parallel import DEFAULT_RULES, AxisRules
from rational_jax.progress import SILENT, Progress
from rational_jax.train.feed import Feed
from rational_jax.train.meter import CHECKPOINT, COMPILE, INPUT, STEP, WATCH, Clock, Speed, memory
from rational_jax.train.metrics import MetricsLog
from rational_jax.train.preemption import Preemption
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


@dataclasses.dataclass(frozen=True, kw_only=True)
class Watcher:
    """Something to look at every so often: `look(step, state)` gives figures for the metrics, or writes its own."""

    every: int
    look: Callable[[int, TrainState], dict[str, float]]


@dataclasses.dataclass(kw_only=True)
class Trace:
    """A profiler trace of the steps from `first` to `last` (from 1, both included), in `directory`.

    Leaving it as a context writes what a run that ended early has of it.
    """

    first: int
    last: int
    directory: str
    running: bool = dataclasses.field(default=False, init=False)

    def before(self, step: int) -> None:
        """Called before each step."""
        if step == self.first:
            jax.profiler.start_trace(self.directory)
            self.running = True

    def after(self, step: int, values: dict[str, jax.Array]) -> None:
        """Called after each step was begun, with what it computes."""
        if step == self.last:
            jax.block_until_ready(values)
            self.stop()

    def stop(self) -> None:
        """Writes the trace, if it is running."""
        if self.running:
            self.running = False
            jax.profiler.stop_trace()

    def __enter__(self) -> "Trace":
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


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
    watchers: Sequence[Watcher] = (),
    trace: Trace | None = None,
    speed: Speed | None = None,
    contents: Callable[[int], str] = "batch {}".format,
    shapes: int = 1,
    description: str = "train",
    progress: Progress = SILENT,
) -> TrainState:
    """Takes the state from the step it stands at to `steps`. `batch_at(i)` gives the batch of the i-th step, from zero.

    `contents(i)` says in a few words what is in it. Batches are made in a thread of their own, a little ahead, and have
    at most `shapes` shapes, for each of which the step is compiled once.

    Raises UserError where a loss is not finite, naming the step and the batch: the last checkpoint before it stands.
    Raises Preempted after a SIGTERM, once the state is saved.
    """
    start = step = int(state.step)
    speed = speed or Speed(chips=mesh.size)
    preempted, pending = False, None  # the metrics of the step before, still on the device
    clock, since = Clock(), time.perf_counter()  # when the last metrics came, or a checkpoint was handed over
    with (
        progress.task(description, total=steps, unit="steps", done=start) as task,
        Preemption() as preemption,
        trace or nullcontext(),
        Feed(batch_at, start, steps) as feed,
    ):

        def settle(pending, seen: dict[str, float]) -> None:
            nonlocal since
            step, values = pending
            with clock.spent_on(STEP):
                values = {name: float(value) for name, value in values.items()}
            tokens = values.pop("tokens")
            if not math.isfinite(values["loss"]):
                raise UserError(
                    f"{description}: the loss is {values['loss']} at step {step}, on {contents(step - 1)}; "
                    "lower train.learning_rate, or look at these examples"
                )
            now = time.perf_counter()
            values |= seen | speed.figures(tokens, now - since)
            since = now
            if metrics and (seen or step % log_every == 0):
                metrics.write(step, values | clock.figures() | memory())
            task.advance()
            task.note(f"loss {values['loss']:.3f}  {values['tokens_per_second']:,.0f} tokens/s")

        for index in range(start, steps):
            step = index + 1
            with clock.spent_on(INPUT):
                placed = jax.device_put(feed.take(), compiled.batch_sharding)
            if trace:
                trace.before(step)
            began, programs = time.perf_counter(), compiled.step._cache_size()
            with jax.set_mesh(mesh):
                state, values = compiled.step(state, frozen, placed)
            clock.book(COMPILE if compiled.step._cache_size() > programs else STEP, time.perf_counter() - began)
            if compiled.step._cache_size() > shapes:
                raise RuntimeError("the training step was compiled a second time: a shape or a sharding changed")
            if trace:
                trace.after(step, values)
            if pending:
                settle(pending, {})
            pending = (step, values)
            seen: dict[str, float] = {}
            if looking := [watcher for watcher in watchers if step % watcher.every == 0 or step == steps]:
                with clock.spent_on(STEP):
                    jax.block_until_ready(values)
                began = time.perf_counter()
                for watcher in looking:
                    seen |= watcher.look(step, state)
                clock.book(WATCH, time.perf_counter() - began)
                since += time.perf_counter() - began  # it is no time of the step
            preempted = preemption.is_due()
            if seen or preempted or step == steps or (save_every and step % save_every == 0):
                settle(pending, seen)  # a state whose loss was not finite is never saved
                pending = None
            if checkpoints and (preempted or step == steps or (save_every and step % save_every == 0)):
                with clock.spent_on(CHECKPOINT):
                    checkpoints.save(step, state._asdict(), (metadata or {}) | {"metrics": seen})
                since = time.perf_counter()
            if preempted:
                break
        if checkpoints:
            with clock.spent_on(CHECKPOINT):
                checkpoints.wait()
        # The notice may have come during the last save: the verb that called has more to do, and no time for it.
        if preempted or preemption.is_due():
            raise Preempted(f"{description}: stopped by the system after step {step}, which is saved")
    return state
