"""Runs on an object store: what another machine gets, at every moment at which the first one can be lost."""

import hashlib
import json
import os
import subprocess
import sys
import types
from pathlib import Path

import fsspec
import pytest
from tiny import save_readable
from together import ended, start

from rational_jax.cli import app
from rational_jax.config import load_config
from rational_jax.data import read_prompts
from rational_jax.errors import Preempted, Unreachable, UserError
from rational_jax.manifest import Stage, read_stage
from rational_jax.storage import JsonlLog, sha256_file
from rational_jax.workflow import mirror
from rational_jax.workflow.mirror import Mirror, mirrored

ROOT = Path(__file__).parents[2]


@pytest.fixture
def machine(tmp_path, monkeypatch):
    """A function that puts this process on another machine, that is, gives it another cache."""

    def on(name: str) -> None:
        monkeypatch.setenv("RATIONAL_CACHE", str(tmp_path / name))

    on("one")
    return on


@pytest.fixture
def address():
    fsspec.filesystem("memory").store.clear()
    return "memory://bucket/runs/a"


def contents() -> dict[str, bytes]:
    store = fsspec.filesystem("memory")
    return {path: store.cat_file(path) for path in store.find("/bucket/runs/a")}


def early_is_sent(local) -> None:
    """A file that is written into the run is in the bucket's index while the work goes on."""
    (Path(local.run) / "early").write_text("1")
    for _ in range(200):
        if "/bucket/runs/a/INDEX.json" in contents():
            break
        mirror.threading.Event().wait(0.05)
    assert "early" in json.loads(contents()["/bucket/runs/a/INDEX.json"])["files"]


def test_another_machine_goes_on_with_what_was_committed(machine, address):
    config = load_config(None, [f"run={address}"])
    with mirrored(config) as local:
        stage = Stage.open(Path(local.run) / "sample" / "base", verb="sample", settings={"a": 1}, inputs={})
        with JsonlLog(stage.directory / "answers.jsonl") as log:
            log.append({"id": 1})
    machine("two")
    with mirrored(config) as local:
        assert "two" in local.run
        stage = Stage.open(Path(local.run) / "sample" / "base", verb="sample", settings={"a": 1}, inputs={})
        assert not stage.complete
        with JsonlLog(stage.directory / "answers.jsonl") as log:
            assert log.records() == [{"id": 1}]
            log.append({"id": 2})
        stage.finish(outputs={"answers.jsonl": sha256_file(stage.directory / "answers.jsonl")}, figures={})
    machine("one")
    with mirrored(config) as local:
        # An older copy of the same run is replaced.
        directory = Path(local.run) / "sample" / "base"
        assert read_stage(directory, verb="sample")["status"] == "complete"
        assert [json.loads(line)["id"] for line in (directory / "answers.jsonl").open()] == [1, 2]
    # Settings that differ are refused as they are in a folder.
    with pytest.raises(UserError, match="a: 1 -> 2"), mirrored(config) as local:
        Stage.open(Path(local.run) / "sample" / "base", verb="sample", settings={"a": 2}, inputs={})


def test_a_log_grows_by_pieces_and_nothing_is_ever_changed(machine, address):
    one = Mirror(address)
    log = one.local / "log.jsonl"
    before: dict[str, bytes] = {}
    for text in ("first\n", "first\nsecond\n", "first\nsecond\nthird\n", "other\n"):
        log.write_text(text)
        one.push()
        now = contents()
        assert all(
            now[path] == data for path, data in before.items() if path in now and not path.endswith("INDEX.json")
        )
        for path, data in now.items():
            if "/contents/" in path:
                assert hashlib.sha256(data).hexdigest() == path.rpartition("/")[2]
        before = now
        (entry,) = json.loads(now["/bucket/runs/a/INDEX.json"])["files"].values()
        # A piece a line, until the log became another one.
        assert len(entry["pieces"]) == (1 if text == "other\n" else text.count("\n"))
        machine(f"reader of {len(text)}")
        reader = Mirror(address)
        reader.pull()
        assert (reader.local / "log.jsonl").read_text() == text
    assert sum("/contents/" in path for path in contents()) == 1, "what no file has any more is removed"


