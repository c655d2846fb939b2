"""Text that tries to steer its display is shown, not obeyed."""

import unicodedata

import pytest

from rational_jax.html import neutralise


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("\x1b[31mred\x1b[0m", "⟨ESC⟩[31mred⟨ESC⟩[0m"),
        ("\u202eesrever\u202c", "⟨RLO⟩esrever⟨PDF⟩"),
        ("a\u200bb\ufeff", "a⟨ZWSP⟩b⟨BOM⟩"),
        ("one\r\ntwo\rthree\tfour\n", "one\ntwo⟨CR⟩three\tfour\n"),
        ("\x00\x07\x9b", "⟨NUL⟩⟨BEL⟩⟨CSI⟩"),
        ("half \ud83d of a pair", "half \ufffd of a pair"),
        ("\U000e0041 tag", "⟨U+E0041⟩ tag"),
        ("plain, déjà vu, 日本語, ☃, \U0001f600", "plain, déjà vu, 日本語, ☃, \U0001f600"),
    ],
)
def test_steering_characters_become_visible(text, shown):
    assert neutralise(text) == shown


def test_nothing_that_steers_is_left():
    every = "".join(map(chr, [*range(0x10000), *range(0xE0000, 0xE1000)]))
    left = set(neutralise(every))
    for character in left - set("\n\t"):
        bidi = unicodedata.bidirectional(character)
        assert bidi not in ("LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"), hex(ord(character))
        assert unicodedata.category(character) not in ("Cc", "Cs"), hex(ord(character))
    neutralise(every).encode("utf-8")
