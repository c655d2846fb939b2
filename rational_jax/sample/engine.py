"""Continuous batching: a fixed number of slots, each refilled as soon as its sequence has ended."""

import collections
import contextlib
import dataclasses
import itertools
from collections.abc import Iterable, Iterator, Sequence
from typing import Protocol

import jax
import numpy as np
from jax.sharding import Mesh

from rational_jax.errors import UserError
from rational_jax.models import DecoderConfig, Execution, KVCache
from rational_jax.parallel import AxisRules, shardings
from rational_jax.sample import programs
from rational_jax.sample.requests import LENGTH, STOP, Completion, Request, check_ids
from rational_jax.text.chat import Message

SMALLEST_BUCKET = 16
# Short prompts are prefilled together, as many as make up this many tokens; single ones would leave the device idle.
PREFILL_TOKENS = 256
# Slots that are filled by one call.
ENTRIES = 8
# How far the queue is searched for prompts to be prefilled together.
LOOK_AHEAD = 256


class PromptRenderer(Protocol):
    """What the engine needs of `text.chat.Renderer`."""

    stop_ids: tuple[int, ...]

    def prompt(self, messages: Sequence[Message]) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...


@dataclasses.dataclass(kw_only=True)
class Counters:
    """What an engine has done so far: `slot_steps` tokens were decoded in `steps` steps that had room for `slots` each.

    `tokens` counts the first token of every prompt too, which comes with its admission.
    """

    tokens: int = 0
    prompts: int = 0
    prefills: int = 0
    dispatches: int = 0
    steps: int = 0
    slot_steps: int = 0


@dataclasses.dataclass(kw_only=True, eq=False)
class _Prompt:
    """A prompt, the requests that still wait for it, and once it is prefilled, where that is: a batch and a row."""

    tokens: tuple[int, ...]
    bucket: int
    waiting: int
    batch: "_Batch | None" = None
    row: int = 0


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Batch:
    """Prompts prefilled together, on the device."""

    cache: KVCache
    logits: jax.Array


@dataclasses.dataclass(frozen=True, kw_only=True, eq=False)
class _Job:
    request: Request
    prompt: _Prompt


@dataclasses.dataclass(kw_only=True, eq=False)
class _Running:
    job: _Job
    tokens: list[int] = dataclasses.field(default_factory=list)


