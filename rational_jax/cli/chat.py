"""The terminal's side of `rational sample --chat` and `--prompt`."""

from __future__ import annotations

import dataclasses
import io
import sys
from collections.abc import Iterator
from typing import TYPE_CHECKING

from rich.console import Console

from rational_jax.errors import UserError
from rational_jax.text.terminal import plain

if TYPE_CHECKING:
    from rational_jax.sample.conversation import Conversation

HELP = """\
/system TEXT         what the model is told before the conversation; without TEXT: nothing
/set NAME=VALUE ...  how it draws: temperature, top_p, top_k, min_p, seed, max_new_tokens, reasoning_budget
/fold                hides reasoning, or shows it again
/reasoning           the reasoning of the last answer
/retry               the last question once more, with another seed
/undo                forgets the last question and its answer
/clear               forgets all of them
/help                this
/quit                ends the conversation, as Ctrl-D does; Ctrl-C ends an answer
"""


class Chat:
    """Reads lines and writes answers, until the user has enough. Reasoning is dim, answers are not."""

    def __init__(self, conversation: Conversation, console: Console | None = None):
        self.conversation = conversation
        self.folded = False
        self._console = console or Console(highlight=False)

    def run(self) -> None:
        """The conversation, to its end. A question that fails is an error line and no end."""
        import readline  # noqa: F401  lines can be edited and called back from here on

        self._print("/help lists the commands; Ctrl-D ends the conversation.\n", "dim")
        while True:
            try:
                line = input("> ").strip()
            except (EOFError, KeyboardInterrupt):
                self._print("\n")
                return
            if line in ("/quit", "/exit"):
                return
            try:
                self.enter(line)
            except UserError as error:
                self._print(f"error: {error}\n", "red")
            except KeyboardInterrupt:
                self._print("\n(stopped; this question and its answer are forgotten)\n", "dim")

    def enter(self, line: str) -> None:
        """One line of the user's: a command or something to answer.

        Raises UserError for a command that is wrong, and a line that is not UTF-8 text.
        """
        _check_text(line, "this line")
        if not line.startswith("/"):
            if line:
                self.answer(line)
            return
        name, _, rest = line[1:].partition(" ")
        rest = rest.strip()
        talk = self.conversation
        match name:
            case "help":
                self._print(HELP)
            case "system":
                talk.system = rest
                self._print("(from the next answer on)\n", "dim")
            case "set":
                talk.decoding = dataclasses.replace(talk.decoding, **dict(_settings(talk, rest)))
                self._print(f"({_shown(talk)})\n", "dim")
            case "fold":
                self.folded = not self.folded
                self._print(f"(reasoning is {'hidden' if self.folded else 'shown'})\n", "dim")
            case "reasoning":
                said = talk.last.reasoning if talk.last else None
                self._print(f"{said or '(there is none)'}\n", "dim")
            case "retry":
                asked = talk.undo()
                talk.decoding = dataclasses.replace(talk.decoding, seed=(talk.decoding.seed + 1) % 2**32)
                self.answer(asked)
            case "undo":
                self._print(f"(forgotten: {talk.undo()})\n", "dim")
            case "clear":
                talk.turns, talk.last = [], None
                self._print("(forgotten)\n", "dim")
            case _:
                raise UserError(f"there is no command /{name}; /help lists them")

    def answer(self, text: str) -> None:
        """Asks, writes the answer while it comes, and says where it was stopped."""
        self.write(text)
        more = "/set max_new_tokens=..., or engine.max_length=... at the start,"
        self._print(_stopped(self.conversation, more), "dim")

    def write(self, text: str) -> None:
        """Asks, and writes the answer while it comes."""
        before, count = "", 0
        for name, piece in self.conversation.say(text):
            if name == "reasoning":
                count += len(piece.split())
                if not self.folded:
                    self._print(piece, "dim italic")
                elif self._console.is_terminal:
                    self._console.file.write("\r")
                    self._print(f"reasoning: {count} words", "dim")
            else:
                if before == "reasoning":
                    self._print("\n\n")
                self._print(piece)
            before = name
        self._print("\n")

    def _print(self, text: str, style: str | None = None) -> None:
        if self._console.is_terminal:
            self._console.print(plain(text), style=style, end="", markup=False, emoji=False, soft_wrap=True)
        else:  # the console would make blanks of tabs
            self._console.file.write(plain(text))
        self._console.file.flush()


def converse(conversation: Conversation, prompt: str | None) -> None:
    """Answers one prompt ("-": what standard input says), or, for None, all that is asked at the terminal.

    The answer to one prompt stands alone on standard output; on standard error is said that it was cut off.
    Raises UserError where the prompt is not UTF-8 text, or cannot be answered.
    """
    chat = Chat(conversation)
    if isinstance(sys.stdin, io.TextIOWrapper):
        # What is no text in a line is found when it is looked at: failing to read it would take others with it.
        sys.stdin.reconfigure(errors="surrogateescape")
    if prompt is None:
        chat.run()
        return
    text = sys.stdin.read() if prompt == "-" else prompt
    _check_text(text, "standard input" if prompt == "-" else "--prompt")
    chat.write(text)
    sys.stderr.write(_stopped(conversation, "sample.max_new_tokens=N, and engine.max_length=N where it does not fit,"))


def _check_text(text: str, what: str) -> None:
    """Raises UserError where there are bytes in the text that are none in UTF-8."""
    try:
        text.encode()
    except UnicodeEncodeError:
        raise UserError(f"{what} is not UTF-8 text; convert it, as iconv does") from None


def _stopped(talk: Conversation, more: str) -> str:
    """What is to be said of an answer that did not end by itself; `more` is what allows a longer one."""
    if talk.last.status.startswith("truncated"):
        return f"(cut off: {more} allows more)\n"
    return "(stopped by the provider's content filter)\n" if talk.last.status == "content_filter" else ""


def _settings(talk: Conversation, text: str) -> Iterator[tuple[str, float | int | None]]:
    """NAME=VALUE pairs, checked."""
    kinds = {field.name: int for field in dataclasses.fields(talk.decoding)}
    kinds |= {name: float for name in ("temperature", "top_p", "min_p")}
    for word in text.split() or [""]:
        name, equals, value = word.partition("=")
        if not equals or name not in kinds:
            raise UserError(f"/set takes NAME=VALUE with one of {', '.join(kinds)}; now {_shown(talk)}")
        try:
            yield name, None if (name, value) == ("reasoning_budget", "none") else kinds[name](value)
        except ValueError:
            raise UserError(f"/set {name}: {value!r} is not a number") from None


def _shown(talk: Conversation) -> str:
    return ", ".join(f"{name}={value}" for name, value in dataclasses.asdict(talk.decoding).items())
