"""Suites: every one on the files beside this checkout or on files of the same shape, and the bundled evaluations."""

import json
from pathlib import Path

import pytest

from rational_jax.config import RunConfig, bundled_configs, load_config
from rational_jax.data.attacks import check
from rational_jax.data.benchmarks import BENCHMARKS
from rational_jax.data.schema import Prompt
from rational_jax.data.suites import SUITES, configured_suites, find_suite, load_suite, load_suites
from rational_jax.errors import UserError
from rational_jax.judges import NAMES
from rational_jax.text.chat import Message

DATA = Path(__file__).resolve().parents[3] / "shared" / "data"
# Suite -> folder under DATA, prompts, of these harmful and benign, as the papers and the files' notes have it.
THERE = {
    "xstest": ("xstest/xstest_prompts.csv", 450, 200, 250),
    "coconot": ("coconot", 1001, None, 0),
    "coconot-contrast": ("coconot", 379, 0, 379),
    "harmbench": ("harmbench", 400, 400, 0),
    "jailbreakbench": ("jailbreakbench/harmful_behaviors_jailbreakbench.csv", 100, 100, 0),
    "jailbreakbench-transfer": ("jailbreakbench", None, None, 0),
    "strongreject": ("strongreject", 313, 313, 0),
    "advbench": ("advbench", 520, 520, 0),
}


@pytest.mark.parametrize("name", THERE)
def test_a_suite_from_its_file(name):
    path, count, harmful, benign = THERE[name]
    if not (DATA / path).exists():
        pytest.skip(f"{path} is not beside this checkout (../shared/data)")
    suite = f"{name}@{DATA / path}"
    prompts = load_suite(suite)
    labels = [prompt.label for prompt in prompts]
    assert count in (None, len(prompts)) and prompts
    assert harmful in (None, labels.count("harmful")) and labels.count("benign") == benign
    assert all(prompt.id.startswith(f"{name}:") for prompt in prompts)
    found = find_suite(suite)
    assert (found.name, found.metric, found.judge) == (suite, SUITES[name].metric, SUITES[name].judge)
    if found.headline:
        held = sum(map(found.headline.holds, prompts))
        assert held == 300  # HarmBench without copyright
    if name == "jailbreakbench-transfer":
        assert all(prompt.meta["goal"] not in ("", prompt.text) for prompt in prompts)


SORRY = [
    {"question_id": i, "category": "1", "turns": [f"request {i} {style}"], "prompt_style": style}
    for i in (1, 2)
    for style in ("base", "slang", "role_play")
]


@pytest.mark.parametrize("name", ["sorry-bench", "sorry-bench-202503"])
def test_a_gated_suite_from_a_copy_of_the_same_shape(tmp_path, name):
    (tmp_path / "question.jsonl").write_text("".join(json.dumps(row) + "\n" for row in SORRY))
    prompts = load_suite(f"{name}@{tmp_path}")
    assert {prompt.style for prompt in prompts} == {"base", "slang", "role_play"}
    assert len({prompt.base_id for prompt in prompts}) == 2


def test_every_published_set_is_a_suite_and_says_how_it_is_judged():
    assert set(BENCHMARKS) <= set(SUITES)
    for suite in SUITES.values():
        assert suite.judge in NAMES and suite.about and suite.title


def test_a_file_is_a_suite_of_its_own_and_an_unknown_name_is_none(tmp_path):
    path = tmp_path / "mine.txt"
    path.write_text("one\ntwo\n")
    assert [prompt.text for prompt in load_suite(str(path))] == ["one", "two"]
    assert find_suite("hf:someone/requests").judge == "refusal"
    assert find_suite("micro/dev").source == "micro/dev" and load_suite("micro/test", 9) == load_suite("micro", 9)
    with pytest.raises(UserError, match="there is no suite 'xstset'; choose from micro"):
        find_suite("xstset")


def test_attacked_prompts_stand_behind_the_plain_ones_and_benign_ones_are_left_alone(tmp_path):
    rows = [
        Prompt(id=label, messages=(Message(role="user", content=f"about {label}"),), label=label)
        for label in ("harmful", "benign", "unknown")
    ]
    path = tmp_path / "mine.jsonl"
    path.write_text("".join(json.dumps(row.to_json()) + "\n" for row in rows))
    sample = {"suites": (str(path),), "attacks": ("rot13", "rot13+role-play")}
    config = RunConfig.model_validate({"run": str(tmp_path), "sample": sample})
    (prompts,) = configured_suites(config).values()
    assert [prompt.id for prompt in prompts] == [
        *("harmful", "benign", "unknown"),
        *("harmful#rot13", "unknown#rot13", "harmful#rot13+role-play", "unknown#rot13+role-play"),
    ]
    plain = RunConfig.model_validate({"run": str(tmp_path), "sample": {"suites": (str(path),)}})
    assert configured_suites(plain) == load_suites(plain.sample.suites)


@pytest.mark.parametrize("name", ["quick", "paper", "full"])
def test_the_bundled_evaluations(name):
    config = load_config(bundled_configs()[f"eval/{name}.yaml"], [])
    for suite in config.sample.suites:
        assert not BENCHMARKS[suite].gated or name == "paper"
    for attack in config.sample.attacks:
        check(attack)
    assert config.evaluate.judge == ("refusal" if name == "quick" else "suites")
