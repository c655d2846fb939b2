"""`rational plan --search`: compiles a step in many ways and keeps the one that trains most tokens a second.

What cannot fit by arithmetic is not compiled, nor what keeps more than a way that did not fit. Each compile is a
process of its own, so that as many run at once as cores and memory allow.
"""

from __future__ import annotations

import contextlib
import functools
import itertools
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from pathlib import Path
from typing import Any, NamedTuple

import jax

from rational_jax import hub
from rational_jax.config import RunConfig, to_yaml
from rational_jax.errors import UserError
from rational_jax.models import DecoderConfig, abstract_params
from rational_jax.models.remat import POLICIES
from rational_jax.parallel import make_mesh
from rational_jax.parallel.aot import HBM_GIB, topology_devices
from rational_jax.parallel.hlo import GIB
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import JsonlLog, atomic_write_text, sha256_json

# Larger tiles of matrix products: fewer cycles by an eighth on v5e and a twentieth to a tenth on v6e and v5p.
_WIDE_TILES = ("xla_tpu_scoped_vmem_limit_kib=65536",)
FLAGS: dict[str, tuple[tuple[str, ...], ...]] = {kind: ((), _WIDE_TILES) for kind in ("v5e", "v5p", "v6e")}
"""Sets of compiler options that are tried beside the configuration's own, by chip."""

HEADROOM = 0.9
"""The part of a chip's memory that the best plan may fill."""

_COMPILE_GIB = 6
"""Host memory that one compile of a large model may take."""


class Way(NamedTuple):
    """One way to run the step: settings that change its cost, never what is learned but for rounding."""

    fsdp: tuple[int, ...]
    tensor: int
    remat: str
    micro_batches: int
    flags: tuple[str, ...]

    def words(self) -> list[str]:
        """The changes to a configuration that amount to it."""
        return [
            f"mesh.fsdp={json.dumps(list(self.fsdp))}",
            f"mesh.tensor={self.tensor}",
            f"train.remat={self.remat}",
            f"train.micro_batches={self.micro_batches}",
            f"train.tpu_flags={json.dumps(list(self.flags))}",
        ]


class Trial(NamedTuple):
    """A way and what its plan says, as `Plan.to_json` does; `error` instead where it could not be compiled at all."""

    way: Way
    plan: dict[str, Any]

    @property
    def usable(self) -> bool:
        """Whether it fits with headroom, and its speed is known."""
        made = self.plan
        return bool(made.get("fits") and made["bound"] and made["peak_gib"] <= HEADROOM * made["limit_gib"])


class Found(NamedTuple):
    """All trials, best first, the ways left untried, and the best's configuration as a file (None: nothing fits)."""

    trials: list[Trial]
    untried: int
    best: Path | None

    def to_json(self) -> dict[str, Any]:
        """The trials with their settings as overrides, best first, and the file of the best."""
        trials = [{"overrides": trial.way.words(), **trial.plan} for trial in self.trials]
        return {"best": self.best and str(self.best), "untried": self.untried, "trials": trials}


def search(
    config: RunConfig,
    topology: str,
    slices: int = 1,
    budget_minutes: float = 30.0,
    progress: Progress = SILENT,
    *,
    compiled: Callable[[RunConfig, str, int], dict[str, Any]] | None = None,
) -> Found:
    """Compiles ways to run the training step for a topology until all are tried or the budget is spent.

    Trials are kept in `<run>/plan/<topology>/trials.jsonl`, and a second search goes on from there; the best one's
    whole configuration is written beside them as `best.yaml`, which `rational train` takes. `compiled` gives the plan
    of one configuration (tests use their own). Raises UserError as `plan.run` does.
    """
    decoder = hub.load_config(hub.resolve(config.model.name, config.model.revision, weights=False))
    devices = topology_devices(topology, slices)
    ways = list(candidates(config, decoder, topology, devices))
    if not ways:
        raise UserError(
            f"nothing fits {topology} by arithmetic: use more chips, train.method=lora or qlora, or a smaller "
            f"train.sequence_length"
        )
    folder = Path(config.run) / "plan" / f"{topology.replace(':', '-')}{f'-{slices}-slices' * (slices > 1)}"
    key = sha256_json([config.model_dump(mode="json", exclude={"run"}), repr(decoder)])
    ends, jobs = time.monotonic() + 60 * budget_minutes, parallel_compiles()
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(JsonlLog(folder / "trials.jsonl"))
        trials = [Trial(_way(row["way"]), row["plan"]) for row in log.records() if row["key"] == key]
        done = {trial.way for trial in trials}
        waiting = [way for way in ways if way not in done]
        scratch = stack.enter_context(tempfile.TemporaryDirectory())
        compiled = compiled or functools.partial(_compile, scratch, ends)
        pool = stack.enter_context(ThreadPoolExecutor(jobs))
        progress.message(f"search {topology}: {len(waiting)} ways to try, {jobs} at once")
        task = stack.enter_context(progress.task(f"search {topology}", len(ways), "ways", len(ways) - len(waiting)))
        running: dict[Future, Way] = {}
        while True:
            while waiting and len(running) < jobs and time.monotonic() < ends:
                way = waiting.pop(0)
                running[pool.submit(compiled, _changed(config, way), topology, slices)] = way
            if not running:
                break
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                trial = Trial(running.pop(future), future.result())
                if trial.plan.get("stopped"):
                    waiting.append(trial.way)
                    continue
                trials.append(trial)
                log.append({"key": key, "way": trial.way._asdict(), "plan": trial.plan})
                hopeless = {way for way in waiting if _needs_more(way, trial)}
                waiting = [way for way in waiting if way not in hopeless]
                task.advance(1 + len(hopeless))
                if best := _best(trials):
                    task.note(f"best: {best.plan['tokens_per_second']:,.0f} tokens/s with {best.way.remat}")
    trials.sort(key=lambda trial: -(trial.plan.get("tokens_per_second") or 0) * trial.usable)
    file = None
    if best := _best(trials):
        file = folder / "best.yaml"
        atomic_write_text(file, to_yaml(_changed(config, best.way)))
    return Found(trials, len(waiting), file)