def test_a_writer_killed_before_its_commit_has_written_nothing(machine, address, monkeypatch):
    one = Mirror(address)
    (one.local / "a").write_text("committed")
    one.push()

    def killed(self, path, data):
        raise ConnectionError("the machine is gone")

    (one.local / "a").write_text("lost")
    (one.local / "b").write_text("lost too")
    monkeypatch.setattr(type(one._store), "pipe_file", killed)
    with pytest.raises(Unreachable, match=r"the store fails \(the machine is gone\)"):
        one.push()
    monkeypatch.undo()
    machine("two")
    two = Mirror(address)
    assert two.pull() == 1
    assert {file.name: file.read_text() for file in two.local.iterdir() if file.name[0] != "."} == {"a": "committed"}
    assert sum("/contents/" in path for path in contents()) == 3, "who reads removes nothing"
    (two.local / "c").write_text("goes on")
    two.push()
    assert sum("/contents/" in path for path in contents()) == 4, "nor who writes, what may be on its way"
    monkeypatch.setattr(mirror, "_ABANDONED_SECONDS", 0)
    three = Mirror(address)
    (three.local / "c").write_text("later")
    three.push()
    assert sum("/contents/" in path for path in contents()) == 2, "what was not committed is swept at last"


def test_who_reads_disturbs_no_writer(machine, address, monkeypatch):
    """Another machine fetches the run in the middle of a push, and somebody removes a piece that was just sent."""
    one = Mirror(address)
    (one.local / "a").write_text("1")
    one.push()
    (one.local / "b").write_text("2")
    index = one._index

    def read_by_another():
        machine("two")
        assert Mirror(address).pull() == 1
        fsspec.filesystem("memory").rm_file(f"/bucket/runs/a/contents/{hashlib.sha256(b'2').hexdigest()}")
        return index()

    monkeypatch.setattr(one, "_index", read_by_another)
    one.push()
    machine("three")
    three = Mirror(address)
    assert three.pull() == 2 and (three.local / "b").read_text() == "2"


def test_a_bucket_that_lost_the_run_does_not_take_the_copy_with_it(machine, address):
    one = Mirror(address)
    (one.local / "a").write_text("dear")
    one.push()
    store = fsspec.filesystem("memory")
    store.rm("/bucket/runs/a", recursive=True)
    with pytest.raises(UserError, match=r"gone back to version 0, .* of version 1: delete .*\.mirror\.json to send"):
        Mirror(address).pull()
    assert (one.local / "a").read_text() == "dear"
    (one.local / ".mirror.json").unlink()
    again = Mirror(address)
    assert again.pull() == 0
    again.push()
    machine("two")
    assert Mirror(address).pull() == 1


def test_a_run_that_was_begun_again_in_its_place_is_another_one(machine, address):
    """Both are of version 1: of the first one this machine has a copy, and what it goes on with is the second."""
    one = Mirror(address)
    (one.local / "a").write_text("of the first")
    one.push()
    fsspec.filesystem("memory").rm("/bucket/runs/a", recursive=True)
    machine("two")
    two = Mirror(address)
    (two.local / "b").write_text("of the second")
    two.push()
    (one.local / "late").write_text("of the first")
    with pytest.raises(UserError, match="changed by another machine"):
        one.push()
    machine("one")
    again = Mirror(address)
    assert again.pull() == 1
    assert {file.name for file in again.local.iterdir() if file.name[0] != "."} == {"b"}
    (again.local / "c").write_text("goes on")
    again.push()
    assert two.pull() == 1 and (two.local / "c").read_text() == "goes on"


def test_an_index_of_an_earlier_release_has_no_id(machine, address):
    one = Mirror(address)
    (one.local / "a").write_text("1")
    one.push()
    index = json.loads(contents()["/bucket/runs/a/INDEX.json"])
    del index["id"]
    fsspec.filesystem("memory").pipe_file("/bucket/runs/a/INDEX.json", json.dumps(index).encode())
    machine("two")
    assert Mirror(address).pull() == 1
    two = Mirror(address)
    state = json.loads((two.local / ".mirror.json").read_text())
    (two.local / ".mirror.json").write_text(json.dumps({key: state[key] for key in state if key != "id"}))
    two = Mirror(address)
    assert two.pull() == 0, "it is the same one"
    (two.local / "a").write_text("2")
    two.push()
    assert json.loads(contents()["/bucket/runs/a/INDEX.json"])["id"]


class StoreError(Exception):
    """Like gcsfs.retry.HttpError and those of google.auth: no OSError."""


def test_the_sending_goes_on_after_any_error_of_a_store_and_says_so_once(machine, address, monkeypatch):
    monkeypatch.setattr(mirror, "EVERY_SECONDS", 0.02)
    monkeypatch.setitem(sys.modules, "gcsfs.retry", types.SimpleNamespace(HttpError=StoreError))
    failures, said = [], []

    class Listener(type(mirror.SILENT)):
        def message(self, text):
            said.append(text)

    whole = Mirror._stored

    def stored(self):
        if len(failures) < 3:
            failures.append(1)
            with self._telling():
                raise StoreError("401: the token has run out")
        return whole(self)

    with mirrored(load_config(None, [f"run={address}"]), Listener()) as local:
        monkeypatch.setattr(Mirror, "_stored", stored)
        early_is_sent(local)
    assert len(failures) == 3 and len(said) == 1 and "the token has run out" in said[0]


