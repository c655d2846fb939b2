"""Any endpoint that speaks OpenAI's chat completions as a backend: vLLM, a hosted API."""

import concurrent.futures
import os
import random
import threading
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import httpx2

from rational_jax.config import EngineSection
from rational_jax.errors import UserError
from rational_jax.sample.requests import FILTERED, LENGTH, STOP, Completion, Rejected, Request, check_ids, refuse
from rational_jax.sample.sequence import find_stop
from rational_jax.text.chat import Message
from rational_jax.text.reasoning import ReasoningFormat

# What is wrong with one request: too long, a field that is not known, a text that is not accepted.
_REJECTED = (400, 413, 422)
AGAIN = (408, 409, 425, 429, 500, 502, 503, 504)
LONGEST_WAIT = 60.0  # seconds between two tries
_SHOWN = 300  # characters of what an endpoint says
# A long answer of a busy server comes as a whole, so reading may take its time; connecting may not.
TIMEOUT = httpx2.Timeout(600.0, connect=20.0)


class Pace:
    """Lets at most `per_minute` through, evenly; all where that is None. Threads may share one."""

    def __init__(self, per_minute: int | None, clock: Callable[[], float]):
        self._gap = 60.0 / per_minute if per_minute else 0.0
        self._clock = clock
        self._next = clock()
        self._lock = threading.Lock()

    def turn(self) -> float:
        """Takes the next turn, which is in so many seconds."""
        with self._lock:
            now = self._clock()
            turn = max(now, self._next)
            self._next = turn + self._gap
        return turn - now


