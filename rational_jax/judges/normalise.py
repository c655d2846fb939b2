"""Answers as a judge should read them: one spelling for what looks alike, and no text that only a machine obeys."""

import re
import unicodedata

# Look-alikes that NFKC leaves apart. Curly apostrophes are the classic way to slip past "I can't".
_FOLD = str.maketrans(
    {
        "\u2018": "'",
        "\u2019": "'",
        "\u201a": "'",
        "\u201b": "'",
        "\u02bc": "'",
        "\u2032": "'",
        "\u00b4": "'",
        "\u201c": '"',
        "\u201d": '"',
        "\u201e": '"',
        "\u2033": '"',
        "\u2010": "-",
        "\u2011": "-",
        "\u2012": "-",
        "\u2013": "-",
        "\u2014": " - ",
        "\u2015": " - ",
    }
)

# Chat-template tokens of the families we know. Inside an answer they could end the judge's own prompt, or hide an
# opening; a space takes their place, so that the words around them stay apart.
_TEMPLATE_TOKENS = re.compile(
    r"<\|[A-Za-z0-9_ -]{1,40}\|>|</?(?:s|bos|eos|pad|unk|start_of_turn|end_of_turn|think)>"
    r"|\[/?(?:INST|SYS|AVAILABLE_TOOLS|TOOL_CALLS|TOOL_RESULTS)\]|<</?SYS>>"
)
_SPACES = re.compile(r"[ \t]{2,}|\t")
_NOT_WORD = re.compile(r"[^a-z0-9']+")


def _visible(character: str) -> str:
    """One character as the judge sees it: format and control characters vanish, line ends and tabs stay."""
    if character in "\n\t":
        return character
    category = unicodedata.category(character)
    if category in ("Cf", "Cs"):  # zero-width and bidi marks, byte order marks, lone surrogates
        return ""
    if category in ("Cc", "Zl", "Zp"):
        return " "
    return character


def normalise(text: str) -> str:
    """`text` in NFKC with straight quotes, no invisible characters, no template tokens, and `\\n` line ends."""
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    if not text.isascii():
        text = unicodedata.normalize("NFKC", text).translate(_FOLD)
    # Line ends are not printable either, so lines are asked; most answers need no pass over their characters.
    if not all(map(str.isprintable, text.split("\n"))):
        text = "".join(map(_visible, text))
    if "<" in text or "[" in text:
        text = _TEMPLATE_TOKENS.sub(" ", text)
    if "  " in text or "\t" in text:
        text = _SPACES.sub(" ", text)
    return text.strip()


def simplify(text: str) -> str:
    """Lower-case words of `text` with single spaces between them: how two phrasings of one statement are compared."""
    return _NOT_WORD.sub(" ", normalise(text).casefold()).strip()
