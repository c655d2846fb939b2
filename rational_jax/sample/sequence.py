"""One sequence while it is generated: where it ends, and where its reasoning is closed for it.

Everything here is a function of the tokens in their order and not of how many came at once, because that depends on
what else is generated.
"""

import dataclasses
import re
from collections.abc import Sequence
from typing import Protocol

from rational_jax.sample.requests import LENGTH, STOP, Completion, Request
from rational_jax.text.chat import Message
from rational_jax.text.reasoning import ReasoningFormat

UNFINISHED = "\ufffd"
"""What a decoder writes for bytes that are no whole character yet."""

_BLANK_LINE = re.compile(r"\n[^\S\n]*\n\s*")


class PromptRenderer(Protocol):
    """What the engine needs of `text.chat.Renderer`: the last two for stop strings, budgets and prefilled turns."""

    stop_ids: tuple[int, ...]

    def prompt(self, messages: Sequence[Message]) -> list[int]: ...

    def decode(self, tokens: Sequence[int]) -> str: ...

    @property
    def reasoning(self) -> ReasoningFormat: ...

    def continuation(self, text: str) -> list[int]: ...


def prompt_tokens(renderer: PromptRenderer, request: Request) -> tuple[int, ...]:
    """What generation starts from. A last turn of the assistant's is a beginning that the model goes on from."""
    if request.prompt_ids is not None:
        return request.prompt_ids
    before, begun = _begun(renderer, request)
    return (*renderer.prompt(before), *(renderer.continuation(begun) if begun else ()))


# Tokens at the end of a prompt that have room for a delimiter.
_TAIL = 32


def begins_inside(renderer: PromptRenderer, request: Request) -> bool:
    """Whether what the model is to write begins inside of reasoning, which some templates open themselves."""
    form, begun, tokens = renderer.reasoning, "", request.prompt_ids
    if tokens is None:
        before, begun = _begun(renderer, request)
        tokens = renderer.prompt(before)
    opened = renderer.decode(tokens[-_TAIL:]).rstrip().endswith(form.open)  # as every text does in the plain format
    return find_stop(begun, (), form, opened)[1]


def _begun(renderer: PromptRenderer, request: Request) -> tuple[Sequence[Message], str]:
    """The turns before the model's, and how that begins: with its reasoning left open where no answer is given."""
    *before, last = request.messages or (None,)
    if last is None or last.role != "assistant":
        return request.messages, ""
    form, begun = renderer.reasoning, last.content
    if last.reasoning:
        begun = form.join(last.reasoning, begun) if begun else f"{form.open}\n{last.reasoning}".lstrip()
    return before, begun


@dataclasses.dataclass(kw_only=True, eq=False)
class Generated:
    """The tokens of one request so far, with their log-probabilities where these are wanted.

    `inside` is whether the prompt ends inside of reasoning. `forced_at` is how many tokens had been sampled when the
    budget for reasoning ended it.
    """

    request: Request
    renderer: PromptRenderer
    inside: bool = False
    tokens: list[int] = dataclasses.field(default_factory=list)
    logprobs: list[float] = dataclasses.field(default_factory=list)
    forced_at: int | None = None
    finish: str | None = None
    text: str | None = None
    stop_token: tuple[int, float | None] | None = None
    # The text of the tokens before `_end`, which `_grow` decodes from `_start` on and not from the first one.
    _text: str = ""
    _start: int = 0
    _end: int = 0

    def take(self, tokens: Sequence[int], logprobs: Sequence[float]) -> bool:
        """Adds tokens up to where the sequence ends or is to be closed; whether it is one of them.

        After a closing, `finish` is None: the sequence goes on from its tokens.
        """
        looks = bool(self.request.stop) or self.request.reasoning_budget is not None
        for number, token in enumerate(tokens):
            if token in self.renderer.stop_ids or token in self.request.stop_ids:
                self.finish = STOP
                self.stop_token = (token, logprobs[number] if logprobs else None)
                return True
            self.tokens.append(token)
            if logprobs:
                self.logprobs.append(logprobs[number])
            if looks and self._look():
                return True
            if len(self.tokens) >= self.request.max_new_tokens:
                self.finish = LENGTH
                return True
        return False

    def completion(self, prompt_tokens: int, prompt_logprobs: tuple[float | None, ...] | None = None) -> Completion:
        """What the caller gets of a sequence that has ended."""
        return Completion(
            id=self.request.id,
            text=self.renderer.decode(self.tokens) if self.text is None else self.text,
            token_ids=tuple(self.tokens),
            finish=self.finish,
            prompt_tokens=prompt_tokens,
            logprobs=tuple(self.logprobs) if self.request.logprobs else None,
            prompt_logprobs=prompt_logprobs,
            forced_at=self.forced_at,
            stop_token=self.stop_token,
        )

    def _grow(self) -> None:
        """Adds the text of the newest tokens, once they are whole characters.

        A tokenizer may drop a space at the beginning of what it decodes, so some tokens from before are decoded again.
        """
        before = self.renderer.decode(self.tokens[self._start : self._end])
        after = self.renderer.decode(self.tokens[self._start :])
        if len(after) > len(before) and not after.endswith(UNFINISHED):
            self._text += after[len(before) :]
            self._start, self._end = self._end, len(self.tokens)

    def _look(self) -> bool:
        self._grow()
        stop, inside = find_stop(self._text, self.request.stop, self.renderer.reasoning, self.inside)
        if stop is not None:
            # Bytes that are no text may read otherwise among all others than among the last ones.
            whole = self.renderer.decode(self.tokens)
            there = find_stop(whole, self.request.stop, self.renderer.reasoning, self.inside)[0]
            self.text, self.finish = self._text[:stop] if there is None else whole[:there], STOP
            return True
        budget = self.request.reasoning_budget
        if budget is None or not inside or len(self.tokens) < budget or self.forced_at is not None:
            return False
        self._close()
        return True

    def _close(self) -> None:
        self.forced_at = len(self.tokens)
        room = self.request.max_new_tokens - len(self.tokens)
        close = self.renderer.reasoning.close
        closing = self.renderer.continuation(f"\n{close}\n\n" if close else "\n\n")[:room]
        self.tokens += closing
        if self.request.logprobs:
            self.logprobs += [0.0] * len(closing)  # they were not drawn: certain
        if len(self.tokens) >= self.request.max_new_tokens:
            self.finish = LENGTH


def find_stop(text: str, stops: Sequence[str], form: ReasoningFormat, inside: bool) -> tuple[int | None, bool]:
    """Where the first stop string begins outside of reasoning, and whether the text ends inside of reasoning.

    `inside` is whether it begins there. In the plain format a text begins with reasoning and a blank line ends it.
    """
    position = 0
    while True:
        if inside:
            if not form.close:
                blank = _BLANK_LINE.search(text, position)
                end = blank and blank.end()
            else:
                found = text.find(form.close, position)
                end = found + len(form.close) if found >= 0 else None
            if end is None:
                return None, True
            position, inside = end, False
        opened = text.find(form.open, position) if form.open else -1
        answer_to = opened if opened >= 0 else len(text)
        places = [place for stop in stops if (place := text.find(stop, position, answer_to)) >= 0]
        if places:
            return min(places), False
        if opened < 0:
            return None, False
        position, inside = opened + len(form.open), True
