"""The loop over a mesh of eight devices: what it computes, that it compiles once, that it resumes to the bit."""

import json
import os
import signal
import time

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import tensorboardX

from rational_jax import models, parallel, train
from rational_jax.checkpoint import Checkpoints
from rational_jax.config import TrainSection
from rational_jax.errors import Preempted, UserError
from rational_jax.train import preemption
from rational_jax.train.loop import Trace, Watcher, fit
from rational_jax.train.meter import Speed, peak_flops
from rational_jax.train.metrics import MetricsLog

LORA = models.LoraConfig(rank=4, alpha=8)
SECTION = TrainSection(steps=6, warmup_steps=2, learning_rate=1e-2)
EXECUTION = models.Execution()


def start(config, params, *, lora=LORA, devices=None, sizes=None, section=SECTION, execution=EXECUTION, **step):
    """A compiled step, a fresh state and the frozen arrays on a mesh."""
    mesh = parallel.make_mesh(**(sizes or {}), devices=devices)
    axes, rules = models.logical_axes(config, lora), parallel.AxisRules()

    def place(tree):
        return jax.device_put(tree, parallel.shardings(mesh, rules, tree, axes))

    # Copies: the state is donated, and the fixture's arrays serve other tests.
    base = place(jax.tree.map(jnp.array, params))
    trainable, frozen = (base, {}) if lora is None else (place(models.init_lora(config, lora, jax.random.key(5))), base)
    optimizer = train.make_optimizer(section)
    state = train.init_state(trainable, optimizer, mesh)
    train_step = train.make_train_step(config, optimizer, execution, lora, mesh=mesh, axes=axes, **step)
    compiled = train.compile_step(train_step, mesh, state)
    return mesh, compiled, state, frozen


def largest_difference(a, b) -> float:
    return max(jax.tree.leaves(jax.tree.map(lambda x, y: float(np.abs(np.asarray(x) - np.asarray(y)).max()), a, b)))


def test_the_optimizer_lies_where_its_parameters_lie(config, params):
    _, _, state, _ = start(config, params, sizes={"fsdp": 4, "tensor": 2})
    moments = [leaf for leaf in jax.tree.leaves(state.opt_state) if leaf.ndim == 3]
    assert len(moments) == 2 * len(jax.tree.leaves(state.trainable))
    for leaf, twin in zip(moments, 2 * jax.tree.leaves(state.trainable), strict=True):
        assert leaf.sharding == twin.sharding
    assert any(not leaf.sharding.is_fully_replicated for leaf in moments)


GATHER = models.Execution(gather=parallel.FSDP)


@pytest.mark.parametrize(
    ("lora", "options"),
    [
        (LORA, {"sizes": {"replica": 2, "fsdp": 2, "tensor": 2}}),
        (None, {"sizes": {"fsdp": 8}}),
        (None, {"sizes": {"replica": 2, "fsdp": (2, 2)}, "execution": GATHER}),
        (LORA, {"sizes": {"fsdp": (2, 4)}, "execution": GATHER}),
        (LORA, {"options": train.StepOptions(micro_batches=2), "sizes": {"fsdp": 4}, "devices": jax.devices()[:4]}),
    ],
    ids=["lora", "full", "full, gathered", "lora, gathered", "accumulated"],
)
def test_a_mesh_trains_as_one_device(config, params, batches, lora, options):
    results = []
    for where in ({"devices": jax.devices()[:1]}, options):
        mesh, compiled, state, frozen = start(config, params, lora=lora, **where)
        # One step: further steps of Adam amplify rounding where a second moment is nearly zero.
        state = fit(compiled, state, frozen, batches.batch, mesh=mesh, steps=1)
        gradients = state.opt_state[1][0].mu  # after one step, (1 - beta1) times the gradient
        results.append((state.trainable, gradients))
    scale = max(float(jnp.abs(leaf).max()) for leaf in jax.tree.leaves(results[0][1]))
    assert largest_difference(results[0][1], results[1][1]) < 1e-5 * scale


