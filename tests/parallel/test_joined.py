"""Two processes agree, find out who does not, and hear the lead's errors; settings that are not whole are refused."""

import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from rational_jax.errors import UserError
from rational_jax.parallel.processes import agreed, dissenters, is_lead, join

SCRIPT = """
import hashlib, json
from rational_jax.errors import Unreachable, UserError
from rational_jax.parallel.processes import agreed, dissenters, is_lead, join

join()
import jax

index, calls, found = jax.process_index(), [], {}
found["lead"] = is_lead()
found["value"] = agreed(lambda: calls.append(index) or {"of": index, "text": "é" * 300, "none": None})
found["calls"] = calls

def fail(error):
    raise error

for name, error in (("error", UserError(f"refused by {index}")), ("lost", Unreachable(f"lost by {index}"))):
    try:
        agreed(lambda: fail(error))
    except UserError as told:
        found[name] = type(told).__name__, str(told)
found["equal"] = dissenters(hashlib.sha256(b"same").hexdigest())
found["unequal"] = dissenters(hashlib.sha256(b"%d" % index).hexdigest())
print(json.dumps(found))
"""


def test_two_processes():
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        address = f"localhost:{probe.getsockname()[1]}"
    environment = os.environ | {
        "PYTHONPATH": str(Path(__file__).parents[2]),
        "XLA_FLAGS": "--xla_force_host_platform_device_count=2",
        "JAX_COORDINATOR_ADDRESS": address,
        "JAX_NUM_PROCESSES": "2",
    }
    processes = [
        subprocess.Popen(
            [sys.executable, "-c", SCRIPT],
            env=environment | {"JAX_PROCESS_ID": str(i)},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for i in range(2)
    ]
    try:
        written = [process.communicate(timeout=60) for process in processes]
    finally:
        for process in processes:
            process.kill()
    assert [process.returncode for process in processes] == [0, 0], written
    for index, (out, _) in enumerate(written):
        found = json.loads(out.splitlines()[-1])
        assert found["lead"] == (index == 0)
        assert found["value"] == {"of": 0, "text": "é" * 300, "none": None}
        assert found["calls"] == ([0] if index == 0 else []), "the lead alone runs it"
        assert found["error"] == ["UserError", "refused by 0"]
        assert found["lost"] == ["Unreachable", "lost by 0"]
        assert (found["equal"], found["unequal"]) == ([], [1])


def test_alone_one_agrees_with_oneself():
    assert is_lead()
    assert agreed(lambda: 3) == 3
    assert dissenters("00" * 32) == []


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"JAX_NUM_PROCESSES": "2"}, "JAX_COORDINATOR_ADDRESS, JAX_PROCESS_ID is not"),
        (
            {"JAX_COORDINATOR_ADDRESS": "localhost:1", "JAX_NUM_PROCESSES": "2", "JAX_PROCESS_ID": "2"},
            "JAX_PROCESS_ID=2 is no number below JAX_NUM_PROCESSES=2",
        ),
    ],
)
def test_settings_that_are_not_whole(monkeypatch, settings, message):
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(UserError, match=message):
        join()


@pytest.mark.parametrize(
    ("settings", "chip", "joins"),
    [
        ({}, False, False),
        ({"SLURM_STEP_NUM_TASKS": "1", "SLURM_NTASKS": "4"}, False, False),
        ({"SLURM_STEP_NUM_TASKS": "4"}, False, True),
        ({"OMPI_COMM_WORLD_SIZE": "2"}, False, True),
        ({"JAX_PLATFORMS": ""}, True, True),
        ({"JAX_PLATFORMS": "cpu"}, True, False),
    ],
)
def test_where_jax_finds_the_others_by_itself(monkeypatch, tmp_path, settings, chip, joins):
    calls = []
    monkeypatch.setattr("jax.distributed.initialize", lambda **named: calls.append(named))
    monkeypatch.setattr("rational_jax.parallel.processes._CHIPS", (str(tmp_path if chip else tmp_path / "none"),))
    for name in ("SLURM_STEP_NUM_TASKS", "OMPI_COMM_WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)
    for name, value in settings.items():
        monkeypatch.setenv(name, value)
    join()
    assert len(calls) == joins
    assert all("num_processes" not in call and call["heartbeat_timeout_seconds"] < 60 for call in calls)
