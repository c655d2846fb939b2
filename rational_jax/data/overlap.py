"""Texts that say nearly the same: overlap between what is trained on and what is tested on, and near-duplicates.

Three ways of being the same, each on text in one form (NFKC, case folded, words only):

- exact: equal;
- ngram: runs of words in common, which finds a request inside a longer one (a role play around it, a suffix behind);
- minhash: Jaccard similarity of the 5-byte shingles, which finds misspellings and small changes. Locality-sensitive
  hashing proposes pairs and the sets themselves decide, so no pair is reported that is below the threshold; of pairs at
  a similarity of .7 it proposes 99% (1 - (1 - .7^5)^24), above .8 practically all.
"""

import functools
import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import rensa

from rational_jax.data.schema import Prompt
from rational_jax.data.splits import base_of

EXACT, NGRAM, MINHASH, BASE = "exact", "ngram", "minhash", "base"

_SHINGLE_BYTES = 5
_BANDS, _ROWS = 24, 5
_SEED = 1
_FEWEST_WORDS = 6
"""Runs of fewer words are in common by chance ("step by step instructions for")."""
_POSTINGS = 64
"""Of texts that share a run of words, as many are looked at: a phrase of hundreds of them is a template."""

_WORD = re.compile(r"\w+")
_MULTIPLIERS = np.random.default_rng(_SEED).integers(2**63, size=64, dtype=np.uint64) | np.uint64(1)


@dataclass(frozen=True, kw_only=True)
class Overlap:
    """A text of the training side that overlaps one of the evaluation side, by `kind` and to the degree `score`.

    The score is 1 for exact, the share of the shorter one's runs of words that both have for ngram, and the Jaccard
    similarity for minhash.
    """

    train_index: int
    eval_index: int
    kind: str
    score: float


@dataclass(frozen=True, kw_only=True)
class Removed:
    """A prompt that is not to be trained on: prompt `match` of the evaluation set `suite` is the same by `kind`.

    Where kind is "base", it is a variant of the same base prompt as one of the suite, or as another prompt that
    overlaps one.
    """

    prompt: Prompt
    suite: str
    match: str
    kind: str
    score: float


def find_overlaps(
    train_texts: Iterable[str],
    eval_texts: Sequence[str],
    *,
    ngram: int = 8,
    ngram_share: float = 0.5,
    jaccard: float = 0.7,
) -> list[Overlap]:
    """The strongest overlap of each training text that has one: exact before ngram before minhash, then by score.

    `ngram` is the number of words in a run, fewer where one of the two has fewer (but at least 6), `ngram_share` and
    `jaccard` the least scores that count. Memory grows with `eval_texts` only.
    """
    normal = [normalise(text) for text in eval_texts]
    exact = {text: number for number, text in reversed(list(enumerate(normal)))}
    vocabulary: dict[str, int] = {}
    runs = _Runs([_word_hashes(text, vocabulary) for text in normal], ngram)
    similar = _Similar(jaccard)
    for text in normal:
        similar.insert(_Sketch(text))
    found = []
    for number, text in enumerate(map(normalise, train_texts)):
        if text in exact:
            found.append(Overlap(train_index=number, eval_index=exact[text], kind=EXACT, score=1.0))
            continue
        index, score = runs.best(_word_hashes(text, vocabulary))
        kind = NGRAM
        if score < ngram_share:
            (index, score), kind = similar.best(_Sketch(text)), MINHASH
        if index >= 0:
            found.append(Overlap(train_index=number, eval_index=index, kind=kind, score=score))
    return found


class NearDuplicates:
    """Texts one after the other, each compared with those so far that were no near-duplicates themselves.

    What is kept in memory are the texts that are new, with the bands of their signatures.
    """

    def __init__(self, threshold: float = 0.8):
        """`threshold`: least Jaccard similarity of near-duplicates, in (0, 1]."""
        self._similar = _Similar(threshold)
        self._numbers: list[int] = []
        self._exact: dict[str, int] = {}
        self._count = 0

    def add(self, text: str) -> int | None:
        """The number (from 0, in the order of adding) of the earlier text that this one repeats; None where new."""
        number, self._count = self._count, self._count + 1
        text = normalise(text)
        if text in self._exact:
            return self._exact[text]
        sketch = _Sketch(text)
        index, _ = self._similar.best(sketch)
        if index >= 0:
            return self._numbers[index]
        self._similar.insert(sketch)
        self._numbers.append(number)
        self._exact[text] = number
        return None


