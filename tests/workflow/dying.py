"""Runs the `rational` command in a process that kills itself (SIGKILL) at a chosen point; used by test_pipeline.py.

    python dying.py POINT VERB [ARGUMENTS ...]
"""

import os
import signal
import sys


def die(*_, **__):
    os.kill(os.getpid(), signal.SIGKILL)


def after(calls: int, function):
    """The function, which works that many times and then is the death of its process."""
    made = 0

    def wrapper(*args, **kwargs):
        nonlocal made
        made += 1
        if made > calls:
            die()
        return function(*args, **kwargs)

    return wrapper


def in_generation():
    """Half a row of generated text is on disk."""
    from rational_jax.storage import JsonlLog

    append = JsonlLog.append
    rows = 0

    def dying(self, record):
        nonlocal rows
        rows += 1
        append(self, record)
        if rows == 40:
            self.flush()
            os.truncate(self.path, os.path.getsize(self.path) - 9)
            die()

    JsonlLog.append = dying


def in_training_step():
    """A step is computing on the device."""
    from rational_jax.data.batches import Batches

    Batches.batch = after(6, Batches.batch)


def in_checkpoint_save():
    """All arrays of the second checkpoint are written, and it is not complete."""
    from rational_jax.checkpoint import Checkpoints

    Checkpoints._write_list = after(1, Checkpoints._write_list)


def between_log_lines():
    """A step has been taken and saved in no checkpoint; its metrics are written, the next one's are not."""
    from rational_jax.train.metrics import MetricsLog

    MetricsLog.write = after(7, MetricsLog.write)


def in_export():
    """The merged model is written and not yet verified."""
    from rational_jax import hub

    hub.verify_model = die


if __name__ == "__main__":
    # Imported late, and already set here so that the command does not start its process over without the changes.
    os.environ.setdefault("GLIBC_TUNABLES", "glibc.malloc.hugetlb=1")
    from rational_jax.cli import main

    point = sys.argv.pop(1)
    if point != "never":
        globals()[point]()
    main()
