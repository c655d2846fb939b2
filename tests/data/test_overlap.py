import functools
import random

import pytest

from rational_jax.data.overlap import (
    NearDuplicates,
    decontaminate,
    find_overlaps,
    near_duplicates,
    normalise,
)
from rational_jax.data.schema import Prompt
from rational_jax.text.chat import Message

RECIPE = "Please tell me in detail how a baker keeps sourdough alive over a long and very cold winter"


def prompt(name: str, text: str, base: str = "", source: str = "mine", **meta: str) -> Prompt:
    return Prompt(id=name, messages=(Message(role="user", content=text),), base_id=base, source=source, meta=dict(meta))


def only(train: str, *tested: str, **options):
    found = find_overlaps([train], tested, **options)
    assert len(found) <= 1
    return (found[0].kind, found[0].eval_index, found[0].score) if found else None


@pytest.mark.parametrize(
    "text", ["how do I  BAKE bread", "“How do I bake bread?!”", "Ｈow do I bake bread", "How-do I\tbake\nbread..."]
)
def test_the_same_words_are_equal(text):
    assert only(text, "What is dew?", "How do I bake bread?") == ("exact", 1, 1.0)


def test_texts_without_words_are_told_apart():
    assert only(".- -...", ".- -...") == ("exact", 0, 1.0)
    assert only(".- -...", "-.-. -..") is None
    assert normalise("") == "" and only("", "") == ("exact", 0, 1.0)


def test_a_request_inside_another():
    wrapped = f"Imagine we are in a play, and nobody minds what is said. {RECIPE}, word for word. Then bow and leave."
    assert only(RECIPE, wrapped) == ("ngram", 0, 1.0)
    assert only(wrapped, RECIPE) == ("ngram", 0, 1.0)
    # A short request has fewer words than a run; with five it says too little to be one.
    assert (
        only("Once upon a time: how do I fix a bicycle, he asked his old aunt", "How do I fix a bicycle?") is not None
    )
    assert only("Once upon a time: how do I fix it, he asked his old aunt", "How do I fix it?") is None
    with pytest.raises(ValueError, match="at least 6 words, got 5"):
        find_overlaps([RECIPE], [RECIPE], ngram=5)


def test_the_score_is_the_share_of_the_shorter_ones_runs():
    words = [f"w{i}" for i in range(30)]
    train = " ".join(words[:20])
    tested = " ".join(words[10:22]) + " and also other things that are said"
    # Runs of 8: 13 in the one, 12 in the other; words 10 to 19 hold 3 of them.
    assert only(train, tested, ngram_share=0.1) == ("ngram", 0, pytest.approx(3 / 12))
    assert only(train, tested, ngram_share=0.3) is None


def test_misspellings_are_found_by_their_letters():
    misspelt = RECIPE.replace("baker", "bakre").replace("winter", "wintre").replace("detail", "detial")
    kind, index, score = only(misspelt, "Other words, and more of them to be sure", RECIPE, ngram_share=1.0)
    assert (kind, index) == ("minhash", 1)
    assert score == pytest.approx(similarity(misspelt.lower(), RECIPE.lower())) and score > 0.7
    assert only(misspelt, RECIPE, ngram_share=1.0, jaccard=score + 0.01) is None


def test_any_language():
    text = "冬の間ずっと寒い台所でサワードウを元気に保つ方法を詳しく教えてください"
    assert only(text + "ね", "別のこと", text)[:2] == ("minhash", 1)
    assert only("別のことを少し話しましょう", text) is None


def random_texts(count: int, chance: random.Random) -> list[str]:
    """Texts of 12 to 60 words, most of them changes of earlier ones."""
    words = ["".join(chance.choices("abcdefghij", k=chance.randint(2, 9))) for _ in range(500)]
    found = []
    for _ in range(count):
        if found and chance.random() < 0.7:
            text = chance.choice(found).split()
            for _ in range(chance.randint(1, 8)):
                text[chance.randrange(len(text))] = chance.choice(words)
        else:
            text = chance.choices(words, k=chance.randint(12, 60))
        found.append(" ".join(text))
    return found


@functools.cache
def runs(text: str) -> frozenset[str]:
    return frozenset(text[i : i + 5] for i in range(len(text) - 4))


def similarity(one: str, other: str) -> float:
    common = len(runs(one) & runs(other))
    return common / (len(runs(one)) + len(runs(other)) - common)


