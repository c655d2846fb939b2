"""The engine as a model of lm-evaluation-harness: what is asked of it, what counts as the answer, what it scores."""

import dataclasses
from types import SimpleNamespace

import pytest
from harness_tasks import write_tasks

from rational_jax import hub
from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.evaluate import capability
from rational_jax.evaluate.results import Capability
from rational_jax.sample.requests import Completion
from rational_jax.text.chat import Renderer
from rational_jax.text.reasoning import THINK

lm_eval = pytest.importorskip("lm_eval", reason="lm_eval is not installed (extra `lm-eval`)")


@dataclasses.dataclass
class Fake:
    """A backend that says `text`, and for which token t after token s has log-probability -(t % 7) / 10."""

    renderer: Renderer
    text: str = ""
    finish: str = "stop"
    max_length: int = 128

    def __post_init__(self):
        self.engine, self.asked = SimpleNamespace(max_length=self.max_length), []

    def generate(self, requests):
        for one in requests:
            assert len(one.prompt_ids) + one.max_new_tokens <= self.max_length
            self.asked.append(one)
            scores = [-(token % 7) / 10 for token in one.prompt_ids]
            yield Completion(
                id=one.id,
                text=self.text,
                token_ids=(),
                finish=self.finish,
                prompt_tokens=len(one.prompt_ids),
                prompt_logprobs=(None, *scores[1:]) if one.prompt_logprobs else None,
                prompt_best=(None, *((token - token % 2, 0.0) for token in one.prompt_ids[1:])),
            )


@pytest.fixture(scope="module")
def renderer():
    return Renderer(hub.load_tokenizer(hub.resolve("micro")), THINK)


def instances(*arguments):
    return [SimpleNamespace(args=args) for args in arguments]


def test_log_likelihoods_are_of_the_continuation_alone(renderer):
    fake = Fake(renderer)
    model = capability.harness_model(fake, reasoning=False)
    (found,) = model.loglikelihood(instances(("The sun rises in the", " east")))
    whole, context = (model.tok_encode(text) for text in ("The sun rises in the east", "The sun rises in the"))
    tail = whole[len(context) :]
    assert fake.asked[0].prompt_ids == tuple(whole)
    assert found[0] == pytest.approx(sum(-(token % 7) / 10 for token in tail))
    assert found[1] == all(token % 2 == 0 for token in tail)


def test_rolling_log_likelihood_counts_every_token_once(renderer):
    fake = Fake(renderer, max_length=16)
    model = capability.harness_model(fake, reasoning=False)
    text = "The sun rises in the east and sets in the west, and so it goes on from day to day."
    ids = model.tok_encode(text)
    assert len(ids) > 16
    (found,) = model.loglikelihood_rolling(instances((text,)))
    assert found == pytest.approx(sum(-(token % 7) / 10 for token in ids))
    assert len(fake.asked) > 1


def test_generation_stops_at_the_task_s_strings_and_keeps_the_end_of_a_long_prompt(renderer):
    fake = Fake(renderer, text="It is 4.\nQ: next", max_length=32)
    model = capability.harness_model(fake, reasoning=False)
    context = "one two three " * 20
    assert model.generate_until(instances((context, {"until": ["\n"], "max_gen_toks": 8}))) == ["It is 4."]
    (asked,) = fake.asked
    assert (asked.max_new_tokens, asked.stop, asked.temperature) == (8, ("\n",), 0.0)
    assert asked.prompt_ids == tuple(model.tok_encode(context)[-24:])
    with pytest.raises(UserError, match=r"engine\.max_length=32"):
        model.generate_until(instances(("a", {"until": ["\n"], "max_gen_toks": 64})))


def test_with_reasoning_the_answer_is_what_follows_the_delimiter(renderer):
    said = "<think>\nIs it 5?\nNo.\n</think>\n\nIt is 4.\nQ: next"
    options = {"until": ["\n"], "max_gen_toks": 8}
    (answer,) = capability.harness_model(Fake(renderer, said), reasoning=True).generate_until(instances(("a", options)))
    assert answer == "It is 4."
    (direct,) = capability.harness_model(Fake(renderer, said), reasoning=False).generate_until(
        instances(("a", options))
    )
    assert direct == "<think>"
    cut = Fake(renderer, "<think>\nIs it 5? Or", finish="length")
    assert capability.harness_model(cut, reasoning=True).generate_until(instances(("a", options))) == [""]


def test_with_reasoning_given_answers_are_scored_after_it(renderer):
    fake = Fake(renderer, "<think>\nThe east.\n</think>\n\nIt is east.")
    model = capability.harness_model(fake, reasoning=True)
    model.loglikelihood(instances(("The sun rises in the", " east"), ("The sun rises in the", " west")))
    thought, east, west = fake.asked
    assert thought.max_new_tokens > 1 and not thought.prompt_logprobs
    assert renderer.decode(east.prompt_ids).endswith("in the<think>\nThe east.\n</think>\n\neast")
    assert renderer.decode(west.prompt_ids).endswith("</think>\n\nwest")