def test_a_copy_that_is_ahead_stays(machine, address):
    one = Mirror(address)
    (one.local / "a").write_text("1")
    one.push()
    (one.local / "a").write_text("2, and the network failed")
    again = Mirror(address)
    assert again.pull() == 0
    again.push()
    assert (again.local / "a").read_text() == "2, and the network failed"
    machine("two")
    two = Mirror(address)
    two.pull()
    assert (two.local / "a").read_text() == "2, and the network failed"


def test_two_machines_at_once_are_refused(machine, address):
    one = Mirror(address)
    machine("two")
    two = Mirror(address)
    (one.local / "a").write_text("1")
    (two.local / "a").write_text("2")
    one.push()
    with pytest.raises(UserError, match="another machine"):
        two.push()


def test_what_is_unfinished_stays_here(machine, address):
    one = Mirror(address)
    for name in (
        "train/r/checkpoints/40/state/data",
        "train/r/checkpoints/80.orbax-checkpoint-tmp-1/state/data",
        "export/r/merged.partial/config.json",
        "export/r/.merged.json",
        "train/r/manifest.json",
    ):
        (one.local / name).parent.mkdir(parents=True, exist_ok=True)
        (one.local / name).write_text(name)
    one.push()
    index = json.loads(contents()["/bucket/runs/a/INDEX.json"])
    assert list(index["files"]) == ["train/r/manifest.json", "train/r/checkpoints/40/state/data"]


def test_a_checkpoint_that_is_removed_while_it_is_sent(machine, address, monkeypatch):
    one = Mirror(address)
    for step in (40, 80):
        (one.local / str(step)).mkdir()
        (one.local / str(step) / "data").write_text(str(step))
    send = Mirror._send

    def removing(self, name):
        if name == "40/data":
            (self.local / name).unlink()
        return send(self, name)

    monkeypatch.setattr(Mirror, "_send", removing)
    one.push()
    assert list(json.loads(contents()["/bucket/runs/a/INDEX.json"])["files"]) == ["80/data"]


def test_damage_is_found(machine, address):
    one = Mirror(address)
    (one.local / "a").write_text("whole")
    one.push()
    store = fsspec.filesystem("memory")
    (piece,) = store.find("/bucket/runs/a/contents")
    store.pipe_file(piece, b"damaged")
    machine("two")
    with pytest.raises(UserError, match="damaged: a is not"):
        Mirror(address).pull()
    store.pipe_file(piece, b"whole")
    assert Mirror(address).pull() == 1, "a fetch that failed is made again"


@pytest.mark.parametrize("name", ["../../x", "/x", "a/../../x", ".mirror.json", "a/.lock", "a.tmp/x", ""])
def test_an_index_writes_nowhere_but_in_the_copy(machine, address, tmp_path, name):
    one = Mirror(address)
    (one.local / "a").write_text("whole")
    one.push()
    store = fsspec.filesystem("memory")
    index = json.loads(store.cat_file("/bucket/runs/a/INDEX.json"))
    index["files"][name.replace("/x", f"{tmp_path}/x") if name[:1] == "/" else name] = index["files"]["a"]
    store.pipe_file("/bucket/runs/a/INDEX.json", json.dumps(index).encode())
    machine("two")
    two = Mirror(address)
    with pytest.raises(UserError, match=r"INDEX\.json names a file"):
        two.pull()
    (two.local / "b").write_text("mine")
    with pytest.raises(UserError, match=r"INDEX\.json names a file"):
        two.push()
    found = {path for path in (tmp_path / "two").rglob("*") if path.is_file()}
    assert found == {two.local / "b"} and not (tmp_path / "x").exists()


def test_it_is_sent_while_the_work_goes_on_and_after_an_error(machine, address, monkeypatch):
    monkeypatch.setattr(mirror, "EVERY_SECONDS", 0.05)
    config = load_config(None, [f"run={address}"])
    with pytest.raises(KeyboardInterrupt), mirrored(config) as local:
        early_is_sent(local)
        (Path(local.run) / "late").write_text("2")
        raise KeyboardInterrupt
    assert "late" in json.loads(contents()["/bucket/runs/a/INDEX.json"])["files"]


