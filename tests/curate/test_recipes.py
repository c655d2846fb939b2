from pathlib import Path

import pytest

import rational_jax.curate
from rational_jax.curate.recipes import load_recipe
from rational_jax.data.schema import Prompt
from rational_jax.errors import UserError
from rational_jax.text.chat import Message

PACKAGED = sorted(file.stem for file in (Path(rational_jax.curate.__file__).parent / "recipes").glob("*.yaml"))


def prompt(**changes):
    return Prompt(**({"id": "p", "messages": (Message(role="user", content="How?"),), "label": "harmful"} | changes))


def recipe(tmp_path, text):
    path = tmp_path / "mine.yaml"
    path.write_text(text)
    return load_recipe(str(path))


def test_packaged_recipes_render_for_both_labels():
    assert {"rational", "rational-plus"} <= set(PACKAGED)
    for name in PACKAGED:
        found = load_recipe(name)
        assert found.name == name and found.description
        texts = [found.messages(prompt(label=label))[0] for label in ("harmful", "benign")]
        assert all(message.role == "system" and len(message.content) > 20 for message in texts)
        # Only a recipe that goes by the label may say different things for different labels.
        assert (texts[0] != texts[1]) == ("neutral" not in found.system)


def test_a_model_may_have_a_wording_of_its_own():
    assert load_recipe("rational-plus", "micro").name == "rational-plus-micro"
    assert load_recipe("rational-plus", "some/model").name == "rational-plus"


def test_the_recipe_of_the_paper_has_no_filter_but_that_of_form():
    for model in ("", "micro"):
        assert load_recipe("rational", model).filters == ("format",)
        assert load_recipe("rational-plus", model).filters is None  # all of them


def test_variables_and_an_existing_system_turn(tmp_path):
    mine = recipe(tmp_path, "system: {neutral: 'On {{ meta.topic }} ({{ category }}): {{ prompt | upper }}'}\n")
    turns = (Message(role="system", content="Be brief."), Message(role="user", content="why {{ x }}?"))
    rendered = mine.messages(prompt(messages=turns, category="c", meta={"topic": "t"}))
    assert rendered == (Message(role="system", content="On t (c): WHY {{ X }}?\n\nBe brief."), turns[1])
    assert mine.name == "mine"
    with pytest.raises(UserError, match=r"prompt 'p'.*'topic'"):
        mine.messages(prompt())


def test_digest_follows_what_is_asked_and_kept(tmp_path):
    base = recipe(tmp_path, "description: a\nsystem: {neutral: x}\n").digest
    assert recipe(tmp_path, "description: b\nsystem: {neutral: x}\n").digest == base
    assert recipe(tmp_path, "system: {neutral: y}\n").digest != base
    assert recipe(tmp_path, "system: {neutral: x}\nfilters: [format]\n").digest != base


def test_a_label_is_needed_where_the_recipe_goes_by_it():
    with pytest.raises(UserError, match=r"recipe rational: prompt 'p' has the label 'unknown'"):
        load_recipe("rational").messages(prompt(label="unknown"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("system: {neutral: 'a {{ lable }}'}", "system.neutral: unknown variable 'lable'; a template may use prompt"),
        ("system: {neutral: 'a {% if x %}'}", "system.neutral: .*line 1"),
        # The neutral prompt must not give the verdict away, so no template sees the label.
        ("system: {neutral: '{{ label }}'}", "unknown variable 'label'"),
        ("system: {harmful: a}", "either neutral, or both"),
        ("system: {neutral: ''}", "text that is not empty"),
        ("system: {neutral: [a]}", "text that is not empty"),
        ("systm: {neutral: a}", "unknown key 'systm'"),
        ("- a", "a recipe has the keys"),
        ("system: {neutral: a}\nfilters: format", "filters must be a list"),
        ("system: {neutral: a", "mine.yaml"),
    ],
)
def test_broken_recipes(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        recipe(tmp_path, text)
    assert "mine.yaml" in str(caught.value)


def test_unknown_and_missing():
    with pytest.raises(UserError, match=r"curate\.recipe: 'rationale' is not known; choose from .*rational-plus"):
        load_recipe("rationale")
    with pytest.raises(UserError, match=r"no such file: none\.yaml"):
        load_recipe("none.yaml")