def test_scores_of_tasks_and_of_groups():
    found = {
        "results": {
            "gsm8k": {
                "alias": "gsm8k",
                "exact_match,strict-match": 0.5,
                "exact_match_stderr,strict-match": 0.1,
                "name": "x",
            },
            "mmlu": {"acc,none": 0.25, "acc_stderr,none": "N/A", "alias": "mmlu"},
        },
        "group_subtasks": {"mmlu": ["stem"], "stem": ["a", "b"]},
        "n-samples": {"gsm8k": {"effective": 8}, "a": {"effective": 3}, "b": {"effective": 4}},
    }
    assert capability.read_scores(found, ["mmlu", "gsm8k"]) == [
        {"task": "mmlu", "metric": "acc", "value": 0.25, "stderr": None, "n": 7},
        {"task": "gsm8k", "metric": "exact_match (strict-match)", "value": 0.5, "stderr": 0.1, "n": 8},
    ]


def test_one_model_at_a_time_is_in_memory(monkeypatch, tmp_path):
    opened = []

    def opens(config, model):
        assert not any(backend.engine.params for backend in opened)
        opened.append(SimpleNamespace(engine=SimpleNamespace(params={"weights": model}, max_length=128)))
        return opened[-1]

    def scores(backend, section):
        assert backend.engine.params
        return []

    monkeypatch.setattr(capability, "model_identity", lambda config, model: model)
    monkeypatch.setattr(capability, "harness_model", lambda backend, **_: backend)
    monkeypatch.setattr(capability, "_scores", scores)
    asked = {"capability": {"tasks": ("choice_task",), "mode": "both"}}
    config = RunConfig.model_validate({"sample": {"models": ("base", "rational")}, "evaluate": asked})
    capability.run(config, tmp_path / "log.jsonl", open_engine=opens)
    assert [backend.engine.params for backend in opened] == [{}, {}]


@pytest.fixture
def tasks(tmp_path):
    return write_tasks(tmp_path)


@pytest.mark.slow
def test_the_harness_scores_the_engine_as_the_exported_model(tasks, tmp_path):
    """Our engine and `lm_eval --model hf` on the same directory: equal texts, log-likelihoods to float32."""
    pytest.importorskip("torch")
    import serving
    from lm_eval.tasks import TaskManager

    def evaluate(model, **more):
        manager = TaskManager(include_path=str(tasks), include_defaults=False)
        names = ["choice_task", "written_task"]
        found = lm_eval.simple_evaluate(
            model=model, tasks=names, task_manager=manager, bootstrap_iters=0, verbosity="ERROR", **more
        )
        return {name: [row["filtered_resps"] for row in found["samples"][name]] for name in names}

    engine, renderer = serving.micro_engine()
    backend = SimpleNamespace(engine=engine, renderer=renderer, generate=engine.generate)
    ours = evaluate(capability.harness_model(backend, reasoning=False))
    arguments = {"pretrained": str(hub.resolve("micro")), "dtype": "float32", "device": "cpu"}
    theirs = evaluate("hf", model_args=arguments, batch_size=1)
    for mine, other in zip(ours["choice_task"], theirs["choice_task"], strict=True):
        for (logprob, greedy), (expected, is_greedy) in zip(mine, other, strict=True):
            # Sums of a few float32 logarithms from two implementations; the export gate allows 1e-4 on a logit.
            assert abs(float(logprob) - float(expected)) < 1e-3 and str(greedy) == str(is_greedy)
    assert ours["written_task"] == theirs["written_task"]


@pytest.mark.slow
def test_scores_are_kept_and_read_back(tasks, tmp_path):
    config = RunConfig.model_validate(
        {
            "run": str(tmp_path / "run"),
            "engine": {"slots": 4, "max_length": 128},
            "sample": {"models": ("base",), "max_new_tokens": 64},
            "curate": {"max_new_tokens": 64},
            "evaluate": {
                "capability": {"tasks": ("choice_task",), "include": str(tasks), "mode": "both", "chat": False}
            },
        }
    )
    scores = capability.run(config, tmp_path / "log.jsonl")
    assert [(one.model, one.task, one.metric, one.mode, one.n) for one in scores] == [
        ("base", "choice_task", "acc", mode, 4) for mode in ("direct", "reasoning")
    ]
    assert all(isinstance(one, Capability) and 0 <= one.value <= 1 for one in scores)

    def fail(*_):
        raise AssertionError("asked again")

    assert capability.run(config, tmp_path / "log.jsonl", open_engine=fail) == scores