def candidates(config: RunConfig, decoder: DecoderConfig, topology: str, devices: list) -> Iterator[Way]:
    """Ways that are not ruled out by arithmetic, those that compute least before those that need least memory."""
    section, chips = config.train, len(devices)
    kind = topology.partition(":")[0]
    replica = config.mesh.replica
    flags = dict.fromkeys([tuple(section.tpu_flags), *FLAGS.get(kind, ())])
    for policy, (fsdp, tensor), parts, options in itertools.product(
        POLICIES, _meshes(config, decoder, devices), (1, 2, 4, 8), flags
    ):
        groups = chips // tensor
        if section.batch_size % (groups * parts):
            continue
        tokens = section.batch_size // (groups * parts) * section.sequence_length
        spread = chips // max(1, replica)
        if least_gib(config, decoder, policy, spread, tokens, tensor) < HEADROOM * HBM_GIB[kind]:
            yield Way(fsdp, tensor, policy, parts, options)


def least_gib(
    config: RunConfig, decoder: DecoderConfig, policy: str, spread: int, tokens: int, tensor: int = 1
) -> float:
    """GiB of a chip that no program can do without: parameters, optimizer, and what the remat policy keeps.

    `spread`: chips that parameters are divided over; `tokens`: those of a chip in a micro-batch.
    """
    section = config.train
    width, heads = decoder.embed_dim, decoder.head_dim * (decoder.num_heads + 2 * decoder.num_kv_heads)
    attended = decoder.head_dim * decoder.num_heads
    mlp = 0 if decoder.moe else decoder.mlp_dim
    kept = {"save-attention": heads + attended, "save-mlp": 2 * mlp, "save-matmuls": heads + attended + width + 2 * mlp}
    kept["none"] = kept["save-matmuls"]
    activations = 2 * tokens * decoder.num_layers * (width + kept.get(policy, 0) / tensor)
    parameters = sum(leaf.size for leaf in jax.tree.leaves(abstract_params(decoder)))
    per_parameter = {"full": 12 if section.parameters == "float32" else 6, "lora": 2, "qlora": 0.5}[section.method]
    return (parameters * per_parameter / spread + activations) / GIB


def parallel_compiles() -> int:
    """How many compiles this machine can run at once."""
    memory = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_AVPHYS_PAGES") / GIB
    return max(1, min(len(os.sched_getaffinity(0)), int(memory // _COMPILE_GIB)))


def _meshes(config: RunConfig, decoder: DecoderConfig, devices: list) -> list[tuple[tuple[int, ...], int]]:
    """The fsdp factors and tensor sizes to try: the torus, one axis, and tensor pairs within the key-value heads."""
    found = []
    for fsdp, tensor in ((-1, 1), (len(devices) // config.mesh.replica, 1), (-1, 2), (-1, 4)):
        if len(devices) % (tensor * config.mesh.replica) or decoder.num_kv_heads % tensor:
            continue
        shape = make_mesh(replica=config.mesh.replica, fsdp=fsdp, tensor=tensor, devices=devices).shape
        factors = tuple(size for axis, size in shape.items() if axis.startswith("fsdp") and size > 1) or (1,)
        found.append((factors, tensor))
    return list(dict.fromkeys(found))


def _needs_more(way: Way, trial: Trial) -> bool:
    """Whether a way keeps at least as much as one that did not fit."""
    other = trial.way
    order = list(POLICIES)
    same = (way.fsdp, way.tensor, way.flags) == (other.fsdp, other.tensor, other.flags)
    failed = trial.plan.get("fits") is False
    return (
        failed
        and same
        and order.index(way.remat) <= order.index(other.remat)
        and (way.micro_batches <= other.micro_batches)
    )


def _best(trials: list[Trial]) -> Trial | None:
    return max((t for t in trials if t.usable), key=lambda trial: trial.plan["tokens_per_second"], default=None)


def _changed(config: RunConfig, way: Way) -> RunConfig:
    mesh = config.mesh.model_copy(update={"fsdp": way.fsdp, "tensor": way.tensor})
    update = {"remat": way.remat, "micro_batches": way.micro_batches, "tpu_flags": way.flags}
    return config.model_copy(update={"mesh": mesh, "train": config.train.model_copy(update=update)})


def _way(row: dict) -> Way:
    return Way(tuple(row["fsdp"]), row["tensor"], row["remat"], row["micro_batches"], tuple(row["flags"]))


def _compile(folder: str, ends: float, config: RunConfig, topology: str, slices: int) -> dict[str, Any]:
    """`rational plan` in a process of its own, which is stopped when the time is over."""
    with tempfile.NamedTemporaryFile("w", suffix=".yaml", dir=folder, delete=False) as file:
        file.write(to_yaml(config))
    command = [sys.executable, "-m", "rational_jax.cli", "plan", file.name, "--topology", topology]
    command += ["--slices", str(slices), "--json"]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=max(1.0, ends - time.monotonic()))
    except subprocess.TimeoutExpired:
        return {"stopped": True}
    if done.returncode:
        return {"error": (done.stderr.strip().splitlines() or ["no message"])[-1][:500]}
    return json.loads(done.stdout)
