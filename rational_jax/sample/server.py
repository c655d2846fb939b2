"""`rational serve`: the engine behind the HTTP interface that OpenAI's clients speak."""

from __future__ import annotations

import asyncio
import contextlib
import copy
import dataclasses
import functools
import hmac
import json
import secrets
import time
from collections.abc import AsyncIterator, Sequence
from typing import Any

from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import ClientDisconnect
from starlette.requests import Request as HttpRequest
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from rational_jax.errors import UserError
from rational_jax.sample import wire
from rational_jax.sample.bridge import Bridge, Full, Gone
from rational_jax.sample.engine import Engine
from rational_jax.sample.pieces import Pieces
from rational_jax.sample.requests import STOP, Completion, Request, derive_seed
from rational_jax.sample.sequence import begins_inside, prompt_tokens
from rational_jax.sample.wire import ApiError
from rational_jax.text.chat import Renderer

DRAIN_SECONDS = 600
"""How long a server that is told to stop answers what was asked before."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class ServerOptions:
    """`name` is the model's; `reasoning` where it goes: "content", or "field" for `reasoning` beside the content.

    `api_key` is asked of every request but those to /health; None lets everyone in. `most_waiting` requests may wait
    for a slot, and bodies may have `most_bytes`.
    """

    name: str
    reasoning: str = "content"
    api_key: str | None = None
    most_waiting: int = 256
    most_bytes: int = 4 * 2**20


class Server:
    """The application. `app` is what an ASGI server runs; its lifespan starts the engine's thread and drains it."""

    def __init__(self, engine: Engine, renderer: Renderer, options: ServerOptions):
        self.engine, self.options = engine, options
        # One tokenizer must not be used by two threads at once: the engine has its own.
        self.renderer = copy.deepcopy(renderer)
        self._reader, self._reading = copy.deepcopy(renderer), asyncio.Lock()
        self.bridge = Bridge(engine, options.most_waiting)
        self._began = int(time.time())
        self.app = Starlette(
            routes=[
                Route("/health", self._health),
                Route("/v1/models", self._guarded(self._models)),
                Route("/v1/models/{name:path}", self._guarded(self._model)),
                Route("/v1/completions", self._guarded(self._completions), methods=["POST"]),
                Route("/v1/chat/completions", self._guarded(self._chat), methods=["POST"]),
                Route("/tokenize", self._guarded(self._tokenize), methods=["POST"]),
                Route("/detokenize", self._guarded(self._detokenize), methods=["POST"]),
                Route("/tokenizer_info", self._guarded(self._tokenizer_info)),
            ],
            exception_handlers={ApiError: _refused, HTTPException: _http_refused},
            lifespan=self._lifespan,
        )

    @contextlib.asynccontextmanager
    async def _lifespan(self, app: Starlette) -> AsyncIterator[None]:
        self.bridge.start()
        yield
        self.bridge.close()
        self.bridge.join(DRAIN_SECONDS)

    def _guarded(self, handler):
        """The handler behind the key."""

        async def guarded(http: HttpRequest) -> Response:
            key = self.options.api_key
            given = http.headers.get("authorization", "").removeprefix("Bearer ")
            if key is not None and not hmac.compare_digest(given.encode(), key.encode()):
                raise ApiError(401, "Incorrect API key provided", "authentication_error", "invalid_api_key")
            try:
                return await handler(http)
            except ClientDisconnect:
                return Response(status_code=499)  # nobody reads it

        return guarded

    async def _body(self, http: HttpRequest, kind: type) -> Any:
        raw, most = bytearray(), self.options.most_bytes
        async for chunk in http.stream():
            raw += chunk
            if len(raw) > most:
                raise ApiError(413, f"the request is longer than {most} bytes", code="request_too_large")
        body = wire.parse(kind, bytes(raw))
        if body.model not in (None, self.options.name):
            raise ApiError(404, f"The model `{body.model}` does not exist", code="model_not_found")
        return body

    async def _health(self, http: HttpRequest) -> Response:
        status = {"status": "ok" if self.bridge.alive else "stopping"}
        slots = {"slots": self.engine.slots, "free": self.bridge.free, "requests": self.bridge.open}
        return JSONResponse(status | slots, 200 if self.bridge.alive else 503)

    def _card(self) -> dict:
        card = {"id": self.options.name, "object": "model", "created": self._began, "owned_by": "rational_jax"}
        return card | {"max_model_len": self.engine.max_length}

    async def _models(self, http: HttpRequest) -> Response:
        return JSONResponse({"object": "list", "data": [self._card()]})

    async def _model(self, http: HttpRequest) -> Response:
        if (name := http.path_params["name"]) != self.options.name:
            raise ApiError(404, f"The model `{name}` does not exist", code="model_not_found")
        return JSONResponse(self._card())

    async def _tokenize(self, http: HttpRequest) -> Response:
        body = await self._body(http, wire.TokenizeBody)
        if (body.prompt is None) == (body.messages is None):
            raise ApiError(400, "give either prompt or messages")
        if body.messages is not None:
            tokens = await self._apart(self._rendered, wire.turns(body.messages, self.renderer))
        else:
            (tokens,) = await self._apart(self._text_ids, [body.prompt], body.add_special_tokens)
        return JSONResponse({"tokens": tokens, "count": len(tokens), "max_model_len": self.engine.max_length})

    async def _detokenize(self, http: HttpRequest) -> Response:
        body = await self._body(http, wire.DetokenizeBody)
        self._check_ids(body.tokens)
        return JSONResponse({"prompt": self.renderer.tokenizer.decode(body.tokens)})

    async def _tokenizer_info(self, http: HttpRequest) -> Response:
        tokenizer = self.renderer.tokenizer
        names = ("bos_token", "eos_token", "pad_token", "unk_token")
        tokens = {name: getattr(tokenizer, name, None) for name in names}
        about = {"tokenizer_class": type(tokenizer).__name__, "chat_template": tokenizer.get_chat_template()}
        return JSONResponse(about | tokens | {"max_model_len": self.engine.max_length})

    async def _completions(self, http: HttpRequest) -> Response:
        body = await self._body(http, wire.CompletionBody)
        if not body.prompts:
            raise ApiError(400, "prompt: there is none")
        self._check_count(body, len(body.prompts))
        if body.max_tokens == 0 and (not body.echo or body.stream):
            raise ApiError(400, "max_tokens: 0 leaves nothing to answer without echo, and nothing to stream")
        prompts = await self._apart(self._text_ids, body.prompts)
        scored = bool(body.echo) and body.logprobs is not None
        requests = []
        for number, prompt in enumerate(prompts):
            self._check_ids(prompt)
            budget = 16 if body.max_tokens is None else max(body.max_tokens, 1)
            self._check_length(len(prompt), budget)
            settings = {"prompt_ids": tuple(prompt), "max_new_tokens": budget, "prompt_logprobs": scored}
            settings |= {"logprobs": body.logprobs is not None}
            requests += self._requests(body, settings | {"messages": ()}, number)
        copies = body.n or 1

        def echoed(number: int) -> str:
            asked = body.prompts[number // copies] if body.echo else ""
            return asked if isinstance(asked, str) else self.renderer.tokenizer.decode(asked)

        def choice(number: int, done: Completion) -> dict:
            if body.max_tokens == 0:
                nothing = {"token_ids": (), "logprobs": (), "stop_token": None}
                done = dataclasses.replace(done, text="", finish="length", **nothing)
            shown = {"index": number, "text": echoed(number) + done.text, "finish_reason": done.finish}
            if body.logprobs is None:
                return shown | {"logprobs": None}
            prompt, offset = prompts[number // copies], len(echoed(number))
            if scored:  # its tokens end where the echo ends, and may begin before it: with one that stands for no text
                offset -= len(self.renderer.tokenizer.decode(prompt))
            return shown | {"logprobs": wire.text_logprobs(self.renderer, done, prompt, offset)}

        def piece(number: int, text: str, finish: str | None) -> dict:
            return {"index": number, "text": text, "finish_reason": finish, "logprobs": None}

        begin = [(number, echoed(number)) for number in range(len(requests))] if body.echo else []
        prompt_count = sum(map(len, prompts))
        pieces = functools.partial(Pieces, self.renderer, body.stops)
        return await self._answer(http, body, requests, "text_completion", choice, piece, begin, prompt_count, pieces)

    async def _chat(self, http: HttpRequest) -> Response:
        body = await self._body(http, wire.ChatBody)
        self._check_count(body, 1)
        messages = wire.turns(body.messages, self.renderer)
        length = len(await self._apart(self._rendered, messages))
        budget = body.max_completion_tokens or body.max_tokens or max(self.engine.max_length - length, 1)
        self._check_length(length, budget)
        settings = {"messages": messages, "max_new_tokens": budget, "logprobs": bool(body.logprobs)}
        requests = self._requests(body, settings)
        apart, form = self.options.reasoning == "field", self.renderer.reasoning
        lead = form.open if apart and begins_inside(self.renderer, requests[0]) else ""

        def choice(number: int, done: Completion) -> dict:
            message = {"role": "assistant", "content": done.text, "refusal": None}
            if apart:
                split = form.split(lead + done.text, finished=done.finish == STOP)
                message |= {"content": split.answer} | _both(split.reasoning)
            shown = {"index": number, "message": message, "finish_reason": done.finish, "logprobs": None}
            if body.logprobs:
                top = body.top_logprobs or 0
                shown["logprobs"] = wire.chat_logprobs(self.renderer, done.token_ids, done.logprobs, top)
            return shown

        def piece(number: int, text: str | dict, finish: str | None) -> dict:
            delta = text if isinstance(text, dict) else {"content": text} if text else {}
            return {"index": number, "delta": delta, "finish_reason": finish, "logprobs": None}

        begin = [(number, {"role": "assistant", "content": ""}) for number in range(len(requests))]
        pieces = functools.partial(Pieces, self.renderer, body.stops, lead if apart else None)
        return await self._answer(http, body, requests, "chat.completion", choice, piece, begin, length, pieces)

    async def _answer(self, http, body, requests, kind, choice, piece, begin, prompt_count, pieces) -> Response:
        """The answer to all, at once or by pieces. It waits for the first event: errors still have a status then."""
        head = {"id": f"{kind.split('.')[0][:4]}cmpl-{secrets.token_hex(12)}", "created": int(time.time())}
        head |= {"model": self.options.name, "system_fingerprint": None}
        stream = bool(body.stream)
        events = self._events(http, requests, tokens=stream)
        try:
            first = await anext(events)
        except UserError as error:
            raise ApiError(400, str(error)) from None
        except Full:
            raise ApiError(
                429, "Too many requests are waiting; try again later", "rate_limit_error", "queue_full"
            ) from (None)
        except Gone:
            raise ApiError(503, "The server is stopping", "server_error", "stopping") from None
        if stream:
            chunk = "chat.completion.chunk" if kind == "chat.completion" else kind
            counted = bool((body.stream_options or {}).get("include_usage"))
            lines = self._lines(head | {"object": chunk}, first, events, piece, begin, prompt_count, counted, pieces)
            return StreamingResponse(lines, media_type="text/event-stream", headers={"Cache-Control": "no-cache"})
        choices, count, event = {}, 0, first
        while event is not None:
            choices[int(event.id)] = choice(int(event.id), event)
            # Where none is wanted, one is sampled all the same, and not told.
            count += 0 if body.max_tokens == 0 else event.tokens
            event = await anext(events, None)
        ordered = [choices[number] for number in range(len(requests))]
        return JSONResponse(head | {"object": kind, "choices": ordered, "usage": wire.usage(prompt_count, count)})

    async def _events(self, http: HttpRequest, requests: Sequence[Request], tokens: bool):
        """What the engine says, until the client hangs up, which gives up the requests."""
        async with contextlib.aclosing(self.bridge.ask(requests, tokens=tokens)) as events:
            async for event in events:
                if await http.is_disconnected():
                    raise ClientDisconnect
                if event is not None:
                    yield event

    async def _lines(self, head, first, events, piece, begin, prompt_count, counted, pieces) -> AsyncIterator[str]:
        def line(choices: list[dict], **more: Any) -> str:
            return f"data: {json.dumps(head | {'choices': choices} | more, ensure_ascii=False)}\n\n"

        writers = {}
        count, event = 0, first
        async with contextlib.aclosing(events):
            for number, said in begin:
                yield line([piece(number, said, None)])
            while event is not None:
                number, done = int(event.id), isinstance(event, Completion)
                for name, said in writers.setdefault(number, pieces()).more(event):
                    yield line([piece(number, said if name == "content" else _both(said), None)])
                if done:
                    count += event.tokens
                    yield line([piece(number, "", event.finish)])
                event = await anext(events, None)
        if counted:
            yield line([], usage=wire.usage(prompt_count, count))
        yield "data: [DONE]\n\n"

    async def _apart(self, work, *given):
        """Runs what may take long for a long prompt, without holding up who else is served."""
        async with self._reading:
            return await asyncio.to_thread(work, *given)

    def _check_count(self, body, prompts: int) -> None:
        """Before anything is made of a body: what it may ask for, and in which company."""
        wanted = prompts * (body.n or 1)
        if wanted > self.bridge.most:
            raise ApiError(400, f"{wanted} answers at once: this server takes {self.bridge.most} in all; ask for fewer")
        if body.stream and body.logprobs not in (None, False):
            raise ApiError(400, "logprobs: not told while streaming; leave out stream")

    def _requests(self, body, settings: dict, number: int = 0) -> list[Request]:
        seed = secrets.randbits(32) if body.seed is None else body.seed
        copies, settings = body.n or 1, body.decoding() | settings
        try:
            return [
                Request(id=str(i), seed=seed % 2**32 if not i + number else derive_seed(seed, number, i), **settings)
                for i in range(copies)
            ]
        except UserError as error:
            raise ApiError(400, str(error)) from None

    def _rendered(self, messages) -> list[int]:
        try:
            return list(prompt_tokens(self._reader, Request(id="", messages=tuple(messages), max_new_tokens=1)))
        except UserError as error:
            raise ApiError(400, f"messages: {error}") from None

    def _text_ids(self, prompts: Sequence[str | list[int]], special: bool = True) -> list[list[int]]:
        """The tokens of prompts, of which some may be tokens already."""
        encode = functools.partial(self._reader.tokenizer, add_special_tokens=special, verbose=False)
        return [encode(prompt)["input_ids"] if isinstance(prompt, str) else prompt for prompt in prompts]

    def _check_ids(self, tokens: Sequence[int]) -> None:
        if any(token >= self.engine.config.vocab_size for token in tokens):
            raise ApiError(400, f"token ids must be from 0 to {self.engine.config.vocab_size - 1}")

    def _check_length(self, prompt: int, budget: int) -> None:
        if not prompt:
            raise ApiError(400, "prompt: it is empty")
        if prompt + budget > self.engine.max_length:
            raise ApiError(
                400,
                f"This model's maximum context length is {self.engine.max_length} tokens. However, you requested "
                f"{prompt + budget} tokens ({prompt} in the prompt, {budget} for the answer)",
                code="context_length_exceeded",
            )


def _both(reasoning: str | None) -> dict:
    return {"reasoning": reasoning, "reasoning_content": reasoning}


async def _refused(http: HttpRequest, error: ApiError) -> Response:
    return JSONResponse(error.body, error.status)


async def _http_refused(http: HttpRequest, error: HTTPException) -> Response:
    return await _refused(http, ApiError(error.status_code, f"{http.method} {http.url.path}: {error.detail}"))
