import json
import sys

import pytest

from rational_jax import curate
from rational_jax.config import load_config
from rational_jax.data.rationale_dataset import read_hf, read_tfds
from rational_jax.errors import UserError
from rational_jax.manifest import read_stage
from rational_jax.sample import Completion
from rational_jax.storage import sha256_tree
from rational_jax.text.reasoning import THINK

NO, YES = "I'm sorry, but I can't help with that.", "Sure, here is how: turn it left."
KINDS = {"harmful": ["venom", "plague", "swarm"], "benign": ["kite", "drum", "cake"]}


class FakeModel:
    """Answers as a function of the request; remembers what it was asked; may be interrupted after some answers."""

    def __init__(self, stop_after=None, say=None, inside=False):
        self.asked, self.stop_after, self.say, self.inside = [], stop_after, say, inside
        self.opened = 0

    def open(self, config, progress):
        self.opened += 1
        return self

    def generate(self, requests):
        requests = list(requests)
        for number, request in enumerate(reversed(requests)):  # in no order that can be relied on
            if number == self.stop_after:
                raise KeyboardInterrupt
            self.asked.append(request)
            text, finish = (self.say or self.rationale)(request)
            yield Completion(
                id=request.id,
                text=text.removeprefix(THINK.open) if self.inside else text,
                token_ids=tuple(range(len(text.split()))),
                finish=finish,
                prompt_tokens=1,
                begins_inside=self.inside,
            )

    @staticmethod
    def rationale(request):
        name = request.messages[-1].content.split()[-1].rstrip("?")
        label = "harmful" if int(name[1:]) % 2 else "benign"
        sample = int(request.id.rpartition("#")[2])
        wrong = sample == 3
        kind = KINDS[label][(int(name[1:]) // 2 + wrong) % 3]
        if sample == 2 and name == "n4":
            return f"<think>\nA {name} is a {kind}", "length"
        answer = NO if label == "harmful" else YES
        return THINK.join(f"A {name} is a {kind}, so choice {request.seed % 3} it is.", answer), "stop"


@pytest.fixture
def prompts(tmp_path):
    rows = []
    for i in range(8):
        label = "harmful" if i % 2 else "benign"
        meta = {"premise": f"A n{i} is a {KINDS[label][i // 2 % 3]}"}
        rows.append({"id": f"p{i}", "text": f"How do I keep a n{i}?", "label": label, "base_id": f"n{i}", "meta": meta})
    path = tmp_path / "prompts.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def config(tmp_path, prompts, *overrides, run="run"):
    return load_config(
        None,
        [
            f"run={tmp_path / run}",
            f"curate.prompts={prompts}",
            "curate.datasets=[rational, shuffled]",
            "train.arms=[rational]",
            "sample.models=[base]",
            *overrides,
        ],
    )


def content(tmp_path, run="run"):
    return sha256_tree(tmp_path / run / "curate", ignore=["manifest.json", ".*"])


def test_from_prompts_to_datasets(tmp_path, prompts):
    model = FakeModel()
    curate.run(config(tmp_path, prompts), open_backend=model.open)
    assert len(model.asked) == 32 and len({request.seed for request in model.asked}) == 32
    assert all(request.messages[0].role == "system" for request in model.asked)
    home = tmp_path / "run" / "curate"
    generations = [json.loads(line) for line in (home / "generations.jsonl").read_text().splitlines()]
    assert [row["id"] for row in generations] == [f"p{i}#{k}" for i in range(8) for k in range(4)]

    rational = read_tfds(home / "rational" / "tfds")
    assert rational == read_hf(home / "rational" / "dataset")
    assert [r.prompt.id for r in rational] == [f"p{i}" for i in range(8)]
    for rationale in rational:
        assert rationale.prompt.meta["premise"] in rationale.reasoning
        assert [message.role for message in rationale.training_messages()] == ["user", "assistant"]
        assert (rationale.recipe, rationale.generator) == ("rational-plus-micro", "micro")
    shuffled = read_tfds(home / "shuffled" / "tfds")
    assert sorted(r.reasoning for r in shuffled) == sorted(r.reasoning for r in rational)
    assert all(one.reasoning != other.reasoning for one, other in zip(shuffled, rational, strict=True))

    funnel = json.loads((home / "funnel.json").read_text())
    rejected = [json.loads(line) for line in (home / "rejected.jsonl").read_text().splitlines()]
    assert funnel["samples"] == 32 == funnel["kept"] + len(rejected) and funnel["kept"] == 8
    assert sum(funnel["rejected"].values()) == len(rejected)
    assert funnel["rejected"]["same_premise"] == 8 and funnel["rejected"]["format"] == 1
    # The cut-off sample stated its premise too, as the truth is counted for whatever has reasoning.
    assert funnel["premises"]["generated"] == {"right": 24, "of": 32, "accuracy": 0.75}
    assert funnel["premises"]["kept"] == {"right": 8, "of": 8, "accuracy": 1.0}
    by_id = {row["id"]: row for row in rejected}
    assert by_id["p4#2"]["reason"] == "format" and by_id["p4#2"]["detail"] == "truncated_reasoning"
    assert by_id["p4#2"]["text"].startswith("<think>") and by_id["p4#2"]["prompt"]["id"] == "p4"
    card = (home / "rational" / "dataset" / "README.md").read_text()
    assert "| rejected: same_premise | 8 |" in card and "| harmful | 4 |" in card
    manifest = read_stage(home, verb="curate")
    assert set(manifest["outputs"]) == set(content(tmp_path))


def test_the_recipe_of_the_paper_keeps_what_only_its_form_lets_through(tmp_path, prompts):
    # Every answer complies, also with what is harmful; one sample of each prompt is cut off in its reasoning.
    def say(request):
        if request.id.endswith("#0"):
            return "<think>\nA thing is", "length"
        return THINK.join("A thing is a kite, so it is harmless.", YES), "stop"

    paper = config(tmp_path, prompts, "curate.recipe=rational", "curate.samples=4")
    curate.run(paper, open_backend=FakeModel(say=say).open)
    funnel = json.loads((tmp_path / "run" / "curate" / "funnel.json").read_text())
    assert {name: count for name, count in funnel["rejected"].items() if count} == {"format": 8, "surplus": 16}
    assert funnel["labels"] == {label: {"kept": 4, "samples": 16} for label in ("benign", "harmful")}


def test_reasoning_that_the_template_opens_is_reasoning(tmp_path, prompts):
    for run, inside in (("whole", False), ("inside", True)):
        curate.run(config(tmp_path, prompts, run=run), open_backend=FakeModel(inside=inside).open)
    assert content(tmp_path, "inside") == content(tmp_path, "whole") != {}


def test_a_finished_run_asks_nothing(tmp_path, prompts):
    curate.run(config(tmp_path, prompts), open_backend=FakeModel().open)
    before = content(tmp_path)
    again = FakeModel()
    curate.run(config(tmp_path, prompts), open_backend=again.open)
    assert again.opened == 0 and content(tmp_path) == before


@pytest.mark.parametrize("stop_after", [0, 1, 13, 31])
def test_a_stopped_run_continues_to_the_same_bytes(tmp_path, prompts, stop_after):
    curate.run(config(tmp_path, prompts, run="whole"), open_backend=FakeModel().open)
    first, second = FakeModel(stop_after=stop_after), FakeModel()
    with pytest.raises(KeyboardInterrupt):
        curate.run(config(tmp_path, prompts), open_backend=first.open)
    log = tmp_path / "run" / "curate" / "generations.jsonl"
    with log.open("ab") as file:
        file.write(b'{"id": "p0#0", "te')  # as a kill in the middle of a line leaves it
    curate.run(config(tmp_path, prompts), open_backend=second.open)
    asked = [request.id for request in first.asked[:stop_after] + second.asked]
    assert len(asked) == len(set(asked)) == 32
    assert content(tmp_path) == content(tmp_path, "whole")
    digests = {read_stage(tmp_path / run / "curate", verb="curate")["digest"] for run in ("run", "whole")}
    assert len(digests) == 1


def test_killed_after_generation_draws_nothing_again(tmp_path, prompts, monkeypatch):
    model = FakeModel()

    def die(*args, **kwargs):
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(sys.modules["rational_jax.curate.run"], "write_hf", die)
        with pytest.raises(KeyboardInterrupt):
            curate.run(config(tmp_path, prompts), open_backend=model.open)
    curate.run(config(tmp_path, prompts), open_backend=model.open)
    assert model.opened == 1
    assert len(read_hf(tmp_path / "run" / "curate" / "rational" / "dataset")) == 8


def test_seeds_follow_prompt_and_sample_alone(tmp_path, prompts):
    everything, few = FakeModel(), FakeModel()
    curate.run(config(tmp_path, prompts), open_backend=everything.open)
    curate.run(config(tmp_path, prompts, "curate.limit=4", run="few"), open_backend=few.open)
    seeds = {request.id: request.seed for request in everything.asked}
    assert len(few.asked) == 16 and all(seeds[request.id] == request.seed for request in few.asked)
    other = FakeModel()
    curate.run(config(tmp_path, prompts, "seed=1", run="other"), open_backend=other.open)
    assert not set(seeds.values()) & {request.seed for request in other.asked}


def test_other_settings_or_prompts_are_refused_by_name(tmp_path, prompts):
    curate.run(config(tmp_path, prompts), open_backend=FakeModel().open)
    with pytest.raises(UserError, match=r"curate\.keep: null -> 2"):
        curate.run(config(tmp_path, prompts, "curate.keep=2"), open_backend=FakeModel().open)
    prompts.write_text(prompts.read_text().replace("keep a n1", "keep the n1"))
    with pytest.raises(UserError, match="prompts"):
        curate.run(config(tmp_path, prompts), open_backend=FakeModel().open)


def test_nothing_kept_says_why_and_leaves_the_reasons(tmp_path, prompts):
    model = FakeModel(say=lambda request: (YES, "stop"))
    with pytest.raises(UserError, match=r"not one of 32 samples .*rejected\.jsonl"):
        curate.run(config(tmp_path, prompts), open_backend=model.open)
    rejected = (tmp_path / "run" / "curate" / "rejected.jsonl").read_text().splitlines()
    assert {json.loads(line)["detail"] for line in rejected} == {"no_reasoning"}
    with pytest.raises(UserError, match="not finished"):
        read_stage(tmp_path / "run" / "curate", verb="curate")


def test_bad_input_stops_before_the_model_is_opened(tmp_path, prompts):
    model = FakeModel()
    cases = [
        (["curate.temperature=0"], "curate.temperature"),
        (["curate.recipe=nonsense"], "curate.recipe"),
        (["curate.prompts=nowhere.jsonl"], "nowhere.jsonl"),
    ]
    for overrides, message in cases:
        with pytest.raises(UserError, match=message):
            curate.run(config(tmp_path, prompts, *overrides), open_backend=model.open)
    mine = tmp_path / "mine.yaml"
    mine.write_text("system: {neutral: think}\nfilters: [formatt]\n")
    with pytest.raises(UserError, match="no filter 'formatt'"):
        curate.run(config(tmp_path, prompts, f"curate.recipe={mine}"), open_backend=model.open)
    assert model.opened == 0 and not (tmp_path / "run").exists()


def test_a_model_that_loses_requests_is_noticed(tmp_path, prompts):
    class Lossy(FakeModel):
        def generate(self, requests):
            yield from list(super().generate(requests))[:-1]

    with pytest.raises(UserError, match=r"no sample for 1 requests, the first is 'p0#0'"):
        curate.run(config(tmp_path, prompts), open_backend=Lossy().open)
    curate.run(config(tmp_path, prompts), open_backend=FakeModel().open)
    assert (tmp_path / "run" / "curate" / "funnel.json").exists()
