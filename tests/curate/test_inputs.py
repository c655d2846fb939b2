"""Which prompts are asked: what is tested on stays out, general ones are mixed in, the paper's sizes come out."""

import csv
import json
from collections import Counter
from pathlib import Path

import pytest

import rational_jax.curate
from rational_jax import curate
from rational_jax.config import load_config
from rational_jax.data.benchmarks import PAPER_STYLES
from rational_jax.data.rationale_dataset import read_hf, read_tfds
from rational_jax.data.sources import read_prompts
from rational_jax.errors import UserError
from rational_jax.manifest import read_stage
from rational_jax.sample import Completion
from rational_jax.text.reasoning import THINK

SHARED = Path(__file__).parents[2].parent / "shared" / "data"
RECIPES = Path(rational_jax.curate.__file__).parent / "recipes"
# By its path, as the micro model has a wording and rules of its own for what is called so.
PAPER = f"curate.recipe={RECIPES / 'rational.yaml'}"
NO, YES = "I'm sorry, but I can't help with that.", "Sure, here is how: turn it left."


class Fake:
    """Declines what its system prompt warns of, else helps; reasons where it is asked to."""

    def __init__(self):
        self.asked = []

    def open(self, config, progress):
        return self

    def generate(self, requests):
        for request in requests:
            self.asked.append(request)
            system = request.messages[0].content if request.messages[0].role == "system" else ""
            answer = NO if "you decline" in system else YES
            text = THINK.join(f"I think about {request.id} and decide.", answer) if system else YES
            yield Completion(id=request.id, text=text, token_ids=(1,), finish="stop", prompt_tokens=1)


def curated(tmp_path, *overrides):
    config = load_config(None, [f"run={tmp_path / 'run'}", "train.arms=[rational]", "sample.models=[base]", *overrides])
    model = Fake()
    curate.run(config, open_backend=model.open)
    return model, read_stage(tmp_path / "run" / "curate", verb="curate")["figures"]


def written(path, rows):
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")
    return path


def lines(path):
    return [json.loads(line) for line in path.read_text("utf-8").splitlines()]


TOPICS = ["sail a boat", "bake bread", "paint a fence", "tune a harp", "grow some beans", "fold a crane", "mend a sock"]


@pytest.fixture
def prompts(tmp_path):
    rows = [
        {"id": f"p{i}", "text": f"Please tell me how people {topic} in the far north of the country", "label": "benign"}
        for i, topic in enumerate(TOPICS)
    ]
    return written(tmp_path / "prompts.jsonl", rows)


@pytest.fixture
def suite(tmp_path):
    same = "PLEASE tell me, how people bake bread in the far north of the country?"
    return written(
        tmp_path / "suite.jsonl", [{"id": "s0", "text": same, "label": "benign"}, {"id": "s1", "text": "Why?"}]
    )


@pytest.mark.parametrize("what", ["remove", "report", "off"])
def test_what_is_tested_on(tmp_path, prompts, suite, what):
    settings = [f"curate.prompts={prompts}", f"sample.suites=[{suite}]", PAPER]
    model, figures = curated(tmp_path, *settings, f"curate.decontaminate={what}")
    asked = {request.id.partition("#")[0] for request in model.asked}
    assert asked == {f"p{i}" for i in range(7) if i != 1 or what != "remove"}
    found = lines(tmp_path / "run" / "curate" / "tested.jsonl")
    if what == "off":
        assert not found
    else:
        (one,) = found
        assert (one["id"], one["match"], one["kind"], one["removed"]) == ("p1", "s0", "exact", what == "remove")
        assert one["suite"] == str(suite) and one["prompt"]["id"] == "p1"
    assert figures["trained_on"] == ({str(suite): 1} if what == "report" else {})


