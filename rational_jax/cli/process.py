"""How the process itself is started; imports nothing heavy, since it comes before everything else."""

import os
import sys


def use_huge_pages() -> None:
    """Starts this process over with huge pages for large allocations, on Linux; same process id, same arguments.

    XLA on CPU allocates and frees a step's intermediate values in every step, and the page faults of that cost a good
    part of it (`GLIBC_TUNABLES= python scripts/bench/cpu_train.py` shows how much). glibc reads the setting only when
    a process starts, so call this first of all; where GLIBC_TUNABLES is set already it does nothing.
    """
    if sys.platform == "linux" and "GLIBC_TUNABLES" not in os.environ:
        os.environ["GLIBC_TUNABLES"] = "glibc.malloc.hugetlb=1"
        os.execv(sys.executable, [sys.executable, *sys.orig_argv[1:]])
