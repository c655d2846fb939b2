"""Folders that are filled over several lives of a writer, uploads without renaming, and digests that are remembered."""

import contextlib
import json
import os
import threading
from concurrent.futures import ThreadPoolExecutor

import fsspec
import pytest

from rational_jax import storage
from rational_jax.errors import Unreachable, UserError
from rational_jax.storage import KeptFiles, remembered_sha256, sha256_file
from rational_jax.stores import COMMITTED, upload


def written(folder: KeptFiles, name: str, text: str) -> None:
    (folder.begin() / name).write_text(text)


def test_whole_files_are_found_again_and_others_are_not(tmp_path):
    first = KeptFiles(tmp_path / "model", "a")
    written(first, "1", "one")
    first.add("1", sha256_file(first.partial / "1"))
    written(first, "2", "tw")  # killed here
    again = KeptFiles(tmp_path / "model", "a")
    assert again.files == {"1": sha256_file(again.partial / "1")} and not again.published
    assert [file.name for file in again.partial.iterdir()] == ["1"]
    written(again, "2", "two")
    again.publish({"error": 0.5})
    assert {file.name: file.read_text() for file in (tmp_path / "model").iterdir()} == {"1": "one", "2": "two"}
    # The next life knows what was published, and its figures.
    later = KeptFiles(tmp_path / "model", "a")
    assert later.published and later.figures == {"error": 0.5}
    assert later.files == {name: sha256_file(tmp_path / "model" / name) for name in "12"}
    later.forget()
    assert [path.name for path in tmp_path.iterdir()] == ["model"]
    assert KeptFiles(tmp_path / "model", "a").files == later.files


@pytest.mark.parametrize("change", ["made from something else", "shorter", "gone", "record damaged"])
def test_nothing_is_kept_that_is_not_what_the_record_says(tmp_path, change):
    first = KeptFiles(tmp_path / "model", "a")
    written(first, "1", "one")
    first.add("1", sha256_file(first.partial / "1"))
    if change == "shorter":
        (first.partial / "1").write_text("on")
    if change == "gone":
        (first.partial / "1").unlink()
    if change == "record damaged":
        (tmp_path / ".model.json").write_text("{")
    again = KeptFiles(tmp_path / "model", "b" if change == "made from something else" else "a")
    assert again.files == {} and list(again.partial.iterdir()) == []


def test_what_is_discarded_is_gone(tmp_path):
    folder = KeptFiles(tmp_path / "model", "a")
    folder.discard()
    written(folder, "1", "one")
    folder.add("1", sha256_file(folder.partial / "1"))
    folder.discard()
    assert list(tmp_path.iterdir()) == []


@pytest.fixture
def store():
    """fsspec's memory, as an object store: no renaming, no appending, objects are whole or absent."""
    memory = fsspec.filesystem("memory")
    memory.store.clear()
    yield memory
    memory.store.clear()


def objects(store) -> dict[str, bytes]:
    return {name.removeprefix("/bucket/"): store.cat_file(name) for name in store.find("/bucket")}


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "merged").mkdir()
    for number in (1, 2, 3):
        (tmp_path / "merged" / f"{number}.safetensors").write_text(f"shard {number}")
    return tmp_path


def digests(folder) -> dict[str, str]:
    return storage.sha256_tree(folder)


def test_upload_commits_last_and_goes_on_where_it_was_stopped(folder, store, monkeypatch):
    put, put_names = type(store).put_file, []

    def dying(self, source, name, **options):
        if len(put_names) == 2:
            raise ConnectionError("stopped")
        put_names.append(name.rpartition("/")[2])
        return put(self, source, name, **options)

    monkeypatch.setattr(type(store), "put_file", dying)
    with pytest.raises(Unreachable, match="bucket/model cannot be written: stopped"):
        upload(folder, "memory://bucket/model", digests(folder))
    assert put_names == ["1.safetensors", "2.safetensors"]
    assert "model/COMMITTED.json" not in objects(store)
    monkeypatch.setattr(type(store), "put_file", lambda self, a, b, **o: put_names.append(b[-13:]) or put(self, a, b))
    upload(folder, "memory://bucket/model", digests(folder))
    assert put_names[2:] == ["3.safetensors"]
    found = objects(store)
    assert json.loads(found.pop(f"model/{COMMITTED}")) == digests(folder)
    assert found == {f"model/merged/{n}.safetensors": f"shard {n}".encode() for n in (1, 2, 3)}
    upload(folder, "memory://bucket/model", digests(folder))
    assert put_names[3:] == []