def test_the_recipe_says_what_becomes_of_it_and_nothing_left_is_an_error(tmp_path, prompts, suite):
    plus = [f"curate.prompts={prompts}", f"sample.suites=[{suite}]", "curate.filters=[format]"]
    words = tmp_path / "own.yaml"
    words.write_text("system: {neutral: Think first.}\n")
    model, _ = curated(tmp_path, *plus, f"curate.recipe={words}")
    assert len(model.asked) == 6 * 4
    with pytest.raises(UserError, match=r"every prompt is in sample\.suites too"):
        curated(tmp_path / "all", *plus, f"curate.recipe={words}", f"sample.suites=[{prompts}]")


def test_general_prompts_have_ids_of_their_own(tmp_path):
    """Rows without an id are called after their file, and both are called the same."""
    for folder, text in (("a", "How do I keep it"), ("b", "Tell me of it")):
        (tmp_path / folder).mkdir()
        written(tmp_path / folder / "data.jsonl", [{"text": f"{text} {i}?", "label": "benign"} for i in range(4)])
    files = [f"curate.prompts={tmp_path}/a/data.jsonl", f"curate.mix={tmp_path}/b/data.jsonl", "curate.mix_share=0.5"]
    with pytest.raises(UserError, match=r"curate\.mix: the id 'data:1' is also that of a prompt in curate\.prompts"):
        curated(tmp_path, *files, PAPER)
    assert not (tmp_path / "run").exists()


def test_general_answers_are_mixed_in_at_their_share(tmp_path, prompts):
    general = written(tmp_path / "general.jsonl", [{"id": f"g{i}", "text": f"Name {i} birds."} for i in range(30)])
    settings = [f"curate.prompts={prompts}", PAPER, "sample.suites=[micro]"]
    settings += [f"curate.mix={general}", "curate.mix_share=0.3", "curate.datasets=[rational, refusal]"]
    model, figures = curated(tmp_path, *settings)
    # Of 7 kept samples, 3 are 30% of 10.
    assert Counter(request.id[0] for request in model.asked) == {"p": 7, "g": 3}
    assert all(len(request.messages) == 1 for request in model.asked if request.id[0] == "g")
    for layout in ("rational", "refusal"):
        made = read_tfds(tmp_path / "run" / "curate" / layout / "tfds")
        assert made == read_hf(tmp_path / "run" / "curate" / layout / "dataset")
        assert Counter(one.recipe for one in made) == {"rational": 7, "general": 3}
        assert {one.layout for one in made} == {layout}
    plain = [one.training_messages()[-1] for one in made if one.recipe == "general"]
    assert all(not turn.reasoning and turn.content == YES for turn in plain)
    funnel = figures["funnel"]
    assert funnel["samples"] == 10 == funnel["kept"] and funnel["labels"] == {"benign": {"kept": 10, "samples": 10}}
    with pytest.raises(UserError, match=r"may need 7 prompts, and there are 2"):
        few = written(tmp_path / "few.jsonl", [{"id": f"g{i}", "text": f"Name {i} birds."} for i in range(2)])
        curated(tmp_path / "b", *settings, f"curate.mix={few}", "curate.mix_share=0.5")
    with pytest.raises(UserError, match="'g0' is labelled harmful"):
        bad = written(tmp_path / "bad.jsonl", [{"id": "g0", "text": "x", "label": "harmful"}])
        curated(tmp_path / "c", *settings, f"curate.mix={bad}")


def test_no_reasoning_is_written_in_no_other_layout(tmp_path, prompts):
    settings = [f"curate.prompts={prompts}", "curate.recipe=refusal", "sample.suites=[micro]"]
    with pytest.raises(UserError, match=r"curate\.datasets can only be \[refusal\]"):
        curated(tmp_path, *settings)


def test_bad_settings_are_named(tmp_path, prompts):
    settings = [f"curate.prompts={prompts}", PAPER]
    for more, message in (
        (["curate.keep=2"], r"curate\.keep \(2\) is more than the 1 samples"),
        (["curate.filters=[fromat]"], "no filter 'fromat'"),
        (["curate.policies=mine.yaml"], "has no policies"),
    ):
        with pytest.raises(UserError, match=message):
            curated(tmp_path, *settings, *more)
    rows = [{"id": "a", "text": "Same?", "label": "harmful"}, {"id": "b", "text": "Same?", "label": "benign"}]
    mixed = written(tmp_path / "mixed.jsonl", rows)
    with pytest.raises(UserError, match="same text is labelled"):
        curated(tmp_path, f"curate.prompts={mixed}", PAPER)


