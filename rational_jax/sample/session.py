"""Work on an engine's slots: a queue that may grow while it is served, and sequences that may be given up."""

from __future__ import annotations

import collections
import dataclasses
import itertools
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING

import jax
import numpy as np

from rational_jax.models import Caches, KVCache
from rational_jax.sample import programs
from rational_jax.sample.requests import Completion, Request
from rational_jax.sample.sequence import Generated

if TYPE_CHECKING:
    from rational_jax.sample.engine import Engine

# How far the queue is searched for prompts to be prefilled together.
LOOK_AHEAD = 256


@dataclasses.dataclass(kw_only=True, eq=False)
class Prompt:
    """A prompt, the requests that still wait for it, and once it is prefilled, where that is: a batch and a row.

    `scores` are its tokens' log-probabilities, once somebody wanted them.
    """

    tokens: tuple[int, ...]
    bucket: int
    waiting: int
    batch: Batch | None = None
    row: int = 0
    scores: programs.Scores | None = None


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Batch:
    """Prompts prefilled together, on the device."""

    cache: KVCache | Caches
    logits: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class Job:
    """What is to be put into a slot: after a forced closing, the prompt goes on with what was generated before it."""

    generated: Generated
    prompt: Prompt
    asked: Prompt

    @property
    def budget(self) -> int:
        return self.generated.request.max_new_tokens - len(self.generated.tokens)


class Session:
    """Requests in, completions out as they finish. Of one engine there may be many, each with slots of its own.

    `jobs` are begun in their order. After each look at the device `on_tokens`, if given, gets every sequence that has
    new tokens and goes on.
    """

    def __init__(self, engine: Engine, jobs: Iterable[Job] = (), on_tokens: Callable[[Generated], None] | None = None):
        self._engine = engine
        self._queue = collections.deque(jobs)
        self._on_tokens = on_tokens
        self._slots = engine.empty()
        self._free = list(range(engine.slots))
        self._running: dict[int, Job] = {}
        self._finished: list[Job] = []

    @property
    def busy(self) -> bool:
        """Whether `step` has anything to do."""
        return bool(self._queue or self._running or self._finished)

    @property
    def free(self) -> int:
        """Slots that hold nothing."""
        return len(self._free)

    def add(self, requests: Iterable[Request]) -> None:
        """Puts requests at the end of the queue. Raises UserError naming the one that cannot be answered.

        Ids must be others than those of the requests that are still there.
        """
        self._queue.extend(self._engine.render(list(requests)))

    def cancel(self, name: str) -> None:
        """Gives up the request of this id, wherever it is; its slot is free at once. Nothing for one that is not there.

        The device goes on with the sequence until the slot is used again, which nobody looks at.
        """
        self._queue = collections.deque(job for job in self._queue if job.generated.request.id != name)
        self._finished = [job for job in self._finished if job.generated.request.id != name]
        for slot, job in list(self._running.items()):
            if job.generated.request.id == name:
                del self._running[slot]
                self._free.append(slot)

    def step(self) -> Iterator[Completion]:
        """Fills slots, decodes up to `steps_per_dispatch` tokens for each, and gives what had ended before that.

        What the caller does with a completion takes place while the device is at work.
        """
        engine = self._engine
        while self._free and self._queue:
            entries = self._next_entries()
            self._slots = engine.begin(self._slots, entries, self._want(entries))
            self._running |= dict(entries)
        history = None
        if self._running:
            enough = min(engine.refill_at, len(self._queue)) or engine.slots
            self._slots, history = engine.advance(self._slots, enough, self._want(self._running.items()))
        finished, self._finished = self._finished, []
        for job in finished:
            yield engine.completion(job)
        if history is None:
            return
        for job in self._collect(*map(np.asarray, history)):
            if job.generated.finish:
                self._finished.append(job)
            else:
                tokens = (*job.asked.tokens, *job.generated.tokens)
                self._queue.appendleft(dataclasses.replace(job, prompt=engine.prompt(tokens, 1)))

    def _want(self, entries: Iterable[tuple[int, Job]]) -> programs.Want:
        """The least that serves all: one of two programs, so that little is compiled."""
        requests = [job.generated.request for _, job in entries]
        plain = all(r.top_p == 1 and not (r.top_k or r.min_p or r.logprobs) for r in requests)
        return programs.PLAIN if plain else programs.ALL

    def _next_entries(self) -> list[tuple[int, Job]]:
        """Takes as many jobs from the queue as have their prompts in one batch, which is prefilled if need be."""
        queue, engine = self._queue, self._engine
        if queue[0].prompt.batch is None:
            bucket = queue[0].prompt.bucket
            ahead = (job.prompt for job in itertools.islice(queue, LOOK_AHEAD))
            alike = dict.fromkeys(prompt for prompt in ahead if prompt.bucket == bucket and prompt.batch is None)
            engine.prefill(list(alike)[: engine.prompts_at_once(bucket)])
        batch, entries = queue[0].prompt.batch, []
        while queue and self._free and len(entries) < engine.entries and queue[0].prompt.batch is batch:
            entries.append((self._free.pop(), queue.popleft()))
        return entries

    def _collect(self, history: np.ndarray, logprobs: np.ndarray) -> list[Job]:
        """Hands the new tokens to their sequences, frees the slots of those that ended, and returns these.

        What a slot decoded beyond an end that only the host knows is left aside; so is what it does until its refill.
        """
        ended, used, counters = [], np.zeros(history.shape, bool), self._engine.counters
        for slot, job in list(self._running.items()):
            made = np.flatnonzero(history[:, slot] != programs.NOTHING)
            used[made, slot] = True
            chosen, generated = history[made, slot].tolist(), job.generated
            if generated.take(chosen, logprobs[made, slot].tolist() if generated.request.logprobs else ()):
                ended.append(self._running.pop(slot))
                self._free.append(slot)
            elif self._on_tokens is not None:
                self._on_tokens(generated)
        counters.tokens += int(used.sum())
        counters.steps += int(used[1:].any(axis=1).sum())
        counters.slot_steps += int(used[1:].sum())
        return ended
