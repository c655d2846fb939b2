import io
import re

import pytest
from rich.console import Console

from rational_jax.cli.progress import TerminalProgress, duration


class Clock:
    now = 0.0

    def __call__(self):
        return self.now


@pytest.fixture
def clock():
    return Clock()


def plain(clock):
    console = Console(file=io.StringIO(), force_terminal=False, width=300)
    return TerminalProgress(console, clock), console.file


def run(progress, clock, total, seconds, *, first=0.0, done=0, unit="steps"):
    with progress.task("train", total=total, unit=unit, done=done) as task:
        clock.now += first
        for i in range(total - done):
            clock.now += seconds
            task.note(f"loss {i}")
            task.advance()


def test_without_a_terminal_there_is_a_line_every_ten_seconds(clock):
    progress, out = plain(clock)
    run(progress, clock, total=100, seconds=1.0)
    lines = out.getvalue().splitlines()
    assert len(lines) == 11
    assert lines[1] == "train: 19/100 steps · 1.0 steps/s · 0:20 · 1:20 left · loss 19"
    assert lines[-1] == "train: 100 steps in 1:40 · loss 99"
    assert "\x1b" not in out.getvalue()


def test_what_happens_once_does_not_count_in_the_pace(clock):
    progress, out = plain(clock)
    run(progress, clock, total=10, seconds=10.0, first=500.0)
    assert "3/10 steps · 10.0 s each · 9:00 · 1:00 left · loss 3" in out.getvalue()


def test_no_estimate_is_made_from_a_first_unit_that_took_long(clock):
    progress, out = plain(clock)
    with progress.task("sample", total=640, unit="answers") as task:
        clock.now = 30.0
        task.advance()
        clock.now = 40.0
        task.advance(319)
    assert out.getvalue().splitlines() == [
        "sample: 1/640 answers · 0:30",
        "sample: 320/640 answers · 32 answers/s · 0:40 · 0:10 left",
        "sample: 320 answers in 0:40",
    ]


def test_what_an_earlier_run_did_does_not_count_in_the_pace(clock):
    progress, out = plain(clock)
    run(progress, clock, total=100, seconds=5.0, done=90)
    assert "93/100 steps · 5.0 s each · 0:20 · 0:30 left · loss 3" in out.getvalue()
    assert out.getvalue().splitlines()[-1] == "train: 10 steps (90 before) in 0:50 · loss 9"


def test_without_a_total_or_a_unit(clock):
    progress, out = plain(clock)
    with progress.task("reading", total=None, unit="rows") as task:
        clock.now = 20.0
        task.advance(5)
    with progress.task("all", total=1000) as task:
        clock.now = 40.0
        task.advance(250)
    assert out.getvalue().splitlines() == [
        "reading: 5 rows · 0:20",
        "reading: 5 rows in 0:20",
        "all: 25% · 0:20 · 1:00 left",
        "all: done in 0:20",
    ]


def test_one_is_no_plural(clock):
    progress, out = plain(clock)
    with progress.task("figures", total=1, unit="suites") as task:
        task.advance()
    assert out.getvalue() == "figures: 1 suite in 0:00\n"


def test_work_in_expected_seconds_has_an_estimate_at_once(clock):
    progress, out = plain(clock)
    with progress.task("all", total=100, unit="s", done=20) as task:
        clock.now = 10.0
        task.note("1 of 2")
        clock.now = 60.0
        task.advance(30)  # half as fast as expected
        clock.now = 120.0
        task.advance(30)
    assert out.getvalue().splitlines() == [
        "all: 20% · 0:10 · 2:40 left · 1 of 2",
        "all: 50% · 1:00 · 1:28 left · 1 of 2",
        "all: 80% · 2:00 · 0:37 left · 1 of 2",
        "all: done in 2:00 · 1 of 2",
    ]


def test_nested_bars_in_a_terminal_and_a_clean_end(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=100, color_system=None)
    progress = TerminalProgress(console, clock)
    with pytest.raises(RuntimeError), progress.task("all", total=10), progress.task("part \x1b[2J", total=3) as part:
        part.advance()
        progress.message("half\x1b[31mway [bold]there")
        raise RuntimeError
    written = console.file.getvalue()
    assert "halfway [bold]there" in written, "neither escape sequences nor markup in a message do anything"
    assert "\x1b[2J" not in written
    assert written.rindex("\x1b[?25h") > written.rindex("\x1b[?25l"), "the cursor is shown again"
    assert "done in" not in written, "what failed is not reported as done"
    run(progress, clock, total=2, seconds=1.0)
    assert "train: 2 steps in 0:02" in re.sub(r"\x1b\[[0-9;?]*[a-zA-Z]", "", console.file.getvalue())


def test_a_full_line_leaves_room_for_what_terminals_write_on_ctrl_c(clock):
    console = Console(file=io.StringIO(), force_terminal=True, width=60, color_system=None)
    progress = TerminalProgress(console, clock)
    with progress.task("train", total=3, unit="steps") as task:
        task.note("loss 0.25 " * 20)
        progress._bars.refresh()
    lines = re.split(r"\x1b\[[0-9;?]*[a-zA-Z]|[\r\n]", console.file.getvalue())
    assert max(len(line) for line in lines if "0/3 steps" in line) == 60 - len("^C")


@pytest.mark.parametrize(("seconds", "shown"), [(0, "0:00"), (59.6, "1:00"), (65, "1:05"), (3661, "1:01:01")])
def test_durations(seconds, shown):
    assert duration(seconds) == shown
