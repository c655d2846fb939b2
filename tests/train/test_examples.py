"""What is trained on: from which source, which prompts are held out, and when too many answers are lost."""

import json

import pytest

from rational_jax import hub
from rational_jax.config import load_config
from rational_jax.data import Rationale, read_prompts
from rational_jax.errors import UserError
from rational_jax.text.chat import ANSWER, REASONING
from rational_jax.train.examples import load_examples


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Sixty rationales, the even ones without reasoning; every third is a variant of the one before."""
    path = tmp_path_factory.mktemp("data") / "mine.jsonl"
    rows = []
    for n, prompt in enumerate(read_prompts("micro/sft", 60)):
        row = Rationale(
            id=f"r{n}",
            prompt=prompt,
            reasoning="because " * (n % 7) + "so",
            answer="Yes.",
            layout="rational" if n % 2 else "refusal",
        ).to_json()
        row["prompt"]["base_id"] = f"base {n // 3}"
        rows.append(json.dumps(row))
    path.write_text("\n".join(rows))
    return path


def examples(data, *settings, arm="rational"):
    arms = "[rational]" if arm == "rational" else "[refusal]"
    options = [f"train.data={data}", f"train.arms={arms}", f"curate.datasets={arms}", "sample.models=[base]", *settings]
    return load_examples(load_config(None, options), arm, hub.resolve("micro"))


def test_an_arm_gets_the_rationales_of_its_layout(data):
    found = examples(data)
    assert found.ids == tuple(f"r{n}" for n in range(1, 60, 2))
    assert (found.packed.kinds == REASONING).any()
    assert found.others == 30
    plain = examples(data, arm="refusal")
    assert plain.ids == tuple(f"r{n}" for n in range(0, 60, 2))
    assert not (plain.packed.kinds == REASONING).any()
    assert found.heldout is None


def test_held_out_prompts_are_whole_and_the_same_again(data):
    found, again = (examples(data, "train.heldout=0.3", "train.loss_on=answer") for _ in range(2))
    assert found.ids == again.ids
    held = {f"r{n}" for n in range(1, 60, 2)} - set(found.ids)
    assert 3 <= len(held) <= 16 and found.heldout.report.examples == len(held)
    groups = [{int(name[1:]) // 3 for name in names} for names in (held, found.ids)]
    assert not groups[0] & groups[1], "a prompt and its variant are on both sides"
    assert examples(data, "train.heldout=0.3", "seed=1").ids != found.ids
    # Whatever is trained on, reasoning is measured on what is held out.
    assert not found.packed.weights[found.packed.kinds == REASONING].any()
    assert found.heldout.weights[found.heldout.kinds == REASONING].any()
    assert found.heldout.weights[found.heldout.kinds == ANSWER].any()


def test_rows_name_their_examples(data):
    found = examples(data)
    row = next(i for i, members in enumerate(found.packed.members) if len(members) > 1)
    first, second = found.packed.members[row][:2]
    assert found.named([row, row]).startswith(f"examples {found.ids[first]}, {found.ids[second]}")


def test_too_many_lost_answers_stop_the_run(data):
    with pytest.raises(UserError, match=r"of 30 examples of rational lose their answer.*sequence_length=32"):
        examples(data, "train.sequence_length=32")
    found = examples(data, "train.sequence_length=32", "train.most_lost=1", "train.overlong=truncate")
    assert found.packed.report.lost == found.packed.report.truncated > 3


def test_nothing_of_a_layout(data, tmp_path):
    (tmp_path / "one.jsonl").write_text('{"prompt": "May I?", "answer": "Yes."}')
    with pytest.raises(UserError, match="holds no rationale of layout rational"):
        examples(tmp_path / "one.jsonl")
    with pytest.raises(UserError, match="holds out none"):
        examples(data, "train.heldout=1e-9")
