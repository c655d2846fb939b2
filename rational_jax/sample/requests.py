"""What is asked of a model, and what comes back."""

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Literal

from rational_jax.errors import UserError
from rational_jax.storage import sha256_json
from rational_jax.text.chat import Message

STOP, LENGTH = "stop", "length"


@dataclass(frozen=True, kw_only=True)
class Request:
    """One conversation to be continued by the model.

    At most `max_new_tokens` tokens are sampled. `temperature` 0 is greedy; else tokens are drawn from the smallest set
    of most probable tokens whose probabilities sum to at least `top_p`. `seed` (0 to 2**32 - 1) decides the draws: the
    same request gives the same tokens whatever else is sampled beside it.
    """

    id: str
    messages: tuple[Message, ...]
    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    seed: int = 0

    def __post_init__(self) -> None:
        """Raises UserError naming the request and the setting that is out of range."""
        problems = (
            (self.max_new_tokens < 1, f"max_new_tokens={self.max_new_tokens} must be at least 1"),
            (
                not (math.isfinite(self.temperature) and self.temperature >= 0),
                f"temperature={self.temperature} must be 0 (greedy) or above",
            ),
            (not 0 < self.top_p <= 1, f"top_p={self.top_p} must be above 0 and at most 1"),
            (not 0 <= self.seed < 2**32, f"seed={self.seed} must be from 0 to 2**32 - 1"),
        )
        for wrong, message in problems:
            if wrong:
                raise UserError(f"request {self.id!r}: {message}")


@dataclass(frozen=True, kw_only=True)
class Completion:
    """The model's turn. `token_ids` are without the stop token; `finish` is "stop" (the model ended its turn) or
    "length" (it reached `max_new_tokens`)."""

    id: str
    text: str
    token_ids: tuple[int, ...]
    finish: Literal["stop", "length"]
    prompt_tokens: int


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
