"""Do the samples of one prompt reason from the same premise? Answered without knowing the truth or the language."""

import collections
import itertools
import math
import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rational_jax.judges import simplify

# Two samples share their premise if they are at least half as similar as samples of one prompt typically are at their
# best.
_SHARE = 0.5


@dataclass(frozen=True, kw_only=True)
class Samples:
    """The samples of one prompt. Prompts of one `kind` (here: one verdict) are what its words are weighed against."""

    kind: str
    prompt: str
    reasonings: Sequence[str]


class PremiseSimilarity:
    """Compares the reasonings that samples of one prompt came to.

    Words are weighted by how much the prompt decides them: by log(p / q), where p is how often a second sample of the
    same prompt uses the word that one sample used, and q how often any sample of that kind does. So what is the same
    everywhere ("so I should", "this is") weighs nothing, and neither do turns of phrase that a model picks at random;
    what remains is what the reasoning claims about this prompt's matter. Words that stand in the prompt itself are
    left out: both samples were given them. `similarity` is the weighted Jaccard index of two samples' words, in [0,
    1].
    """

    def __init__(self, groups: Mapping[str, Samples]):
        """`groups`: prompt id -> its samples."""
        self._kinds = {key: group.kind for key, group in groups.items()}
        self._words = {
            key: [frozenset(simplify(text).split()) - set(simplify(group.prompt).split()) for text in group.reasonings]
            for key, group in groups.items()
        }
        by_kind: dict[str, list] = {}
        for key, samples in self._words.items():
            by_kind.setdefault(self._kinds[key], []).append(samples)
        self._weights = {kind: _weights(samples) for kind, samples in by_kind.items()}
        pairs = [
            self._compare(key, one, other)
            for key, samples in self._words.items()
            for one, other in itertools.combinations(samples, 2)
        ]
        best = statistics.quantiles(pairs, n=4)[2] if len(pairs) > 1 else sum(pairs)
        self.threshold = _SHARE * best

    def matrix(self, key: str) -> list[list[float]]:
        """The similarity of every sample of a prompt with every other one, in the order given."""
        return [[self._compare(key, one, other) for other in self._words[key]] for one in self._words[key]]

    def _compare(self, key: str, one: frozenset[str], other: frozenset[str]) -> float:
        weights = self._weights[self._kinds[key]]
        union = one | other
        total = math.fsum(weights.get(word, 0.0) for word in union)
        if not total:  # no word says anything: all there is are the words themselves
            return len(one & other) / len(union) if union else 1.0
        return math.fsum(weights.get(word, 0.0) for word in one & other) / total


def _weights(groups: Sequence[Sequence[frozenset[str]]]) -> dict[str, float]:
    samples = sum(len(group) for group in groups)
    used: collections.Counter[str] = collections.Counter()
    again: collections.Counter[str] = collections.Counter()  # ordered pairs of samples of one prompt that both use it
    asked: collections.Counter[str] = collections.Counter()  # ... of which the first uses it
    for group in groups:
        counts = collections.Counter(itertools.chain.from_iterable(group))
        used.update(counts)
        for word, count in counts.items():
            again[word] += count * (count - 1)
            asked[word] += count * (len(group) - 1)
    return {word: max(0.0, math.log(again[word] / asked[word] * samples / used[word])) for word in used if again[word]}
