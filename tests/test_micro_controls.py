"""The parts of scripts/micro_controls.py that decide what is compared with what."""

import pytest
from loaded_scripts import loaded_script

from rational_jax.config import BASE
from rational_jax.data.sources import read_prompts
from rational_jax.errors import UserError


@pytest.fixture(scope="module")
def controls():
    with loaded_script("micro_controls.py") as module:
        yield module


@pytest.fixture
def study(controls, tmp_path):
    words = ["--seeds", "3", "5", "3", "--settings", "steps", "epochs", "train.steps=7", "train.warmup_steps=2"]
    return controls.options([*words, "--out", str(tmp_path)])


@pytest.mark.parametrize(
    ("steps", "rows", "rational", "expected"), [(120, 50, 50, 120), (120, 20, 60, 40), (10, 1, 90, 1), (0, 20, 60, 0)]
)
def test_steps_for_equal_epochs(controls, steps, rows, rational, expected):
    assert controls.equal_epochs(steps, rows, rational) == expected


def test_changes_are_told_from_the_values_of_options(study):
    assert (study.seeds, study.settings, study.split) == ((3, 5), ("steps", "epochs"), "dev")
    assert study.overrides == ("train.steps=7", "train.warmup_steps=2")
    config = study.training(3, "epochs", steps=4, warmup_steps=1)
    assert (config.seed, config.train.steps, config.train.warmup_steps) == (3, 4, 1)


@pytest.mark.parametrize("change", ["seed=1", "run=elsewhere", "sample.temperature=1"])
def test_what_the_study_sets_cannot_be_changed(controls, tmp_path, change):
    with pytest.raises(UserError, match="the study sets"):
        controls.options(["--out", str(tmp_path), change]).curation(0)


def test_all_models_answer_the_same_prompts_and_only_the_self_check_is_told_to_think(controls, study):
    controls.write_self_check(study)
    plain, told = (read_prompts(study.reference(n).sample.suites[0]) for n in (BASE, controls.SELF_CHECK))
    arms = read_prompts(study.answering(3, "steps").sample.suites[0])
    assert arms == plain
    assert [p.id for p in told] == [p.id for p in plain]
    assert {p.messages[0].role for p in told} == {"system"}
    assert [p.messages[1:] for p in told] == [p.messages for p in plain]
    assert [(p.label, p.base_id, p.meta) for p in told] == [(p.label, p.base_id, p.meta) for p in plain]


def test_every_verb_comes_after_what_it_reads_and_curation_is_shared(controls, study):
    controls.write_self_check(study)
    folders = [step.folder for step in controls.steps_of(study)]
    assert len(folders) == len(set(folders))
    assert [f for f in folders if f.endswith("curate")] == ["seed-3/curate", "seed-5/curate"]
    for seed in ("seed-3", "seed-5"):
        for setting in ("steps", "epochs"):
            run = f"{seed}/{setting}"
            assert (study.out / run / "curate").resolve() == (study.out / seed / "curate").resolve()
            assert (study.out / run / "dev" / "export").resolve() == (study.out / run / "export").resolve()
            for arm in controls.ARMS:
                order = [f"{seed}/curate", f"{run}/train/{arm}", f"{run}/export/{arm}", f"{run}/dev/sample/{arm}"]
                places = [folders.index(folder) for folder in [*order, f"{run}/dev/evaluate"]]
                assert places == sorted(places)
