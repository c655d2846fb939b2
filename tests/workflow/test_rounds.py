"""Rounds of self-training: what each writes about, what it is trained on, and what comes out in the end."""

import json
import shutil
from pathlib import Path

import pytest

from rational_jax import hub
from rational_jax.config import load_config
from rational_jax.data.rationale_dataset import read_hf, read_tfds
from rational_jax.errors import UserError
from rational_jax.manifest import read_stage
from rational_jax.sample import Completion
from rational_jax.text.reasoning import THINK
from rational_jax.workflow import rounds

NO, YES = "I'm sorry, but I can't help with that.", "Sure, here is how: turn it left."


def config(tmp_path, *overrides):
    rows = [
        {"id": f"p{i}", "text": f"How do I keep a n{i}?", "label": "harmful" if i % 2 else "benign", "base_id": f"n{i}"}
        for i in range(8)
    ]
    prompts = tmp_path / "prompts.jsonl"
    prompts.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return load_config(
        None,
        [
            f"run={tmp_path / 'run'}",
            f"curate.prompts={prompts}",
            "curate.rounds=2",
            "curate.samples=2",
            "curate.filters=[format, label]",
            "train.arms=[rational]",
            "sample.models=[base]",
            *overrides,
        ],
    )


class Model:
    """Right about prompts below `able` only; remembers which model was opened and what it was asked."""

    def __init__(self, able):
        self.able, self.opened, self.asked = list(able), [], []

    def open(self, config, progress):
        self.opened.append(config.model.name)
        self.asked.append([])
        return self

    def generate(self, requests):
        for request in requests:
            self.asked[-1].append(request)
            number = int(request.id[1:].partition("#")[0])
            harmful = (number % 2 == 1) == (number < self.able[len(self.opened) - 1])
            text = THINK.join(f"A n{number} is a thing that I judge.", NO if harmful else YES)
            yield Completion(id=request.id, text=text, token_ids=(1,), finish="stop", prompt_tokens=1)


@pytest.fixture
def trained(monkeypatch):
    """What training was given, in the place of training."""
    seen = []

    def train(config, arm, progress):
        assert config.train.data is None, "a path in the settings would tie the run to its place"
        made = read_hf(Path(config.run) / "curate" / arm / "dataset")
        seen.append((config.model.name, arm, [one.prompt.id for one in made]))

    def export(config, arm, progress):
        folder = Path(config.run) / "export" / arm
        shutil.copytree(hub.resolve("micro"), folder / "merged", dirs_exist_ok=True)
        return folder

    monkeypatch.setattr(rounds.train, "run", train)
    monkeypatch.setattr(rounds.export, "run", export)
    return seen


def test_the_tuned_model_is_asked_about_what_failed(tmp_path, trained):
    model = Model(able=[5, 7])
    rounds.run(config(tmp_path, "curate.datasets=[rational, refusal]"), open_backend=model.open)
    run = tmp_path / "run"
    first, second = ([request.id for request in asked] for asked in model.asked)
    assert len(first) == 16 and second == [f"p{i}#{k}" for i in (5, 6, 7) for k in (0, 1)]
    assert model.opened == ["micro", str(run / "rounds" / "1" / "tuned" / "export" / "rational" / "merged")]
    # The wording that the micro model knows, also when its tuned copy is asked.
    systems = {request.messages[0].content for asked in model.asked for request in asked}
    assert systems == {"Think about what it is and what it does before you answer."}
    assert trained == [("micro", "rational", [f"p{i}" for i in range(5)])]

    for layout in ("rational", "refusal"):
        made = read_tfds(run / "curate" / layout / "tfds")
        assert made == read_hf(run / "curate" / layout / "dataset")
        assert [one.prompt.id for one in made] == [f"p{i}" for i in range(7)]
        assert {one.layout for one in made} == {layout}
        assert [one.generator for one in made] == ["micro"] * 5 + ["merged"] * 2
        assert {one.recipe for one in made} == {"rational-plus-micro"}
    manifest = read_stage(run / "curate", verb="curate")
    funnel = manifest["figures"]["funnel"]
    rejected = [json.loads(line) for line in (run / "curate" / "rejected.jsonl").read_text().splitlines()]
    assert (funnel["prompts"], funnel["samples"], funnel["kept"], funnel["covered"]) == (8, 22, 7, 7)
    assert funnel["kept"] + sum(funnel["rejected"].values()) == 22 and len(rejected) == 15
    assert [row["round"] for row in rejected].count(2) == 4
    assert [one["samples"] for one in manifest["figures"]["rounds"]] == [16, 6]

    rounds.run(config(tmp_path, "curate.datasets=[rational, refusal]"), open_backend=model.open)
    assert len(model.opened) == 2, "what is finished is not asked again"


def test_no_further_round_where_nothing_failed_and_none_is_needed_to_succeed(tmp_path, trained):
    model = Model(able=[8])
    rounds.run(config(tmp_path), open_backend=model.open)
    assert len(model.opened) == 1 and not trained
    assert len(read_hf(tmp_path / "run" / "curate" / "rational" / "dataset")) == 8
    other = tmp_path / "other"
    other.mkdir()
    stuck = Model(able=[4, 4])
    rounds.run(config(other), open_backend=stuck.open)
    assert len(read_hf(other / "run" / "curate" / "rational" / "dataset")) == 4


