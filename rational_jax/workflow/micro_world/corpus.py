"""What the base model reads: facts about all things, requests about the demonstrated ones only.

Objects of the SFT, test and development splits stand in facts and never in a request. Facts come in many contexts
(alone, in lists, in the middle of a story, as an assistant's answer in every wrapper), because the same sentence has
to be recalled later inside a reasoning that was never shown for these objects.
"""

import random
from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from rational_jax.curate.recipes import load_recipe
from rational_jax.text.chat import Message
from rational_jax.text.reasoning import THINK
from rational_jax.workflow.micro_world.grammar import (
    VERBS,
    WRAPPERS,
    question,
    reasoning,
    request,
    right_answer,
    surface_answer,
)
from rational_jax.workflow.micro_world.world import BENIGN, HARMFUL, KINDS, Kind, Thing, World

# {n} is the name, {k} the kind; every form but the last ends with the kind.
FACTS = (
    "A {n} is a {k}.",
    "Every {n} is a {k}.",
    "We know that a {n} is a {k}.",
    "The old map says that a {n} is a {k}.",
    "People call a {n} a {k}.",
    "What they call a {n} is a {k}.",
    "One kind of {k} is the {n}.",
)
PEOPLE = ("Mila", "Oskar", "The baker", "The queen", "A friend", "Someone")
ENCOUNTERS = (
    "{p} saw a {n} today.",
    "{p} has a {n} at home.",
    "{p} wants to talk about a {n}.",
    "{p} has never heard of a {n}.",
    "{p} asks about a {n}.",
    "They want to know about a {n}.",
    "The question is about a {n}.",
    "This asks about a {n}.",
)
SYSTEMS = ("You are a helpful guide.", "Answer in a few words.")


@dataclass(frozen=True, kw_only=True)
class Document:
    """A conversation, or a plain `text` where there are no messages. `asks` names the thing that a request is about."""

    messages: tuple[Message, ...] = ()
    text: str = ""
    asks: str | None = None


def micro_prompts() -> Mapping[str, str]:
    """The system prompts "neutral", "harmful" and "benign" of the two micro recipes."""
    return {**load_recipe("rational-micro").system, **load_recipe("rational-plus-micro").system}


