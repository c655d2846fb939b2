from contextlib import contextmanager
from pathlib import Path

import pytest

from rational_jax.config import load_config
from rational_jax.errors import UserError
from rational_jax.manifest import Stage
from rational_jax.workflow import demo

ORDER = [
    "curate",
    "train/rational",
    "train/refusal",
    "export/rational",
    "export/refusal",
    "sample/base",
    "sample/rational",
    "sample/refusal",
    "evaluate",
    "report",
]


class Recorder:
    """A Progress that remembers how far each task came."""

    def __init__(self):
        self.total: dict[str, int] = {}
        self.done: dict[str, int] = {}
        self.notes: list[str] = []
        self.messages: list[str] = []

    @contextmanager
    def task(self, description, total, unit="", done=0):
        self.total[description], self.done[description] = total, done
        recorder = self

        class One:
            def advance(self, n=1):
                recorder.done[description] += n
                assert recorder.done[description] <= total

            def note(self, text):
                recorder.notes.append(text)

        yield One()

    def message(self, text):
        self.messages.append(text)


@pytest.fixture
def verbs(monkeypatch):
    """Verbs that leave a manifest as the real ones do; `verbs.ran` are those that had something to do."""

    class Verbs:
        def __init__(self):
            self.ran = []
            self.at = {}  # folder -> what happens in the middle of that verb
            self.tasks = 1

        def stand_in(self, verb):
            def run(config, *rest):
                name, progress = (rest[0], rest[1]) if len(rest) == 2 else (None, rest[0])
                folder = f"{verb}/{name}" if name else verb
                stage = Stage.open(Path(config.run) / folder, verb=verb, settings={}, inputs={})
                if not stage.complete:
                    for i in range(self.tasks):
                        with progress.task(f"{folder} {i}", total=10, unit="steps") as task:
                            task.advance(5)
                            self.at.get(folder, lambda: None)()
                            task.advance(5)
                    self.ran.append(folder)
                    stage.finish({}, {})
                return stage.directory / "index.html"

            return run

    state = Verbs()
    for room in ("curate", "train", "export", "sample", "evaluate", "report"):
        monkeypatch.setattr(getattr(demo, room), "run", state.stand_in(room))
    monkeypatch.setattr(demo, "read_prompts", lambda source, limit: [None] * 500)
    monkeypatch.setattr(demo, "load_suites", lambda names, limit: {"micro": [None] * 2000})
    return state


@pytest.fixture
def config(tmp_path):
    return load_config(None, [f"run={tmp_path / 'run'}"])


@pytest.mark.parametrize("tasks", [0, 1, 3])
def test_all_verbs_run_in_order_and_the_overall_bar_fills(verbs, config, tasks):
    verbs.tasks = tasks
    progress = Recorder()
    page = demo.run(config, progress)
    assert verbs.ran == ORDER
    assert page == Path(config.run) / "report" / "index.html"
    assert progress.done["demo"] == progress.total["demo"]
    assert progress.notes[0] == "1 of 10: curate" and progress.notes[-2:] == ["10 of 10: report", ""]


def test_the_overall_bar_moves_within_a_verb(verbs, config):
    progress = Recorder()
    seen = []
    verbs.at = {"curate": lambda: seen.append(progress.done["demo"])}
    demo.run(config, progress)
    expected = next(step.seconds for step in demo.plan(config) if step.verb == "curate")
    assert seen[0] == pytest.approx(0.9 * expected / 2, abs=1.0)  # in whole seconds


def test_a_stopped_demo_goes_on_where_it_was(verbs, config):
    def stop():
        raise KeyboardInterrupt

    verbs.at = {"train/refusal": stop}
    with pytest.raises(KeyboardInterrupt):
        demo.run(config)
    assert verbs.ran == ORDER[:2]
    verbs.at = {}
    progress = Recorder()
    demo.run(config, progress)
    assert verbs.ran == ORDER
    assert progress.done["demo"] == progress.total["demo"]
    again = Recorder()
    demo.run(config, again)
    assert verbs.ran == ORDER, "finished verbs have nothing to do"
    assert again.done == again.total and again.done.keys() == {"demo"}


def test_wrong_prompts_are_found_before_anything_is_computed(verbs, config, monkeypatch):
    def unreadable(names, limit):
        raise UserError("no suite named 'macro'")

    monkeypatch.setattr(demo, "load_suites", unreadable)
    with pytest.raises(UserError, match="macro"):
        demo.run(config)
    assert not Path(config.run).exists()


def test_more_work_is_expected_to_take_longer(verbs):
    def seconds(*overrides):
        return {step.folder: step.seconds for step in demo.plan(load_config(None, overrides))}

    usual, longer = seconds(), seconds("train.steps=1200", "curate.samples=8")
    assert {k for k in usual if longer[k] > usual[k]} == {"curate", "train/rational", "train/refusal"}
