"""Continuous batching: a fixed number of slots, each refilled as soon as its sequence has ended."""

import contextlib
import dataclasses
import itertools
import math
from collections.abc import Callable, Iterable, Iterator

import jax
import numpy as np
from jax.sharding import Mesh

from rational_jax.errors import UserError
from rational_jax.models import DecoderConfig, Execution, cache
from rational_jax.parallel import AxisRules, shardings
from rational_jax.sample import programs
from rational_jax.sample.requests import Completion, Rejected, Request, check_ids
from rational_jax.sample.sequence import Generated, PromptRenderer, begins_inside, prompt_tokens
from rational_jax.sample.session import Batch, Job, Prompt, Session

SMALLEST_BUCKET = 16
# Short prompts are prefilled together, as many as make up this many tokens; single ones would leave the device idle.
PREFILL_TOKENS = 256
# Longer prompts are read alone and by chunks of as many tokens, so that scores of attention stay small.
CHUNK = 512
# Slots that are filled by one call.
ENTRIES = 8


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


class Engine:
    """Generates with one model on one process, deterministically.

    A request's tokens depend on the request, the model, `slots` and `max_length` (which fix the shapes that the device
    computes with), and not on what else is generated, in which order, or in which slot. `max_length` bounds prompt and
    new tokens together. Up to `steps_per_dispatch` tokens a slot are decoded before the host looks at them, which
    affects speed alone.

    Programs are compiled at their first use (`warm_up` does it beforehand): two for each length bucket of prompts that
    occurs, and two to sample, once more where a request wants a cut (`top_p`, `top_k`, `min_p`) or log-probabilities;
    one more for each bucket of prompts whose log-probabilities are wanted. Nothing else compiles.

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
            parts = math.prod(mesh.shape[axis] for axis in AxisRules().batch)
            if slots % parts:
                raise UserError(
                    f"engine.slots={slots} does not divide over the {parts} devices that have slots of their own; "
                    f"make it a multiple of {parts}"
                )
            sizes = jax.ShapeDtypeStruct((slots, config.num_kv_heads), np.int32)
            shardings(mesh, AxisRules(), {"slots": sizes}, {"slots": ("batch", "kv_heads")}, "engine.")
        self.config = config
        self.renderer = renderer
        self.slots = slots
        self.max_length = max_length
        self.steps_per_dispatch = steps_per_dispatch
        self.execution = execution
        # Unrolled layers are worth their longer compilation where a program runs thousands of times.
        self._prefill_execution = dataclasses.replace(execution, scan=True)
        self.params = params
        self.mesh = mesh
        self.counters = Counters()
        self._stop_ids = np.array(sorted(renderer.stop_ids), np.int32)
        # Refilling one slot at a time would come back to the host at every step when there are many of them.
        self.refill_at = max(1, slots // 16)
        self.entries = min(slots, ENTRIES)

    @property
    def params(self) -> dict:
        """What generates; may be replaced while nothing is generated, by {} to free its memory."""
        return self._params

    @params.setter
    def params(self, params: dict) -> None:
        self._params = params
        # A copy of the layers beside the stacked ones: half again as fast, on the CPUs where layers are unrolled.
        unrolled = params and not self.execution.scan
        self._weights = programs.layer_weights(self.config, params) if unrolled else None

    @property
    def settings(self) -> dict:
        """What of the engine decides its output, for manifests."""
        return {"slots": self.slots, "max_length": self.max_length}

    def bucket(self, length: int) -> int:
        """The padded length that a prompt of `length` tokens is prefilled with: a power of two, or max_length.

        It is max_length for all prompts of more than CHUNK tokens.
        """
        if length > CHUNK:
            return self.max_length
        return min(max(SMALLEST_BUCKET, 1 << (length - 1).bit_length()), self.max_length)

    def prompts_at_once(self, bucket: int) -> int:
        """How many prompts of a bucket are prefilled together."""
        return 1 if bucket > CHUNK else min(self.slots, max(1, PREFILL_TOKENS // bucket))

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they finish; long budgets are begun first, so that no straggler is left at the end.

        Adjacent requests with the same prompt and budget share one prefill.

        Raises UserError naming the request, before anything is generated, where a prompt is empty, a prompt and its
        new tokens do not fit `max_length` (a Rejected), or two requests have one id.
        """
        requests = list(requests)
        check_ids(requests)
        jobs = self.render(requests)
        jobs.sort(key=lambda job: -job.budget)
        return self._run(jobs)

    def session(self, on_tokens: Callable[[Generated], None] | None = None) -> Session:
        """Slots of their own for requests that come while others are served; see `Session`."""
        return Session(self, on_tokens=on_tokens)

    def warm_up(
        self,
        prompt_lengths: Iterable[int] | None = None,
        *,
        top_p: bool = False,
        cuts: bool = False,
        logprobs: bool = False,
        prompt_logprobs: bool = False,
    ) -> None:
        """Compiles what prompts of these lengths need (None: of any length).

        `top_p` for nucleus sampling, `cuts` for top-k and min-p, the others for log-probabilities. Reasoning that is
        closed for its budget goes on as a longer prompt, up to that budget and the prompt together.
        """
        want = programs.ALL if top_p or cuts or logprobs else programs.PLAIN
        if prompt_lengths is None:
            prompt_lengths = range(1, self.max_length)
        request = Request(id="warm-up", messages=(), max_new_tokens=1)
        slots = self.empty()
        for bucket in sorted({self.bucket(length) for length in prompt_lengths}):
            prompt = Prompt(tokens=(0,) * min(bucket, self.max_length - 1), bucket=bucket, waiting=1)
            self.prefill([prompt])
            generated = Generated(request=request, renderer=self.renderer)
            slots = self.begin(slots, [(0, Job(generated=generated, prompt=prompt, asked=prompt))], want)
            if prompt_logprobs:
                self._score(prompt)
        _, history = self.advance(slots, self.slots, want)
        jax.block_until_ready(history)

    def render(self, requests: list[Request]) -> list[Job]:
        """The requests with their prompts as tokens. Raises UserError as `generate` does, Rejected for one too long."""
        jobs, problems = [], {}
        for _, group in itertools.groupby(requests, key=lambda r: (r.messages, r.prompt_ids, r.max_new_tokens)):
            alike = list(group)
            tokens = prompt_tokens(self.renderer, alike[0])
            for request in alike:
                if not tokens:
                    raise UserError(f"request {request.id!r}: the prompt is empty")
                if not all(0 <= token < self.config.vocab_size for token in request.prompt_ids or ()):
                    raise UserError(
                        f"request {request.id!r}: prompt_ids must be in the model's vocabulary, "
                        f"0 to {self.config.vocab_size - 1}"
                    )
                if len(tokens) + request.max_new_tokens > self.max_length:
                    over = f"{len(tokens)} prompt tokens and max_new_tokens={request.max_new_tokens} exceed"
                    problems[request.id] = f"{over} max_length={self.max_length}"
            prompt = self.prompt(tokens, len(alike))
            jobs += [Job(generated=self._generated(request), prompt=prompt, asked=prompt) for request in alike]
        if problems:
            name, problem = next(iter(problems.items()))
            # A judge's section has a `max_length` of its own, so what is said of each does not name the engine's.
            raise Rejected(f"request {name!r}: {problem.replace('max_length', 'engine.max_length')}", problems)
        return jobs

    def prompt(self, tokens: tuple[int, ...], waiting: int) -> Prompt:
        """A prompt for as many requests, in the bucket of its length."""
        return Prompt(tokens=tokens, bucket=self.bucket(len(tokens)), waiting=waiting)

    def _generated(self, request: Request) -> Generated:
        looks = bool(request.stop) or request.reasoning_budget is not None
        inside = looks and begins_inside(self.renderer, request)
        return Generated(request=request, renderer=self.renderer, inside=inside)

    def _run(self, jobs: list[Job]) -> Iterator[Completion]:
        session = Session(self, jobs)
        while session.busy:
            yield from session.step()

    def completion(self, job: Job) -> Completion:
        """What the caller gets of a job that has ended, with its prompt's log-probabilities if they are wanted."""
        completion = job.generated.completion(len(job.asked.tokens))
        if not job.generated.request.prompt_logprobs:
            return completion
        logprobs, best_ids, best = (array.tolist() for array in self._score(job.asked))
        best_ones = tuple(zip(best_ids, best, strict=True))
        return dataclasses.replace(completion, prompt_logprobs=(None, *logprobs), prompt_best=(None, *best_ones))

    def _score(self, prompt: Prompt) -> programs.Scores:
        if prompt.scores is None:
            length = len(prompt.tokens)
            padded = np.zeros(-(-prompt.bucket // CHUNK) * CHUNK + 1, np.int32)
            padded[:length] = prompt.tokens
            if prompt.bucket <= CHUNK:
                parts = [programs.score(self.config, self._prefill_execution, self.params, padded[: prompt.bucket])]
            else:
                parts = list(self._scored_by_chunks(padded, length))
            prompt.scores = programs.Scores(
                *(np.concatenate(arrays)[: length - 1] for arrays in zip(*parts, strict=True))
            )
        return prompt.scores

    def _scored_by_chunks(self, padded: np.ndarray, length: int) -> Iterator[programs.Scores]:
        caches = cache.empty(self.config, 1, self.max_length, self.execution.dtype)
        for start in range(0, length, CHUNK):
            place, count = np.array([start], np.int32), np.array([min(CHUNK, length - start)], np.int32)
            tokens, wanted = padded[start : start + CHUNK], padded[start + 1 : start + CHUNK + 1]
            caches, scores = programs.score_chunk(
                self.config, self._prefill_execution, self.params, caches, tokens, wanted, place, count
            )
            yield scores

    def empty(self) -> programs.Slots:
        """The device's state with all slots free."""
        with self._on_mesh():
            return programs.empty_slots(self.config, self.slots, self.max_length, self.execution)

    def prefill(self, prompts: list[Prompt]) -> None:
        """Reads prompts of one bucket together, not more than `prompts_at_once` of them."""
        bucket = prompts[0].bucket
        self.counters.prefills += 1
        if bucket > CHUNK:
            prompts[0].batch, prompts[0].row = self._prefill_by_chunks(prompts[0].tokens), 0
            return
        # Always as many rows, so that a prompt's logits do not depend on how many are prefilled with it.
        rows = self.prompts_at_once(bucket)
        tokens, lengths = np.zeros((rows, bucket), np.int32), np.ones(rows, np.int32)
        for row, prompt in enumerate(prompts):
            tokens[row, : len(prompt.tokens)] = prompt.tokens
            lengths[row] = len(prompt.tokens)
        # Outside of the mesh's context: so few rows cannot be divided over the batch axes.
        cache, logits = programs.prefill(self.config, self._prefill_execution, self.params, tokens, lengths)
        batch = Batch(cache=cache, logits=logits)
        for row, prompt in enumerate(prompts):
            prompt.batch, prompt.row = batch, row

    def _prefill_by_chunks(self, tokens: tuple[int, ...]) -> Batch:
        caches = cache.empty(self.config, 1, self.max_length, self.execution.dtype)
        for start in range(0, len(tokens), CHUNK):
            part = tokens[start : start + CHUNK]
            padded = np.zeros((1, CHUNK), np.int32)
            padded[0, : len(part)] = part
            place, count = np.array([start], np.int32), np.array([len(part)], np.int32)
            caches, logits = programs.prefill_chunk(
                self.config, self._prefill_execution, self.params, caches, padded, place, count
            )
        return Batch(cache=caches, logits=logits)

    def begin(self, slots: programs.Slots, entries: list[tuple[int, Job]], want: programs.Want) -> programs.Slots:
        """Puts prompts of one batch into slots and samples their first tokens."""
        batch = entries[0][1].prompt.batch
        rows = np.zeros(self.entries, np.int32)
        new = programs.Entries(
            places=np.full(self.entries, self.slots, np.int32),
            lengths=np.ones(self.entries, np.int32),
            budgets=np.ones(self.entries, np.int32),
            seeds=np.zeros(self.entries, np.uint32),
            temperature=np.zeros(self.entries, np.float32),
            top_p=np.ones(self.entries, np.float32),
            top_k=np.zeros(self.entries, np.int32),
            min_p=np.zeros(self.entries, np.float32),
        )
        for i, (slot, job) in enumerate(entries):
            request, prompt = job.generated.request, job.prompt
            rows[i] = prompt.row
            values = (
                slot,
                len(prompt.tokens),
                job.budget,
                request.seed,
                request.temperature,
                request.top_p,
                request.top_k,
                request.min_p,
            )
            for column, value in zip(new, values, strict=True):
                column[i] = value
            prompt.waiting -= 1
            if not prompt.waiting:
                prompt.batch = None  # frees its memory with the last prompt of the batch
        self.counters.prompts += len(entries)
        with self._on_mesh():
            slots, logits = programs.insert(
                self.config, slots, batch.cache, batch.logits, rows, new.lengths, new.places
            )
            return programs.begin(want, self._stop_ids, slots, logits, new)

    def advance(self, slots: programs.Slots, free_enough: int, want: programs.Want):
        """Decodes for all slots, until `free_enough` are free at the latest; see `programs.advance`."""
        self.counters.dispatches += 1
        with self._on_mesh():
            return programs.advance(
                self.config,
                self.execution,
                self.steps_per_dispatch,
                want,
                self._stop_ids,
                self.params,
                self._weights,
                slots,
                np.int32(free_enough),
            )

    def _on_mesh(self):
        return contextlib.nullcontext() if self.mesh is None else jax.set_mesh(self.mesh)
