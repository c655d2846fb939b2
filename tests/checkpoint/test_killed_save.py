"""A process killed (-9) at any point of a save leaves the step before, or the new one, and nothing in between."""

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from rational_jax.checkpoint import Checkpoints

# Where the third save is when its process kills itself: what is seen in the directory of checkpoints by then. Between
# the list of files and the rename is too little time to watch for, so there the list's writer does it (None).
PHASES = {
    "the temporary directory is there": "3.orbax-checkpoint-tmp*",
    "data is being written": "3.orbax-checkpoint-tmp*/**/d/*",
    "all is written but the name": None,
    "the step is there, old ones are being removed": "3",
}

# Imports once, then becomes one process per phase (the JAX runtime does not exist yet when it forks).
SCRIPT = """
import json, os, signal, sys, threading, time
from pathlib import Path
from rational_jax.checkpoint import Checkpoints

def scenario(directory, pattern):
    import jax.numpy as jnp, numpy as np
    directory = Path(directory)
    state = lambda step: {"x": jnp.asarray(np.random.default_rng(step).random(1 << 20, np.float32))}

    def watch():
        while True:
            try:
                found = next(directory.glob(pattern), None)
            except FileNotFoundError:  # renamed while being listed
                found = None
            if found:
                os.kill(os.getpid(), signal.SIGKILL)
            time.sleep(0.0001)

    write_list = Checkpoints._write_list

    def write_and_die(self):
        write_list(self)
        os.kill(os.getpid(), signal.SIGKILL)

    options = {"keep": 1, "keep_best": "loss"}
    metadata = lambda step: {"metrics": {"loss": -step}}
    with Checkpoints(directory, **options) as checkpoints:
        for step in (1, 2):
            checkpoints.save(step, state(step), metadata(step))
            checkpoints.wait()
        third = state(3)
        if pattern is None:
            checkpoints.close()
            Checkpoints._write_list = write_and_die
            checkpoints = Checkpoints(directory, **options)
        else:
            threading.Thread(target=watch, daemon=True).start()
        checkpoints.save(3, third, metadata(3))
        checkpoints.wait()

root = Path(sys.argv[1])
children = []
for name, pattern in enumerate(json.loads(sys.argv[2])):
    child = os.fork()
    if child == 0:
        try:
            scenario(root / str(name), pattern)
        finally:
            os._exit(1)
    children.append(child)
print(json.dumps([os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children]))
"""


@pytest.fixture(scope="module")
def killed(tmp_path_factory) -> Path:
    root = tmp_path_factory.mktemp("killed")
    repository = Path(__file__).parents[2]
    path = os.pathsep.join([str(repository), *filter(None, [os.environ.get("PYTHONPATH")])])
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, root, json.dumps(list(PHASES.values()))],
        env={**os.environ, "PYTHONPATH": path, "JAX_PLATFORMS": "cpu"},
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert json.loads(done.stdout) == [-signal.SIGKILL] * len(PHASES), done.stderr
    return root


@pytest.mark.parametrize("number", range(len(PHASES)), ids=list(PHASES))
def test_continues_from_a_complete_step(killed, number):
    directory = killed / str(number)
    with Checkpoints(directory, keep=1, keep_best="loss") as checkpoints:
        latest = checkpoints.latest()
        # The name is the last thing that a step gets, so only the last phase may show the new one.
        assert latest == (3 if number == len(PHASES) - 1 else 2)
        assert checkpoints.metadata(latest) == {"metrics": {"loss": -latest}}
        state = checkpoints.restore(latest, checkpoints.abstract(latest))
        np.testing.assert_array_equal(state["x"], np.random.default_rng(latest).random(1 << 20, np.float32))
        checkpoints.save(4, state, {"metrics": {"loss": -4}})
        assert checkpoints.latest() == 4
    assert [d.name for d in directory.iterdir()] == ["4"]
