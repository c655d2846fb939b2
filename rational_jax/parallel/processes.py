"""Several processes that work as one: how they find each other, agree, and end when one of them is lost."""

import json
import os
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import TypeVar

import jax
import numpy as np
from jax.experimental import multihost_utils

from rational_jax.errors import Unreachable, UserError

T = TypeVar("T")

HEARTBEAT_SECONDS = 20
"""After so long without a sign of life a process counts as dead, and JAX ends the others, naming it."""

_SHUTDOWN_SECONDS = 45
_CHIPS = ("/dev/accel0", "/dev/vfio/0")  # what TPU machines have, older and newer ones
_SETTINGS = ("JAX_COORDINATOR_ADDRESS", "JAX_NUM_PROCESSES", "JAX_PROCESS_ID")


def join() -> None:
    """Makes this process one of several, if it was started as such. Call it before the first computation.

    On TPUs, and under srun and mpirun, JAX finds the others by itself. Elsewhere the environment names them:
    JAX_COORDINATOR_ADDRESS (host:port of process 0), JAX_NUM_PROCESSES and JAX_PROCESS_ID. From then on an error that
    nobody catches ends this process without waiting for the others, and a process that dies ends them all.

    Raises UserError where the environment names only some of these, or no numbers.
    """
    given = {name: os.environ[name] for name in _SETTINGS if os.environ.get(name)}
    if not given and not _started_by_a_cluster():
        return
    if jax.distributed.is_initialized():
        return
    jax.config.update("jax_cpu_collectives_implementation", "gloo")
    named = {}
    if given:
        if missing := [name for name in _SETTINGS if name not in given]:
            raise UserError(f"{', '.join(given)} is set and {', '.join(missing)} is not; several processes need all")
        address, count, index = given.values()
        if not (count.isdecimal() and index.isdecimal() and int(index) < int(count)):
            raise UserError(f"JAX_PROCESS_ID={index} is no number below JAX_NUM_PROCESSES={count}")
        named = {
            "coordinator_address": address,
            "num_processes": int(count),
            "process_id": int(index),
            "cluster_detection_method": "deactivate",
        }
    jax.distributed.initialize(
        **named, heartbeat_timeout_seconds=HEARTBEAT_SECONDS, shutdown_timeout_seconds=_SHUTDOWN_SECONDS
    )
    if jax.process_count() > 1:
        sys.excepthook = _end


def is_lead() -> bool:
    """Whether this is the process that writes what only one may write."""
    return jax.process_index() == 0


def agreed(action: Callable[[], T]) -> T:
    """What `action` returns where the lead process runs it; the others hear of it. Plain JSON values only.

    A UserError there is raised in all processes. All have to call this at the same point.
    """
    if jax.process_count() == 1:
        return action()
    told = b""
    if is_lead():
        try:
            told = json.dumps({"value": action()}).encode()
        except UserError as error:
            told = json.dumps({"error": str(error), "passes": isinstance(error, Unreachable)}).encode()
    size = int(multihost_utils.broadcast_one_to_all(np.int32(len(told))))
    letters = np.frombuffer(told, np.uint8) if is_lead() else np.zeros(size, np.uint8)
    heard = json.loads(np.asarray(multihost_utils.broadcast_one_to_all(letters)).astype(np.uint8).tobytes())
    if "error" in heard:
        raise (Unreachable if heard["passes"] else UserError)(heard["error"])
    return heard["value"]


def dissenters(digest: str) -> list[int]:
    """The processes whose SHA-256 (in hexadecimal) is not the lead's. All have to call this at the same point."""
    if jax.process_count() == 1:
        return []
    digests = multihost_utils.process_allgather(np.frombuffer(bytes.fromhex(digest), np.uint8))
    return np.flatnonzero((digests != digests[0]).any(axis=1)).tolist()


def _started_by_a_cluster() -> bool:
    """Whether JAX can find the other processes, if any: this is a TPU machine, or one of several tasks of a job."""
    if any(int(os.environ.get(name) or 1) > 1 for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE")):
        return True
    platforms = os.environ.get("JAX_PLATFORMS", "")
    return (not platforms or "tpu" in platforms) and any(Path(chip).exists() for chip in _CHIPS)


def _end(kind: type[BaseException], error: BaseException, trace: TracebackType | None) -> None:
    """For what nobody caught: a collective that broke because another process died, or an error of this one alone.

    In the first case JAX's own heartbeat ends this process while it waits here, and says which one died. In the second
    it ends by itself, and the others then find it dead; Python's way out would wait for them instead.
    """
    traceback.print_exception(kind, error, trace)
    print(
        f"process {jax.process_index()} of {jax.process_count()} stopped; if that is because another one died, "
        f"its number follows within {HEARTBEAT_SECONDS} seconds (process 0 is called the leader)",
        file=sys.stderr,
        flush=True,
    )
    time.sleep(HEARTBEAT_SECONDS + 5)
    os._exit(1)
