"""The two records of the project: a prompt, and a rationale that a model wrote for one."""

import difflib
import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rational_jax.errors import UserError
from rational_jax.text.chat import ROLES, Message

LABELS = ("harmful", "benign", "unknown")
"""What is known of a prompt beforehand."""
LAYOUTS = ("rational", "refusal", "answer-first", "shuffled")
"""What an example for SFT consists of, one data set each."""

_TEXT_FIELDS = ("source", "category", "style", "base_id")
PROMPT_FIELDS = ("id", "messages", "prompt", "text", "label", *_TEXT_FIELDS, "meta")


@dataclass(frozen=True, kw_only=True)
class Prompt:
    """A conversation that ends with the user's turn, and what is known of it.

    `base_id` names the prompt that this one is a variant of (a style, a wrapper); empty where it is its own base.
    `meta` holds whatever else the source says, as text.
    """

    id: str
    messages: tuple[Message, ...]
    label: str = "unknown"
    source: str = ""
    category: str = ""
    style: str = ""
    base_id: str = ""
    meta: Mapping[str, str] = field(default_factory=dict)

    @property
    def text(self) -> str:
        """The last user turn."""
        return self.messages[-1].content

    @property
    def goal(self) -> str:
        """What is wanted, in plain words: `meta["goal"]` where an attack has wrapped it, else the last user turn."""
        return self.meta.get("goal") or self.text

    def to_json(self) -> dict:
        """A JSON-able dict that `from_json` reads back."""
        return {
            "id": self.id,
            "messages": [_message_to_json(message) for message in self.messages],
            "label": self.label,
            "source": self.source,
            "category": self.category,
            "style": self.style,
            "base_id": self.base_id,
            "meta": dict(self.meta),
        }

    @classmethod
    def from_json(cls, row: Any, where: str = "prompt", default_id: str | None = None) -> "Prompt":
        """Reads a row with `messages`, or with `prompt` or `text` for a single user turn.

        A column that is not known goes to `meta` if it is a plain value, unless its name is nearly that of a known
        one.

        Raises UserError that starts with `where` and says what is wrong with the row.
        """
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: expected an object with fields, got {_kind(row)}")
        meta = _meta(row, where)
        identity = row.get("id", default_id)
        if isinstance(identity, int) and not isinstance(identity, bool):
            identity = str(identity)
        if not isinstance(identity, str) or not identity.strip():
            raise UserError(f"{where}: id must be a text that is not empty, got {identity!r}")
        label = row.get("label") or "unknown"
        if label not in LABELS:
            close = difflib.get_close_matches(str(label).lower(), LABELS, n=1)
            hint = f"; did you mean {close[0]!r}?" if close else ""
            raise UserError(f"{where}: label {label!r} is not one of {', '.join(LABELS)}{hint}")
        texts = {}
        for name in _TEXT_FIELDS:
            value = row.get(name)
            texts[name] = _written_out("" if value is None else value, name, where)
        return cls(id=identity, messages=_messages(row, where), label=label, meta=meta, **texts)


@dataclass(frozen=True, kw_only=True)
class Rationale:
    """One example to train on: a prompt with the reasoning and the answer that a model wrote, and where they come from.

    `recipe` is how the model was asked, `layout` how the example is written (one of LAYOUTS), `sample` which of a
    prompt's samples it was, `generator` the model.
    """

    id: str
    prompt: Prompt
    reasoning: str
    answer: str
    recipe: str = ""
    layout: str = "rational"
    sample: int = 0
    generator: str = ""

    def training_messages(self) -> list[Message]:
        """The conversation to train on, without the recipe's system prompt."""
        reasoning = None if self.layout == "refusal" else self.reasoning
        answer = Message(
            role="assistant", content=self.answer, reasoning=reasoning, answer_first=self.layout == "answer-first"
        )
        return [*self.prompt.messages, answer]

    def to_json(self) -> dict:
        """A JSON-able dict that `from_json` reads back."""
        return {
            "id": self.id,
            "prompt": self.prompt.to_json(),
            "reasoning": self.reasoning,
            "answer": self.answer,
            "recipe": self.recipe,
            "layout": self.layout,
            "sample": self.sample,
            "generator": self.generator,
        }

    @classmethod
    def from_json(cls, row: Any, where: str = "rationale") -> "Rationale":
        """Raises UserError that starts with `where` where the row is not a rationale."""
        if not isinstance(row, Mapping):
            raise UserError(f"{where}: expected an object with fields, got {_kind(row)}")
        names = ("id", "reasoning", "answer", "recipe", "layout", "generator")
        missing = [name for name in (*names, "prompt", "sample") if name not in row]
        if missing:
            raise UserError(f"{where}: {', '.join(missing)} missing")
        texts = {name: _plain_text(row[name], name, where) for name in names}
        if texts["layout"] not in LAYOUTS:
            raise UserError(f"{where}: layout {texts['layout']!r} is not one of {', '.join(LAYOUTS)}")
        if not isinstance(row["sample"], int):
            raise UserError(f"{where}: sample must be a whole number, got {_kind(row['sample'])}")
        return cls(prompt=Prompt.from_json(row["prompt"], where), sample=row["sample"], **texts)


