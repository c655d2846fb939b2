"""The engine in a thread of its own, for callers on an event loop."""

from __future__ import annotations

import asyncio
import dataclasses
import itertools
import threading
from collections.abc import AsyncIterator, Sequence

from rational_jax.errors import UserError
from rational_jax.sample.engine import Engine
from rational_jax.sample.pieces import Tokens
from rational_jax.sample.requests import Completion, Request
from rational_jax.sample.sequence import Generated


class Full(Exception):
    """As many requests wait as may wait."""


class Gone(Exception):
    """The engine has stopped and takes no requests."""


class Bridge:
    """Serves requests that come while others are generated; one that nobody waits for any more leaves its slot.

    At most `most_waiting` requests are held beside those in slots, `most` in all. `start` begins the thread; `close`
    takes no more requests, and `join` waits for those that are there.
    """

    def __init__(self, engine: Engine, most_waiting: int):
        self.engine = engine
        self.most = engine.slots + most_waiting
        self._wake = threading.Condition()
        self._inbox: list[tuple[Request, ...] | str] = []
        self._listeners: dict[str, tuple[asyncio.AbstractEventLoop, asyncio.Queue, bool]] = {}
        self._closing = False
        self._numbers = itertools.count()
        self._session = engine.session(self._on_tokens)
        self._thread = threading.Thread(target=self._work, name="engine", daemon=True)

    @property
    def alive(self) -> bool:
        """Whether the engine runs and takes requests."""
        return self._thread.is_alive() and not self._closing

    @property
    def free(self) -> int:
        """Slots that hold nothing."""
        return self._session.free

    @property
    def open(self) -> int:
        """Requests whose answers somebody waits for."""
        return len(self._listeners)

    def start(self) -> None:
        self._thread.start()

    def close(self) -> None:
        with self._wake:
            self._closing = True
            self._wake.notify()

    def join(self, seconds: float | None = None) -> bool:
        """Whether all that was there has been answered, within `seconds`."""
        self._thread.join(seconds)
        return not self._thread.is_alive()

    async def ask(
        self, requests: Sequence[Request], *, tokens: bool = False, patience: float = 0.25
    ) -> AsyncIterator[Completion | Tokens | None]:
        """Completions as they finish, `Tokens` in between if wanted, and None after `patience` seconds of neither.

        Whoever leaves the iteration gives up what has not finished. Ids are replaced by the numbers of `requests` in
        their order, as text. Raises `Full`, `Gone`, and UserError where a request cannot be answered.
        """
        loop, queue = asyncio.get_running_loop(), asyncio.Queue()
        named = [dataclasses.replace(r, id=f"{next(self._numbers)}") for r in requests]
        back = {request.id: str(number) for number, request in enumerate(named)}
        with self._wake:
            if not self.alive:
                raise Gone
            if self.open + len(named) > self.most:
                raise Full
            self._listeners |= {name: (loop, queue, tokens) for name in back}
            self._inbox.append(tuple(named))
            self._wake.notify()
        missing = set(back)
        try:
            while missing:
                try:
                    event = await asyncio.wait_for(queue.get(), patience)
                except TimeoutError:
                    yield None
                    continue
                if isinstance(event, Exception):
                    raise event
                if isinstance(event, Completion):
                    missing.discard(event.id)
                    yield dataclasses.replace(event, id=back[event.id])
                else:
                    yield event._replace(id=back[event.id])
        finally:
            with self._wake:
                for name in missing:
                    if self._listeners.pop(name, None):
                        self._inbox.append(name)
                self._wake.notify()

    def _work(self) -> None:
        session = self._session
        try:
            while True:
                with self._wake:
                    while not (self._inbox or session.busy or self._closing):
                        self._wake.wait()
                    inbox, self._inbox = self._inbox, []
                    if self._closing and not (inbox or session.busy):
                        return
                for item in inbox:
                    if isinstance(item, str):
                        session.cancel(item)
                        continue
                    try:
                        session.add(item)
                    except UserError as error:
                        for request in item:
                            self._deliver(request.id, error, last=True)
                for completion in session.step():
                    self._deliver(completion.id, completion, last=True)
        finally:
            # Whatever ended this thread, nobody is left waiting for it.
            self.close()
            for name in list(self._listeners):
                self._deliver(name, Gone(), last=True)

    def _on_tokens(self, generated: Generated) -> None:
        listener = self._listeners.get(generated.request.id)
        if listener and listener[2]:
            event = Tokens(generated.request.id, tuple(generated.tokens))
            self._deliver(event.id, event)

    def _deliver(self, name: str, event: Completion | Tokens | Exception, last: bool = False) -> None:
        with self._wake:
            listener = self._listeners.pop(name, None) if last else self._listeners.get(name)
        if listener:
            loop, queue, _ = listener
            if not loop.is_closed():
                loop.call_soon_threadsafe(queue.put_nowait, event)