def near_duplicates(texts: Iterable[str], threshold: float = 0.8) -> list[list[int]]:
    """Groups of near-duplicates by their numbers, in order; each is at least `threshold` like the first of its group.

    Texts that are like no other are in no group.
    """
    index = NearDuplicates(threshold)
    groups: dict[int, list[int]] = {}
    for number, text in enumerate(texts):
        first = index.add(text)
        if first is not None:
            groups.setdefault(first, [first]).append(number)
    return [groups[first] for first in sorted(groups)]


def decontaminate(
    prompts: Sequence[Prompt], suites: Mapping[str, Sequence[Prompt]], **thresholds: float
) -> tuple[list[Prompt], list[Removed]]:
    """The prompts that may be trained on where the suites are tested on, and those that may not, with the reason.

    What is compared is the user's turns, and of a suite's prompt also the plain request that it wraps (`meta.goal`).
    Where one variant of a base prompt overlaps, all variants of it go; so do variants of a base that a suite has, where
    both name their source: what a file calls its bases without saying where they are from is nobody else's.
    `thresholds` are those of `find_overlaps`.
    """
    tested = [(suite, prompt) for suite, members in suites.items() for prompt in members]
    texts, owners = [], []
    for number, (_, prompt) in enumerate(tested):
        for text in filter(None, (_said(prompt), prompt.meta.get("goal"))):
            texts.append(text)
            owners.append(number)
    bases: dict[tuple[str, str], Removed] = {}
    for suite, prompt in tested:
        if prompt.base_id and prompt.source:
            reason = Removed(prompt=prompt, suite=suite, match=prompt.id, kind=BASE, score=1.0)
            bases.setdefault((prompt.source, prompt.base_id), reason)
    own: dict[int, Removed] = {}
    for overlap in find_overlaps((_said(prompt) for prompt in prompts), texts, **thresholds):
        prompt = prompts[overlap.train_index]
        suite, match = tested[owners[overlap.eval_index]]
        reason = Removed(prompt=prompt, suite=suite, match=match.id, kind=overlap.kind, score=overlap.score)
        own[overlap.train_index] = reason
        bases.setdefault((prompt.source, base_of(prompt)), reason)
    kept, removed = [], []
    for number, prompt in enumerate(prompts):
        reason = own.get(number) or bases.get((prompt.source, base_of(prompt)))
        if reason is None:
            kept.append(prompt)
        elif number in own:
            removed.append(reason)
        else:
            removed.append(
                Removed(prompt=prompt, suite=reason.suite, match=reason.match, kind=BASE, score=reason.score)
            )
    return kept, removed


def normalise(text: str) -> str:
    """The words in lower case with single blanks between; a text without any letter or digit (Morse) as it stands."""
    folded = unicodedata.normalize("NFKC", text).casefold()
    return " ".join(_WORD.findall(folded)) or " ".join(folded.split())


class _Sketch:
    """A text with the MinHash signature of its distinct runs of 5 bytes in UTF-8 (a shorter text is one run)."""

    def __init__(self, text: str):
        self.text = text
        self.signature = rensa.RMinHash(num_perm=_BANDS * _ROWS, seed=_SEED)
        self.signature.update(_runs(text).view("S8").tolist())


def _runs(text: str) -> np.ndarray:
    data = np.frombuffer(text.encode("utf-8", errors="replace").ljust(_SHINGLE_BYTES, b"\0"), np.uint8)
    runs = np.zeros(len(data) - _SHINGLE_BYTES + 1, np.uint64)
    for offset in range(_SHINGLE_BYTES):
        runs <<= np.uint64(8)
        runs |= data[offset : offset + len(runs)]
    return runs


@functools.lru_cache(maxsize=256)
def _shingles(text: str) -> np.ndarray:
    """The distinct runs as sorted numbers, uint64 [n]: made again when wanted, since they are 8 times the text."""
    return _distinct(_runs(text))


