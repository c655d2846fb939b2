"""What goes over the wire in OpenAI's formats: the bodies that are understood, and the answers to them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from rational_jax.sample.requests import Completion
from rational_jax.text.chat import Message, Renderer

MOST_CHOICES = 128


class ApiError(Exception):
    """An error as OpenAI's clients expect it; `status` is that of HTTP."""

    def __init__(self, status: int, message: str, kind: str = "invalid_request_error", code: str | None = None):
        super().__init__(message)
        self.status, self.message, self.kind, self.code = status, message, kind, code

    @property
    def body(self) -> dict:
        return {"error": {"message": self.message, "type": self.kind, "param": None, "code": self.code}}


Tokens = Annotated[int, Field(ge=0)]
Stops = Annotated[list[Annotated[str, Field(min_length=1)]], Field(max_length=64)]


class _Body(BaseModel):
    """Fields of both endpoints. Those that would change an answer and are not supported have to be neutral."""

    model_config = ConfigDict(extra="forbid")

    model: str
    temperature: Annotated[float, Field(ge=0, le=100, allow_inf_nan=False)] | None = None
    top_p: Annotated[float, Field(gt=0, le=1)] | None = None
    top_k: Annotated[int, Field(ge=-1, lt=2**31)] | None = None
    min_p: Annotated[float, Field(ge=0, le=1)] | None = None
    seed: int | None = None
    n: Annotated[int, Field(ge=1, le=MOST_CHOICES)] | None = None
    stop: Stops | str | None = None
    stop_token_ids: list[Tokens] | None = None
    stream: bool | None = None
    stream_options: dict[str, Any] | None = None
    reasoning_budget: Annotated[int, Field(ge=1)] | None = None
    presence_penalty: Literal[0] | None = None
    frequency_penalty: Literal[0] | None = None
    logit_bias: Annotated[dict, Field(max_length=0)] | None = None
    user: str | None = None
    metadata: dict | None = None
    store: bool | None = None
    service_tier: str | None = None

    @property
    def stops(self) -> tuple[str, ...]:
        return (self.stop,) * bool(self.stop) if isinstance(self.stop, str) else tuple(self.stop or ())

    def decoding(self) -> dict[str, Any]:
        """The fields of a Request that say how to sample, but for the seed."""
        return {
            "temperature": 1.0 if self.temperature is None else self.temperature,
            "top_p": self.top_p or 1.0,
            "top_k": max(self.top_k or 0, 0),
            "min_p": self.min_p or 0.0,
            "stop": self.stops,
            "stop_ids": tuple(self.stop_token_ids or ()),
            "reasoning_budget": self.reasoning_budget,
        }


class CompletionBody(_Body):
    """POST /v1/completions"""

    prompt: str | list[Tokens] | list[str] | list[list[Tokens]]
    max_tokens: Tokens | None = None
    echo: bool | None = None
    logprobs: Annotated[int, Field(ge=0, le=1)] | None = None
    best_of: Literal[1] | None = None
    suffix: None = None

    @property
    def prompts(self) -> list[str] | list[list[int]]:
        alone = isinstance(self.prompt, str) or (self.prompt and isinstance(self.prompt[0], int))
        return [self.prompt] if alone else self.prompt


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid")
    type: Literal["text"]
    text: str


class ChatMessage(BaseModel):
    """One turn. Reasoning may stand in a field of its own, under either name, or with its delimiters in `content`."""

    model_config = ConfigDict(extra="forbid")
    role: Literal["system", "developer", "user", "assistant"]
    content: str | list[_Part] | None = None
    reasoning: str | None = None
    reasoning_content: str | None = None
    name: str | None = None
    refusal: None = None
    tool_calls: Annotated[list, Field(max_length=0)] | None = None

    def turn(self, renderer: Renderer, last: bool = False) -> Message:
        """The turn with its reasoning apart. The text of a `last` one is a beginning, which goes on as it was sent."""
        text = self.content if isinstance(self.content, str) else "".join(p.text for p in self.content or ())
        if self.role != "assistant":
            return Message(role="system" if self.role == "developer" else self.role, content=text)
        reasoning = self.reasoning or self.reasoning_content
        if not (reasoning or last) and renderer.reasoning.open and renderer.reasoning.close in text:
            split = renderer.reasoning.split(text, finished=True)
            if split.answer or split.reasoning:  # or else it would be lost that nothing was thought
                text, reasoning = split.answer, split.reasoning
        return Message(role="assistant", content=text, reasoning=reasoning)


