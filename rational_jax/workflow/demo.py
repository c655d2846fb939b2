"""`rational demo`: all verbs in order on one configuration, with an estimate of the time that all of them take."""

import dataclasses
import functools
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from rational_jax import curate, evaluate, sample, train
from rational_jax.config import RunConfig
from rational_jax.data.sources import read_prompts
from rational_jax.data.suites import load_suites
from rational_jax.errors import UserError
from rational_jax.evaluate import report
from rational_jax.manifest import read_stage
from rational_jax.progress import SILENT, Progress, Task
from rational_jax.workflow import export

# Seconds on two laptop cores with the micro model. Only their proportions matter: the pace of what is done so far
# scales what is left, so on another machine or with another model the estimate mends itself after the first verb.
_START = 3.0  # of each verb, mostly compiling
_CURATE_SAMPLE = 0.012
_TRAIN_TOKEN = 1.1e-4
_ANSWER = 0.006
_EXPORT = 4.0
_EVALUATE = 2.0
_REPORT = 1.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class Step:
    """One verb on one arm or model: its folder under the run, about how many seconds it takes, and how to run it."""

    verb: str
    folder: str
    seconds: float
    run: Callable[[Progress], object]


def run(config: RunConfig, progress: Progress = SILENT) -> Path:
    """Runs every verb that is not finished, and returns the path of the report's page.

    Raises UserError, before anything is computed, where prompts or suites cannot be read; and whatever a verb raises.
    Rerunning continues: finished verbs are passed over in an instant.
    """
    steps, root = plan(config), Path(config.run)
    ahead = [0.0 if _finished(root, step) else step.seconds for step in steps]
    total = round(sum(step.seconds for step in steps))
    page = root
    with progress.task("demo", total, unit="s", done=total - round(sum(ahead))) as task:
        overall = _Overall(task)
        for number, (step, share) in enumerate(zip(steps, ahead, strict=True), start=1):
            task.note(f"{number} of {len(steps)}: {step.folder.replace('/', ' ')}")
            with _Verb(progress, overall, share) as verb:
                page = step.run(verb)
        task.note("")
    return page


def plan(config: RunConfig) -> list[Step]:
    """The verbs in order. The report, whose result is the page's path, is the last."""
    prompts = len(read_prompts(config.curate.prompts, config.curate.limit))
    answers = sum(len(suite) for suite in load_suites(config.sample.suites, config.sample.limit).values())
    tokens = config.train.steps * config.train.batch_size * config.train.sequence_length
    to_curate = _START + _CURATE_SAMPLE * prompts * config.curate.samples
    to_train = _START + _TRAIN_TOKEN * tokens
    to_sample = _START + _ANSWER * answers * config.sample.samples

    def step(verb: str, seconds: float, run: Callable, name: str | None = None) -> Step:
        bound = functools.partial(run, config, name) if name else functools.partial(run, config)
        return Step(verb=verb, folder=f"{verb}/{name}" if name else verb, seconds=seconds, run=bound)

    return [
        step("curate", to_curate, curate.run),
        *(step("train", to_train, train.run, arm) for arm in config.train.arms),
        *(step("export", _EXPORT, export.run, arm) for arm in config.train.arms),
        *(step("sample", to_sample, sample.run, model) for model in config.sample.models),
        step("evaluate", _EVALUATE, evaluate.run),
        step("report", _REPORT, report.run),
    ]


def _finished(root: Path, step: Step) -> bool:
    """Whether the step's folder holds finished work; whether it is of this configuration, its verb will say."""
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
