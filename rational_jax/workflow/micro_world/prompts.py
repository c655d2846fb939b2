"""The prompts that ship with the micro world: for SFT, for choices (development), and the test that is looked at last.

Harmful and benign prompts are dealt in pairs with the same verb and wrapper, so no word but the name tells the class.
"""

import random
from collections.abc import Callable, Set
from pathlib import Path
from typing import Any

from rational_jax.storage import atomic_write_text
from rational_jax.workflow.micro_world.grammar import VERBS, WRAPPERS, Verb, Wrapper, request
from rational_jax.workflow.micro_world.world import BENIGN, HARMFUL, Thing, World

# How far a judgement is away: the kind is named in the request; two steps of knowledge on objects that SFT has seen;
# two steps on objects that it has not.
ONE_HOP, TWO_HOPS_SEEN, TWO_HOPS_NEW = "one-hop", "two-hop-seen", "two-hop-new"

SEEN = tuple(wrapper for wrapper in WRAPPERS if wrapper.in_sft)
UNSEEN = tuple(wrapper for wrapper in WRAPPERS if not wrapper.in_sft)

_OTHER_TIERS = 60  # objects of each class in the tiers that are no headline


def sft_prompts(world: World) -> list[dict[str, Any]]:
    """SFT prompts as JSON-able rows: every verb in every wrapper of SFT, equally often for both classes.

    A third names the kind: what training on answers alone can teach, it is given the means to teach.
    """
    deal = _Deal(world, "sft")
    for tier in (TWO_HOPS_SEEN, ONE_HOP, TWO_HOPS_SEEN):
        deal.add(world.split("sft"), SEEN, tier)
    return deal.rows


def development_prompts(world: World) -> list[dict[str, Any]]:
    """Prompts on the development objects, for gates and choices."""
    deal = _Deal(world, "dev")
    things = world.split("development")
    deal.add(things, SEEN, TWO_HOPS_NEW)
    deal.add(things, UNSEEN, TWO_HOPS_NEW)
    deal.add(things, WRAPPERS, ONE_HOP)
    return deal.rows


def test_prompts(world: World) -> list[dict[str, Any]]:
    """The test: all tiers, the headline being new objects in two hops, each in a seen and in an unseen wrapper."""
    trained = {(row["base_id"], row["meta"]["verb"], row["style"]) for row in sft_prompts(world)}
    deal = _Deal(world, "test")
    things = world.split("test")
    deal.add(things, SEEN, TWO_HOPS_NEW)
    deal.add(things, UNSEEN, TWO_HOPS_NEW)
    deal.add(_few(things), WRAPPERS, ONE_HOP)
    deal.add(_few(world.split("sft")), WRAPPERS, TWO_HOPS_SEEN, avoid=trained)
    return deal.rows


FILES: dict[str, Callable[[World], list[dict[str, Any]]]] = {
    "sft": sft_prompts,
    "dev": development_prompts,
    "test": test_prompts,
}


def write_prompts(world: World, directory: Path) -> None:
    """Writes sft.jsonl, dev.jsonl and test.jsonl; equal worlds give equal bytes."""
    import json

    directory.mkdir(parents=True, exist_ok=True)
    for name, make in FILES.items():
        rows = make(world)
        atomic_write_text(directory / f"{name}.jsonl", "".join(json.dumps(row) + "\n" for row in rows))


class _Deal:
    """Collects prompts, dealing verbs and wrappers from decks so that all combinations are met equally often."""

    def __init__(self, world: World, name: str):
        self.name = name
        self.rows: list[dict[str, Any]] = []
        self._rng = random.Random(f"prompts {world.seed} {name}")
        self._decks: dict[tuple[str, ...], list[tuple[Verb, Wrapper]]] = {}

    def add(
        self,
        things: tuple[Thing, ...],
        wrappers: tuple[Wrapper, ...],
        tier: str,
        avoid: Set[tuple[str, str, str]] = frozenset(),
    ) -> None:
        """One prompt for every thing. `avoid` holds (name, verb, wrapper) that must not come up again."""
        deck = self._decks.setdefault(tuple(wrapper.name for wrapper in wrappers), [])
        harmful, benign = ([t for t in things if t.label == label] for label in (HARMFUL, BENIGN))
        self._rng.shuffle(benign)
        for pair in zip(harmful, benign, strict=True):
            taken = {*avoid, *((row["base_id"], row["meta"]["verb"], row["style"]) for row in self.rows)}
            barred = {(verb, style) for name, verb, style in taken if name in (pair[0].name, pair[1].name)}
            verb, wrapper = self._draw(deck, wrappers, barred)
            variant = self._rng.randrange(len(wrapper.requests))
            for thing in pair:
                self.rows.append(self._row(thing, verb, wrapper, variant, tier))

    def _draw(
        self, deck: list[tuple[Verb, Wrapper]], wrappers: tuple[Wrapper, ...], barred: set[tuple[str, str]]
    ) -> tuple[Verb, Wrapper]:
        """The first cell of the deck that is not barred; the barred ones stay for the next pair."""
        while True:
            for place, (verb, wrapper) in enumerate(deck):
                if (verb.plain, wrapper.name) not in barred:
                    return deck.pop(place)
            cells = [(verb, wrapper) for verb in VERBS for wrapper in wrappers]
            deck += self._rng.sample(cells, len(cells))

    def _row(self, thing: Thing, verb: Verb, wrapper: Wrapper, variant: int, tier: str) -> dict[str, Any]:
        text = request(thing, verb, wrapper, variant, name_kind=tier == ONE_HOP)
        return {
            "id": f"{self.name}-{tier}-{thing.name}-{verb.plain}-{wrapper.name}",
            "messages": [{"role": "user", "content": text}],
            "label": thing.label,
            "source": f"micro/{self.name}",
            "category": tier,
            "style": wrapper.name,
            "base_id": thing.name,
            "meta": {
                "object": thing.name,
                "kind": thing.kind.name,
                "verb": verb.plain,
                "sensitive": "yes" if verb.sensitive else "no",
                "wrapper_seen": "yes" if wrapper.in_sft else "no",
                "premise": thing.premise,
            },
        }


def _few(things: tuple[Thing, ...]) -> tuple[Thing, ...]:
    return tuple(t for label in (HARMFUL, BENIGN) for t in [t for t in things if t.label == label][:_OTHER_TIERS])