def turns(messages: Sequence[ChatMessage], renderer: Renderer) -> tuple[Message, ...]:
    """The conversation that the model is to go on with."""
    return tuple(message.turn(renderer, last=message is messages[-1]) for message in messages)


class ChatBody(_Body):
    """POST /v1/chat/completions"""

    messages: Annotated[list[ChatMessage], Field(min_length=1)]
    max_tokens: Annotated[int, Field(ge=1)] | None = None
    max_completion_tokens: Annotated[int, Field(ge=1)] | None = None
    logprobs: bool | None = None
    top_logprobs: Annotated[int, Field(ge=0, le=1)] | None = None
    response_format: dict[Literal["type"], Literal["text"]] | None = None
    tools: Annotated[list, Field(max_length=0)] | None = None
    tool_choice: Literal["none", "auto"] | None = None


class TokenizeBody(BaseModel):
    """POST /tokenize"""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    prompt: str | None = None
    messages: list[ChatMessage] | None = None
    add_special_tokens: bool = True


class DetokenizeBody(BaseModel):
    """POST /detokenize"""

    model_config = ConfigDict(extra="forbid")
    model: str | None = None
    tokens: list[Tokens]


def parse(kind: type[BaseModel], raw: bytes) -> Any:
    """A body of this kind. Raises ApiError 400, naming the first field that is wrong."""
    try:
        return kind.model_validate_json(raw)
    except ValidationError as error:
        first = error.errors(include_url=False, include_input=False, include_context=False)[0]
        where = ".".join(str(part) for part in first["loc"])
        if first["type"] == "extra_forbidden":
            raise ApiError(400, f"Unrecognized request argument supplied: {where}") from None
        raise ApiError(400, f"{where}: {first['msg']}" if where else first["msg"]) from None


def usage(prompt_tokens: int, completion_tokens: int) -> dict[str, int]:
    """How many tokens there were, of prompts and of answers."""
    return {
        "prompt_tokens": prompt_tokens,
        "completion_tokens": completion_tokens,
        "total_tokens": prompt_tokens + completion_tokens,
    }


def chat_logprobs(renderer: Renderer, token_ids: Sequence[int], logprobs: Sequence[float], top: int) -> dict:
    """One entry a sampled token; the only alternative that is told is the token itself."""
    rows = []
    for token, logprob in zip(token_ids, logprobs, strict=True):
        text = renderer.tokenizer.decode([token])
        row = {"token": text, "logprob": logprob, "bytes": list(text.encode("utf-8"))}
        rows.append(row | {"top_logprobs": [dict(row)] if top else []})
    return {"content": rows}


def text_logprobs(renderer: Renderer, completion: Completion, prompt_ids: Sequence[int], offset: int) -> dict:
    """The `logprobs` of a text completion; with those of the prompt where they were asked for.

    The best alternative of a prompt's token stands beside it, from the same numbers: they are equal where it is the
    most probable one. The token that ended the turn stands at the end of a completion that has no other.
    """
    ids, values = list(completion.token_ids), list(completion.logprobs or ())
    best: list[tuple[int, float] | None] = [None] * len(ids)
    if completion.stop_token is not None and not ids:
        ids, values, best = [completion.stop_token[0]], [completion.stop_token[1]], [None]
    if completion.prompt_logprobs is not None:
        ids, values = [*prompt_ids, *ids], [*completion.prompt_logprobs, *values]
        best = [*completion.prompt_best, *best]
    tokens, offsets, tops = [], [], []
    for token, value, other in zip(ids, values, best, strict=True):
        text = renderer.tokenizer.decode([token])
        tokens.append(text)
        offsets.append(max(offset, 0))
        offset += len(text)
        top = {} if other is None else {renderer.tokenizer.decode([other[0]]): other[1]}
        tops.append(None if value is None else {text: value} | top)
    return {"tokens": tokens, "token_logprobs": values, "top_logprobs": tops, "text_offset": offsets}
