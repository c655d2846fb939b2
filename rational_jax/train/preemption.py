"""Notices that the machine is about to be taken away: SIGTERM, which is also how TPUs announce it."""

from __future__ import annotations

import itertools
import signal
import threading

import jax
from jax.experimental import multihost_utils

# JAX agrees on the number after the largest that any process has asked with. It has to grow beyond the steps of one
# arm, or a notice between two arms would wait for a step that the second does not have.
_asked = itertools.count(1)


class Preemption:
    """While this context is open, a SIGTERM does not end the process but makes `is_due` true at the end of a step.

    Of several processes any one may get it: JAX agrees with the others on a step that none of them has passed. All have
    to ask after every step.
    """

    def __init__(self):
        self._noticed = False
        self._before = None
        # JAX has a handler of its own where there are several processes; Python takes them in the main thread alone.
        alone = jax.process_count() == 1
        self._ours = alone and threading.current_thread() is threading.main_thread()

    def is_due(self) -> bool:
        """Whether to save and end now; the same in all processes."""
        if jax.process_count() == 1:
            return self._noticed
        return multihost_utils.reached_preemption_sync_point(next(_asked))

    def __enter__(self) -> Preemption:
        if self._ours:
            self._before = signal.signal(signal.SIGTERM, self._notice)
        return self

    def __exit__(self, *_: object) -> None:
        if self._ours:
            signal.signal(signal.SIGTERM, self._before)

    def _notice(self, *_: object) -> None:
        self._noticed = True
