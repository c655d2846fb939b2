"""Verbs one after the other under one progress bar, which knows about how long each takes."""

import dataclasses
import importlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from rational_jax.errors import UserError
from rational_jax.manifest import read_stage
from rational_jax.progress import Progress, Task


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One verb on one arm or model: its folder, about how many seconds it takes, and how to run it."""

    verb: str
    folder: str
    seconds: float
    run: Callable[[Progress], Any]


def run_steps(steps: Sequence[Step], root: Path, description: str, progress: Progress) -> Any:
    """Runs the steps, whose folders are below `root`, and returns what the last one returns.

    A finished step is run too, so that its verb refuses other settings, but takes no time in the estimate. The pace of
    what is done scales the expected seconds of what is left.
    """
    ahead = [0.0 if _finished(root, step) else step.seconds for step in steps]
    if any(ahead):
        # While it is imported, TFDS replaces Python's own import in all threads, and the one that draws the bars dies
        # of it. So it comes before the bars; writing and reading datasets would import it later.
        importlib.import_module("tensorflow_datasets")
    total = round(sum(step.seconds for step in steps))
    result = None
    with progress.task(description, total, unit="s", done=total - round(sum(ahead))) as task:
        overall = _Overall(task)
        for number, (step, share) in enumerate(zip(steps, ahead, strict=True), start=1):
            task.note(f"{number} of {len(steps)}: {step.folder.replace('/', ' ')}")
            with _Verb(progress, overall, share) as verb:
                result = step.run(verb)
        task.note("")
    return result


def _finished(root: Path, step: Step) -> bool:
    """Whether the step's folder holds finished work."""
    try:
        read_stage(root / step.folder, verb=step.verb)
    except UserError:
        return False
    return True


class _Overall:
    """The bar over all verbs, in expected seconds: moved by parts of one, it advances by whole ones."""

    def __init__(self, task: Task):
        self._task = task
        self._moved = 0.0
        self._shown = 0

    def move(self, seconds: float) -> None:
        self._moved += seconds
        whole = round(self._moved) - self._shown
        if whole:
            self._shown += whole
            self._task.advance(whole)


class _Verb:
    """A Progress for one verb, which moves the overall bar along by the verb's share of it.

    A verb may have several tasks and does not say how many: each gets most of what is left, the verb's end the rest.
    """

    _PART = 0.9

    def __init__(self, progress: Progress, overall: _Overall, share: float):
        self._progress, self._overall, self._left = progress, overall, share

    def __enter__(self):
        return self

    def __exit__(self, kind: type | None, *_: object) -> None:
        if kind is None:
            self._overall.move(self._left)

    def message(self, text: str) -> None:
        self._progress.message(text)

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "", done: int = 0) -> Iterator[Task]:
        part = self._PART * self._left if total is not None and total > done else 0.0
        with self._progress.task(description, total, unit, done) as task:
            yield _VerbTask(task, lambda n: self._move(part * n / (total - done) if part else 0.0))

    def _move(self, seconds: float) -> None:
        seconds = min(seconds, self._left)
        self._left -= seconds
        self._overall.move(seconds)


class _VerbTask:
    def __init__(self, task: Task, moved: Callable[[int], None]):
        self._task, self._moved = task, moved

    def advance(self, n: int = 1) -> None:
        self._task.advance(n)
        self._moved(n)

    def note(self, text: str) -> None:
        self._task.note(text)
