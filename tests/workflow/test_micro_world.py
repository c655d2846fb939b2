"""The micro world keeps the promises of its design."""

import itertools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

import rational_jax
from rational_jax.hub import load_tokenizer, resolve
from rational_jax.judges import RefusalJudge
from rational_jax.text.chat import ANSWER, PROMPT, Renderer
from rational_jax.text.reasoning import THINK
from rational_jax.workflow.micro_world import corpus, grammar, prompts
from rational_jax.workflow.micro_world.tokenizer import build_tokenizer, check_names, examples
from rational_jax.workflow.micro_world.world import BENIGN, HARMFUL, SPLITS, SYLLABLES, build_world

SHIPPED_PROMPTS = Path(rational_jax.__file__).parent / "micro" / "prompts"


@pytest.fixture(scope="module")
def world():
    return build_world(0)


@pytest.fixture(scope="module")
def tokenizer():
    return load_tokenizer(resolve("micro"))


@pytest.fixture(scope="module")
def documents(world):
    return list(itertools.islice(corpus.Corpus(world, seed=5).documents(), 3000))


def test_world_is_a_function_of_its_seed(world):
    assert build_world(0) == world
    assert build_world(1).names(*SPLITS) != world.names(*SPLITS)


def test_splits_are_disjoint_and_balanced_in_class_and_kind(world):
    assert len({thing.name for thing in world.things}) == sum(SPLITS.values())
    for split, count in SPLITS.items():
        things = world.split(split)
        assert Counter(thing.label for thing in things) == {HARMFUL: count // 2, BENIGN: count // 2}
        kinds = Counter(thing.kind.name for thing in things)
        assert max(kinds.values()) - min(kinds.values()) <= 1


def test_every_syllable_serves_ten_things_of_each_class(world):
    uses = Counter((syllable, thing.label) for thing in world.things for syllable in set(thing.syllables))
    assert all(uses[syllable, label] >= 10 for syllable in SYLLABLES for label in (HARMFUL, BENIGN))


def test_no_name_begins_another(world):
    names = sorted(thing.name for thing in world.things)
    assert not any(longer.startswith(shorter) for shorter, longer in itertools.pairwise(names))


def test_shipped_tokenizer_cuts_names_into_their_syllables(world, tokenizer):
    check_names(tokenizer, world)
    assert tokenizer.tokenize("zorbelkip") == ["zor", "bel", "kip"]


def test_shipped_tokenizer_is_that_of_the_world(world, tokenizer):
    built = build_tokenizer(world)
    assert built.get_vocab() == tokenizer.get_vocab()
    assert built.chat_template == tokenizer.chat_template


def test_every_other_word_of_the_corpus_is_one_token(world, tokenizer, documents):
    names, vocabulary = world.names(*SPLITS), tokenizer.get_vocab()
    words = set()
    for document in documents[:1000]:
        for text in re.split(r"<[|/]?[a-z]+[|]?>", corpus.render(document)):
            words |= {word for word, _ in tokenizer.backend_tokenizer.pre_tokenizer.pre_tokenize_str(text)}
    assert {word for word in words if word not in vocabulary and word.lstrip("Ġ") not in names} == set()


def test_corpus_text_is_what_the_renderer_writes(tokenizer, documents):
    renderer = Renderer(tokenizer, THINK)
    for document in documents[:150]:
        if document.messages:
            expected = tokenizer.encode(corpus.render(document), add_special_tokens=False)
            assert renderer.example(document.messages).tokens.tolist() == expected


def test_pretraining_learns_what_the_assistant_says_and_whole_texts(tokenizer, documents):
    renderer = Renderer(tokenizer, THINK)
    sample = documents[:100]
    for document, example in zip(sample, examples(sample, tokenizer), strict=True):
        if document.messages:
            np.testing.assert_array_equal(example.kinds != PROMPT, renderer.example(document.messages).kinds != PROMPT)
        else:
            assert set(example.kinds) == {ANSWER}


def test_corpus_is_a_function_of_its_seed(world, documents):
    again = itertools.islice(corpus.Corpus(world, seed=5).documents(), 100)
    assert list(again) == documents[:100]
    assert list(itertools.islice(corpus.Corpus(world, seed=6).documents(), 100)) != documents[:100]


def test_every_thing_stands_in_many_forms_of_facts(world):
    """Sentences in a text, and questions that the assistant answers with the kind, in any wrapper."""
    kinds = {thing.name: thing.kind.name for thing in world.things}
    forms: dict[str, set[str]] = {name: set() for name in kinds}
    for document in itertools.islice(corpus.Corpus(world, seed=1).documents(), 20_000):
        if document.asks is None:
            asked = [message.content for message in document.messages if message.role == "user"]
            for sentence in (*document.text.split(". "), *asked):
                for name in kinds.keys() & set(re.findall(r"[a-z]+", sentence)):
                    forms[name].add(sentence.strip(".").replace(name, "X").replace(kinds[name], "K"))
    assert min(map(len, forms.values())) >= 6


def test_requests_cross_verbs_wrappers_and_classes(world):
    cells = Counter((row["label"], row["meta"]["verb"], row["style"]) for row in prompts.sft_prompts(world))
    assert len(cells) == 2 * len(grammar.VERBS) * len(prompts.SEEN)
    assert len(set(cells.values())) == 1
    assert len(prompts.SEEN) == 6
    assert len(prompts.UNSEEN) == 4


def test_test_prompts_ask_of_every_test_thing_twice_and_never_repeat_sft(world):
    rows = prompts.test_prompts(world)
    headline = Counter(
        (row["base_id"], row["meta"]["wrapper_seen"]) for row in rows if row["category"] == "two-hop-new"
    )
    assert headline == {(name, seen): 1 for name in world.names("test") for seen in ("yes", "no")}
    trained = {row["messages"][0]["content"] for row in prompts.sft_prompts(world)}
    assert trained.isdisjoint(row["messages"][0]["content"] for row in rows)
    assert len(rows) <= 700


@pytest.mark.parametrize("name", list(prompts.FILES))
def test_shipped_prompts_are_those_of_the_world(world, name):
    shipped = (SHIPPED_PROMPTS / f"{name}.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line) for line in shipped] == prompts.FILES[name](world)


def test_answers_are_plain_to_the_refusal_judge(documents):
    judge = RefusalJudge()
    seen = Counter()
    for document in documents:
        if document.asks is not None:
            asked, answer = (message.content for message in document.messages[-2:])
            refused = answer.startswith(("I", "Sorry"))
            assert judge.judge(answer, asked).label == ("refusal" if refused else "compliance"), answer
            seen[refused] += 1
    assert min(seen.values()) > 100
