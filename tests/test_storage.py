import errno
import os

import pytest

from rational_jax import storage
from rational_jax.errors import UserError
from rational_jax.storage import JsonlLog, alone, atomic_directory, read_jsonl


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path, monkeypatch):
    path = tmp_path / "deep" / "file.txt"
    storage.atomic_write_text(path, "old")

    def full(_):
        raise OSError("no space left")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="no space"):
        storage.atomic_write_text(path, "new")
    monkeypatch.undo()
    assert path.read_text() == "old"
    storage.atomic_write_text(path, "newest")
    assert [p.name for p in path.parent.iterdir()] == ["file.txt"], "the next write clears what the failed one left"


def test_json_refuses_what_json_cannot_say(tmp_path):
    with pytest.raises(ValueError):
        storage.atomic_write_json(tmp_path / "x.json", {"loss": float("nan")})
    assert not (tmp_path / "x.json").exists()


def test_canonical_json_digest():
    digest = storage.sha256_json({"b": (1, 2), "a": "é"})
    assert digest == storage.sha256_json({"a": "é", "b": [1, 2]})
    assert digest != storage.sha256_json({"a": "e", "b": [1, 2]})
    # Published canonical form: the SHA-256 of the bytes {"a":1}.
    assert storage.sha256_json({"a": 1}) == "015abd7f5cc57a2dd94b7590f04ad8084273905ee33ec5cebeae62276a97f862"


def test_tree_digest_names_every_file_and_ignores_by_name_and_path(tmp_path):
    for name in ("a.txt", "sub/b.txt", "sub/events/c.bin", "sub/d.tmp"):
        storage.atomic_write_text(tmp_path / name, name)
    assert list(storage.sha256_tree(tmp_path)) == ["a.txt", "sub/b.txt", "sub/d.tmp", "sub/events/c.bin"]
    assert list(storage.sha256_tree(tmp_path, ignore=("*.tmp", "events"))) == ["a.txt", "sub/b.txt"]
    assert list(storage.sha256_tree(tmp_path, ignore=("sub/b*",)))[1:] == ["sub/d.tmp", "sub/events/c.bin"]
    before = storage.sha256_tree(tmp_path)
    storage.atomic_write_text(tmp_path / "a.txt", "other")
    assert {k for k, v in storage.sha256_tree(tmp_path).items() if v != before[k]} == {"a.txt"}


@pytest.mark.parametrize(
    ("second", "complaint"),
    [
        (b'{"id": 2', "not JSON"),
        (b"[1, 2]", "expected a JSON object"),
        (b'{"id": "\xff"}', "not UTF-8"),
        (b'{"id": ' + b"[" * 100_000, "cannot be read|not JSON"),
        (b'{"id": ' + b"9" * 5000 + b"}", "cannot be read"),
    ],
)
def test_reading_names_file_and_line_of_a_malformed_row(tmp_path, second, complaint):
    path = tmp_path / "prompts.jsonl"
    path.write_bytes(b'{"id": 1}\n' + second + b'\n{"id": 3}\n')
    rows = read_jsonl(path)
    assert next(rows) == {"id": 1}
    with pytest.raises(UserError, match=rf"prompts.jsonl:2: .*({complaint})"):
        next(rows)


def test_reading_allows_empty_lines_a_mark_and_no_last_newline(tmp_path):
    path = tmp_path / "rows.jsonl"
    path.write_bytes(b'\xef\xbb\xbf{"id": 1}\r\n\n  \n{"id": 2}')
    assert list(read_jsonl(path)) == [{"id": 1}, {"id": 2}]


def test_reading_what_is_not_there(tmp_path):
    with pytest.raises(UserError, match=r"nothing.jsonl: no such file"):
        next(read_jsonl(tmp_path / "nothing.jsonl"))
    with pytest.raises(UserError, match="is not a file"):
        next(read_jsonl(tmp_path))


@pytest.mark.parametrize("tail", [b'{"id": 3, "te', b'{"id": 3}', b"\x00" * 40, b'{"id": 3,\n', b"\x00\x00\n"])
def test_a_torn_end_is_cut_off_and_the_log_goes_on(tmp_path, tail):
    path = tmp_path / "log.jsonl"
    whole = b'{"id": 1}\n{"id": 2}\n'
    path.write_bytes(whole + tail)
    with JsonlLog(path) as log:
        assert log.records() == [{"id": 1}, {"id": 2}]
        assert path.read_bytes() == whole
        log.append({"id": 3, "text": "é\u2028"})
        assert log.records()[-1] == {"id": 3, "text": "é\u2028"}
    assert [row["id"] for row in read_jsonl(path)] == [1, 2, 3]


@pytest.mark.parametrize("tail", [b'{"id": 3}\n', b'{"id": 3'])
def test_a_malformed_line_in_the_middle_is_not_repaired(tmp_path, tail):
    path = tmp_path / "log.jsonl"
    damaged = b'{"id": 1}\n{"id": \n' + tail
    path.write_bytes(damaged)
    with pytest.raises(UserError, match=r"log.jsonl:2: is not JSON"):
        JsonlLog(path)
    assert path.read_bytes() == damaged, "what cannot be repaired is left for a person to look at"


def test_an_appended_record_is_in_the_file_at_once(tmp_path):
    log = JsonlLog(tmp_path / "log.jsonl")
    log.append({"id": 1})
    assert list(read_jsonl(log.path)) == [{"id": 1}], "a kill right now must not lose it"
    with pytest.raises(ValueError):
        log.append({"loss": float("inf")})
    log.close()
    log.close()
    assert log.path.read_bytes() == b'{"id": 1}\n', "the refused record must not leave half a line"


def test_half_a_surrogate_pair_survives(tmp_path):
    with JsonlLog(tmp_path / "log.jsonl") as log:
        log.append({"text": "\ud83d"})
    with JsonlLog(tmp_path / "log.jsonl") as log:
        assert log.records() == [{"text": "\ud83d"}]


def test_a_directory_is_whole_or_absent(tmp_path):
    path = tmp_path / "model"
    with pytest.raises(RuntimeError), atomic_directory(path) as partial:
        (partial / "half").write_text("half")
        raise RuntimeError
    assert list(tmp_path.iterdir()) == []

    (tmp_path / "model.partial").mkdir()  # left by a killed process
    (tmp_path / "model.partial" / "stale").write_text("stale")
    with atomic_directory(path) as partial:
        (partial / "sub").mkdir()
        (partial / "sub" / "file").write_text("first")
        assert not path.exists()
    assert storage.sha256_tree(path).keys() == {"sub/file"}

    with pytest.raises(RuntimeError), atomic_directory(path) as partial:
        raise RuntimeError
    assert (path / "sub" / "file").read_text() == "first"
    with atomic_directory(path) as partial:
        (partial / "file").write_text("second")
    assert [p.name for p in tmp_path.iterdir()] == ["model"]
    assert storage.sha256_tree(path).keys() == {"file"}


def test_a_file_system_without_locks_is_no_obstacle(tmp_path, monkeypatch):
    def flock(*_):
        raise OSError(errno.ENOLCK, "no locks available")

    monkeypatch.setattr("fcntl.flock", flock)
    with alone(tmp_path / "run"):
        assert (tmp_path / "run").is_dir()