def test_the_sizes_of_the_paper(tmp_path):
    """Files shaped like SORRY-Bench 2024/06 (45 categories x 10 questions, base and mutations) and XSTest."""
    sorry = tmp_path / "sorry"
    sorry.mkdir()
    for style in (*PAPER_STYLES, "morse"):
        rows = [
            {
                "question_id": category * 10 + number,
                "category": str(category),
                "turns": [f"({style}) May I ask about matter {category}, point {number}?"],
                "prompt_style": style,
            }
            for category in range(1, 46)
            for number in range(10)
        ]
        written(sorry / ("question.jsonl" if style == "base" else f"question_{style}.jsonl"), rows)
    with (tmp_path / "xstest_prompts.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(["id", "prompt", "type", "label", "focus", "note"])
        for i in range(450):
            safe = i < 250
            kind = "homonyms" if safe else "contrast_homonyms"
            table.writerow([i + 1, f"How do I stop process {i}?", kind, "safe" if safe else "unsafe", "", ""])
    taken = f"{{source: sorry-bench@{sorry}, where: {{style: [{', '.join(PAPER_STYLES)}]}}, part: PART}}"
    safe = f"{{source: xstest@{tmp_path / 'xstest_prompts.csv'}, where: {{label: benign}}}}"
    settings = [f"curate.prompts=[{taken.replace('PART', 'train')}, {safe}]", PAPER]
    tested = tmp_path / "xstest.jsonl"
    both = load_config(None, [f"curate.prompts=[{taken.replace('PART', 'test')}, {safe}]"]).curate.prompts
    written(tested, [prompt.to_json() for prompt in read_prompts(both[1:])])
    model, figures = curated(tmp_path, *settings, f"sample.suites=[{tested}]", "curate.datasets=[rational]")

    train = lines(tmp_path / "run" / "curate" / "prompts.jsonl")
    styles = Counter(row["style"] for row in train if row["label"] == "harmful")
    assert sum(styles.values()) == 3465 and set(styles.values()) == {315} and set(styles) == set(PAPER_STYLES)
    assert len(train) == 3465 + 250 == len(model.asked) == figures["funnel"]["kept"]
    test = read_prompts(both[:1])
    assert Counter(prompt.style for prompt in test) == dict.fromkeys(PAPER_STYLES, 135)
    assert not {row["base_id"] for row in train} & {prompt.base_id for prompt in test}
    # Only reported, as the paper trains on prompts of XSTest: evaluation reads this.
    assert figures["trained_on"] == {str(tested): 250}


@pytest.mark.skipif(not SHARED.is_dir(), reason="the published files are not beside this checkout")
def test_the_real_files_go_through(tmp_path):
    places = {
        "xstest": "xstest",
        "coconot": "coconot",
        "coconot-contrast": "coconot",
        "harmbench": "harmbench",
        "jailbreakbench": "jailbreakbench",
        "jailbreakbench-transfer": "jailbreakbench",
        "strongreject": "strongreject",
        "advbench": "advbench",
    }
    sources = ", ".join(f"{name}@{SHARED / folder}" for name, folder in places.items())
    settings = [
        f"curate.prompts=[{sources}]",
        "sample.suites=[micro]",
        f"curate.recipe={RECIPES / 'rational-plus.yaml'}",
    ]
    settings += ["curate.samples=1", "curate.filters=[format, length, repetition, language, leak]"]
    model, figures = curated(tmp_path, *settings)
    funnel = figures["funnel"]
    assert len(model.asked) == funnel["samples"] == funnel["kept"] + sum(funnel["rejected"].values())
    made = read_tfds(tmp_path / "run" / "curate" / "rational" / "tfds")
    assert made == read_hf(tmp_path / "run" / "curate" / "rational" / "dataset") and len(made) == funnel["kept"]
    assert {one.prompt.source for one in made} == set(places)
