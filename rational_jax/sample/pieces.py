"""The text of answers while they are written."""

from collections.abc import Sequence
from typing import NamedTuple

from rational_jax.sample.requests import STOP, Completion
from rational_jax.sample.sequence import UNFINISHED
from rational_jax.text.chat import Renderer


class Tokens(NamedTuple):
    """The tokens of a sequence so far, while it goes on."""

    id: str
    token_ids: tuple[int, ...]


class Pieces:
    """The text of one answer as it grows; what could still become a stop string or another character is held back.

    With a `lead`, reasoning comes apart from the answer; the lead is what stands before the text (an opened `<think>`).
    Where a later delimiter makes reasoning of what was told as the answer, the answer is told from its new beginning,
    after a blank line: what has been told cannot be taken back, and nothing of the answer is kept silent.
    """

    def __init__(self, renderer: Renderer, stops: Sequence[str], lead: str | None = None):
        self._renderer, self._lead = renderer, lead
        self._back = max((len(stop) - 1 for stop in stops), default=0)
        self._sent = {"reasoning": "", "content": ""}
        self._anew: dict[str, bool] = {}

    def more(self, event: Completion | Tokens) -> list[tuple[str, str]]:
        """What can be told now that this event is there: ("content", text), and ("reasoning", text) with a lead."""
        done = isinstance(event, Completion)
        text = event.text if done else self._renderer.decode(event.token_ids).rstrip(UNFINISHED)
        if not done and self._back:
            text = text[: -self._back]
        if self._lead is None:
            return self._new("content", text)
        form, text = self._renderer.reasoning, self._lead + text
        if not done:
            # The end may be the beginning of a delimiter, or white space that is dropped where a part ends.
            text = text[: len(text) - max(_begun(text, form.open), _begun(text, form.close))].rstrip()
        split = form.split(text, finished=done and event.finish == STOP)
        if not done and not form.open and not split.answer:
            return []  # without delimiters it shows at the first blank line, or the end, what this is
        return self._new("reasoning", split.reasoning or "") + self._new("content", split.answer)

    def _new(self, name: str, text: str) -> list[tuple[str, str]]:
        if not text.startswith(self._sent[name]):
            self._sent[name], self._anew[name] = "", True
        new = text[len(self._sent[name]) :]
        if not new:
            return []
        self._sent[name] = text
        return [(name, "\n\n" + new if self._anew.pop(name, False) else new)]


def _begun(text: str, delimiter: str) -> int:
    """How many characters at the end of the text are the beginning of the delimiter and not all of it."""
    return next((n for n in range(len(delimiter) - 1, 0, -1) if text.endswith(delimiter[:n])), 0)
