"""Starts processes that find each other as those of a TPU pod do."""

import os
import socket
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

REPOSITORY = Path(__file__).parents[1]


def start(commands: Sequence[Sequence[str]], devices: int = 1, **environment: str) -> list[subprocess.Popen]:
    """One Python process for each list of arguments, of so many CPU devices each; they are one job."""
    with socket.socket() as probe:
        probe.bind(("localhost", 0))
        port = probe.getsockname()[1]
    shared = os.environ | {
        "PYTHONPATH": str(REPOSITORY),
        # The programs run for a moment: to compile them well would be most of the test.
        "XLA_FLAGS": f"--xla_force_host_platform_device_count={devices} --xla_llvm_disable_expensive_passes=true",
    }
    several = {"JAX_COORDINATOR_ADDRESS": f"localhost:{port}", "JAX_NUM_PROCESSES": str(len(commands))}
    return [
        subprocess.Popen(
            [sys.executable, *command],
            env=shared | (several | {"JAX_PROCESS_ID": str(i)} if len(commands) > 1 else {}) | environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        for i, command in enumerate(commands)
    ]


def ended(processes: list[subprocess.Popen]) -> list[tuple[int, str]]:
    """Exit codes and what was written, of processes that end within two minutes."""
    try:
        return [(process.returncode, text) for process in processes for text in process.communicate(timeout=120)[:1]]
    finally:
        for process in processes:
            process.kill()
