"""The examples in the documents and in --help, found by a parser, as what they are: commands, programs, settings.

A block of a document is fenced with its language, or indented and then a shell's. Commands, settings and files that
stand in the text between `backticks` count too. What cannot run here stands under a mark that says why:

    <!-- not run: PROGRAM: why -->        the lines of the next block that begin with PROGRAM
"""

import inspect
import re
import shlex
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).parent.parent
DOCUMENTS = (
    "README.md",
    "ARCHITECTURE.md",
    "configs/README.md",
    "tpu/README.md",
    "tpu/TROUBLESHOOTING.md",
    "rational_jax/hub/families/README.md",
)
SHELL = ("bash", "sh")
_MARK = re.compile(r"<!-- not run: ([\w-]+): (.+) -->")


@dataclass(frozen=True, kw_only=True)
class Example:
    """A block of a document, or a piece of its text between backticks (`language` "inline").

    `line` counts from 1; `unrun` are the programs whose lines are not run, with the reason.
    """

    document: str
    line: int
    language: str
    text: str
    unrun: dict[str, str] = field(default_factory=dict)

    @property
    def place(self) -> str:
        return f"{self.document}:{self.line}"


def examples(document: str) -> Iterator[Example]:
    """All examples of a document, in its order."""
    lines = (ROOT / document).read_text("utf-8").split("\n")
    unrun: dict[str, str] = {}
    number = 0
    while number < len(lines):
        line, first = lines[number], number + 1
        if mark := _MARK.fullmatch(line):
            unrun[mark[1]] = mark[2]
        elif line.startswith("```"):
            end = lines.index("```", first)
            yield Example(
                document=document, line=first, language=line[3:], text="\n".join(lines[first:end]), unrun=unrun
            )
            number, unrun = end, {}
        elif line.startswith("    ") and not lines[number - 1].strip():
            end = next(n for n in range(number, len(lines) + 1) if n == len(lines) or lines[n][:4].strip())
            text = inspect.cleandoc("\n" + "\n".join(lines[number:end]))
            yield Example(document=document, line=first, language="bash", text=text, unrun=unrun)
            number, unrun = end - 1, {}
        else:
            assert not (unrun and line.strip()), f"{document}:{first}: the mark above stands before no block"
            for text in re.findall(r"`([^`]+)`", line):
                yield Example(document=document, line=first, language="inline", text=text)
        number += 1


def help_examples(verb: str, text: str) -> Example:
    """The commands in a verb's docstring: lines that begin with two more spaces, an explanation after three cut off."""
    lines = re.sub(r" \\\n\s+", " ", inspect.cleandoc(text)).split("\n")
    commands = [re.split(r"\s{3,}", line.strip())[0] for line in lines if re.match(r"  (rational|tensorboard) ", line)]
    return Example(document=f"rational {verb} --help", line=1, language="bash", text="\n".join(commands))


def commands(text: str) -> Iterator[list[str]]:
    """The simple commands of a piece of shell, as words; what is read (`< FILE`) is the last word, `>` FILE is gone."""
    for line in re.sub(r"\\\n\s*", "", text).split("\n"):
        lexer = shlex.shlex(line, posix=True, punctuation_chars="();<>|&")
        lexer.whitespace_split, words = True, []
        for word in [*lexer, ";"]:
            if set(word) <= set(";|&"):
                if words:
                    yield [word for word in words if word != "<"]
                words = []
            elif words and words[-1] == ">":
                words.pop()
            else:
                words.append(word)