@pytest.mark.parametrize("why", [Preempted("the system"), KeyboardInterrupt(), UserError("a wrong setting")])
def test_why_the_work_ended_is_not_hidden_by_a_store_that_fails_then(machine, address, monkeypatch, why):
    said = []

    class Listener(type(mirror.SILENT)):
        def message(self, text):
            said.append(text)

    def cut(self, path, data):
        raise ConnectionError("no network")

    with pytest.raises(type(why)) as caught, mirrored(load_config(None, [f"run={address}"]), Listener()) as local:
        (Path(local.run) / "a").write_text("1")
        monkeypatch.setattr(fsspec.get_filesystem_class("memory"), "pipe_file", cut)
        raise why
    assert caught.value is why
    (told,) = said
    assert told.startswith(f"what is new could not be sent to {address}: ") and "no network" in told
    with pytest.raises(UserError, match="no network"), mirrored(load_config(None, [f"run={address}"])):
        pass


def test_what_cannot_be(machine, address):
    with pytest.raises(UserError, match="nowhere://"):
        Mirror("nowhere://bucket/a")
    here = load_config(None, ["run=runs/a"])
    with mirrored(here) as local:
        assert local is here


def test_publish_reads_a_run_at_an_address(machine, address, capsys):
    from rational_jax.cli import app

    one = Mirror(address)
    (one.local / "manifest.json").write_text("{}")
    one.push()
    machine("two")
    assert app.run(["publish", address, "somebody/model", "--dry-run"]) == 2
    assert "export" in capsys.readouterr().err, "what it finds is a run without an export"
    assert (Mirror(address).local / "manifest.json").is_file()


def test_a_verb_takes_an_address(tmp_path):
    """The command itself; what it needs is not there, so it says the same as for a folder."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "RATIONAL_CACHE": str(tmp_path / "cache")}
    command = [sys.executable, "-m", "rational_jax.cli", "evaluate", f"run=file://{tmp_path / 'bucket'}"]
    found = subprocess.run(command, env=environment, capture_output=True, text=True)
    assert found.returncode == 2 and "run `rational sample` first" in found.stderr
    assert "Traceback" not in found.stderr


def as_machines(caches: list[Path], words: list[str]) -> list[tuple[int, str]]:
    """Exit codes and output of processes that run one command together, each with its own cache: a machine's."""
    place = "import os, sys; os.environ['RATIONAL_CACHE'] = sys.argv.pop(1); from rational_jax.cli import main; main()"
    return ended(start([["-c", place, str(cache), *words] for cache in caches]))


@pytest.mark.slow
def test_processes_on_two_machines_generate_and_are_refused_to_train(tmp_path):
    base, suite = save_readable(tmp_path / "tiny"), tmp_path / "prompts.jsonl"
    suite.write_text("".join(json.dumps(p.to_json()) + "\n" for p in read_prompts("micro/sft", 12)))
    data = tmp_path / "data.jsonl"
    data.write_text("".join(json.dumps({"prompt": f"How {n}?", "answer": "Yes."}) + "\n" for n in range(32)))
    bucket = f"file://{tmp_path / 'bucket'}"
    settings = [f"model.name={base}", "engine={slots: 4, max_length: 128}"]
    settings += ["curate.max_new_tokens=64", "sample.max_new_tokens=16"]
    sampled = f"sample={{models: [base], suites: ['{suite}'], temperature: 0.9}}"

    alone = as_machines([tmp_path / "zero"], ["sample", f"run={tmp_path / 'run'}", sampled, *settings])
    assert [code for code, _ in alone] == [0], alone
    machines = [tmp_path / "one", tmp_path / "two"]
    found = as_machines(machines, ["sample", f"run={bucket}", sampled, *settings])
    assert [code for code, _ in found] == [0, 0], found
    assert "2 processes generate" in found[0][1]
    index = json.loads((tmp_path / "bucket" / "INDEX.json").read_text())
    (piece,) = index["files"]["sample/base/answers.jsonl"]["pieces"]
    expected = (tmp_path / "run/sample/base/answers.jsonl").read_bytes()
    assert (tmp_path / "bucket" / "contents" / piece).read_bytes() == expected

    # Checkpoints, to which every process adds its part, need a folder that both see: one machine, or a mounted bucket.
    trained = (
        f"train={{data: {data}, arms: [refusal], method: full, steps: 2, warmup_steps: 0, batch_size: 4, "
        "sequence_length: 64}"
    )
    words = ["train", f"run={bucket}", trained, "mesh={fsdp: 2}", "sample.models=[base]", *settings]
    for code, text in as_machines(machines, words):
        assert code == 2 and "process 1 is on another machine than process 0" in text
    found = as_machines([tmp_path / "three"] * 2, words)
    assert [code for code, _ in found] == [0, 0], found
    index = json.loads((tmp_path / "bucket" / "INDEX.json").read_text())
    parts = [name for name in index["files"] if "/checkpoints/2/state/" in name]
    assert {part for name in parts for part in (0, 1) if f"ocdbt.process_{part}" in name} == {0, 1}
    assert "sample/base/answers.jsonl" in index["files"], "what was there before stays"

    # Another machine, with one process, reads what they left.
    words = ["export", f"run={bucket}", trained, "sample.models=[base]", "export.verify=self", *settings]
    ((code, text),) = as_machines([tmp_path / "four"], words)
    assert code == 0, text


