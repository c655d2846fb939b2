"""What is asked of a model, and what comes back."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, field, replace
from typing import Literal

from rational_jax.errors import UserError
from rational_jax.storage import sha256_json
from rational_jax.text.chat import Message
from rational_jax.text.reasoning import ReasoningFormat, Split

STOP, LENGTH, FILTERED = "stop", "length", "content_filter"
"""Why an answer ended: by itself, because no more tokens were allowed, or because its provider's filter stopped it."""


class Rejected(UserError):
    """The backend will not answer these requests, whatever it says to others.

    `problems` has what is wrong with each, by its id; the message is about the first.
    """

    def __init__(self, message: str, problems: dict[str, str]):
        super().__init__(message)
        self.problems = problems


@dataclass(frozen=True, kw_only=True)
class Request:
    """One conversation to be continued by the model.

    At most `max_new_tokens` tokens are sampled. `temperature` 0 is greedy; else tokens are drawn from the `top_k` most
    probable (0: all), of these from the smallest set whose probabilities sum to at least `top_p` of theirs, and of
    these from those at least `min_p` times as probable as the first. `seed` (0 to 2**32 - 1) decides the draws: the
    same request gives the same tokens whatever else is sampled beside it.

    A last message of the assistant's is a beginning that the model goes on from; `prompt_ids` are the prompt's tokens
    in place of messages. Generation ends at one of `stop_ids` besides the model's own, and before one of the strings in
    `stop` that stands outside of reasoning. Reasoning that goes on after `reasoning_budget` tokens is closed.
    `whole` says that an assistant's last turn is no beginning: the conversation is classified by a guard model whose
    server renders it.
    `logprobs` and `prompt_logprobs` ask for natural logarithms of the probabilities of the chosen tokens and of the
    prompt's, at temperature 1 and without cuts.
    """

    id: str
    messages: tuple[Message, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    stop: tuple[str, ...] = ()
    stop_ids: tuple[int, ...] = ()
    reasoning_budget: int | None = None
    prompt_ids: tuple[int, ...] | None = None
    logprobs: bool = False
    prompt_logprobs: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        """Raises UserError naming the request and the setting that is out of range."""
        problems = (
            (self.max_new_tokens < 1, f"max_new_tokens={self.max_new_tokens} must be at least 1"),
            (
                not (math.isfinite(self.temperature) and self.temperature >= 0),
                f"temperature={self.temperature} must be 0 (greedy) or above",
            ),
            (not 0 < self.top_p <= 1, f"top_p={self.top_p} must be above 0 and at most 1"),
            (not 0 <= self.top_k < 2**31, f"top_k={self.top_k} must be 0 (all) or above"),
            (not 0 <= self.min_p <= 1, f"min_p={self.min_p} must be from 0 to 1"),
            ("" in self.stop, "stop has an empty string, which ends every answer at once"),
            (
                self.reasoning_budget is not None and self.reasoning_budget < 1,
                f"reasoning_budget={self.reasoning_budget} must be at least 1",
            ),
            (self.prompt_ids is not None and bool(self.messages), "has both messages and prompt_ids"),
            (not 0 <= self.seed < 2**32, f"seed={self.seed} must be from 0 to 2**32 - 1"),
        )
        for wrong, message in problems:
            if wrong:
                raise UserError(f"request {self.id!r}: {message}")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The model's turn. `token_ids` are without the stop token; `finish` is "stop" (the model ended its turn, or wrote
    a stop string), "length" (it reached `max_new_tokens`) or "content_filter" (not the model but the endpoint's filter
    ended it, perhaps before it began).

    `text` ends before a stop string, `token_ids` with the token that completed it. `forced_at` is how many tokens had
    been sampled when the budget for reasoning ended it; the closing delimiter follows there, with log-probability 0.
    `begins_inside` says that the text begins inside of reasoning, which the prompt opened with a delimiter (an endpoint
    does not tell).
    `logprobs` are one a token, `prompt_logprobs` one a token of the prompt, of which the first has none; beside these,
    `prompt_best` has the most probable token of each place and its own.
    """

    id: str
    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length", "content_filter"]
    prompt_tokens: int
    logprobs: tuple[float, ...] | None = None
    prompt_logprobs: tuple[float | None, ...] | None = None
    prompt_best: tuple[tuple[int, float] | None, ...] | None = None
    forced_at: int | None = None
    stop_token: tuple[int, float | None] | None = field(default=None, compare=False)
    token_count: int | None = None
    begins_inside: bool = False

    @property
    def tokens(self) -> int:
        """How many tokens were generated; `token_count` says so where the ids are not known."""
        return len(self.token_ids) if self.token_count is None else self.token_count

    def whole(self, opening: str) -> str:
        """The text, behind the delimiter that opens reasoning where the prompt had it: what can be taken apart."""
        return opening + self.text if self.begins_inside else self.text

    def apart(self, reasoning: ReasoningFormat) -> Split:
        """Reasoning and answer; the status of one that a filter ended is "content_filter"."""
        return taken_apart(self.whole(reasoning.open), self.finish, reasoning)


def taken_apart(text: str, finish: str, reasoning: ReasoningFormat) -> Split:
    """A completion's text as reasoning and answer; the status of one that a filter ended is "content_filter"."""
    split = reasoning.split(text, finished=finish == STOP)
    return replace(split, status=FILTERED) if finish == FILTERED else split


def derive_seed(base: int, *parts: str | int) -> int:
    """A request's seed from the run's and from what names the request: 32 bits of a hash, so any two are unrelated."""
    return int(sha256_json([base, *parts])[:8], 16)


def check_ids(requests: Iterable[Request]) -> None:
    """Raises UserError where two requests have one id: their completions could not be told apart."""
    seen: set[str] = set()
    for request in requests:
        if request.id in seen:
            raise UserError(f"two requests have the id {request.id!r}")
        seen.add(request.id)


def refuse(request: Request, backend: str, names: Iterable[str]) -> None:
    """Raises UserError where the request asks for one of these fields, which the backend cannot give."""
    for name in names:
        if getattr(request, name):
            raise UserError(f"request {request.id!r}: the backend {backend} has no {name}; use engine.backend=engine")