def test_a_stop_in_the_second_round_asks_only_for_the_rest(tmp_path, trained):
    class Stopped(Model):
        def generate(self, requests):
            for number, completion in enumerate(super().generate(requests)):
                if len(self.opened) == 2 and number == 3:
                    raise KeyboardInterrupt
                yield completion

    model = Stopped(able=[5, 7, 7])
    with pytest.raises(KeyboardInterrupt):
        rounds.run(config(tmp_path), open_backend=model.open)
    rounds.run(config(tmp_path), open_backend=model.open)
    assert [request.id for request in model.asked[2]] == ["p6#1", "p7#0", "p7#1"]
    assert len(read_hf(tmp_path / "run" / "curate" / "rational" / "dataset")) == 7


@pytest.mark.parametrize(("most", "rounds_done"), [(3, 1), (6, 2)])
def test_what_was_too_much_has_not_failed_and_no_round_takes_more(tmp_path, trained, most, rounds_done):
    model = Model(able=[5, 8])
    rounds.run(config(tmp_path, f"curate.most={most}"), open_backend=model.open)
    assert len(model.asked) == rounds_done
    made = read_hf(tmp_path / "run" / "curate" / "rational" / "dataset")
    assert len(made) == most
    asked = {request.id[:2] for request in model.asked[-1]}
    assert rounds_done == 1 or asked == {"p5", "p6", "p7"}


def test_only_prompts_of_the_recipe_can_fail(tmp_path, trained):
    """Of 8 general prompts one is needed in the end; the others are neither asked again nor trained on."""
    general = tmp_path / "general.jsonl"
    general.write_text("".join(json.dumps({"id": f"g{i}", "text": f"Tell me of g{i}."}) + "\n" for i in range(8)))
    model = Model(able=[5, 8])
    rounds.run(config(tmp_path, f"curate.mix={general}", "curate.mix_share=0.2"), open_backend=model.open)
    first, second = ({request.id[:2] for request in asked} for asked in model.asked)
    assert sum(name[0] == "g" for name in first) == 2
    assert second == {"p5", "p6", "p7"}
    made = read_hf(tmp_path / "run" / "curate" / "rational" / "dataset")
    assert [one.recipe for one in made].count("general") == 1 and len(made) == 9


def test_a_run_that_was_moved_goes_on(tmp_path, trained):
    """All three rounds: neither prompts nor models nor data are known by where they lie."""
    before = Model(able=[3, 5, 7])
    rounds.run(config(tmp_path, "curate.rounds=3"), open_backend=before.open)
    assert len(before.opened) == 3 and [len(ids) for _, _, ids in trained] == [3, 5]
    moved = tmp_path / "elsewhere"
    (tmp_path / "run").rename(moved)
    shutil.rmtree(moved / "curate")
    after = Model(able=[])
    rounds.run(config(tmp_path, "curate.rounds=3", f"run={moved}"), open_backend=after.open)
    assert not after.opened and len(read_hf(moved / "curate" / "rational" / "dataset")) == 7
    recorded = "".join(file.read_text() for file in moved.rglob("manifest.json"))
    assert str(tmp_path / "run") not in recorded and str(moved) not in recorded


def test_what_rounds_cannot_do_is_said_first(tmp_path):
    model = Model(able=[8])
    for overrides, message in (
        (["engine.backend=openai", "engine.endpoint=http://localhost:1/v1"], "an endpoint cannot load"),
        (["curate.datasets=[refusal]", "train.arms=[refusal]"], "trains on the layout rational"),
    ):
        with pytest.raises(UserError, match=message):
            rounds.run(config(tmp_path, *overrides), open_backend=model.open)
    assert not model.opened


def test_two_rounds_on_the_micro_world(tmp_path):
    """Nothing in the place of anything: the micro model writes, is trained, exported and writes again."""
    settings = [
        f"run={tmp_path / 'run'}",
        "curate.limit=24",
        "curate.rounds=2",
        "curate.samples=2",
        "engine.slots=8",
        "train.arms=[rational]",
        "train.steps=2",
        "train.warmup_steps=0",
        "train.batch_size=8",
        "train.save_every=2",
        "export.verify=self",
        "sample.models=[base]",
    ]
    rounds.run(load_config(None, settings))
    run = tmp_path / "run"
    first, second = (read_stage(run / "rounds" / number / "curate", verb="curate") for number in "12")
    failed = first["figures"]["funnel"]["prompts"] - first["figures"]["funnel"]["covered"]
    assert second["figures"]["funnel"]["prompts"] == failed > 0
    assert second["inputs"]["base"]["files"] != first["inputs"]["base"]["files"], "the second is the tuned model"
    funnel = read_stage(run / "curate", verb="curate")["figures"]["funnel"]
    assert funnel["prompts"] == 24 and funnel["kept"] == funnel["covered"] > first["figures"]["funnel"]["kept"] - 1
    assert len(read_hf(run / "curate" / "rational" / "dataset")) == funnel["kept"]
