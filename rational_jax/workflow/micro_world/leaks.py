"""Can the class be guessed without knowing the world? Linear guessers that should do no better than chance."""

import itertools
import re
from collections.abc import Iterable, Sequence

import numpy as np

from rational_jax.workflow.micro_world.corpus import Document
from rational_jax.workflow.micro_world.world import Thing, World

_WORD = re.compile(r"[A-Za-z']+")
_HELD_BACK = ("sft", "test", "development")


def words_without_names(text: str, world: World) -> list[str]:
    """The words of a prompt in lower case, names left out."""
    names = {thing.name for thing in world.things}
    return [word.lower() for word in _WORD.findall(text) if word not in names]


def name_features(thing: Thing) -> list[str]:
    """What a name shows on its surface: its syllables, each at its place, neighbours, and how many there are."""
    syllables = thing.syllables
    pairs = [f"{a}-{b}" for a, b in itertools.pairwise(syllables)]
    return [*syllables, *(f"{place}:{s}" for place, s in enumerate(syllables)), *pairs, f"length {len(syllables)}"]


def held_out_accuracy(
    train: Sequence[tuple[Sequence[str], bool]], test: Sequence[tuple[Sequence[str], bool]], *, ridge: float = 1.0
) -> float:
    """Accuracy on `test` of a logistic regression fitted on `train`; every row is its features and its class."""
    vocabulary = {feature: i for i, feature in enumerate(sorted({f for features, _ in train for f in features}))}
    x_train, y_train = _matrix(train, vocabulary)
    x_test, y_test = _matrix(test, vocabulary)
    weights = _fit(x_train, y_train, ridge)
    return float(np.mean((x_test @ weights > 0) == (y_test > 0.5)))


def cross_validated_accuracy(rows: Sequence[tuple[Sequence[str], bool]], *, folds: int = 5, seed: int = 0) -> float:
    """Mean held-out accuracy over random folds."""
    order = np.random.default_rng(seed).permutation(len(rows))
    scores = []
    for fold in range(folds):
        held = set(order[fold::folds].tolist())
        train = [row for i, row in enumerate(rows) if i not in held]
        scores.append(held_out_accuracy(train, [rows[i] for i in sorted(held)]))
    return float(np.mean(scores))


def names_in_requests(world: World, documents: Iterable[Document]) -> set[str]:
    """Names of held-back things (SFT, test, development) in pretraining documents that hold a request."""
    held_back = world.names(*_HELD_BACK)
    found = set()
    for document in documents:
        if document.asks is not None:
            texts = [f"{message.content} {message.reasoning or ''}" for message in document.messages]
            found |= held_back.intersection(_WORD.findall(" ".join(texts)))
    return found


def _matrix(rows: Sequence[tuple[Sequence[str], bool]], vocabulary: dict[str, int]) -> tuple[np.ndarray, np.ndarray]:
    x = np.zeros((len(rows), len(vocabulary) + 1), np.float32)
    x[:, -1] = 1.0
    for row, (features, _) in enumerate(rows):
        for feature in features:
            if feature in vocabulary:
                x[row, vocabulary[feature]] = 1.0
    return x, np.array([float(label) for _, label in rows], np.float32)


def _fit(x: np.ndarray, y: np.ndarray, ridge: float, steps: int = 200, rate: float = 0.1) -> np.ndarray:
    """Adam on the penalised log-likelihood; the last feature is the constant and is not shrunk."""
    weights, mean, square = (np.zeros(x.shape[1], np.float32) for _ in range(3))
    penalty = np.full(x.shape[1], ridge, np.float32)
    penalty[-1] = 0.0
    for step in range(1, steps + 1):
        p = 1 / (1 + np.exp(-np.clip(x @ weights, -30, 30)))
        gradient = (p - y) @ x + penalty * weights
        mean = 0.9 * mean + 0.1 * gradient
        square = 0.99 * square + 0.01 * gradient**2
        weights -= rate * (mean / (1 - 0.9**step)) / (np.sqrt(square / (1 - 0.99**step)) + 1e-8)
    return weights