class Engine:
    """Generates with one model on one process, deterministically.

    A request's tokens depend on the request, the model, `slots` and `max_length` (which fix the shapes that the device
    computes with), and not on what else is generated, in which order, or in which slot. `max_length` bounds prompt and
    new tokens together. Up to `steps_per_dispatch` tokens a slot are decoded before the host looks at them, which
    affects speed alone.

    Programs are compiled at their first use (`warm_up` does it beforehand): two for each length bucket of prompts that
    occurs, and two to sample, once more where a request wants `top_p` below 1. Nothing else compiles.

    With a `mesh`, slots lie over its batch axes and heads over its tensor axis; `params` must lie on it already.

    Raises UserError where slots or heads do not divide over the mesh, or max_length exceeds what the model was made
    for.
    """

    def __init__(
        self,
        config: DecoderConfig,
        params: dict,
        renderer: PromptRenderer,
        *,
        slots: int = 64,
        max_length: int = 256,
        steps_per_dispatch: int = 8,
        execution: Execution,
        mesh: Mesh | None = None,
    ):
        if slots < 1 or max_length < 2 or steps_per_dispatch < 1:
            raise UserError(
                f"engine.slots={slots} and engine.steps_per_dispatch={steps_per_dispatch} must be at least 1, "
                f"engine.max_length={max_length} at least 2"
            )
        if max_length > config.max_positions:
            raise UserError(
                f"engine.max_length={max_length} exceeds the {config.max_positions} positions this model was made for"
            )
        if mesh is not None:
            sizes = jax.ShapeDtypeStruct((slots, config.num_kv_heads), np.int32)
            shardings(mesh, AxisRules(), {"slots": sizes}, {"slots": ("batch", "kv_heads")}, "engine.")
        self.config = config
        self.params = params
        self.renderer = renderer
        self.slots = slots
        self.max_length = max_length
        self.steps_per_dispatch = steps_per_dispatch
        self.execution = execution
        # Unrolled layers are worth their longer compilation where a program runs thousands of times.
        self._prefill_execution = dataclasses.replace(execution, scan=True)
        self.mesh = mesh
        self.counters = Counters()
        self._stop_ids = np.array(sorted(renderer.stop_ids), np.int32)
        # Refilling one slot at a time would come back to the host at every step when there are many of them.
        self._refill_at = max(1, slots // 16)
        self._entries = min(slots, ENTRIES)

    @property
    def settings(self) -> dict:
        """What of the engine decides its output, for manifests."""
        return {"slots": self.slots, "max_length": self.max_length}

    def bucket(self, length: int) -> int:
        """The padded length that a prompt of `length` tokens is prefilled with: a power of two, or max_length."""
        return min(max(SMALLEST_BUCKET, 1 << (length - 1).bit_length()), self.max_length)

    def prompts_at_once(self, bucket: int) -> int:
        """How many prompts of a bucket are prefilled together."""
        return min(self.slots, max(1, PREFILL_TOKENS // bucket))

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they finish; long budgets are begun first, so that no straggler is left at the end.

        Adjacent requests with the same prompt and budget share one prefill.

        Raises UserError naming the request, before anything is generated, where a prompt is empty, a prompt and its
        new tokens do not fit `max_length`, or two requests have one id.
        """
        requests = list(requests)
        check_ids(requests)
        jobs = self._render(requests)
        jobs.sort(key=lambda job: -job.request.max_new_tokens)
        return self._run(collections.deque(jobs), any(job.request.top_p < 1 for job in jobs))

    def warm_up(self, prompt_lengths: Iterable[int] | None = None, *, top_p: bool = False) -> None:
        """Compiles what prompts of these lengths need (None: of any length), with `top_p` for nucleus sampling."""
        if prompt_lengths is None:
            prompt_lengths = range(1, self.max_length)
        request = Request(id="warm-up", messages=(), max_new_tokens=1)
        slots = self._empty()
        for bucket in sorted({self.bucket(length) for length in prompt_lengths}):
            prompt = _Prompt(tokens=(0,) * min(bucket, self.max_length - 1), bucket=bucket, waiting=1)
            self._prefill([prompt])
            slots = self._begin(slots, [(0, _Job(request=request, prompt=prompt))], top_p)
        _, history = self._advance(slots, self.slots, top_p)
        jax.block_until_ready(history)

    def _render(self, requests: list[Request]) -> list[_Job]:
        jobs = []
        for _, group in itertools.groupby(requests, key=lambda request: (request.messages, request.max_new_tokens)):
            alike = list(group)
            tokens = tuple(self.renderer.prompt(alike[0].messages))
            for request in alike:
                if not tokens:
                    raise UserError(f"request {request.id!r}: the prompt is empty")
                if len(tokens) + request.max_new_tokens > self.max_length:
                    raise UserError(
                        f"request {request.id!r}: {len(tokens)} prompt tokens and max_new_tokens="
                        f"{request.max_new_tokens} exceed engine.max_length={self.max_length}"
                    )
            prompt = _Prompt(tokens=tokens, bucket=self.bucket(len(tokens)), waiting=len(alike))
            jobs += [_Job(request=request, prompt=prompt) for request in alike]
        return jobs

    def _run(self, queue: collections.deque[_Job], top_p: bool) -> Iterator[Completion]:
        slots = self._empty()
        free = list(range(self.slots))
        running: dict[int, _Running] = {}
        finished: list[_Running] = []
        while queue or running:
            while free and queue:
                entries = self._next_entries(queue, free)
                slots = self._begin(slots, entries, top_p)
                running |= {slot: _Running(job=job) for slot, job in entries}
            slots, history = self._advance(slots, min(self._refill_at, len(queue)) or self.slots, top_p)
            # The device is at work, so this costs nothing: the texts of what ended before, and whatever the consumer
            # does with them.
            for ended in finished:
                yield self._completion(ended)
            finished = self._collect(np.asarray(history), running, free)
        for ended in finished:
            yield self._completion(ended)

    def _next_entries(self, queue: collections.deque[_Job], free: list[int]) -> list[tuple[int, _Job]]:
        """Takes as many jobs from the queue as have their prompts in one batch, which is prefilled if need be."""
        if queue[0].prompt.batch is None:
            bucket = queue[0].prompt.bucket
            ahead = (job.prompt for job in itertools.islice(queue, LOOK_AHEAD))
            alike = dict.fromkeys(prompt for prompt in ahead if prompt.bucket == bucket and prompt.batch is None)
            self._prefill(list(alike)[: self.prompts_at_once(bucket)])
        batch, entries = queue[0].prompt.batch, []
        while queue and free and len(entries) < self._entries and queue[0].prompt.batch is batch:
            entries.append((free.pop(), queue.popleft()))
        return entries

    def _collect(self, history: np.ndarray, running: dict[int, _Running], free: list[int]) -> list[_Running]:
        """Hands the new tokens to their sequences, frees the slots of those that ended, and returns these."""
        finished = []
        for slot, sequence in list(running.items()):
            column = history[:, slot]
            tokens = sequence.tokens
            tokens += column[column != programs.NOTHING].tolist()
            if tokens[-1] in self.renderer.stop_ids or len(tokens) == sequence.job.request.max_new_tokens:
                finished.append(running.pop(slot))
                free.append(slot)
        made = history != programs.NOTHING
        self.counters.tokens += int(made.sum())
        self.counters.steps += int(made[1:].any(axis=1).sum())
        self.counters.slot_steps += int(made[1:].sum())
        return finished

    def _completion(self, sequence: _Running) -> Completion:
        tokens, finish = sequence.tokens, LENGTH
        if tokens[-1] in self.renderer.stop_ids:
            tokens, finish = tokens[:-1], STOP
        return Completion(
            id=sequence.job.request.id,
            text=self.renderer.decode(tokens),
            token_ids=tuple(tokens),
            finish=finish,
            prompt_tokens=len(sequence.job.prompt.tokens),
        )

    def _empty(self) -> programs.Slots:
        with self._on_mesh():
            return programs.empty_slots(self.config, self.slots, self.max_length, self.execution.dtype)

    def _prefill(self, prompts: list[_Prompt]) -> None:
        bucket = prompts[0].bucket
        # Always as many rows, so that a prompt's logits do not depend on how many are prefilled with it.
        rows = self.prompts_at_once(bucket)
        tokens, lengths = np.zeros((rows, bucket), np.int32), np.ones(rows, np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt.tokens)] = prompt.tokens
            lengths[row] = len(prompt.tokens)
        # Outside of the mesh's context: so few rows cannot be divided over the batch axes.
        cache, logits = programs.prefill(self.config, self._prefill_execution, self.params, tokens, lengths)
        batch = _Batch(cache=cache, logits=logits)
        for row, prompt in enumerate(prompts):
            prompt.batch, prompt.row = batch, row
        self.counters.prefills += 1

    def _begin(self, slots: programs.Slots, entries: list[tuple[int, _Job]], top_p: bool) -> programs.Slots:
        """Puts prompts of one batch into slots and samples their first tokens."""
        batch = entries[0][1].prompt.batch
        rows = np.zeros(self._entries, np.int32)
        new = programs.Entries(
            places=np.full(self._entries, self.slots, np.int32),
            lengths=np.ones(self._entries, np.int32),
            budgets=np.ones(self._entries, np.int32),
            seeds=np.zeros(self._entries, np.uint32),
            temperature=np.zeros(self._entries, np.float32),
            top_p=np.ones(self._entries, np.float32),
        )
        for i, (slot, job) in enumerate(entries):
            request, prompt = job.request, job.prompt
            rows[i] = prompt.row
            values = (
                slot,
                len(prompt.tokens),
                request.max_new_tokens,
                request.seed,
                request.temperature,
                request.top_p,
            )
            for column, value in zip(new, values, strict=True):
                column[i] = value
            prompt.waiting -= 1
            if not prompt.waiting:
                prompt.batch = None  # frees its memory with the last prompt of the batch
        self.counters.prompts += len(entries)
        with self._on_mesh():
            slots, logits = programs.insert(
                self.config, self.max_length, slots, batch.cache, batch.logits, rows, new.lengths, new.places
            )
            return programs.begin(top_p, self._stop_ids, slots, logits, new)

    def _advance(self, slots: programs.Slots, free_enough: int, top_p: bool) -> tuple[programs.Slots, jax.Array]:
        self.counters.dispatches += 1
        with self._on_mesh():
            return programs.advance(
                self.config,
                self.execution,
                self.steps_per_dispatch,
                top_p,
                self._stop_ids,
                self.params,
                slots,
                np.int32(free_enough),
            )

    def _on_mesh(self):
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)
