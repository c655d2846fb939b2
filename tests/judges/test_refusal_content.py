"""The refusal model's view of words, against plain Python."""

import random
import re

import numpy as np
import pytest

from rational_jax.judges.refusal_content import BUCKETS, LONGEST_WORD, STEM, WIDTH, content_features, words_of

WORD = re.compile(r"(?:[a-z]|[^\x00-\x7f]|(?<=[a-z\x80-\U0010ffff])'(?=[a-z\x80-\U0010ffff]))+")


@pytest.fixture(scope="module")
def texts():
    draw = random.Random(0)
    pieces = [
        "i",
        "can't",
        "won't",
        "'quoted'",
        "straße",
        "12",
        "?",
        ",",
        "\n",
        "kill",
        "processes",
        "naïveté",
        "-",
        "''",
    ]
    pieces += ["a" * 30, "日本", "x'", "'y", "b2c", "?!", "''"]
    made = [draw.choice((" ", "")).join(draw.choices(pieces, k=draw.randrange(12))) for _ in range(300)]
    return ["", *made, "", "last"]


def test_words_are_those_that_a_pattern_finds(texts):
    words, digits, questions = words_of(texts)
    found = [(number, word.encode()) for number, text in enumerate(texts) for word in WORD.findall(text)]
    assert words.owner.tolist() == [number for number, _ in found]
    assert words.length.tolist() == [len(word) for _, word in found]
    assert digits.tolist() == [sum(c in "0123456789" for c in text) for text in texts]
    assert questions.tolist() == [text.count("?") for text in texts]
    # Equal where the beginnings are equal, and nowhere else.
    for hashes, most in ((words.whole, LONGEST_WORD), (words.stem, STEM)):
        named = {}
        for (_, word), number in zip(found, hashes.tolist(), strict=True):
            assert named.setdefault(word[:most], number) == number
        short = {begin: number for begin, number in named.items() if most == LONGEST_WORD or len(begin) == STEM}
        assert len(set(short.values())) == len(short)


def passed(answer, prompt, code=False):
    """The thresholds that one answer passes, among others that it shares the batch with."""
    others = ["entirely other words stand here", ""]
    rows, columns = content_features([others[0], answer, ""], [answer, prompt, prompt], [True, code, False])
    of = np.concatenate(columns)[np.concatenate(rows) == 1]
    return set((of[of >= BUCKETS] - BUCKETS).tolist())


def test_what_comes_back_of_the_prompt_is_counted():
    prompt = "How do I kill a Python process?"
    # kill, python and process are its content words; `processes` begins as one of them does.
    assert passed("use kill on it", prompt) == {0, 1}  # a third
    assert passed("kill the python processes with pkill", prompt) >= {0, 1, 2, 3}
    assert not passed("pools are wonderful in summer", prompt) & {0, 1, 2, 3}
    assert passed("pools are wonderful in summer", prompt) >= {4}  # three content words or more that are others
    assert not passed("pools are wonderful in summer", "") & set(range(9))  # nothing is known of the prompt


def test_other_marks_of_an_answer():
    first = 4 + 5
    assert passed("dial 112", "") == {first, first + 1}
    assert passed("why? tell me", "") == {first + 3}
    assert passed("why?", "") == {first + 3, first + 4}
    assert passed("x", "", code=True) == {first + 5}
    assert BUCKETS + first + 6 == WIDTH


def test_an_answer_is_read_as_it_is_alone(texts):
    rows, columns = (np.concatenate(parts) for parts in content_features(texts, texts[::-1], [False] * len(texts)))
    for number in range(0, len(texts), 7):
        alone = content_features([texts[number]], [texts[len(texts) - 1 - number]], [False])
        assert sorted(columns[rows == number]) == sorted(np.concatenate(alone[1]))
