"""`rational sample` with a scripted backend: rows, resumption to the answer, refusals; and opening engines."""

import dataclasses
import json

import jax
import pytest
from tiny import tiny_llama

from rational_jax import hub
from rational_jax.config import ChatSection, RunConfig
from rational_jax.data.schema import Prompt
from rational_jax.data.suites import load_suite
from rational_jax.errors import UserError
from rational_jax.manifest import Stage, read_stage
from rational_jax.sample import Completion, Request, derive_seed, open_engine, run
from rational_jax.sample.backends import generation_mesh
from rational_jax.text.chat import Message, Renderer


class Scripted:
    """Answers with what was asked, last request first; dies after `lives` answers."""

    def __init__(self, lives=None, forgets=()):
        self.lives = lives
        self.forgets = forgets
        self.asked = []

    def generate(self, requests):
        for request in reversed(list(requests)):
            if self.lives == 0:
                raise KeyboardInterrupt
            if request.id in self.forgets:
                continue
            self.lives = None if self.lives is None else self.lives - 1
            self.asked.append(request)
            text = f"<think>\nSeed {request.seed}.\n</think>\n\nAbout {request.messages[-1].content} – ja."
            cut = request.id.startswith("p3")
            yield Completion(
                id=request.id,
                text=text[:12] if cut else text,
                token_ids=tuple(range(5 if cut else 9)),
                finish="length" if cut else "stop",
                prompt_tokens=3,
            )


def write_prompts(path, count):
    rows = [
        Prompt(
            id=f"p{i}",
            messages=(Message(role="user", content=f"question {i}"),),
            label=("harmful", "benign")[i % 2],
            category=("one", "two", "three")[i * 3 // count],
            base_id=f"base {i // 4}",
        ).to_json()
        for i in range(count)
    ]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), "utf-8")


@pytest.fixture
def config(tmp_path):
    base = tmp_path / "model"
    base.mkdir()
    (base / "config.json").write_text("{}")
    write_prompts(tmp_path / "prompts.jsonl", 8)
    return make_config(tmp_path)


def make_config(tmp_path, **sample):
    return RunConfig.model_validate(
        {
            "run": str(tmp_path / "run"),
            "model": {"name": str(tmp_path / "model")},
            "sample": {"suites": (str(tmp_path / "prompts.jsonl"),), **sample},
        }
    )


def answers(config, model="base"):
    return (
        [json.loads(line) for line in open(f"{config.run}/sample/{model}/answers.jsonl", encoding="utf-8")],
        open(f"{config.run}/sample/{model}/answers.jsonl", "rb").read(),
    )


def sample(config, backend, model="base"):
    run(config, model, open_backend=lambda *_: backend)


def test_rows_are_in_the_order_of_the_prompts_and_say_all_there_is(config):
    sample(config, Scripted())
    rows, raw = answers(config)
    assert [row["prompt"]["id"] for row in rows] == [f"p{i}" for i in range(8)]
    row = rows[1]
    seed = derive_seed(0, "p1", 0)
    text = f"<think>\nSeed {seed}.\n</think>\n\nAbout question 1 – ja."
    assert row == {
        "id": row["id"],
        "prompt": Prompt.from_json(row["prompt"]).to_json(),
        "model": "base",
        "sample": 0,
        "seed": seed,
        "text": text,
        "reasoning": f"Seed {seed}.",
        "answer": "About question 1 – ja.",
        "status": "ok",
        "tokens": 9,
        "finish": "stop",
    }
    assert rows[3]["status"] == "truncated_reasoning" and rows[3]["answer"] == "" and rows[3]["finish"] == "length"
    assert len({row["id"] for row in rows}) == 8
    assert "–" in raw.decode("utf-8")
    manifest = read_stage(f"{config.run}/sample/base", verb="sample")
    assert manifest["figures"] == {"answers": 8, "tokens": 68, "status": {"ok": 7, "truncated_reasoning": 1}}


def test_reasoning_that_the_template_opened_and_nobody_closed_is_no_answer(config):
    """Whether it was cut off or the model ended its turn there."""

    class Inside(Scripted):
        def generate(self, requests):
            for completion in super().generate(requests):
                yield dataclasses.replace(completion, text="\nShould I?", begins_inside=True)

    sample(config, Inside())
    found = {(row["reasoning"], row["answer"], row["status"], row["text"]) for row in answers(config)[0]}
    assert found == {("Should I?", "", "truncated_reasoning", "\nShould I?")}


