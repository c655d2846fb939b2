"""Two real processes generate as one: the same bytes, one error for all, and going on after one was killed."""

import json
import signal
import time
from pathlib import Path

import numpy as np
import pytest
from tiny import save_readable
from together import ended, start

from rational_jax import sample
from rational_jax.config import RunConfig, load_config
from rational_jax.data import read_prompts
from rational_jax.sample import Rejected, Request, fleet
from rational_jax.sample.fleet import deal
from rational_jax.sample.rewrites import helper
from rational_jax.text.chat import Message

PROMPTS, SAMPLES = 24, 2


@pytest.fixture(scope="module")
def base(tmp_path_factory) -> Path:
    return save_readable(tmp_path_factory.mktemp("models") / "tiny")


def settings(run: Path, base: Path | str, new_tokens: int = 16, samples: int = SAMPLES) -> list[str]:
    suite = run.parent / "prompts.jsonl"
    suite.write_text("".join(json.dumps(p.to_json()) + "\n" for p in read_prompts("micro/sft", PROMPTS)))
    return [
        f"run={run}",
        f"model.name={base}",
        f"sample={{models: [base], suites: ['{suite}'], samples: {samples}, temperature: 0.9, "
        f"max_new_tokens: {new_tokens}}}",
        "engine={slots: 4, max_length: 128}",
        "curate.max_new_tokens=64",
    ]


def together(words: list[str], folders: list[Path | str] = (".", ".")) -> list[tuple[int, str]]:
    """The exit codes and output of two processes of `rational sample`, each in its folder."""
    moved = "import os, sys; os.chdir(sys.argv.pop(1)); from rational_jax.cli import main; main()"
    return ended(start([["-c", moved, str(folder), "sample", *words] for folder in folders]))


def answers(run: Path) -> bytes:
    return (run / "sample" / "base" / "answers.jsonl").read_bytes()


@pytest.fixture(scope="module")
def expected(base, tmp_path_factory) -> bytes:
    """What one process answers."""
    run = tmp_path_factory.mktemp("alone") / "run"
    sample.run(load_config(None, settings(run, base)), "base")
    return answers(run)


def test_two_processes_answer_as_one(base, expected, tmp_path):
    found = together(settings(tmp_path / "run", base))
    assert [code for code, _ in found] == [0, 0], found
    assert "2 processes generate" in found[0][1]
    assert found[1][1] == ""
    assert answers(tmp_path / "run") == expected


def test_a_model_that_is_another_one_on_one_process(tmp_path):
    """Each reads the path for itself."""
    for folder, seed in (("0", 0), ("1", 1)):
        save_readable(tmp_path / folder / "tiny", seed)
    words = settings(tmp_path / "run", "./tiny")
    found = together(words, [tmp_path / "0", tmp_path / "1"])
    assert [code for code, _ in found] == [2, 2], found
    assert "process 1 has other files of the model" in found[0][1]
    assert "process 0 has stopped" in found[1][1]


@pytest.mark.slow
def test_one_that_is_killed_ends_all_and_the_rerun_finishes(base, tmp_path):
    # Many long answers, so that the work is not done before the signal comes.
    run, alone = tmp_path / "run", tmp_path / "alone"
    words = settings(run, base, new_tokens=64, samples=20)
    command = ["-m", "rational_jax.cli", "sample", *words]
    processes = start([command, command])
    log = run / "sample" / "base" / "answers.jsonl"
    while not (log.exists() and log.read_text().count("\n") > 3):
        assert all(process.poll() is None for process in processes)
        time.sleep(0.02)
    processes[1].send_signal(signal.SIGKILL)
    codes = [code for code, _ in ended(processes)]
    assert codes[1] == -signal.SIGKILL
    assert codes[0] not in (0, 2)
    found = together(words)
    assert [code for code, _ in found] == [0, 0], found
    assert "answers are there already" in found[0][1]
    sample.run(load_config(None, settings(alone, base, new_tokens=64, samples=20)), "base")
    assert answers(run) == answers(alone)


@pytest.mark.parametrize("seed", range(20))
def test_every_request_falls_to_one_process(seed):
    """Those of one prompt and budget stay together, and no process has two prompts more than another."""
    random = np.random.default_rng(seed)
    shares = seed % 5 + 1
    drawn = random.integers((0, 1), (6, 5), (random.integers(40), 2)).tolist()
    requests = [
        Request(id=str(n), messages=(Message(role="user", content=str(prompt)),), max_new_tokens=budget)
        for n, (prompt, budget) in enumerate(sorted(drawn))
    ]
    dealt = deal(requests, shares)
    assert len(dealt) == shares
    assert sorted(int(r.id) for share in dealt for r in share) == list(range(len(requests)))
    prompts = [{(r.messages, r.max_new_tokens) for r in share} for share in dealt]
    assert sum(map(len, prompts)) == len(set().union(*prompts))
    assert max(map(len, prompts)) - min(map(len, prompts)) <= 1


@pytest.mark.parametrize("share", [0, 1])
def test_a_request_too_long_is_named_whatever_process_it_falls_to(monkeypatch, share):
    class Own:
        def generate(self, requests):
            if long := [request.id for request in requests if request.id == f"r{share}"]:
                raise Rejected("too long", dict.fromkeys(long, "exceeds"))
            return iter(())

    notes = []

    def tell(process, **note):
        if process == 0:
            notes.append(json.loads(json.dumps(note)))
        elif note["do"] == "generate":
            fleet._generate(Own(), fleet._REQUESTS.validate_python(note["requests"]))

    monkeypatch.setattr(fleet, "_tell", tell)
    monkeypatch.setattr(fleet, "_heard", lambda process, wait=False: notes.pop(0) if notes else {"ended": True})
    requests = [Request(id=f"r{n}", messages=(Message(role="user", content=str(n)),), max_new_tokens=1) for n in "01"]
    with pytest.raises(Rejected) as caught:
        list(fleet.Fleet(own=Own(), processes=2).generate(requests))
    assert caught.value.problems == {f"r{share}": "exceeds"}


def test_the_judges_configuration_is_one_that_other_processes_take():
    """Its context may be shorter than the answers that it judges."""
    changes = ["engine.max_length=4096", "sample.max_new_tokens=2048", "curate.max_new_tokens=2048"]
    config = helper(load_config(None, [*changes, "evaluate.judge_model={name: some/judge, max_length: 1024}"]))
    assert RunConfig.model_validate_json(config.model_dump_json()) == config


def test_a_model_that_judges_reasons_between_delimiters_whatever_the_run_does():
    assert helper(load_config(None, ["chat.reasoning=plain"])).chat.reasoning == "think"