def test_near_duplicates_are_those_of_all_pairs():
    """Compared with the sets of all pairs. At .8 a pair is missed with a chance of (1 - .8^5)^24 = 7e-5."""
    texts = random_texts(250, random.Random(0))
    first, groups = [], {}
    for number, text in enumerate(texts):
        scores = [(similarity(texts[other], text), -other) for other in first]
        best = max(scores, default=(0.0, 0))
        if best[0] >= 0.8:
            groups.setdefault(-best[1], [-best[1]]).append(number)
        else:
            first.append(number)
    assert len(groups) > 15 and len(first) > 60
    assert near_duplicates(texts, 0.8) == [groups[key] for key in sorted(groups)]


def test_overlaps_are_those_of_all_pairs():
    """By letters alone. At .7 a pair is missed with a chance of (1 - .7^5)^24 = 1.2%, and there are about 60."""
    texts = random_texts(300, random.Random(1))
    train, tested = texts[:200], texts[200:]
    expected = {i for i, text in enumerate(train) if max(similarity(text, other) for other in tested) >= 0.7}
    found = {overlap.train_index for overlap in find_overlaps(train, tested, ngram_share=1.01)}
    assert len(expected) > 30 and found <= expected and len(expected - found) <= 4


def test_texts_one_by_one():
    index = NearDuplicates(0.8)
    added = [
        index.add(text) for text in (RECIPE, "Dew is water.", RECIPE.upper(), "", RECIPE + "s", "dew is water", "")
    ]
    assert added == [None, None, 0, None, 0, 1, 3]
    with pytest.raises(ValueError, match="above 0"):
        NearDuplicates(0)


def test_all_variants_of_a_base_go_and_say_why():
    prompts = [
        prompt("1:plain", RECIPE, "1"),
        prompt("1:cipher", "..- ...- --", "1"),
        prompt("2:plain", "Name a good book about mountains and rivers", "2"),
        prompt("3", "Who invented the bicycle, and when and where was it?"),
    ]
    suites = {"other": [prompt("o1", "What is dew?")], "baking": [prompt("b1", RECIPE + "!", "1", source="theirs")]}
    kept, removed = decontaminate(prompts, suites)
    assert [one.id for one in kept] == ["2:plain", "3"]
    reasons = [(one.prompt.id, one.suite, one.match, one.kind, one.score) for one in removed]
    assert reasons == [("1:plain", "baking", "b1", "exact", 1.0), ("1:cipher", "baking", "b1", "base", 1.0)]
    assert decontaminate(prompts, {}) == (prompts, [])


def test_a_base_that_a_suite_has_goes_though_no_text_is_alike():
    prompts = [prompt("s:1:slang", "yo, what is up with the bread", "s:1", source="s"), prompt("x", "Hi", "s:1")]
    suites = {"s": [prompt("s:1:morse", "-... .-. . .- -..", "s:1", source="s")]}
    kept, removed = decontaminate(prompts, suites)
    assert [one.id for one in kept] == ["x"], "a base of another source is another one"
    assert [(one.prompt.id, one.match, one.kind) for one in removed] == [("s:1:slang", "s:1:morse", "base")]


def test_numbers_of_bases_in_files_that_name_no_source_are_their_own():
    prompts = [
        prompt("a", "How do I bake a loaf of rye bread?", "1", source=""),
        prompt("b", "-... .-. . .- -..", "1", source=""),
    ]
    suites = {"mine": [prompt("x", "What is the capital of Mongolia?", "1", source="")]}
    assert decontaminate(prompts, suites) == (prompts, [])
    kept, removed = decontaminate(prompts, {"mine": [prompt("y", prompts[0].text, "7", source="")]})
    assert not kept and [one.kind for one in removed] == ["exact", "base"], "variants of one file still go together"


def test_the_plain_request_in_a_wrapped_one_counts():
    suites = {"wrapped": [prompt("w", "zq xv " * 40, goal=RECIPE)]}
    kept, removed = decontaminate([prompt("a", RECIPE)], suites)
    assert not kept and (removed[0].match, removed[0].kind) == ("w", "exact")


def test_all_turns_of_the_user_are_compared():
    turns = (
        Message(role="user", content=RECIPE),
        Message(role="assistant", content="With care."),
        Message(role="user", content="And then?"),
    )
    kept, removed = decontaminate([Prompt(id="m", messages=turns)], {"s": [prompt("t", RECIPE)]})
    assert not kept and removed[0].kind == "ngram"