@pytest.mark.slow
def test_training_goes_on_on_another_machine(tmp_path):
    """Half of the steps on one, the rest on another: the checkpoint is that of a run in one folder, to the byte."""

    def rational(verb: str, run: str, cache: str, *words: str, code: int = 0) -> str:
        environment = os.environ | {"PYTHONPATH": str(ROOT), "RATIONAL_CACHE": str(tmp_path / cache)}
        arms = ["train.arms=[rational]", "sample.models=[base, rational]"]
        command = [sys.executable, "-m", "rational_jax.cli", verb, str(ROOT / "configs" / "ci.yaml"), f"run={run}"]
        found = subprocess.run([*command, *arms, *words], env=environment, capture_output=True, text=True)
        assert found.returncode == code, found.stderr
        return found.stdout + found.stderr

    bucket, folder = f"file://{tmp_path / 'bucket'}", str(tmp_path / "folder")
    for run, cache in ((folder, "zero"), (bucket, "one")):
        rational("curate", run, cache)
    rational("train", folder, "zero")
    rational("train", bucket, "one", "train.keep_checkpoints=9")
    # As if the first machine had been lost after it sent the checkpoint of step 4.
    file = tmp_path / "bucket" / "INDEX.json"
    index = json.loads(file.read_text())
    lost = [name for name in index["files"] if "/checkpoints/8/" in name or "/checkpoints/12/" in name]
    assert lost and any("/checkpoints/4/" in name for name in index["files"])
    manifest = (
        tmp_path / "one/runs" / hashlib.sha256(bucket.encode()).hexdigest()[:16] / "bucket/train/rational/manifest.json"
    )
    running = json.loads(manifest.read_text())
    running = {key: running[key] for key in ("verb", "settings", "inputs", "versions", "created")} | {
        "status": "running"
    }
    data = json.dumps(running).encode()
    digest = hashlib.sha256(data).hexdigest()
    (tmp_path / "bucket" / "contents" / digest).write_bytes(data)
    entry = {"bytes": len(data), "sha256": digest, "pieces": [digest]}
    index["files"] = {n: e for n, e in index["files"].items() if n not in lost} | {
        "train/rational/manifest.json": entry
    }
    file.write_text(json.dumps(index))
    assert "continues from step 4" in rational("train", bucket, "two", "train.keep_checkpoints=9")

    for run, cache in ((folder, "zero"), (bucket, "two")):
        rational("export", run, cache, "export.verify=self")
    there = tmp_path / "two" / "runs" / hashlib.sha256(bucket.encode()).hexdigest()[:16] / "bucket"
    adapters = [root / "export/rational/adapter/adapter_model.safetensors" for root in (Path(folder), there)]
    assert sha256_file(adapters[0]) == sha256_file(adapters[1])


def test_runs_in_buckets_are_compared_under_their_own_names(machine, address, tmp_path, monkeypatch, capsys):
    other = address.replace("bucket", "another")
    for run in (address, other):
        with mirrored(load_config(None, [f"run={run}"])) as local:
            Stage.open(Path(local.run) / "evaluate", verb="evaluate", settings={}, inputs={})
            (Path(local.run) / "whose").write_text(run)
    machine("two")
    seen = []

    def compare(folders, out, config, progress):
        seen.extend((said, folder.name, (folder / "whose").read_text()) for folder, said in folders.items())
        return out

    monkeypatch.setattr("rational_jax.evaluate.report.compare", compare)
    command = ["report", address, other, "report.title=of both"]
    assert app.run(command) == 2
    assert "--out is needed" in capsys.readouterr().err
    assert app.run([*command, "--out", str(tmp_path / "out")]) == 0
    assert seen == [(address, "a", address), (other, "a", other)]
    assert app.run(["report", address + "x", "--out", str(tmp_path / "out")]) == 2
    assert f"{address}x: there is no run" in capsys.readouterr().err
