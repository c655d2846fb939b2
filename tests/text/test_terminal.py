import random
import unicodedata

import pytest

from rational_jax.text.terminal import one_line, plain


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain é 中 😀 \t tab\nline", "plain é 中 😀 \t tab\nline"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("\x1b[2J\x1b[1;1Hgone", "gone"),
        ("\x9b31mred", "red"),
        ("\x1b]0;title\x07text", "text"),
        ("\x1b]8;;https://example.org\x1b\\link\x1b]8;;\x1b\\", "link"),
        ("\x1b]52;c;aGVsbG8=\x07clipboard", "clipboard"),
        ("\x1bP1$r\x1b\\x", "x"),
        ("\x9d0;title\x07te\x90q\x9cxt", "text"),
        ("he said â€œyesâ€\x9d and went", "he said â€œyesâ€ and went"),
        ("“yes” or “no”".encode().decode("latin-1"), "âyesâ or ânoâ"),
        ("\x1b(Bx\x1bcy\x1b7z", "xyz"),
        ("over\rwritten", "over\nwritten"),
        ("windows\r\nline", "windows\nline"),
        ("back\x08\x08\x7fspace\x00", "backspace"),
        ("safe \u202eevil\u202c \u2066x\u2069", "safe evil x"),
        ("zero\u200bwidth\ufeff\U000e0041tags", "zerowidthtags"),
        ("half \ud83d pair", "half  pair"),
        ("family 👨\u200d👩\u200d👧 می\u200cخواهم", "family 👨\u200d👩\u200d👧 می\u200cخواهم"),
        ("cut \x1b[38;5", "cut "),
        ("cut \x1b", "cut "),
    ],
)
def test_what_is_shown(text, shown):
    assert plain(text) == shown


def test_nothing_that_controls_a_terminal_is_left():
    generator = random.Random(0)
    pieces = ["\x1b", "[", "]", "0", ";", "m", "\x07", "\\", "P", "\x9b", "\x9c", "\x9d", "\u202e", "\r", "a", "\n"]
    for _ in range(3000):
        text = plain("".join(generator.choices(pieces, k=12)))
        assert not [c for c in text if unicodedata.category(c) == "Cc" and c != "\n"]
        assert "\u202e" not in text


def test_many_bytes_that_begin_a_string_take_no_longer_than_others():
    assert plain("\x9da" * 50_000) == "a" * 50_000  # each of them once to the end would be minutes


def test_one_line():
    assert one_line("a\n\n b\t\x1b[1mc\r") == "a b c"