def _message_to_json(message: Message) -> dict:
    row = {"role": message.role, "content": message.content}
    if message.reasoning:
        row["reasoning"] = message.reasoning
    return row


def _messages(row: Mapping, where: str) -> tuple[Message, ...]:
    given = [name for name in ("messages", "prompt", "text") if row.get(name) is not None]
    if len(given) != 1:
        what = "none of them" if not given else " and ".join(given)
        raise UserError(f"{where}: a prompt needs exactly one of messages, prompt, text; this row has {what}")
    value = row[given[0]]
    if given[0] != "messages":
        messages = (Message(role="user", content=_plain_text(value, given[0], where)),)
    else:
        if not isinstance(value, Sequence) or isinstance(value, str) or not value:
            raise UserError(f"{where}: messages must be a list of turns that is not empty, got {_kind(value)}")
        messages = tuple(_message(turn, f"{where}: turn {number}") for number, turn in enumerate(value, start=1))
    if messages[-1].role != "user":
        raise UserError(f"{where}: a prompt ends with a user's turn, this one with {messages[-1].role!r}")
    if any(message.role == "user" and not message.content.strip() for message in messages):
        raise UserError(f"{where}: the prompt is empty")
    return messages


def _message(turn: Any, where: str) -> Message:
    if not isinstance(turn, Mapping):
        raise UserError(f"{where}: expected an object with role and content, got {_kind(turn)}")
    extra = sorted(set(turn) - {"role", "content", "reasoning"})
    if extra:
        raise UserError(f"{where}: {extra[0]!r} is not a field of a turn (role, content, reasoning)")
    role = turn.get("role")
    if role not in ROLES:
        raise UserError(f"{where}: role {role!r} is not one of {', '.join(ROLES)}")
    reasoning = turn.get("reasoning") or None
    if reasoning is not None:
        reasoning = _plain_text(reasoning, "reasoning", where)
    return Message(role=role, content=_plain_text(turn.get("content"), "content", where), reasoning=reasoning)


def _meta(row: Mapping, where: str) -> dict[str, str]:
    meta = row.get("meta")
    if meta is None:
        meta = {}
    if not isinstance(meta, Mapping):
        raise UserError(f"{where}: meta must be an object of texts, got {_kind(meta)}")
    found = {str(key): _written_out(value, f"meta.{key}", where) for key, value in meta.items()}
    for key, value in row.items():
        if key in PROMPT_FIELDS or value is None:
            continue
        if close := _meant(str(key)):
            raise UserError(f"{where}: {key!r} is not a field; did you mean {close!r}?")
        found[str(key)] = _written_out(value, str(key), where)
    return found


@functools.lru_cache(maxsize=1024)
def _meant(column: str) -> str | None:
    """The field whose name is nearly that of the column."""
    return next(iter(difflib.get_close_matches(column.lower(), PROMPT_FIELDS, n=1, cutoff=0.75)), None)


def _written_out(value: Any, name: str, where: str) -> str:
    """A text, or the number that a category is in its source."""
    return _plain_text(str(value) if isinstance(value, bool | int | float) else value, name, where)


def _plain_text(value: Any, name: str, where: str) -> str:
    if not isinstance(value, str):
        raise UserError(f"{where}: {name} must be a text, got {_kind(value)}")
    try:
        value.encode("utf-8")
    except UnicodeEncodeError as error:
        raise UserError(f"{where}: {name} holds half of a surrogate pair (character {error.start + 1})") from error
    return value


def _kind(value: Any) -> str:
    if value is None:
        return "nothing"
    names = (
        (bool, "true/false"),
        (int | float, "a number"),
        (str, "a text"),
        (Mapping, "an object"),
        (Sequence, "a list"),
    )
    return next((name for kind, name in names if isinstance(value, kind)), type(value).__name__)
