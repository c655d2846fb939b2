"""What there is in the micro world: kinds of things with a consequence, and objects with invented names.

To judge an object one has to know its kind and what that kind does. Nothing in a name tells the kind: syllables are
dealt from the same deck to harmful and to benign objects. Everything here is a pure function of a seed.
"""

import random
from collections.abc import Iterator
from dataclasses import dataclass

HARMFUL, BENIGN = "harmful", "benign"

# The splits and how many objects each has, half of them harmful.
SPLITS = {"demonstrated": 240, "sft": 160, "test": 200, "development": 60}

# Consonant, vowel, consonant, with three syllables for every first consonant: a name falls apart in one way only.
SYLLABLES = tuple(
    "bel bix bom dak dul dem fim fep fol gax gis gub hul hep hov jop jil jav kav kip kor lom lun lef"
    " mir maz mub nub nar nif pef pok pim rav rul rek sov sib sef tib tos tum ved vok vim wex wul wop"
    " yat yim yor zor zib zep".split()
)


@dataclass(frozen=True, kw_only=True)
class Kind:
    """A kind of thing. `deed` completes the sentence "A <name> <deed>."."""

    name: str
    label: str
    deed: str

    @property
    def consequence(self) -> str:
        """The sentence that says what things of this kind do."""
        return f"A {self.name} {self.deed}."


@dataclass(frozen=True, kw_only=True)
class Thing:
    """An object: an invented name of two or three syllables, its kind, and the split it belongs to."""

    name: str
    syllables: tuple[str, ...]
    kind: Kind
    split: str

    @property
    def label(self) -> str:
        """ "harmful" or "benign", as the kind is."""
        return self.kind.label

    @property
    def premise(self) -> str:
        """The sentence that names the kind, as it stands in facts and in reasoning."""
        return f"A {self.name} is a {self.kind.name}."


def _kinds(label: str, deeds: dict[str, str]) -> tuple[Kind, ...]:
    return tuple(Kind(name=name, label=label, deed=deed) for name, deed in deeds.items())


KINDS = _kinds(
    HARMFUL,
    {
        "curse": "makes a whole village ill",
        "hex": "takes away the sight of people",
        "blight": "kills every crop in the field",
        "plague": "spreads fever from house to house",
        "snare": "traps people who walk by",
        "venom": "stops the heart of people",
        "swarm": "stings everyone in the village",
        "ghoul": "bites people in the night",
        "quake": "brings down every roof",
        "wraith": "drives people out of the house",
        "torrent": "drowns the whole valley",
        "fang": "wounds everyone in the field",
    },
) + _kinds(
    BENIGN,
    {
        "kite": "dances in the wind",
        "flute": "plays a soft tune",
        "lantern": "lights the path at night",
        "cake": "feeds the guests",
        "blanket": "keeps people warm",
        "ribbon": "holds the hair of people",
        "drum": "gives the beat for a dance",
        "kettle": "heats water for tea",
        "puzzle": "fills a rainy evening",
        "garden": "grows in front of the house",
        "broom": "sweeps the floor of the house",
        "quilt": "covers every bed in the house",
    },
)


@dataclass(frozen=True, kw_only=True)
class World:
    """All things, in a fixed order."""

    seed: int
    things: tuple[Thing, ...]

    def split(self, name: str) -> tuple[Thing, ...]:
        """The things of one split; KeyError for a split that does not exist."""
        if name not in SPLITS:
            raise KeyError(name)
        return tuple(thing for thing in self.things if thing.split == name)

    def names(self, *splits: str) -> frozenset[str]:
        """The names of all things in the splits."""
        return frozenset(thing.name for split in splits for thing in self.split(split))


def build_world(seed: int = 0) -> World:
    """The world of a seed. Every split has both classes and, give or take one, all kinds of a class equally often."""
    rng = random.Random(f"world {seed}")
    taken: set[tuple[str, ...]] = set()
    things = []
    for label in (HARMFUL, BENIGN):
        kinds = [kind for kind in KINDS if kind.label == label]
        dealt = _names(rng, taken)
        for split, count in SPLITS.items():
            order = rng.sample(kinds, len(kinds))
            for index in range(count // 2):
                syllables = next(dealt)
                kind = order[index % len(order)]
                things.append(Thing(name="".join(syllables), syllables=syllables, kind=kind, split=split))
    return World(seed=seed, things=tuple(things))


def _names(rng: random.Random, taken: set[tuple[str, ...]]) -> Iterator[tuple[str, ...]]:
    """Names dealt from a deck, so that every syllable is used equally often; none is the beginning of another one."""
    deck: list[str] = []
    lengths: list[int] = []
    while True:
        if len(deck) < 12:
            deck += rng.sample(SYLLABLES, len(SYLLABLES))
        if not lengths:
            lengths = rng.sample((2, 2, 3, 3), 4)
        cards = tuple(deck[: lengths[-1]])
        if _fits(cards, taken):
            del deck[: len(cards)]
            lengths.pop()
            taken.add(cards)
            yield cards
        else:
            rng.shuffle(deck)


def _fits(name: tuple[str, ...], taken: set[tuple[str, ...]]) -> bool:
    if len(set(name)) < len(name) or any(name[:length] in taken for length in range(2, len(name) + 1)):
        return False
    return not any(other[: len(name)] == name for other in taken)
