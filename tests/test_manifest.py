import json
import subprocess
import sys
from pathlib import Path

import pytest

from rational_jax.errors import UserError
from rational_jax.manifest import Stage, read_stage, versions

SETTINGS = {"train": {"learning_rate": 0.001, "steps": 120, "targets": ("q", "k")}, "model": {"revision": None}}
INPUTS = {"curate": "aa" * 32, "base": {"name": "micro", "files": {"model.safetensors": "bb" * 32}}}
OUTPUTS = {"answers.jsonl": "cc" * 32}


def begin(directory, settings=SETTINGS, inputs=INPUTS, verb="train"):
    return Stage.open(directory, verb=verb, settings=settings, inputs=inputs)


def finished(directory, **changes):
    stage = begin(directory, **changes)
    (directory / "answers.jsonl").write_text("{}\n")
    stage.finish(OUTPUTS, {"rows": 1})
    return stage


def changed(**train):
    return SETTINGS | {"train": SETTINGS["train"] | train}


def test_a_stage_is_begun_continued_and_finished(tmp_path):
    directory = tmp_path / "train" / "rational"
    stage = begin(directory)
    assert not stage.complete
    with pytest.raises(UserError, match="not finished"):
        _ = stage.digest
    with pytest.raises(UserError, match="not finished: run `rational train` again"):
        read_stage(directory, verb="train")
    assert not begin(directory).complete, "a tuple in the settings must equal the list that JSON made of it"
    digest = finished(directory).digest
    again = begin(directory)
    assert again.complete and again.digest == digest
    manifest = read_stage(directory, verb="train")
    assert manifest["digest"] == digest
    assert manifest["figures"] == {"rows": 1}
    assert manifest["versions"]["rational_jax"]


def test_the_digest_follows_settings_inputs_and_outputs_and_nothing_else(tmp_path):
    digest = finished(tmp_path / "a").digest
    stage = begin(tmp_path / "b")
    manifest = json.loads((tmp_path / "b" / "manifest.json").read_text())
    (tmp_path / "b" / "manifest.json").write_text(json.dumps(manifest | {"created": "1970", "versions": {}}))
    (tmp_path / "b" / "answers.jsonl").touch()
    stage = begin(tmp_path / "b")
    stage.finish(OUTPUTS, {"rows": 2})
    assert stage.digest == digest
    assert finished(tmp_path / "c", settings=changed(steps=121)).digest != digest
    assert finished(tmp_path / "d", inputs={"curate": "x"}).digest != digest
    other = begin(tmp_path / "e")
    other.finish({}, {"rows": 1})
    assert other.digest != digest


def test_other_settings_are_refused_by_name(tmp_path):
    begin(tmp_path / "x")
    with pytest.raises(UserError) as refusal:
        begin(tmp_path / "x", settings=changed(learning_rate=0.002, extra=1))
    message = str(refusal.value)
    assert "train.learning_rate: 0.001 -> 0.002" in message
    assert "train.extra: (absent) -> 1" in message
    assert "steps" not in message
    assert "another run=" in message and str(tmp_path / "x") in message
    with pytest.raises(UserError, match=r"model.revision: null -> main"):
        begin(tmp_path / "x", settings=SETTINGS | {"model": {"revision": "main"}})
    with pytest.raises(UserError, match=r"model.revision: null -> \(absent\)"):
        begin(tmp_path / "x", settings={"train": SETTINGS["train"]})


def test_other_inputs_are_refused_by_name_and_digests_are_shortened(tmp_path):
    begin(tmp_path / "x")
    other = INPUTS | {"base": {"name": "micro", "files": {"model.safetensors": "dd" * 32}}}
    with pytest.raises(UserError, match=r"from other inputs: input base.files.model.safetensors: b{12}…b{4} -> d{12}…"):
        begin(tmp_path / "x", inputs=other)


def test_many_differences_are_counted(tmp_path):
    begin(tmp_path / "x", settings={f"k{i}": 0 for i in range(9)})
    with pytest.raises(UserError, match=r"k0: 0 -> 1, .*k4: 0 -> 1 and 4 more;"):
        begin(tmp_path / "x", settings={f"k{i}": 1 for i in range(9)})


def test_a_refusal_changes_nothing(tmp_path):
    finished(tmp_path / "x")
    before = (tmp_path / "x" / "manifest.json").read_bytes()
    with pytest.raises(UserError):
        begin(tmp_path / "x", settings={})
    assert (tmp_path / "x" / "manifest.json").read_bytes() == before


def test_a_folder_of_another_verb(tmp_path):
    begin(tmp_path / "x", verb="sample")
    with pytest.raises(UserError, match=r"made by `rational sample`, not by `rational train`"):
        begin(tmp_path / "x")


def test_files_of_unknown_origin_are_not_written_among(tmp_path):
    (tmp_path / "thesis.tex").write_text("years of work")
    with pytest.raises(UserError, match=r"holds 'thesis.tex' but no manifest.json"):
        begin(tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["thesis.tex"]


def test_a_file_where_the_folder_should_be(tmp_path):
    (tmp_path / "x").write_text("a file")
    with pytest.raises(UserError, match="is a file where a folder is needed"):
        begin(tmp_path / "x")
    with pytest.raises(UserError, match="is a file where a folder is needed"):
        begin(tmp_path / "x" / "train" / "rational")


def test_a_folder_that_cannot_be_written(tmp_path):
    with pytest.raises(UserError, match=r"^/proc/rational/train cannot be written: "):
        begin(Path("/proc/rational/train"))  # refuses even the superuser, whom permission bits do not stop


@pytest.mark.parametrize("content", [b"", b'{"verb": "train", "sta', b"\xff\xfe", b"[]", b"null", b'{"verb": "train"}'])
def test_a_damaged_manifest(tmp_path, content):
    begin(tmp_path / "x")
    (tmp_path / "x" / "manifest.json").write_bytes(content)
    for use in (lambda: begin(tmp_path / "x"), lambda: read_stage(tmp_path / "x", verb="train")):
        with pytest.raises(UserError, match=r"manifest.json is (damaged|no manifest)"):
            use()


def test_a_missing_stage_says_what_to_run(tmp_path):
    with pytest.raises(UserError, match=r"run `rational curate` first"):
        read_stage(tmp_path / "curate", verb="curate")


def test_an_output_that_was_deleted_is_missed(tmp_path):
    finished(tmp_path / "x")
    (tmp_path / "x" / "answers.jsonl").unlink()
    with pytest.raises(UserError, match=r"answers.jsonl is gone"):
        begin(tmp_path / "x")
    with pytest.raises(UserError, match=r"answers.jsonl is gone"):
        read_stage(tmp_path / "x", verb="train")


def test_two_processes_do_not_work_in_one_folder(tmp_path):
    directory = tmp_path / "x"
    code = (
        "import sys\nfrom rational_jax.manifest import Stage\n"
        f"Stage.open({str(directory)!r}, verb='train', settings={{}}, inputs={{}})\n"
        "print('open', flush=True)\nsys.stdin.read()\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as other:
        assert other.stdout.readline() == b"open\n"
        with pytest.raises(UserError, match="another process is at work"):
            begin(directory, {}, {})
        other.kill()
    stage = begin(directory, {}, {})  # a killed process takes its lock along
    begin(directory, {}, {})  # and within one process there is no conflict
    stage.finish({}, {})


def test_versions_need_no_heavy_import():
    code = "import sys, rational_jax.manifest as m; print(m.versions()['jax'], 'jax' in sys.modules)"
    printed = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.split()
    assert printed == [versions()["jax"], "False"]
