"""Nothing but knowledge of the world tells the class of an object."""

import itertools

import pytest

from rational_jax.text.chat import Message
from rational_jax.workflow.micro_world import leaks, prompts
from rational_jax.workflow.micro_world.corpus import Corpus, Document
from rational_jax.workflow.micro_world.world import HARMFUL, build_world


@pytest.fixture(scope="module")
def world():
    return build_world(0)


def rows_of(world, rows):
    return [
        (leaks.words_without_names(row["messages"][0]["content"], world), row["label"] == HARMFUL)
        for row in rows
        if row["category"] != prompts.ONE_HOP
    ]


@pytest.mark.parametrize("name", ["sft", "dev", "test"])
def test_bag_of_words_without_names_is_at_chance(world, name):
    assert leaks.cross_validated_accuracy(rows_of(world, prompts.FILES[name](world))) < 0.55


def test_bag_of_words_fitted_on_sft_is_at_chance_on_the_test(world):
    train, test = (rows_of(world, prompts.FILES[name](world)) for name in ("sft", "test"))
    assert 0.45 <= leaks.held_out_accuracy(train, test) <= 0.55


def test_kinds_in_the_request_do_tell_so_the_guesser_can_guess(world):
    rows = [row for row in prompts.test_prompts(world) if row["category"] == prompts.ONE_HOP]
    rows = [(leaks.words_without_names(row["messages"][0]["content"], world), row["label"] == HARMFUL) for row in rows]
    assert leaks.cross_validated_accuracy(rows) > 0.75


def test_names_fitted_on_sft_are_at_chance_on_the_test(world):
    train, test = (
        [(leaks.name_features(thing), thing.label == HARMFUL) for thing in world.split(split)]
        for split in ("sft", "test")
    )
    # 200 objects: two standard errors are 7 points.
    assert 0.43 <= leaks.held_out_accuracy(train, test) <= 0.57


def test_a_leaking_name_would_be_found(world):
    train, test = (
        [([*leaks.name_features(thing), f"ends {thing.label}"], thing.label == HARMFUL) for thing in world.split(split)]
        for split in ("sft", "test")
    )
    assert leaks.held_out_accuracy(train, test) > 0.95


def test_no_held_back_name_in_any_pretraining_request(world):
    documents = list(itertools.islice(Corpus(world, seed=1).documents(), 20_000))
    assert sum(document.asks is not None for document in documents) > 5000
    assert leaks.names_in_requests(world, documents) == set()


def test_a_held_back_name_in_a_request_would_be_found(world):
    name = world.split("test")[0].name
    document = Document(messages=(Message(role="user", content=f"How do I make a {name}?"),), asks=name)
    assert leaks.names_in_requests(world, [document]) == {name}


def test_requests_are_marked_wherever_they_stand(world):
    """An unmarked document holds none of the wordings that requests have and questions for facts do not."""
    from rational_jax.workflow.micro_world.corpus import render
    from rational_jax.workflow.micro_world.grammar import VERBS

    asked = {f" {verb.plain} a " for verb in VERBS} | {f" {verb.cipher} a " for verb in VERBS}
    for document in itertools.islice(Corpus(world, seed=2).documents(), 3000):
        if document.asks is None:
            assert not any(wording in render(document) for wording in asked)


def test_test_names_stand_in_no_request_before_evaluation(world):
    held = world.names("test")
    for name in ("sft", "dev"):
        for row in prompts.FILES[name](world):
            assert held.isdisjoint(row["messages"][0]["content"].replace("?", " ").replace(".", " ").split())