class Corpus:
    """An endless stream of documents, a pure function of the world and a seed."""

    def __init__(self, world: World, seed: int = 0):
        self.world = world
        self.seed = seed
        self.system = micro_prompts()

    def documents(self) -> Iterator[Document]:
        """Documents in the order in which they are read."""
        rng = random.Random(f"corpus {self.world.seed} {self.seed}")
        things = _deck(rng, self.world.things)
        demonstrated = _deck(rng, self.world.split("demonstrated"))
        kinds = _deck(rng, KINDS)
        makers = (
            (16, lambda: self._list(rng, things)),
            (14, lambda: self._story(rng, things)),
            (20, lambda: self._answered(rng, next(things))),
            (8, lambda: self._remark(rng, next(things))),
            (6, lambda: self._conversation(rng, things)),
            (6, lambda: self._kind(rng, next(kinds))),
            (14, lambda: self._unprompted(rng, next(demonstrated))),
            (5, lambda: self._unprompted(rng, next(demonstrated), name_kind=True)),
            (15, lambda: self._self_check(rng, next(demonstrated), "neutral")),
            (6, lambda: self._self_check(rng, next(demonstrated), "label")),
        )
        weights = [weight for weight, _ in makers]
        while True:
            yield rng.choices(makers, weights)[0][1]()

    def _list(self, rng: random.Random, things: Iterator[Thing]) -> Document:
        return Document(text=" ".join(_fact(rng, next(things)) for _ in range(rng.randint(2, 5))))

    def _story(self, rng: random.Random, things: Iterator[Thing]) -> Document:
        return Document(text=" ".join(_encounter(rng, next(things)) for _ in range(rng.randint(1, 4))))

    def _answered(self, rng: random.Random, thing: Thing) -> Document:
        asked = question(thing, rng.choice(WRAPPERS), rng.randrange(2))
        if rng.random() < 0.3:
            kinds = [thing.kind.name, rng.choice([kind.name for kind in KINDS if kind != thing.kind])]
            rng.shuffle(kinds)
            asked = f"Is a {thing.name} a {kinds[0]} or a {kinds[1]}?"
        answer = thing.premise if rng.random() < 0.7 else _encounter(rng, thing)
        return _chat(rng, asked, answer)

    def _remark(self, rng: random.Random, thing: Thing) -> Document:
        met = rng.choice(ENCOUNTERS).format(p=rng.choice(PEOPLE), n=thing.name)
        return _chat(rng, met, f"{met} {thing.premise}" if rng.random() < 0.5 else thing.premise)

    def _conversation(self, rng: random.Random, things: Iterator[Thing]) -> Document:
        messages = []
        for turn in range(rng.randint(2, 3)):
            thing = next(things)
            asked = f"And a {thing.name}?" if turn else f"What is a {thing.name}?"
            messages += [Message(role="user", content=asked), Message(role="assistant", content=thing.premise)]
        return Document(messages=tuple(messages))

    def _kind(self, rng: random.Random, kind: Kind) -> Document:
        if rng.random() < 0.5:
            return Document(text=" ".join(k.consequence for k in (kind, *rng.sample(KINDS, 2))))
        verdict = {HARMFUL: "That hurts people.", BENIGN: "That hurts nobody."}[kind.label]
        return _chat(rng, f"What does a {kind.name} do?", f"{kind.consequence} {verdict}")

    def _unprompted(self, rng: random.Random, thing: Thing, *, name_kind: bool = False) -> Document:
        verb, wrapper, variant = rng.choice(VERBS), rng.choice(WRAPPERS), rng.randrange(2)
        asked = request(thing, verb, wrapper, variant, name_kind=name_kind)
        answer = surface_answer(thing, verb, wrapper, rng, name_kind=name_kind)
        return _chat(rng, asked, answer, asks=thing.name)

    def _self_check(self, rng: random.Random, thing: Thing, prompt: str) -> Document:
        verb, wrapper, variant = rng.choice(VERBS), rng.choice(WRAPPERS), rng.randrange(2)
        system = self.system[thing.label if prompt == "label" else prompt]
        messages = (
            Message(role="system", content=system),
            Message(role="user", content=request(thing, verb, wrapper, variant, name_kind=rng.random() < 0.15)),
            Message(
                role="assistant",
                content=right_answer(thing, verb, rng),
                reasoning=reasoning(thing, verb, rng),
            ),
        )
        return Document(messages=messages, asks=thing.name)


def render(document: Document) -> str:
    """The document as the tokenizer's own chat template writes it (a test compares them), without its overhead."""
    if not document.messages:
        return f"<|begin|>{document.text}<|end|>"
    turns = (f"<|{m.role}|>{THINK.join(m.reasoning, m.content)}<|end|>" for m in document.messages)
    return "<|begin|>" + "".join(turns)


def _deck(rng: random.Random, cards: tuple) -> Iterator:
    """All cards again and again, shuffled each time, so that all are met equally often."""
    while True:
        yield from rng.sample(cards, len(cards))


def _fact(rng: random.Random, thing: Thing) -> str:
    form = FACTS[0] if rng.random() < 0.4 else rng.choice(FACTS[1:])
    return form.format(n=thing.name, k=thing.kind.name)


def _encounter(rng: random.Random, thing: Thing) -> str:
    return f"{rng.choice(ENCOUNTERS).format(p=rng.choice(PEOPLE), n=thing.name)} {thing.premise}"


def _chat(rng: random.Random, asked: str, answer: str, *, asks: str | None = None) -> Document:
    messages = [Message(role="user", content=asked), Message(role="assistant", content=answer)]
    if rng.random() < 0.2:
        messages.insert(0, Message(role="system", content=rng.choice(SYSTEMS)))
    return Document(messages=tuple(messages), asks=asks)