def test_only_what_is_trained_changes_and_the_loss_falls(config, params, batches, tmp_path):
    section = TrainSection(steps=40, warmup_steps=2, learning_rate=2e-2)
    mesh, compiled, state, frozen = start(config, params, section=section)
    before = jax.tree.map(np.asarray, frozen)
    with MetricsLog(tmp_path, resumed_step=0) as metrics:
        state = fit(compiled, state, frozen, lambda _: batches.batch(0), mesh=mesh, steps=40, metrics=metrics)
    assert largest_difference(before, frozen) == 0
    assert all(float(jnp.abs(leaf).max()) > 0 for leaf in jax.tree.leaves(state.trainable))
    losses = [json.loads(line)["loss"] for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert len(losses) == 40
    assert losses[-1] < 0.8 * losses[0]
    assert compiled.step._cache_size() == 1
    assert list((tmp_path / "tensorboard").glob("events.*"))


def test_resumed_to_the_bit(config, params, batches, tmp_path):
    whole, parts = tmp_path / "whole", tmp_path / "parts"

    def go(directory, steps):
        mesh, compiled, state, frozen = start(config, params)
        with Checkpoints(directory / "checkpoints", keep=2) as checkpoints:
            latest = checkpoints.latest()
            if latest is not None:
                state = type(state)(**checkpoints.restore(latest, state._asdict()))
            with MetricsLog(directory, resumed_step=latest or 0) as metrics:
                return fit(
                    compiled,
                    state,
                    frozen,
                    batches.batch,
                    mesh=mesh,
                    steps=steps,
                    checkpoints=checkpoints,
                    save_every=2,
                    metrics=metrics,
                )

    straight = go(whole, 6)
    go(parts, 4)
    # What a run writes after its last checkpoint and before it dies must not stand twice.
    with (parts / "metrics.jsonl").open("a") as log:
        log.write('{"step": 5, "loss": 1.0}\n{"step": 6, "lo')
    resumed = go(parts, 6)
    assert largest_difference(straight.trainable, resumed.trainable) == 0
    assert largest_difference(straight.opt_state, resumed.opt_state) == 0
    rows = [[json.loads(line) for line in (path / "metrics.jsonl").read_text().splitlines()] for path in (whole, parts)]
    figures = [[{k: v for k, v in row.items() if k in ("step", "grad_norm") or "loss" in k} for row in r] for r in rows]
    assert figures[0] == figures[1]
    assert {"loss", "loss_answer", "grad_norm"} < figures[0][0].keys()
    assert [row["step"] for row in rows[0]] == [1, 2, 3, 4, 5, 6]


def test_a_loss_that_is_not_finite_stops_the_run_before_it_is_saved(config, params, batches, tmp_path):
    mesh, compiled, state, frozen = start(config, params)

    def poisoned(index):
        batch = batches.batch(index)
        return batch | {"weights": batch["weights"] * np.float32(np.nan)} if index == 2 else batch

    with Checkpoints(tmp_path / "checkpoints") as checkpoints:
        options = {"checkpoints": checkpoints, "save_every": 1, "contents": lambda index: f"rows of batch {index}"}
        with pytest.raises(UserError, match="loss is nan at step 3, on rows of batch 2"):
            fit(compiled, state, frozen, poisoned, mesh=mesh, steps=6, **options)
        assert checkpoints.latest() == 2


def test_a_second_compilation_is_a_fault(config, params, batches):
    mesh, compiled, state, frozen = start(config, params)

    def growing(index):
        batch = batches.batch(index)
        return batch if index == 0 else {name: array[:, :-1] for name, array in batch.items()}

    with pytest.raises(RuntimeError, match="compiled a second time"):
        fit(compiled, state, frozen, growing, mesh=mesh, steps=3)
    mesh, compiled, state, frozen = start(config, params)
    assert int(fit(compiled, state, frozen, growing, mesh=mesh, steps=3, shapes=2).step) == 3


def test_a_preempted_run_saves_and_goes_on_to_the_same_end(config, params, batches, tmp_path):
    mesh, compiled, state, frozen = start(config, params)
    straight = fit(compiled, state, frozen, batches.batch, mesh=mesh, steps=4)

    def watched(step, state):
        if step == 2:
            os.kill(os.getpid(), signal.SIGTERM)
        return {}

    mesh, compiled, state, frozen = start(config, params)
    with Checkpoints(tmp_path) as checkpoints:
        options = {"mesh": mesh, "steps": 4, "checkpoints": checkpoints, "save_every": 100}
        with pytest.raises(Preempted, match="after step 2, which is saved"):
            fit(compiled, state, frozen, batches.batch, watchers=[Watcher(every=1, look=watched)], **options)
        assert checkpoints.steps() == [2]
        assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
        _, _, state, frozen = start(config, params)
        state = type(state)(**checkpoints.restore(2, state._asdict()))
        state = fit(compiled, state, frozen, batches.batch, **options)
    assert largest_difference(straight.trainable, state.trainable) == 0


@pytest.mark.parametrize("moment", ["the last step", "the last save"])
def test_a_notice_at_the_end_is_not_lost(config, params, batches, tmp_path, monkeypatch, moment):
    """Whoever called has other arms and verbs to go on with."""

    def notice(*_):
        os.kill(os.getpid(), signal.SIGTERM)
        return {}

    mesh, compiled, state, frozen = start(config, params)
    with Checkpoints(tmp_path) as checkpoints:
        watchers = [Watcher(every=2, look=notice)] if moment == "the last step" else []
        if not watchers:
            wait = checkpoints.wait
            monkeypatch.setattr(checkpoints, "wait", lambda: (wait(), notice()))
        options = {"mesh": mesh, "steps": 2, "checkpoints": checkpoints, "watchers": watchers}
        with pytest.raises(Preempted, match="after step 2, which is saved"):
            fit(compiled, state, frozen, batches.batch, **options)
        monkeypatch.undo()
        assert checkpoints.latest() == 2


def test_processes_ask_with_numbers_that_grow_from_arm_to_arm(monkeypatch):
    asked = []
    monkeypatch.setattr(jax, "process_count", lambda: 2)
    monkeypatch.setattr(preemption.multihost_utils, "reached_preemption_sync_point", asked.append)
    for _ in range(2):
        with preemption.Preemption() as noticed:
            for _ in range(3):
                noticed.is_due()
    assert asked == sorted(set(asked)) and len(asked) == 6


def test_a_trace_of_a_run_that_ends_early_is_written(config, params, batches, tmp_path):
    mesh, compiled, state, frozen = start(config, params)

    def fails(index):
        if index == 2:
            raise UserError("no more")
        return batches.batch(index)

    with pytest.raises(UserError, match="no more"):
        trace = Trace(first=1, last=4, directory=str(tmp_path))
        fit(compiled, state, frozen, fails, mesh=mesh, steps=4, trace=trace)
    assert list(tmp_path.rglob("*.xplane.pb"))


def test_what_is_watched_and_where_the_time_goes_stand_in_the_metrics(config, params, batches, tmp_path):
    def slow(index):
        time.sleep(0.2)
        return batches.batch(index)

    mesh, compiled, state, frozen = start(config, params)
    watcher = Watcher(every=3, look=lambda step, state: {"heldout_loss": float(step)})
    trace = Trace(first=2, last=3, directory=str(tmp_path / "trace"))
    speed = Speed(chips=8, flops=1e6, peak=1e12)
    with MetricsLog(tmp_path, resumed_step=0) as metrics:
        options = {"metrics": metrics, "log_every": 2, "watchers": [watcher], "trace": trace, "speed": speed}
        fit(compiled, state, frozen, slow, mesh=mesh, steps=5, **options)
    rows = [json.loads(line) for line in (tmp_path / "metrics.jsonl").read_text().splitlines()]
    assert [(row["step"], row.get("heldout_loss")) for row in rows] == [(2, None), (3, 3.0), (4, None), (5, 5.0)]
    last = rows[-1]
    # Five batches of 0.2 s each, of which at most what the first step's compilation takes was hidden.
    assert 0.2 < last["seconds/input"] < 1.1
    assert last["seconds/compile"] > 0.01
    assert all(last[f"seconds/{kind}"] >= 0 for kind in ("step", "idle", "checkpoint", "watch"))
    assert last["goodput"] == pytest.approx(last["seconds/step"] / sum(v for k, v in last.items() if "seconds/" in k))
    assert last["tokens_per_second_per_chip"] == pytest.approx(last["tokens_per_second"] / 8)
    assert last["mfu"] == pytest.approx(last["tokens_per_second_per_chip"] * 1e6 / 1e12)
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_events_of_steps_that_are_taken_again_are_purged(tmp_path, monkeypatch):
    purged = []
    writer = tensorboardX.SummaryWriter
    monkeypatch.setattr(
        tensorboardX, "SummaryWriter", lambda path, purge_step: purged.append(purge_step) or writer(path)
    )
    for step in (0, 0, 4):  # killed before the first checkpoint, then after the one of step 4
        with MetricsLog(tmp_path, resumed_step=step) as metrics:
            metrics.write(step + 1, {"loss": 1.0})
    assert purged == [None, 1, 5]


def test_peaks_by_the_name_of_the_device():
    assert peak_flops("TPU v5 lite") == 197e12
    assert peak_flops("TPU v5") == peak_flops("TPU v5p") == 459e12
    assert peak_flops("NVIDIA H100 80GB HBM3") == peak_flops("NVIDIA H200") == 989e12
    assert peak_flops("cpu") is None
