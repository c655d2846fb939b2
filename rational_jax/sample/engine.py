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
from rational_jax.models import DecoderConfig, Execution
from rational_jax.parallel import AxisRules, shardings
from rational_jax.sample import programs
from rational_jax.sample.requests import LENGTH, STOP, Completion, Request, check_ids
from rational_jax.text.chat import Message

SMALLEST_BUCKET = 16


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Job:
    request: Request
    prompt: tuple[int, ...]


@dataclasses.dataclass(kw_only=True)
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
        self.mesh = mesh
        self.counters = Counters()
        self._stop_ids = np.array(sorted(renderer.stop_ids), np.int32)
        # Refilling one slot at a time would come back to the host at every step when there are many of them.
        self._refill_at = max(1, slots // 16)

    @property
    def settings(self) -> dict:
        """What of the engine decides its output, for manifests."""
        return {"slots": self.slots, "max_length": self.max_length}

    def bucket(self, length: int) -> int:
        """The padded length that a prompt of `length` tokens is prefilled with: a power of two or 3/2 of one."""
        bucket = SMALLEST_BUCKET
        while bucket < length:
            bucket += bucket // 2 if bucket & (bucket - 1) == 0 else bucket // 3
        return min(bucket, self.max_length)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they finish; long budgets are begun first, so that no straggler is left at the end.

        Adjacent requests with the same prompt share one prefill.

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
        slots = self._empty()
        for bucket in sorted({self.bucket(length) for length in prompt_lengths}):
            request = Request(id="warm-up", messages=(), max_new_tokens=1)
            prompt = (0,) * min(bucket, self.max_length - 1)
            slots = self._admit(slots, 0, _Job(request=request, prompt=prompt), self._prefill(prompt), top_p)
        _, history = self._advance(slots, self.slots, top_p)
        jax.block_until_ready(history)

    def _render(self, requests: list[Request]) -> list[_Job]:
        jobs = []
        for messages, group in itertools.groupby(requests, key=lambda request: request.messages):
            prompt = tuple(self.renderer.prompt(messages))
            for request in group:
                if not prompt:
                    raise UserError(f"request {request.id!r}: the prompt is empty")
                if len(prompt) + request.max_new_tokens > self.max_length:
                    raise UserError(
                        f"request {request.id!r}: {len(prompt)} prompt tokens and max_new_tokens="
                        f"{request.max_new_tokens} exceed engine.max_length={self.max_length}"
                    )
                jobs.append(_Job(request=request, prompt=prompt))
        return jobs

    def _run(self, queue: collections.deque[_Job], top_p: bool) -> Iterator[Completion]:
        slots = self._empty()
        free = list(range(self.slots))
        running: dict[int, _Running] = {}
        finished: list[Completion] = []
        shared: tuple[tuple[int, ...], tuple] | None = None
        while queue or running:
            while free and queue:
                job = queue.popleft()
                if shared is None or shared[0] != job.prompt:
                    shared = (job.prompt, self._prefill(job.prompt))
                slot = free.pop()
                slots = self._admit(slots, slot, job, shared[1], top_p)
                running[slot] = _Running(job=job)
            slots, history = self._advance(slots, min(self._refill_at, len(queue)) or self.slots, top_p)
            # The device is at work, so this costs nothing: the texts of what ended before, and whatever the consumer
            # does with them.
            for ended in finished:
                yield self._completion(ended)
            finished = self._collect(np.asarray(history), running, free)
        for ended in finished:
            yield self._completion(ended)

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
            prompt_tokens=len(sequence.job.prompt),
        )

    def _empty(self) -> programs.Slots:
        with self._on_mesh():
            return programs.empty_slots(self.config, self.slots, self.max_length, self.execution.dtype)

    def _prefill(self, prompt: tuple[int, ...]) -> tuple:
        padded = np.zeros((1, self.bucket(len(prompt))), np.int32)
        padded[0, : len(prompt)] = prompt
        self.counters.prefills += 1
        # Outside of the mesh's context: a single row cannot be divided over the batch axes.
        return programs.prefill(self.config, self.execution, self.params, padded, np.int32(len(prompt)))

    def _admit(self, slots: programs.Slots, slot: int, job: _Job, prefilled: tuple, top_p: bool) -> programs.Slots:
        request, (cache, logits) = job.request, prefilled
        whole = np.array([slot, len(job.prompt), request.max_new_tokens], np.int32)
        real = np.array([request.temperature, request.top_p], np.float32)
        self.counters.prompts += 1
        with self._on_mesh():
            slots = programs.insert(slots, cache, np.int32(slot))
            return programs.begin(top_p, self._stop_ids, slots, logits, whole, np.uint32(request.seed), real)

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
