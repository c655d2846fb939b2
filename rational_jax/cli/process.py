"""How the process itself is started; imports nothing heavy, since it comes before everything else."""

import os
import signal
import sys
from importlib.machinery import ExtensionFileLoader
from types import FrameType

STOPPED = 130

_AGAIN_SECONDS = 0.1


def use_huge_pages() -> None:
    """Starts this process over with huge pages for large allocations, on Linux; same process id, same arguments.

    XLA on CPU allocates and frees a step's intermediate values in every step, and the page faults of that cost a good
    part of it (`GLIBC_TUNABLES= python scripts/bench/cpu_train.py` shows how much). glibc reads the setting only when
    a process starts, so call this first of all; where GLIBC_TUNABLES is set already it does nothing.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])


def catch_interrupts() -> None:
    """Lets no Ctrl-C get lost: each raises KeyboardInterrupt in the main thread where somebody can catch it.

    Python raises it wherever the main thread is. In a destructor or in one of JAX's callbacks it is then printed and
    forgotten, and a module in C that is being imported makes an ImportError of it. Here it comes a little later.
    """
    print_unraisable = sys.unraisablehook

    def on_unraisable(unraisable: "sys.UnraisableHookArgs") -> None:
        if unraisable.exc_type is KeyboardInterrupt:
            _interrupt_soon()
        else:
            print_unraisable(unraisable)

    sys.unraisablehook = on_unraisable
    for number in (signal.SIGINT, signal.SIGALRM):
        signal.signal(number, _on_interrupt)


def stopped() -> int:
    """Says that the command was stopped, and returns its exit code."""
    sys.stderr.write("\nstopped; run the same command again to continue\n")
    return STOPPED


def leave(code: int) -> None:
    """Ends the process. One that was stopped ends at once: Python would take another second or two to tidy up.

    Nothing is lost by that, as every file of a run is whole or absent.
    """
    signal.setitimer(signal.ITIMER_REAL, 0)  # for a Ctrl-C that was put off it is too late
    if code != STOPPED:
        sys.exit(code)
    try:
        sys.stdout.flush()
    except BrokenPipeError:
        pass  # who read it was stopped too
    os._exit(code)


def _on_interrupt(number: int, frame: FrameType | None) -> None:
    while frame is not None:
        if isinstance(frame.f_locals.get("self"), ExtensionFileLoader):
            _interrupt_soon()
            return
        frame = frame.f_back
    raise KeyboardInterrupt


def _interrupt_soon() -> None:
    # By an alarm and not by a thread, which cannot be started safely from within a signal handler.
    signal.setitimer(signal.ITIMER_REAL, _AGAIN_SECONDS)