def test_half_of_a_pair_of_surrogates_is_kept_as_it_came(config):
    """Endpoints cut emoji in two."""

    class Cutting(Scripted):
        def generate(self, requests):
            for completion in super().generate(requests):
                yield dataclasses.replace(completion, text="So \ud83d")

    sample(config, Cutting())
    assert {row["answer"] for row in answers(config)[0]} == {"So \ud83d"}


@pytest.mark.parametrize("lives", [0, 1, 5, 7])
def test_a_stopped_run_goes_on_with_what_is_missing_and_ends_in_equal_bytes(config, tmp_path, lives):
    whole = config.model_copy(update={"run": str(tmp_path / "whole")})
    sample(whole, Scripted())
    with pytest.raises(KeyboardInterrupt):
        sample(config, Scripted(lives=lives))
    # What a kill in the middle of a line leaves.
    with open(f"{config.run}/sample/base/answers.jsonl", "ab") as log:
        log.write(b'{"id": "torn')
    again = Scripted()
    sample(config, again)
    assert len(again.asked) == 8 - lives
    assert answers(config)[1] == answers(whole)[1]
    digests = [read_stage(f"{c.run}/sample/base", verb="sample")["digest"] for c in (config, whole)]
    assert digests[0] == digests[1]


def test_a_finished_run_asks_nothing_more(config):
    sample(config, Scripted())
    run(config, "base", open_backend=lambda *_: pytest.fail("opened a model for nothing"))


def test_a_backend_that_leaves_an_answer_out_is_reported_and_can_be_resumed(config):
    with pytest.raises(UserError, match="no answer came for 1 prompts, the first is 'p5'"):
        sample(config, Scripted(forgets=("p5",)))
    again = Scripted()
    sample(config, again)
    assert [request.id for request in again.asked] == ["p5"]


def test_other_settings_are_refused_and_speed_is_none_of_them(config, tmp_path):
    sample(config, Scripted())
    with pytest.raises(UserError, match=r"sample.max_new_tokens: 160 -> 17"):
        sample(make_config(tmp_path, max_new_tokens=17), Scripted())
    write_prompts(tmp_path / "prompts.jsonl", 9)
    with pytest.raises(UserError, match="from other inputs"):
        sample(config, Scripted())
    write_prompts(tmp_path / "prompts.jsonl", 8)
    faster = config.engine.model_copy(update={"steps_per_dispatch": 3})
    sample(config.model_copy(update={"engine": faster}), Scripted())


def test_several_samples_differ_by_their_seed_alone(tmp_path, config):
    with pytest.raises(UserError, match=r"sample.temperature: 0 makes all 3 answers to a prompt equal"):
        sample(make_config(tmp_path, samples=3), Scripted())
    backend = Scripted()
    config = make_config(tmp_path, samples=3, temperature=0.7, top_p=0.9)
    sample(config, backend)
    rows, _ = answers(config)
    assert [(row["prompt"]["id"], row["sample"]) for row in rows][:4] == [("p0", 0), ("p0", 1), ("p0", 2), ("p1", 0)]
    assert len({row["seed"] for row in rows}) == 24
    assert {(asked.temperature, asked.top_p, asked.max_new_tokens) for asked in backend.asked} == {(0.7, 0.9, 160)}
    # The samples of a prompt are asked for side by side, so that an engine can share their prefill.
    assert [request.id for request in reversed(backend.asked)][:3] == ["p0 sample 0", "p0 sample 1", "p0 sample 2"]


def test_a_limit_keeps_the_parts_of_a_suite_in_proportion(tmp_path):
    path = tmp_path / "prompts.jsonl"
    write_prompts(path, 24)
    everything = load_suite(str(path))
    assert len(everything) == 24 and load_suite(str(path), 99) == everything
    chosen = load_suite(str(path), 12)
    assert chosen == [prompt for prompt in everything if prompt in chosen]
    for category in ("one", "two", "three"):
        for label in ("harmful", "benign"):
            assert sum((prompt.category, prompt.label) == (category, label) for prompt in chosen) == 2
    assert len(load_suite(str(path), 5)) == 5