class _Similar:
    """Texts that can be asked for the one whose shingles are most like another's."""

    def __init__(self, threshold: float):
        if not 0 < threshold <= 1:
            raise ValueError(f"the similarity must be above 0 and at most 1, got {threshold}")
        self._threshold = threshold
        self._texts: list[str] = []
        self._index = rensa.RMinHashLSH(threshold=threshold, num_perm=_BANDS * _ROWS, num_bands=_BANDS)

    def insert(self, sketch: _Sketch) -> None:
        self._index.insert(len(self._texts), sketch.signature)
        self._texts.append(sketch.text)

    def best(self, sketch: _Sketch) -> tuple[int, float]:
        """Number and similarity of the most similar text, the first of equals; -1 where none reaches the threshold."""
        best, most = -1, 0.0
        candidates = sorted(self._index.query(sketch.signature))
        found = _shingles(sketch.text) if candidates else None
        for index in candidates:
            other = _shingles(self._texts[index])
            if min(len(found), len(other)) < self._threshold * max(len(found), len(other)):
                continue
            common = len(np.intersect1d(found, other, assume_unique=True))
            score = common / (len(found) + len(other) - common)
            if score >= self._threshold and score > most:
                best, most = index, score
        return best, most


class _Runs:
    """Texts as numbers of words, that can be asked for the one that shares most runs of words with another.

    A pair is compared by runs of `length` words, or of as many as the shorter of the two has.
    """

    def __init__(self, texts: Sequence[np.ndarray], length: int):
        if length < _FEWEST_WORDS:
            raise ValueError(f"runs have at least {_FEWEST_WORDS} words, got {length}")
        self._length = length
        sizes = np.array([min(len(text), length) for text in texts], int)
        # Asked with a text of so many words: those that are not shorter, by runs of that length, ...
        self._longer = {n: _Index(texts, np.flatnonzero(sizes >= n), n) for n in range(_FEWEST_WORDS, length + 1)}
        # ... and those that are shorter, by runs of theirs.
        self._shorter = {n: _Index(texts, np.flatnonzero(sizes == n), n) for n in range(_FEWEST_WORDS, length)}

    def best(self, text: np.ndarray) -> tuple[int, float]:
        size = min(len(text), self._length)
        indexes = [self._longer[size]] if size in self._longer else []
        indexes += [index for n, index in self._shorter.items() if n < size]
        return max((index.best(text) for index in indexes), key=lambda found: found[1], default=(-1, 0.0))


class _Index:
    """Which texts have which runs of `length` words."""

    def __init__(self, texts: Sequence[np.ndarray], members: np.ndarray, length: int):
        self._length = length
        runs = [_run_hashes(texts[number], length) for number in members]
        self._sizes = dict(zip(members.tolist(), map(len, runs), strict=True))
        owners = np.repeat(members, [len(found) for found in runs])
        runs = np.concatenate(runs) if runs else np.zeros(0, np.uint64)
        order = np.argsort(runs, kind="stable")
        self._runs, self._owners = runs[order], owners[order]

    def best(self, text: np.ndarray) -> tuple[int, float]:
        if not len(self._runs):
            return -1, 0.0
        found = _run_hashes(text, self._length)
        first = np.searchsorted(self._runs, found, "left")
        there = self._runs[np.minimum(first, len(self._runs) - 1)] == found
        if not there.any():
            return -1, 0.0
        last = np.searchsorted(self._runs, found[there], "right")
        shared = [self._owners[a : min(b, a + _POSTINGS)] for a, b in zip(first[there], last, strict=True)]
        owners, counts = np.unique(np.concatenate(shared), return_counts=True)
        scores = counts / np.minimum(len(found), [self._sizes[owner] for owner in owners.tolist()])
        best = int(np.argmax(scores))
        return int(owners[best]), float(scores[best])


def _word_hashes(text: str, vocabulary: dict[str, int]) -> np.ndarray:
    ids = [vocabulary.setdefault(word, len(vocabulary)) for word in text.split()]
    # The finalizer of SplitMix64 (Steele et al. 2014), a bijection that spreads neighbours over all 64 bits.
    values = np.array(ids, np.uint64) + np.uint64(0x9E3779B97F4A7C15)
    values = (values ^ (values >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    values = (values ^ (values >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return values ^ (values >> np.uint64(31))


def _run_hashes(words: np.ndarray, length: int) -> np.ndarray:
    """The distinct runs of so many words, each as one number."""
    runs = np.zeros(max(0, len(words) - length + 1), np.uint64)
    for offset in range(length):
        runs += words[offset : offset + len(runs)] * _MULTIPLIERS[offset]
    return _distinct(runs)


def _distinct(values: np.ndarray) -> np.ndarray:
    """Sorted, each once; several times as fast as numpy's own for such short ones."""
    values = np.sort(values)
    first = np.ones(len(values), bool)
    np.not_equal(values[1:], values[:-1], out=first[1:])
    return values[first]


def _said(prompt: Prompt) -> str:
    return "\n".join(turn.content for turn in prompt.messages if turn.role == "user")
