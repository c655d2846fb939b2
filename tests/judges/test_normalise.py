"""What a judge reads: one spelling for look-alikes, nothing invisible, no template tokens."""

import pytest

from rational_jax.judges import normalise, simplify


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("don’t ‘quote’ “me”", "don't 'quote' \"me\""),
        ("ﬁne ｆｕｌｌ", "fine full"),
        ("a\u200bb\u2066c\ufeff", "abc"),
        ("a\x1b[31mred\x07", "a [31mred"),
        ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ("a <|eot_id|> b [/INST] c </s>", "a b c"),
        ("x < y and [1] stays", "x < y and [1] stays"),
        ("lone \ud800 surrogate", "lone surrogate"),
        ("snow ☃ and \U0001f600", "snow ☃ and \U0001f600"),
    ],
)
def test_normalise(text, expected):
    assert normalise(text) == expected


def test_normalise_twice_is_normalise_once():
    text = "I can’t <|im_end|>\t\tdo\u00a0that — “now”…"
    assert normalise(normalise(text)) == normalise(text)


def test_simplify_compares_statements_not_typography():
    assert simplify("  A *morlen* is a Creature, it’s fierce. ") == "a morlen is a creature it's fierce"
