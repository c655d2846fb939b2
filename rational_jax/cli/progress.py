"""Progress in a terminal: bars with rate, time gone and time left; where there is no terminal, a line now and then."""

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import NamedTuple

from rich.console import Console, ConsoleOptions, RenderableType, RenderResult
from rich.progress import BarColumn, Progress, ProgressColumn, SpinnerColumn, Task, TextColumn
from rich.table import Column
from rich.text import Text

from rational_jax.text.terminal import one_line

_PLAIN_SECONDS = 10.0
SECONDS = "s"


class TerminalProgress:
    """A `rational_jax.progress.Progress` on a console. Tasks may be nested; an outer one stays in sight."""

    def __init__(self, console: Console | None = None, clock: Callable[[], float] = time.monotonic):
        self._console = console or Console(file=sys.stdout, highlight=False)
        self._clock = clock
        self._live = self._console.is_terminal and not self._console.is_dumb_terminal
        self._bars: Progress | None = None
        self._open = 0

    @contextmanager
    def task(self, description: str, total: int | None, unit: str = "", done: int = 0) -> Iterator["_Task"]:
        """Shows a bar until the block ends, then one line of what it came to. See `rational_jax.progress.Progress`."""
        task = _Task(one_line(description), total, one_line(unit), done, self._clock)
        if self._live:
            with self._bar(task):
                yield task
        else:
            task.changed = lambda: self._now_and_then(task)
            yield task
        self.message(task.closing())

    def message(self, text: str) -> None:
        """One line, above the bars."""
        self._console.print(one_line(text), markup=False, soft_wrap=True)

    @contextmanager
    def _bar(self, task: "_Task") -> Iterator[None]:
        if self._bars is None:
            self._bars = _Bars(
                SpinnerColumn(),
                TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True)),
                BarColumn(bar_width=20),
                _State(table_column=Column(no_wrap=True, overflow="ellipsis")),
                console=self._console,
                transient=True,
                refresh_per_second=4,  # drawing takes time from the cores that train
            )
            self._bars.start()
        bars = self._bars
        bar = bars.add_task(task.description, total=task.total, completed=task.done, ours=task)
        task.changed = lambda: bars.update(bar, completed=task.done)
        self._open += 1
        try:
            yield
        finally:
            self._open -= 1
            bars.remove_task(bar)
            if self._open == 0:
                bars.stop()
                self._bars = None

    def _now_and_then(self, task: "_Task") -> None:
        now = self._clock()
        if now - task.shown >= _PLAIN_SECONDS:
            task.shown = now
            self.message(f"{task.description}: {task.state()}")


class _Bars(Progress):
    """Bars that leave room for the "^C" that terminals write: in a full line it would wrap, and a bar stay behind."""

    def get_renderables(self) -> Iterator["_Narrowed"]:
        return map(_Narrowed, super().get_renderables())


class _Narrowed(NamedTuple):
    whole: RenderableType

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> RenderResult:
        return console.render(self.whole, options.update_width(options.max_width - len("^C")))


class _State(ProgressColumn):
    """Our own words beside the bar, drawn anew each time, so that the clock runs while a long step does not report."""

    def render(self, task: Task) -> Text:
        return Text(task.fields["ours"].state())


class _Task:
    """A `rational_jax.progress.Task` that knows its pace. It calls `changed` when there is something new to show."""

    def __init__(self, description: str, total: int | None, unit: str, done: int, clock: Callable[[], float]):
        self.description, self.total, self.unit, self.done = description, total, unit, done
        self.changed: Callable[[], None] = lambda: None
        self._clock = clock
        self._note = ""
        self._before = done
        self._opened = self.shown = clock()
        # When this run's first and latest units were done, and how many there were then.
        self._first = self._last = (self._opened, done)

    def advance(self, n: int = 1) -> None:
        self.done += n
        self._last = (self._clock(), self.done)
        if self._first[1] == self._before:
            self._first = self._last
        self.changed()

    def note(self, text: str) -> None:
        self._note = one_line(text)
        self.changed()

    def pace(self) -> float | None:
        """Units a second, as far as this run has seen.

        The first units take along what happens once, such as compiling: the pace is counted from their end, or with
        them where they are a good part of the whole.
        """
        (since, units), (until, done) = self._first, self._last
        if self.unit == SECONDS:
            # Expected to be one; what has been seen outweighs that when a tenth of all is done.
            prior = self.total / 10
            return (self.done - self._before + prior) / (self._clock() - self._opened + prior)
        if done == units:
            if self.total is None or (done - self._before) * 20 < self.total - self._before:
                return None
            since, units = self._opened, self._before
        return (done - units) / (until - since) if until > since else None

    def left(self) -> float | None:
        """Seconds that are left at this pace."""
        pace = self.pace()
        if not pace or self.total is None or self.done >= self.total:
            return None
        since = self._clock() - self._last[0] if self.unit != SECONDS else 0.0
        return max((self.total - self.done) / pace - since, 0.0)

    def state(self) -> str:
        """Such as "40/120 steps · 3.1 steps/s · 0:13 · 0:26 left · loss 1.23"."""
        pace, left = self.pace(), self.left()
        parts = [self._count()]
        if pace and self.unit not in ("", SECONDS):
            parts.append(_pace(pace, self.unit))
        parts.append(duration(self._clock() - self._opened))
        if left is not None:
            parts.append(f"{duration(left)} left")
        return " · ".join(part for part in (*parts, self._note) if part)

    def closing(self) -> str:
        """Such as "train rational: 120 steps in 0:39 · loss 0.42"."""
        counted = self.unit not in ("", SECONDS)
        count = self.done - self._before
        amount = f"{count:,} {self.unit.removesuffix('s') if count == 1 else self.unit}" if counted else "done"
        earlier = f" ({self._before:,} before)" if self._before and counted else ""
        spent = duration(self._clock() - self._opened)
        return f"{self.description}: {amount}{earlier} in {spent}" + (f" · {self._note}" if self._note else "")

    def _count(self) -> str:
        if self.unit in ("", SECONDS):
            return f"{100 * self.done // max(self.total, 1)}%" if self.total is not None else ""
        return f"{self.done:,}/{self.total:,} {self.unit}" if self.total is not None else f"{self.done:,} {self.unit}"


def duration(seconds: float) -> str:
    """65 -> "1:05", 3661 -> "1:01:01"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


def _pace(pace: float, unit: str) -> str:
    if pace >= 0.95:
        return f"{pace:,.0f} {unit}/s" if pace >= 9.5 else f"{pace:.1f} {unit}/s"
    return f"{1 / pace:.1f} s each"
