"""`rational train` of the arm circuit-breaker on the micro model: from its sets to a checkpoint, killed or not."""

import json

import jax
import numpy as np
import pytest

from rational_jax import hub, train
from rational_jax.checkpoint import Checkpoints
from rational_jax.config import load_config
from rational_jax.data import read_prompts
from rational_jax.errors import UserError
from rational_jax.train.breaker_sets import load_breaker_sets
from rational_jax.train.loop import Watcher

ARM = "circuit-breaker"


@pytest.fixture(scope="module")
def sets(tmp_path_factory):
    """Answers of the micro world's form: 30 to be rerouted, 30 to be retained."""
    folder = tmp_path_factory.mktemp("sets")
    for number, prompt in enumerate(read_prompts("micro/sft", 60)):
        row = prompt.to_json() | {"answer": f"Sure, here is how: count to {number}."}
        with (folder / f"{('reroute', 'retain')[number % 2]}.jsonl").open("a") as file:
            file.write(json.dumps(row) + "\n")
    return folder


def configuration(sets, run, *changes):
    words = [f"train.circuit_breaker.{name}={sets / name}.jsonl" for name in ("reroute", "retain")]
    words += [
        f"run={run}",
        f"train.arms=[{ARM}]",
        f"sample.models=[base, {ARM}]",
        "train.steps=4",
        "train.save_every=2",
    ]
    words += ["train.warmup_steps=0", "train.batch_size=16", "train.sequence_length=128", "train.loss_on=all"]
    return load_config(None, [*words, *changes])


@pytest.mark.slow
def test_a_killed_run_ends_in_the_same_factors(sets, tmp_path, monkeypatch):
    def factors(run):
        with Checkpoints(run / "train" / ARM / "checkpoints", read_only=True) as checkpoints:
            made = checkpoints.metadata(4)
            saved = checkpoints.abstract(4)["trainable"]
            return made, checkpoints.restore(4, {"trainable": saved}, partial=True)["trainable"]

    train.run(configuration(sets, tmp_path / "whole"), ARM)
    made, whole = factors(tmp_path / "whole")

    class Died(Exception):
        pass

    def die(step, state):
        if step == 3:
            raise Died
        return {}

    fit = train.run.__globals__["fit"]
    monkeypatch.setitem(
        train.run.__globals__, "fit", lambda *a, **k: fit(*a, **k | {"watchers": [Watcher(every=1, look=die)]})
    )
    config = configuration(sets, tmp_path / "killed")
    with pytest.raises(Died):
        train.run(config, ARM)
    monkeypatch.undo()
    train.run(config, ARM)
    for ours, theirs in zip(jax.tree.leaves(factors(tmp_path / "killed")[1]), jax.tree.leaves(whole), strict=True):
        np.testing.assert_array_equal(ours, theirs)
    # Layers 0 to 2: those below the last target (2 of 4), and the one after it.
    assert made["lora"]["layers"] == [0, 1, 2] and made["method"] == "lora"
    assert {leaf.shape[0] for leaf in jax.tree.leaves(whole)} == {3}
    rows = [json.loads(line) for line in (tmp_path / f"killed/train/{ARM}/metrics.jsonl").read_text().splitlines()]
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert all({"loss_reroute", "loss_retain", "coefficient_retain"} <= row.keys() for row in rows)
    manifest = json.loads((tmp_path / f"killed/train/{ARM}/manifest.json").read_text())
    assert {"reroute", "retain"} <= manifest["inputs"].keys() and "data" not in manifest["settings"]["train"]


def test_sets_that_are_missing(sets, tmp_path):
    with pytest.raises(UserError, match=r"circuit_breaker.retain: .*scripts/circuit_breaker_sets.py"):
        train.run(configuration(sets, tmp_path, "train.circuit_breaker.retain=null"), ARM)
    with pytest.raises(UserError, match=r"circuit_breaker.reroute=gone.jsonl: no such file"):
        train.run(configuration(sets, tmp_path, "train.circuit_breaker.reroute=gone.jsonl"), ARM)


def test_a_share_of_the_answers_stands_without_its_request(sets, tmp_path):
    base = hub.resolve("micro")
    whole, half, bare = (
        load_breaker_sets(configuration(sets, tmp_path, f"train.circuit_breaker.without_request={share}"), base)
        for share in (0, 0.5, 1)
    )
    tokens = [[part.report["tokens"] for part in (one.reroute, one.retain)] for one in (whole, half, bare)]
    for more, between, less in zip(*tokens, strict=True):
        assert more > between > less > 0
    border = len(whole.reroute.packed.tokens)
    assert whole.named([0, border]).endswith("of retain") and " of reroute; examples " in whole.named([0, border])
