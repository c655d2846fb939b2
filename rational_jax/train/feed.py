"""Batches that are made in the background, while the steps before them run."""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any


class Feed:
    """What `batch_at` gives for `start`, `start + 1`, ... up to `stop`, in this order, `ahead` of them beforehand.

    An error in `batch_at` is raised where its batch is taken. A context manager, which ends the background.
    """

    def __init__(self, batch_at: Callable[[int], Any], start: int, stop: int, ahead: int = 2):
        self._batch_at = batch_at
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="batches")
        self._ready: deque[Future] = deque()
        self._next, self._stop = start, stop
        for _ in range(ahead):
            self._begin()

    def take(self) -> Any:
        """The next batch, waited for if need be."""
        batch = self._ready.popleft().result()
        self._begin()
        return batch

    def _begin(self) -> None:
        if self._next < self._stop:
            self._ready.append(self._pool.submit(self._batch_at, self._next))
            self._next += 1

    def __enter__(self) -> Feed:
        return self

    def __exit__(self, *_: object) -> None:
        self._pool.shutdown(cancel_futures=True)
