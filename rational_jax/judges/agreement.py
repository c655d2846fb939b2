"""How far two labellers agree: accuracy, Cohen's kappa and the confusion table."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class Agreement:
    """Agreement of a judge with people.

    Attributes:
        items: number of items that both labelled.
        accuracy: share of items with equal labels, in [0, 1].
        kappa: Cohen's kappa, in [-1, 1]; 0 is what chance gives with the same label frequencies (Cohen 1960).
        confusion: (person's label, judge's label) -> count.
    """

    items: int
    accuracy: float
    kappa: float
    confusion: dict[tuple[str, str], int]


def agreement(person: Sequence[str], judge: Sequence[str]) -> Agreement:
    """Agreement between two labellings of the same items, in the same order. Raises ValueError if they do not pair."""
    if len(person) != len(judge) or not person:
        raise ValueError(f"two labellings of the same items are needed, not {len(person)} and {len(judge)} labels")
    items = len(person)
    confusion = Counter(zip(person, judge, strict=True))
    by_person, by_judge = Counter(person), Counter(judge)
    observed = sum(count for (one, other), count in confusion.items() if one == other) / items
    expected = sum(by_person[label] * by_judge[label] for label in by_person) / items**2
    # Both labellers used one and the same label throughout: they agree, and there is nothing to correct for chance.
    kappa = 1.0 if expected == 1.0 else (observed - expected) / (1.0 - expected)
    return Agreement(items=items, accuracy=observed, kappa=kappa, confusion=dict(confusion))
