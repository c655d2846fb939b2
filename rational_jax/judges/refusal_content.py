"""What an answer says, word by word, and how much of its prompt it takes up: the third view of the refusal model.

Every word and every pair of neighbours of an answer is hashed into `BUCKETS`. That alone would learn topics; beside the
skeleton (`refusal_model.py`) it learns the many words in which one declines or delivers. Against a prompt it is counted
how many of the prompt's content words come back, and how many others the answer brings: an answer that says much and
takes up nothing of what was asked has changed the subject.

All texts of a batch are read at once, as bytes in numpy: word by word in Python it would take longer than all else.

Shapes: N texts, W words of all of them, F features of all of them.
"""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

BUCKETS = 1 << 16
LONGEST_TEXT = 20_000  # characters that are read
LONGEST_WORD = 12  # bytes that tell a word from others
STEM = 5  # bytes that do so where prompt and answer are compared
CONTENT = 4  # bytes of the shortest content word

# Thresholds that are passed: content words of the prompt that come back (share), other ones, digits, question marks.
_TAKEN_UP = (0.01, 0.25, 0.5, 0.75)
_OTHERS = (3, 6, 12, 25, 50)
_DIGITS = (1, 3, 8)
WIDTH = BUCKETS + len(_TAKEN_UP) + len(_OTHERS) + len(_DIGITS) + 3

_BASE, _PAIR, _OF = (np.uint64(key) for key in (0x9E3779B97F4A7C15, 0xC2B2AE3D27D4EB4F, 0x165667B19E3779F9))
_LETTER = np.zeros(256, bool)
_LETTER[[*range(ord("a"), ord("z") + 1), *range(128, 256)]] = True


class Words(NamedTuple):
    """Words of N texts, in order: the text each is of, its hash, that of its beginning, and its length in bytes."""

    owner: NDArray[np.int64]
    whole: NDArray[np.uint64]
    stem: NDArray[np.uint64]
    length: NDArray[np.int64]


def words_of(texts: Sequence[str]) -> tuple[Words, NDArray[np.int64], NDArray[np.int64]]:
    """The words of lower-case texts, and how many digits and question marks each text has, both `[N]`."""
    parts = [text[:LONGEST_TEXT].encode("utf-8", "replace") for text in texts]
    data = np.frombuffer(b"\n" + b"\n".join(parts) + b"\n" * (LONGEST_WORD + 1), np.uint8)
    ends = np.cumsum([len(part) + 1 for part in parts])
    letter = _LETTER[data]
    apostrophe = np.flatnonzero(data[1:-1] == ord("'")) + 1
    letter[apostrophe] = letter[apostrophe - 1] & letter[apostrophe + 1]
    edge = np.flatnonzero(letter[1:] != letter[:-1]) + 1
    starts, length = edge[::2], edge[1::2] - edge[::2]
    whole = np.zeros(len(starts), np.uint64)
    for place in range(LONGEST_WORD):
        whole = np.where(place < length, whole * _BASE + data[starts + place], whole)
        if place == STEM - 1:
            stem = whole
    owner = np.searchsorted(ends, starts, side="left")

    def count(wanted: NDArray[np.bool_]) -> NDArray[np.int64]:
        return np.bincount(np.searchsorted(ends, np.flatnonzero(wanted), side="left"), minlength=len(texts))

    digits = count((data >= ord("0")) & (data <= ord("9")))
    return Words(owner, whole, stem, length), digits, count(data == ord("?"))


def content_features(answers: Sequence[str], prompts: Sequence[str], code: Sequence[bool]) -> tuple[list, list]:
    """Rows and columns, in parts, of the features of N lower-case answers without code or quotations.

    `prompts` are what they answer, "" where that is not known; `code` tells which answers had any.
    """
    size = len(answers)
    words, digits, questions = words_of(answers)
    follows = words.owner[1:] == words.owner[:-1]
    pairs = (words.whole[:-1] * _PAIR + words.whole[1:])[follows]
    rows, columns = [words.owner, words.owner[1:][follows]], [bucket(words.whole, BUCKETS), bucket(pairs, BUCKETS)]
    asked, *_ = words_of([prompt.lower() for prompt in prompts])
    ours, ours_of = _content(words)
    theirs, theirs_of = _content(asked)
    wanted = np.bincount(theirs_of, minlength=size)
    taken_up = np.bincount(theirs_of[np.isin(theirs, ours)], minlength=size) / np.maximum(wanted, 1)
    others = np.where(wanted > 0, np.bincount(ours_of[~np.isin(ours, theirs)], minlength=size), 0)
    asks = np.array([answer.endswith("?") for answer in answers])
    counted = [(taken_up, _TAKEN_UP), (others, _OTHERS), (digits, _DIGITS)]
    counted += [(questions, (1,)), (asks, (1,)), (np.asarray(code), (1,))]
    add_passed(counted, BUCKETS, rows, columns)
    return rows, columns


def add_passed(counted: Sequence[tuple[NDArray, Sequence[float]]], column: int, rows: list, columns: list) -> None:
    """Appends which of N texts pass each threshold of each count `[N]`: a column a threshold, from `column` on."""
    for count_N, bounds in counted:
        for bound in bounds:
            passed = np.flatnonzero(count_N >= bound)
            rows.append(passed)
            columns.append(np.full(len(passed), column))
            column += 1


def _content(words: Words) -> tuple[NDArray[np.uint64], NDArray[np.int64]]:
    """The distinct content words of each text, as numbers that two texts do not share, and the text each is of."""
    long = words.length >= CONTENT
    keys, first = np.unique(words.stem[long] * _OF + words.owner[long].astype(np.uint64) * _PAIR, return_index=True)
    return keys, words.owner[long][first]


def bucket(hashed: NDArray[np.uint64], buckets: int) -> NDArray[np.int64]:
    """The one of `buckets`, a power of two, that each hash falls into."""
    mixed = (hashed ^ (hashed >> np.uint64(29))) * _PAIR
    return ((mixed >> np.uint64(32)) & np.uint64(buckets - 1)).astype(np.int64)
