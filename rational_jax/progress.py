"""How long work reports where it stands, without knowing who listens: a terminal, a log, or nobody."""

from contextlib import AbstractContextManager, contextmanager
from typing import Protocol


class Task(Protocol):
    """One piece of work under way."""

    def advance(self, n: int = 1) -> None:
        """`n` more units are done."""

    def note(self, text: str) -> None:
        """A short text beside the bar, such as "loss 1.23"; it replaces the one before."""


class Progress(Protocol):
    """Where tasks and messages go. `rational_jax.cli.progress` shows them in a terminal."""

    def task(self, description: str, total: int | None, unit: str = "", done: int = 0) -> AbstractContextManager[Task]:
        """Begins a piece of work of `total` units (None: not known), `done` of which an earlier run has finished.

        What was done before counts towards the bar, not towards the rate that the time left is estimated from. Units
        of "s" are work measured in the seconds that it is expected to take, so that there is an estimate at once.
        """

    def message(self, text: str) -> None:
        """One line worth keeping, such as what was continued or skipped."""


class _SilentTask:
    def advance(self, n: int = 1) -> None:
        pass

    def note(self, text: str) -> None:
        pass


class _Silent:
    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "", done: int = 0):
        yield _SilentTask()

    def message(self, text: str) -> None:
        pass


SILENT: Progress = _Silent()
"""Reports to nobody; the default wherever a function takes a `Progress`."""
