"""Text from models, files and the web, made safe to print: it cannot move the cursor, hide or reorder what is shown."""

import re

# Escape sequences go as a whole, or their printable rest would stay: CSI (colours, cursor), strings up to their
# terminator (OSC titles and links, DCS, SOS, PM, APC), and two-character escapes. 0x80-0x9f are the same in one byte.
# Those bytes also stand in UTF-8 that was read as Latin-1 (a closing quote, behind 0x80) or as Windows-1252: a string
# that one of them begins goes only where it ends as well, or the rest of the text would go.
_SEQUENCES = re.compile(
    r"(?:\x1b\[|\x9b)[0-?]*[ -/]*[@-~]?"
    r"|\x1b[\]PX^_][^\x07\x1b\x9c]*(?:\x07|\x1b\\|\x9c)?"
    r"|(?<!\x80)[\x90\x98\x9d-\x9f][^\x07\x1b\x90\x98\x9c-\x9f]*(?:\x07|\x1b\\|\x9c)"
    r"|\x1b[ -/]*[0-~]?"
)
# What is left of the control characters, the marks that reorder text (bidirectional embeddings, overrides, isolates),
# invisible ones that can carry hidden text (zero width, tags), halves of surrogate pairs.
_INVISIBLE = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb"
    "\ud800-\udfff\U000e0000-\U000e007f]"
)


def plain(text: str) -> str:
    """The text without escape sequences, control characters, bidirectional marks and invisible characters.

    Newlines and tabs stay; a carriage return becomes a newline, as it would overwrite the line. Everything that
    remains is visible or white space, in the order in which it was written.
    """
    text = text.replace("\r\n", "\n").replace("\r", "\n")
    return _INVISIBLE.sub("", _SEQUENCES.sub("", text))


def one_line(text: str) -> str:
    """`plain` text with all white space runs as single blanks."""
    return " ".join(plain(text).split())
