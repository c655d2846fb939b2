"""Ctrl-C at the moments when Python alone would lose it, each in a process of its own."""

import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent.parent
CATCH = """
import signal, sys, time
from rational_jax.cli.process import catch_interrupts, leave, stopped
catch_interrupts()
"""
STOPPED = "stopped; run the same command again to continue"


def python(*arguments: str) -> subprocess.CompletedProcess:
    environment = {"GLIBC_TUNABLES": ""}  # set, so that the process does not start over
    return subprocess.run(
        [sys.executable, *arguments], env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60
    )


@pytest.mark.parametrize("where", ["destructor", "gc callback"])
def test_what_would_be_ignored_comes_again(where):
    code = """
import gc
class Doomed:
    def __del__(self):
        signal.raise_signal(signal.SIGINT)
def callback(phase, info):
    gc.callbacks.remove(callback)
    signal.raise_signal(signal.SIGINT)
try:
    if sys.argv[1] == "destructor":
        Doomed()
    else:
        gc.callbacks.append(callback)
        gc.collect()
    time.sleep(30)
except KeyboardInterrupt:
    leave(stopped())
"""
    done = python("-c", CATCH + code, where)
    assert (done.returncode, done.stderr.strip()) == (130, STOPPED)


def test_a_module_in_c_is_imported_to_its_end():
    code = """
from importlib.machinery import ExtensionFileLoader
class Loader(ExtensionFileLoader):
    def create_module(self, spec):
        signal.raise_signal(signal.SIGINT)
        print("ready")
try:
    Loader("slow", "slow.so").create_module(None)
    time.sleep(30)
except KeyboardInterrupt:
    leave(stopped())
"""
    done = python("-c", CATCH + code)
    assert (done.returncode, done.stdout.strip(), done.stderr.strip()) == (130, "ready", STOPPED)


def test_the_command_is_stopped_in_one_line_before_its_verb_begins():
    code = """
import signal
from rational_jax import cli
from rational_jax.cli import app
app.run = lambda arguments: signal.raise_signal(signal.SIGINT)
cli.main()
"""
    done = python("-c", code)
    assert (done.returncode, done.stderr.strip()) == (130, STOPPED)


@pytest.mark.parametrize("code", [0, 130])
def test_nothing_comes_after_the_end(code):
    script = """
import atexit
atexit.register(lambda: time.sleep(0.2 if int(sys.argv[1]) == 0 else 30))
signal.setitimer(signal.ITIMER_REAL, 0.1)  # a Ctrl-C that was put off
print("all of it", end="")
leave(int(sys.argv[1]))
"""
    done = python("-c", CATCH + script, str(code))
    assert (done.returncode, done.stdout, done.stderr) == (code, "all of it", "")


def test_other_exceptions_in_destructors_are_printed_as_ever():
    code = """
class Doomed:
    def __del__(self):
        raise ValueError("a bug")
Doomed()
"""
    done = python("-c", CATCH + code)
    assert done.returncode == 0 and "a bug" in done.stderr