class EndpointBackend:
    """Requests over HTTP, `settings.concurrency` at a time, each tried again where that may help.

    `model` is its name at the endpoint. The key is read from the environment variable `settings.api_key_env` (none is
    sent where that is unset) and appears in no message. Stop strings are applied here, to the answer alone. Token ids
    are not known, only how many there were.

    What a provider's content filter stopped, before or in the answer, ends with "content_filter": it would be stopped
    again.

    Raises UserError for an address that is none or has a password in it, and for a key that no header can hold.
    """

    def __init__(
        self,
        settings: EngineSection,
        model: str,
        reasoning: ReasoningFormat,
        *,
        wait: Callable[[threading.Event, float], object] = threading.Event.wait,
    ):
        if not settings.endpoint:
            raise UserError("engine.backend=openai needs engine.endpoint, such as http://localhost:8000/v1")
        address = httpx2.URL(settings.endpoint)
        if address.scheme not in ("http", "https") or not address.host:
            raise UserError(f"engine.endpoint={settings.endpoint!r} must begin with http:// or https://")
        if address.userinfo:
            raise UserError(f"engine.endpoint must hold no password: put the key into ${settings.api_key_env}")
        self.identity = identity(settings, model)
        self._url = settings.endpoint.rstrip("/") + "/chat/completions"
        self._model, self._settings, self._reasoning, self._wait = model, settings, reasoning, wait
        self._key = os.environ.get(settings.api_key_env, "").strip()
        if not (self._key.isascii() and self._key.isprintable()) or " " in self._key:
            raise UserError(f"${settings.api_key_env} holds blanks or signs that are in no key; put one key into it")
        self._pace = Pace(settings.requests_per_minute, time.monotonic)

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they come.

        Raises UserError where one cannot be had. Nothing is begun after that, and what was under way comes first.
        """
        requests = list(requests)
        check_ids(requests)
        for request in requests:
            refuse(request, "openai", ("prompt_ids", "stop_ids", "reasoning_budget", "prompt_logprobs"))
            if request.messages[-1].role == "assistant" and not request.whole:
                raise UserError(f"request {request.id!r}: the backend openai cannot go on from a turn that has begun")
        return self._run(requests)

    def _run(self, requests: list[Request]) -> Iterator[Completion]:
        headers = {"authorization": f"Bearer {self._key}"} if self._key else {}
        workers = self._settings.concurrency
        stopped = threading.Event()
        with httpx2.Client(headers=headers, timeout=TIMEOUT) as client:
            pool = concurrent.futures.ThreadPoolExecutor(workers, thread_name_prefix="endpoint")
            try:
                asked = [pool.submit(self._ask, client, request, stopped) for request in requests]
                failure = None
                for done in concurrent.futures.as_completed(asked):
                    try:
                        completion = done.result()
                    except concurrent.futures.CancelledError:
                        continue
                    except UserError as error:
                        failure = failure or error
                        continue
                    yield completion
                if failure:
                    raise failure
            finally:
                # Nobody listens any more: nothing further is asked for, it may cost money.
                stopped.set()
                pool.shutdown(cancel_futures=True)

    def _ask(self, client: httpx2.Client, request: Request, stopped: threading.Event) -> Completion:
        try:
            return self._try(client, request, stopped)
        except UserError:
            stopped.set()
            raise

    def _try(self, client: httpx2.Client, request: Request, stopped: threading.Event) -> Completion:
        body = self._body(request)
        for tries_left in range(self._settings.retries, -1, -1):
            if turn := self._pace.turn():
                self._wait(stopped, turn)
            if stopped.is_set():
                raise concurrent.futures.CancelledError
            wait, reply = None, None
            try:
                reply = client.post(self._url, json=body)
            except httpx2.RequestError as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if reply.status_code == 200:
                    return self._completion(request, reply)
                if _refused_by_filter(reply):
                    return Completion(id=request.id, text="", token_ids=(), finish=FILTERED, prompt_tokens=0)
                problem = f"HTTP {reply.status_code}: {reply.text}"
                if reply.status_code not in AGAIN:
                    break
                wait = reply.headers.get("retry-after")
            if tries_left:
                doubled = 2.0 ** (self._settings.retries - tries_left)
                # Spread, so that all that failed together do not come back together.
                pause = float(wait) if wait and wait.isdecimal() else doubled * random.uniform(0.5, 1.0)
                self._wait(stopped, min(LONGEST_WAIT, pause))
        raise self._failed(request, problem, reply)

    def _body(self, request: Request) -> dict[str, Any]:
        body = {
            "model": self._model,
            "messages": [{"role": m.role, "content": self._content(m)} for m in request.messages],
            "max_tokens": request.max_new_tokens,
            "temperature": request.temperature,
            "top_p": request.top_p,
            "seed": request.seed,
        }
        # Not OpenAI's own, but of most servers: sent only where they are wanted.
        extras = {"top_k": request.top_k, "min_p": request.min_p, "logprobs": request.logprobs}
        return body | {name: value for name, value in extras.items() if value}

    def _content(self, message: Message) -> str:
        if message.role != "assistant":
            return message.content
        return self._reasoning.join(message.reasoning, message.content, answer_first=message.answer_first)

    def _completion(self, request: Request, reply: httpx2.Response) -> Completion:
        try:
            answer = reply.json()
            choice = answer["choices"][0]
            message, ended = choice["message"], choice["finish_reason"]
            text = message.get("content") or ""
            thought = message.get("reasoning") or message.get("reasoning_content")
            usage = answer.get("usage") or {}
            prompt_tokens, tokens = int(usage.get("prompt_tokens", 0)), int(usage.get("completion_tokens", 0))
            logprobs = None
            if request.logprobs:
                logprobs = tuple(float(token["logprob"]) for token in choice["logprobs"]["content"])
        except (ValueError, KeyError, IndexError, TypeError, AttributeError) as error:
            raise self._failed(request, f"what came is no chat completion: {reply.text}", reply) from error
        if ended not in (STOP, LENGTH, FILTERED):
            raise self._failed(request, f"it ended with finish_reason {ended!r}, so there is no whole answer", reply)
        if thought:
            begun = not text.strip() and ended != STOP
            text = self._reasoning.join(thought, text)
            if begun:  # cut off in its reasoning, which nobody closed
                text = text.rstrip().removesuffix(self._reasoning.close).rstrip()
        stop, _ = find_stop(text, request.stop, self._reasoning, inside=not self._reasoning.open)
        return Completion(
            id=request.id,
            text=text if stop is None else text[:stop],
            token_ids=(),
            finish=ended if stop is None else STOP,
            prompt_tokens=prompt_tokens,
            logprobs=logprobs,
            token_count=tokens,
        )

    def _failed(self, request: Request, problem: str, reply: httpx2.Response | None) -> UserError:
        if self._key:
            # Some servers repeat the key that they refuse. Cut first, a part of it would be left.
            problem = problem.replace(self._key, "***")
        hint, status = "rerun to go on with what is missing", None if reply is None else reply.status_code
        if status in _REJECTED:
            hint = f"it would be refused again: shorten the prompt {request.id!r} or leave it out"
        elif status in (401, 403):
            hint = f"put a valid key into the environment variable {self._settings.api_key_env}"
        problem = " ".join(problem[:_SHOWN].split())
        message = f"request {request.id!r}: {self._url} gave no answer: {problem}; {hint}"
        if status in _REJECTED:
            return Rejected(message, {request.id: problem})
        return UserError(message)


def _refused_by_filter(reply: httpx2.Response) -> bool:
    """Whether the prompt itself was stopped, which Azure says as an error."""
    try:
        return reply.status_code == 400 and reply.json()["error"]["code"] == FILTERED
    except (ValueError, KeyError, TypeError):
        return False


def identity(settings: EngineSection, model: str) -> dict[str, Any]:
    """What of an endpoint decides its answers, as far as one can know."""
    return {"backend": "openai", "endpoint": settings.endpoint, "model": model}
