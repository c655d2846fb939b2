import random

import pytest

from rational_jax.errors import UserError
from rational_jax.text.reasoning import PLAIN, THINK, Split, format_named


def test_join_and_split_are_inverse_for_random_texts():
    rng = random.Random(0)
    words = ["a", "é", "\n", "<", "think", ">", "/", "  ", "x.", "\r\n", "日本"]
    for _ in range(300):
        reasoning = " ".join(rng.choices(words, k=rng.randint(1, 12))).strip()
        answer = " ".join(rng.choices(words, k=rng.randint(1, 12))).strip()
        if not reasoning or not answer:
            continue
        for answer_first in (False, True):
            text = THINK.join(reasoning, answer, answer_first=answer_first)
            assert THINK.split(text, finished=True) == Split(reasoning=reasoning, answer=answer, status="ok")


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        ("<think>\nr\n</think>\n\na", True, ("r", "a", "ok")),
        ("<think>\nr\n</think>\n\na", False, ("r", "a", "truncated_answer")),
        ("<think>\nr", False, ("r", "", "truncated_reasoning")),
        # The model stopped inside its reasoning: there is no answer, so this must not pass for one.
        ("<think>\nr", True, ("r", "", "truncated_reasoning")),
        ("<think>", False, (None, "", "truncated_reasoning")),
        ("<think>r</think", False, ("r</think", "", "truncated_reasoning")),
        # The template may have opened the block: a close without an open counts.
        ("r\n</think>\na", True, ("r", "a", "ok")),
        # The last close counts.
        ("<think>r</think> more</think> a", True, ("r</think> more", "a", "ok")),
        ("<think>r</think> a <think> again", True, ("r\n\nagain", "a", "truncated_reasoning")),
        ("a\n\n<think>\nr\n</think>", True, ("r", "a", "ok")),
        ("a\n\n<think>\nr", False, ("r", "a", "truncated_reasoning")),
        ("<think>\n\n</think>\n\na", True, (None, "a", "no_reasoning")),
        ("a", True, (None, "a", "no_reasoning")),
        ("a", False, (None, "a", "truncated_answer")),
        ("", True, (None, "", "no_reasoning")),
        ("<think>r</think>", True, ("r", "", "ok")),
    ],
)
def test_split_think(text, finished, expected):
    split = THINK.split(text, finished)
    assert (split.reasoning, split.answer, split.status) == expected


@pytest.mark.parametrize(
    ("text", "finished", "expected"),
    [
        ("r\n\na\n\nb", True, ("r", "a\n\nb", "ok")),
        ("r\r\n \r\na", True, ("r", "a", "ok")),
        ("r\n\na", False, ("r", "a", "truncated_answer")),
        ("just this", True, (None, "just this", "no_reasoning")),
        ("just this", False, ("just this", "", "truncated_reasoning")),
    ],
)
def test_split_plain(text, finished, expected):
    split = PLAIN.split(text, finished)
    assert (split.reasoning, split.answer, split.status) == expected


def test_plain_join_keeps_the_first_blank_line_for_the_border():
    text = PLAIN.join("one\n\ntwo\n \nthree", "a\n\nb")
    assert text == "one\ntwo\nthree\n\na\n\nb"
    assert PLAIN.split(text, True) == Split(reasoning="one\ntwo\nthree", answer="a\n\nb", status="ok")


def test_no_reasoning_is_the_answer_alone():
    assert THINK.join(None, " a ") == THINK.join("  ", "a") == "a"


def test_format_named():
    assert format_named("think") is THINK and format_named("plain") is PLAIN
    with pytest.raises(UserError, match="thinking"):
        format_named("thinking")
