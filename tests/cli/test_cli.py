import errno
import sys
import types
from pathlib import Path

import pytest

import rational_jax
from rational_jax.cli import app
from rational_jax.cli.session import exit_code
from rational_jax.config import load_config
from rational_jax.errors import Preempted, Unreachable, UserError

VERBS = ("demo", "curate", "train", "export", "sample", "evaluate", "report", "plan")


@pytest.fixture
def rational(capsys):
    """Runs the command in this process: arguments -> (exit code, stdout, stderr)."""

    def run(*arguments):
        return (app.run(arguments), *capsys.readouterr())

    return run


@pytest.fixture
def rooms(monkeypatch):
    """Stands in for every room; `rooms.calls` are the (room, arguments), `rooms.act` is what a room does."""
    state = types.SimpleNamespace(calls=[], act=lambda: None)

    def room(name):
        def run(config, *arguments):
            state.calls.append((name, config, arguments[:-1]))
            state.act()
            return Path("report.html")

        return types.SimpleNamespace(run=run, led=lambda body: body())

    for name in ("curate", "train", "sample", "evaluate"):
        monkeypatch.setattr(rational_jax, name, room(name), raising=False)
        monkeypatch.setitem(sys.modules, f"rational_jax.{name}", getattr(rational_jax, name))
    rational_jax.evaluate.report = room("report")
    workflow = types.SimpleNamespace(export=room("export"), rounds=room("curate"))
    monkeypatch.setitem(sys.modules, "rational_jax.workflow", workflow)
    setup = types.SimpleNamespace(configure_runtime=lambda: state.calls.append("set up"))
    monkeypatch.setitem(sys.modules, "rational_jax.parallel", types.SimpleNamespace(setup=setup))
    monkeypatch.setitem(sys.modules, "rational_jax.parallel.setup", setup)
    alone = types.SimpleNamespace(join=lambda: None, is_lead=lambda: True)
    monkeypatch.setitem(sys.modules, "rational_jax.parallel.processes", alone)
    return state


def test_without_arguments_the_verbs_are_shown(rational):
    code, shown, error = rational()
    assert (code, error) == (0, "")
    places = [shown.index(f"\n  {verb} ") for verb in VERBS]
    assert places == sorted(places), "the verbs stand in the order of the pipeline"
    assert "..." not in shown.partition("Commands:")[2], "no summary is cut off"


@pytest.mark.parametrize("verb", VERBS)
def test_help_of_every_verb_has_examples(rational, verb):
    code, shown, _ = rational(verb, "--help")
    assert code == 0
    assert shown.count(f"    rational {verb}") >= 2
    assert "--print-config" in shown and "train.steps=10" in shown


def test_help_of_serve_has_examples(rational):
    code, shown, _ = rational("serve", "--help")
    assert code == 0 and shown.count("    rational serve") >= 2 and "--api-key-env" in shown


@pytest.mark.parametrize("verb", VERBS)
def test_the_printed_configuration_is_the_one_in_force(rational, verb, tmp_path):
    code, shown, _ = rational(verb, "ci.yaml", "seed=7", "--print-config")
    (tmp_path / "printed.yaml").write_text(shown)
    printed = load_config(tmp_path / "printed.yaml")
    assert code == 0
    assert (printed.seed, printed.run) == (7, "runs/ci")


def test_print_config_with_a_broken_override_prints_no_configuration(rational):
    code, shown, error = rational("train", "--print-config", "train.stepz=3")
    assert (code, shown) == (2, "")
    assert error == "error: unknown key 'train.stepz'; did you mean train.steps? (command line)\n"


def test_arms_and_models_one_after_the_other(rational, rooms):
    assert rational("train", "seed=5")[0] == 0
    assert [call if call == "set up" else call[2] for call in rooms.calls] == ["set up", ("rational",), ("refusal",)]
    assert rooms.calls[1][1].seed == 5
    rooms.calls.clear()
    assert rational("export", "--arm", "refusal", "--arm", "refusal")[0] == 0
    assert [call[2] for call in rooms.calls[1:]] == [("refusal",)]
    rooms.calls.clear()
    assert rational("sample", "--model", "base")[0] == 0
    assert [call[::2] for call in rooms.calls[1:]] == [("sample", ("base",))]
    rooms.calls.clear()
    code, _, error = rational("train", "--arm", "reckless")
    assert (code, error) == (2, "error: --arm reckless: train.arms has only rational, refusal\n")
    assert rooms.calls == ["set up"]


def test_the_first_word_may_be_a_file(rational, rooms, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("a=b.yaml").write_text("seed: 11\n")
    Path("mine.txt").write_text("seed: 12\n")
    for words, seed in ((["a=b.yaml"], 11), (["mine.txt"], 12), (["seed=13"], 13), (["mine.txt", "seed=14"], 14)):
        assert rational("curate", *words)[0] == 0
        assert rooms.calls[-1][1].seed == seed
    assert "no such file" in rational("curate", "missing.yaml")[2]
    assert "a file comes first" in rational("curate", "seed=1", "mine.txt")[2]


def test_what_the_user_can_mend_is_one_line(rational, rooms):
    def act():
        raise UserError("runs/\x1b[31mdemo\nis \x07broken")

    rooms.act = act
    assert rational("curate") == (2, "", "error: runs/demo is broken\n")


def test_a_store_that_cannot_be_reached_for_now_has_the_code_to_start_again(rational, rooms):
    def act():
        raise Unreachable("gs://bucket/a: the store fails (503)")

    rooms.act = act
    assert rational("curate") == (75, "", "error: gs://bucket/a: the store fails (503)\n")
    assert exit_code(act) == 75


def test_ctrl_c(rational, rooms):
    def act():
        raise KeyboardInterrupt

    rooms.act = act
    code, _, error = rational("train")
    assert code == 130
    assert error.strip() == "stopped; run the same command again to continue"


def test_a_preempted_run_has_a_code_of_its_own(rational, rooms):
    def act():
        raise Preempted("train: stopped by the system after step 7, which is saved")

    rooms.act = act
    code, _, error = rational("train")
    assert code == 75
    assert (
        error == "train: stopped by the system after step 7, which is saved; run the same command again to continue\n"
    )


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EROFS, errno.EACCES])
def test_a_disk_that_cannot_be_written(rational, rooms, number):
    def act():
        raise OSError(number, "why", "runs/demo/x")

    rooms.act = act
    assert rational("curate") == (2, "", "error: runs/demo/x: why\n")


@pytest.mark.parametrize("bug", [ValueError("bug"), FileNotFoundError(errno.ENOENT, "bug", "x")])
def test_a_bug_keeps_its_traceback(rooms, bug):
    def act():
        raise bug

    rooms.act = act
    with pytest.raises(type(bug)):
        app.run(["curate"])


@pytest.mark.parametrize(
    ("words", "start", "end"),
    [
        (["trian"], "error: No such command 'trian'", "see `rational --help`\n"),
        (["train", "--steps", "3"], "error: No such option: --steps", "see `rational train --help`\n"),
        (["train", "train.steps=0"], "error: train.steps: expected at least 1, got 0", "(command line)\n"),
    ],
)
def test_wrong_arguments_are_one_line(rational, words, start, end):
    code, shown, error = rational(*words)
    assert (code, shown) == (2, "")
    assert error.startswith(start) and error.endswith(end) and error.count("\n") == 1
