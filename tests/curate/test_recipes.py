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
        turns = [found.messages(prompt(label=label)) for label in ("harmful", "benign")]
        for messages, label in zip(turns, ("harmful", "benign"), strict=True):
            asked = found.system.get("neutral", found.system.get(label))
            assert len(messages) == 1 + bool(asked) and messages[-1].role == "user"
            assert not asked or (messages[0].role == "system" and len(messages[0].content) > 20)
        # Only a recipe that goes by the label may say different things for different labels.
        assert (turns[0] != turns[1]) == (len(set(found.system.values())) > 1)


def test_the_steering_line_is_for_harmful_prompts_only():
    steered = load_recipe("thinksafe")
    assert [message.role for message in steered.messages(prompt())] == ["system", "user"]
    assert [message.role for message in steered.messages(prompt(label="benign"))] == ["user"]
    with pytest.raises(UserError, match="label 'unknown'"):
        steered.messages(prompt(label="unknown"))


def test_policies_by_category_are_in_the_prompt_and_can_be_replaced(tmp_path):
    texts = {
        category: load_recipe("policy").messages(prompt(category=category))[0].content
        for category in ("", "Illegal weapons", "Malware")
    }
    assert len(set(texts.values())) == 3 and all("Help with everything" in text for text in texts.values())
    assert "building what is made to hurt" in texts["Illegal weapons"]
    mine = tmp_path / "mine.yaml"
    mine.write_text("default: Be kind.\ncategories: [{name: boats, match: [BOAT], text: Row gently.}]\n")
    replaced = load_recipe("policy", policies=str(mine))
    assert "Be kind.\n\nRow gently." in replaced.messages(prompt(category="Rowboats"))[0].content
    assert "Row gently" not in replaced.messages(prompt(category="cars"))[0].content
    assert replaced.digest != load_recipe("policy").digest
    with pytest.raises(UserError, match="has no policies"):
        load_recipe("rational", policies=str(mine))
    for broken in ("", "default: ''", "default: a\nother: b", "default: a\ncategories: [{name: n}]", "default: [a]"):
        mine.write_text(broken)
        with pytest.raises(UserError, match=r"mine\.yaml"):
            load_recipe("policy", policies=str(mine))
    with pytest.raises(UserError, match="no such file"):
        load_recipe("policy", policies="nowhere.yaml")


def test_a_model_may_have_a_wording_of_its_own():
    assert load_recipe("rational-plus", "micro").name == "rational-plus-micro"
    assert load_recipe("rational-plus", "some/model").name == "rational-plus"


def test_what_the_recipes_say_of_filters_and_samples():
    for model in ("", "micro"):
        paper, plus = load_recipe("rational", model), load_recipe("rational-plus", model)
        assert (paper.filters, paper.samples, paper.keep) == (("format",), 1, 1)
        assert (plus.samples, plus.keep) == (4, 1)
        # The paper trains on prompts of XSTest, so nothing is taken out of them.
        assert paper.decontaminate != "remove"
    assert load_recipe("rational").decontaminate == "report"
    assert load_recipe("rational-plus").decontaminate == "remove"
    assert load_recipe("rational-plus").filters is None  # all of them
    assert load_recipe("refusal").reasoning == "none"


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
    for more in ("filters: [format]", "samples: 2", "reasoning: optional", "decontaminate: off"):
        assert recipe(tmp_path, f"system: {{neutral: x}}\n{more}\n").digest != base


@pytest.mark.parametrize("text", ["{{ category + 1 }}", "{{ 1 / 0 }}", "{{ meta.topic }}", "{{ prompt.encode('x') }}"])
def test_a_template_that_fails_is_named(tmp_path, text):
    found = recipe(tmp_path, f'system: {{neutral: "x {text}"}}\n')
    with pytest.raises(UserError, match=r"recipe mine: the template system\.neutral fails for prompt 'p': "):
        found.messages(prompt())


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
        ("system: {neutral: a}\nsamples: 0", "samples must be a whole number of at least 1, got 0"),
        ("system: {neutral: a}\nsamples: 2\nkeep: 3", r"keep \(3\) is more than samples \(2\)"),
        ("system: {neutral: a}\nreasoning: maybe", "reasoning must be one of required, optional, none"),
        ("system: {neutral: a}\ndecontaminate: false", "decontaminate must be one of remove, report, off"),
        ("system: {neutral: '{{ policy }}'}", "needs policies"),
        ("system: {neutral: a}\npolicies: [a]", "policies must be the name of a file"),
        ("system: {neutral: a}\npolicies: none.yaml", "no such file: .*none.yaml"),
    ],
)
def test_broken_recipes(tmp_path, text, message):
    with pytest.raises(UserError, match=message) as caught:
        recipe(tmp_path, text)
    assert "mine.yaml" in str(caught.value) or "none.yaml" in str(caught.value)


def test_unknown_and_missing():
    with pytest.raises(UserError, match=r"curate\.recipe: 'rationale' is not known; choose from .*rational-plus"):
        load_recipe("rationale")
    with pytest.raises(UserError, match=r"no such file: none\.yaml"):
        load_recipe("none.yaml")
