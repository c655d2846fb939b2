"""The one place that knows how reasoning is set apart from the answer."""

import re
from dataclasses import dataclass

from rational_jax.errors import UserError

OK = "ok"
NO_REASONING = "no_reasoning"
TRUNCATED_REASONING = "truncated_reasoning"
TRUNCATED_ANSWER = "truncated_answer"

_BLANK_LINES = re.compile(r"\n[^\S\n]*\n\s*")


@dataclass(frozen=True, kw_only=True)
class Split:
    """An assistant's text taken apart.

    `reasoning` is None where there is none. `status` is one of "ok", "no_reasoning", "truncated_reasoning" (opened
    and never closed) and "truncated_answer" (the token limit came inside the answer, with or without reasoning before
    it).
    """

    reasoning: str | None
    answer: str
    status: str


@dataclass(frozen=True, kw_only=True)
class ReasoningFormat:
    """How an assistant's turn is written: `open`, reasoning, `close`, blank line, answer.

    With empty delimiters the two are plain text and the first blank line separates them, as in the paper.
    """

    name: str
    open: str
    close: str

    def join(self, reasoning: str | None, answer: str, *, answer_first: bool = False) -> str:
        """The assistant's turn as text; just the answer where there is no reasoning.

        `answer_first` writes the reasoning after the answer (the control arm whose reasoning comes too late).
        """
        return "".join(text for text, _ in self.parts(reasoning, answer, answer_first=answer_first))

    def parts(self, reasoning: str | None, answer: str, *, answer_first: bool = False) -> list[tuple[str, bool]]:
        """The pieces that `join` concatenates, each with whether it belongs to the reasoning (delimiters do)."""
        answer = answer.strip()
        reasoning = (reasoning or "").strip()
        if not reasoning:
            return [(answer, False)]
        if not self.open:
            # The first blank line is the delimiter, so whichever part comes first must not have one of its own.
            if answer_first:
                return [(_BLANK_LINES.sub("\n", answer), False), (f"\n\n{reasoning}", True)]
            return [(_BLANK_LINES.sub("\n", reasoning) + "\n\n", True), (answer, False)]
        block = f"{self.open}\n{reasoning}\n{self.close}"
        if answer_first:
            return [(answer, False), (f"\n\n{block}", True)]
        return [(f"{block}\n\n", True), (answer, False)]

    def split(self, text: str, finished: bool) -> Split:
        """Takes a sampled assistant's turn apart. `finished`: the model stopped by itself, not at the token limit.

        The last closing delimiter counts; text before a closing delimiter that was never opened is reasoning too.
        Text before the opening one was said to the user, so it belongs to the answer. An empty pair of delimiters is
        no reasoning.
        """
        if not self.open:
            return self._split_plain(text, finished)
        head, closed, after = text.rpartition(self.close)
        said, reopened, unclosed = after.partition(self.open)
        lead, opened, thought = head.partition(self.open)
        if not opened:
            lead, thought = "", head
        reasoning = _paragraphs(thought, unclosed)
        answer = _paragraphs(lead, said)
        if reopened:
            status = TRUNCATED_REASONING
        elif not finished:
            status = TRUNCATED_ANSWER
        else:
            status = OK if closed and reasoning else NO_REASONING
        return Split(reasoning=reasoning or None, answer=answer, status=status)

    def _split_plain(self, text: str, finished: bool) -> Split:
        text = text.strip()
        blank = _BLANK_LINES.search(text)
        if blank:
            status = OK if finished else TRUNCATED_ANSWER
            return Split(reasoning=text[: blank.start()].strip(), answer=text[blank.end() :].strip(), status=status)
        if finished:
            return Split(reasoning=None, answer=text, status=NO_REASONING)
        return Split(reasoning=text or None, answer="", status=TRUNCATED_REASONING)


def _paragraphs(*texts: str) -> str:
    return "\n\n".join(text.strip() for text in texts if text.strip())


THINK = ReasoningFormat(name="think", open="<think>", close="</think>")
"""Reasoning between tags, the default."""
PLAIN = ReasoningFormat(name="plain", open="", close="")
"""Plain text, as in the paper: the first blank line ends the reasoning."""


def format_named(name: str) -> ReasoningFormat:
    """The format that the configuration calls `name` ("think" or "plain"); UserError for any other."""
    for known in (THINK, PLAIN):
        if known.name == name:
            return known
    raise UserError(f"chat.reasoning: {name!r} is not known; choose think or plain")