def test_suites_that_share_an_id_are_refused(config, tmp_path):
    write_prompts(tmp_path / "more.jsonl", 2)
    suites = (*config.sample.suites, str(tmp_path / "more.jsonl"))
    with pytest.raises(UserError, match=r"both have a prompt with the id 'p0'"):
        sample(make_config(tmp_path, suites=suites), Scripted())


def test_an_arm_is_read_from_its_export(config, tmp_path):
    with pytest.raises(UserError, match="run `rational export` first"):
        sample(config, Scripted(), model="rational")
    export = tmp_path / "run" / "export" / "rational"
    stage = Stage.open(export, verb="export", settings={}, inputs={})
    stage.finish(outputs={}, figures={})
    with pytest.raises(UserError, match=r"export.merged=true"):
        sample(config, Scripted(), model="rational")
    (export / "merged").mkdir()
    (export / "merged" / "config.json").write_text('{"a": 1}')
    sample(config, Scripted(), model="rational")
    sample(config, Scripted())
    trained, untrained = answers(config, "rational")[0], answers(config)[0]
    assert {row["model"] for row in trained} == {"rational"}
    assert [row["seed"] for row in trained] == [row["seed"] for row in untrained]
    assert not {row["id"] for row in trained} & {row["id"] for row in untrained}


def test_the_micro_model_opens_and_says_what_it_is(tmp_path):
    config = RunConfig.model_validate(
        {
            "run": str(tmp_path),
            "engine": {"slots": 2, "max_length": 64},
            "curate": {"max_new_tokens": 8},
            "sample": {"max_new_tokens": 8},
        }
    )
    backend = open_engine(config)
    assert backend.identity["model"] == hub.identity(hub.resolve("micro"))
    assert (backend.identity["slots"], backend.identity["max_length"], backend.identity["dtype"]) == (2, 64, "float32")
    json.dumps(backend.identity)
    hello = Message(role="user", content="Hello")
    assert 1 < len(backend.renderer.prompt([hello])) < 64
    asked = [
        Request(id="0", messages=(hello,), max_new_tokens=1),
        Request(id="1", messages=(hello, Message(role="assistant", content="<think>")), max_new_tokens=1),
    ]
    assert {done.id: done.begins_inside for done in backend.generate(asked)} == {"0": False, "1": True}
    plain = dataclasses.replace(
        backend, renderer=Renderer.configured(backend.renderer.tokenizer, ChatSection(reasoning="plain"))
    )
    assert not any(done.begins_inside for done in plain.generate(asked)), "no delimiter was opened"
    assert {leaf.dtype.name for leaf in jax.tree.leaves(backend.engine.params)} == {"float32"}
    too_long = config.engine.model_copy(update={"max_length": 10**6})
    with pytest.raises(UserError, match=r"engine.max_length=1000000 exceeds"):
        open_engine(config.model_copy(update={"engine": too_long}))


def test_heads_take_the_devices_that_they_divide_over_and_slots_the_rest():
    def mesh(kv_heads, count):
        decoder = tiny_llama(num_heads=kv_heads, num_kv_heads=kv_heads)
        made = generation_mesh(decoder, jax.devices()[:count])
        return made and {name: made.shape[name] for name in ("replica", "fsdp", "tensor")}

    assert mesh(8, 1) is None
    assert mesh(8, 8) == {"replica": 1, "fsdp": 1, "tensor": 8}
    assert mesh(2, 8) == {"replica": 1, "fsdp": 4, "tensor": 2}
    assert mesh(3, 8) == {"replica": 1, "fsdp": 8, "tensor": 1}


def test_seeds_are_unrelated_for_whatever_names_a_request():
    seeds = {derive_seed(run_seed, f"p{i}", sample) for run_seed in (0, 1) for i in range(50) for sample in range(4)}
    assert len(seeds) == 400
    assert all(0 <= seed < 2**32 for seed in seeds)
    assert derive_seed(0, "p", 1) == derive_seed(0, "p", 1)
    assert derive_seed(0, "p1", 1) != derive_seed(0, "p", 11)