def test_another_upload_in_the_same_place_never_mixes(folder, store, monkeypatch):
    upload(folder, "memory://bucket/model", digests(folder))
    (folder / "merged" / "2.safetensors").write_text("SHARD 2")
    (folder / "merged" / "3.safetensors").unlink()
    put = type(store).put_file

    def looking(self, source, name, **options):
        assert not self.exists(f"/bucket/model/{COMMITTED}")
        return put(self, source, name, **options)

    monkeypatch.setattr(type(store), "put_file", looking)
    upload(folder, "memory://bucket/model", digests(folder))
    found = objects(store)
    assert json.loads(found.pop(f"model/{COMMITTED}")) == digests(folder)
    assert found == {"model/merged/1.safetensors": b"shard 1", "model/merged/2.safetensors": b"SHARD 2"}


def test_two_stopped_uploads_in_the_same_place_never_mix(folder, store, monkeypatch):
    """Of two folders that differ in a file: the second is stopped after it replaced it, then the first goes on."""
    first = digests(folder)
    put, put_names = type(store).put_file, []

    def dying(self, source, name, **options):
        if put_names.count("2.safetensors") == 2:
            raise ConnectionError("stopped")
        put_names.append(name.rpartition("/")[2])
        put(self, source, name, **options)
        if put_names.count("2.safetensors") == 2 or put_names[-1] == "3.safetensors":
            raise ConnectionError("stopped")

    monkeypatch.setattr(type(store), "put_file", dying)
    with pytest.raises(Unreachable, match="bucket/model cannot be written: stopped"):
        upload(folder, "memory://bucket/model", first)
    (folder / "merged" / "2.safetensors").write_text("SHARD 2")
    with pytest.raises(Unreachable, match="bucket/model cannot be written: stopped"):
        upload(folder, "memory://bucket/model", digests(folder))
    (folder / "merged" / "2.safetensors").write_text("shard 2")
    monkeypatch.setattr(type(store), "put_file", put)
    upload(folder, "memory://bucket/model", first)
    assert objects(store)["model/merged/2.safetensors"] == b"shard 2"


@pytest.mark.parametrize("error", [PermissionError("Access denied\nby the store"), OSError("Forbidden: model\nno")])
def test_an_upload_that_is_refused_is_said_in_one_line(folder, store, monkeypatch, error):
    def refusing(self, *_, **options):
        raise error

    monkeypatch.setattr(type(store), "put_file", refusing)
    with pytest.raises(UserError, match=r"^memory://bucket/model cannot be written: .*[dl]$") as caught:
        upload(folder, "memory://bucket/model", digests(folder))
    assert not isinstance(caught.value, Unreachable)


def test_an_unknown_store_is_named(folder):
    with pytest.raises(UserError, match="nowhere://bucket"):
        upload(folder, "nowhere://bucket/model", digests(folder))


def test_large_files_are_read_once(tmp_path, monkeypatch):
    monkeypatch.setenv("RATIONAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_REMEMBERED_BYTES", 3)
    file, read = tmp_path / "weights", []
    monkeypatch.setattr(storage, "sha256_file", lambda path: read.append(path) or sha256_file(path))
    file.write_bytes(b"weights")
    assert remembered_sha256(file) == remembered_sha256(file) == sha256_file(file)
    assert len(read) == 2, "written a moment ago, it could still change unseen"
    os.utime(file, (1e9, 1e9))
    assert remembered_sha256(file) == remembered_sha256(file) == sha256_file(file)
    assert len(read) == 3
    file.write_bytes(b"Weights")
    os.utime(file, (1e9 + 1, 1e9 + 1))
    assert remembered_sha256(file) == sha256_file(file) and len(read) == 4
    (tmp_path / "cache" / "digests.json").write_text("{")
    assert remembered_sha256(file) == sha256_file(file) and len(read) == 5


def test_processes_that_read_large_files_at_once_do_not_meet(tmp_path, monkeypatch):
    """Two of them, each on its way into the file of digests when the other one is; threads stand in for them."""
    monkeypatch.setenv("RATIONAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(storage, "_REMEMBERED_BYTES", 3)
    files = [tmp_path / name for name in ("one", "two")]
    for file in files:
        file.write_text(file.name * 2)
        os.utime(file, (1e9, 1e9))
    both, replace = threading.Barrier(2), os.replace

    def meeting(source, target):
        with contextlib.suppress(threading.BrokenBarrierError):  # where only one can be here
            both.wait(timeout=0.1)
        replace(source, target)

    monkeypatch.setattr(storage.os, "replace", meeting)
    with ThreadPoolExecutor(2) as pool:
        found = list(pool.map(remembered_sha256, files))
    assert found == [sha256_file(file) for file in files]
    assert json.loads((tmp_path / "cache" / "digests.json").read_bytes()).keys() == {str(file) for file in files}
