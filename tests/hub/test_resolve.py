"""Names of models: directories, Hub ids, and what cannot be found; no network is used."""

import errno
import hashlib
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import pytest
from huggingface_hub import errors

from rational_jax import hub
from rational_jax.errors import Unreachable, UserError


def test_a_directory_is_taken_as_it_is(tmp_path):
    assert hub.resolve(str(tmp_path)) == tmp_path
    with pytest.raises(UserError, match="has no revision"):
        hub.resolve(str(tmp_path), "main")


def test_a_path_that_is_not_there():
    for name in ("./nowhere", "/a/b/c", "a/b/c", "~/models"):
        with pytest.raises(UserError, match="no such directory"):
            hub.resolve(name)


def test_only_safe_files_are_asked_for(monkeypatch, tmp_path):
    asked = {}
    (tmp_path / "model.safetensors").write_bytes(b"weights")

    def download(name, **options):
        asked.update(options, name=name)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    assert hub.resolve("someone/model", "v1") == tmp_path
    assert (asked["name"], asked["revision"]) == ("someone/model", "v1")
    files = ["model.safetensors", "a.bin", "a.pt", "a.py", "a.pkl", "tokenizer.json", "chat_template.jinja"]
    kept = [f for f in files if any(Path(f).match(pattern) for pattern in asked["allow_patterns"])]
    assert kept == ["model.safetensors", "tokenizer.json", "chat_template.jinja"]


# What the library's errors look at in the response of whichever HTTP client it uses.
RESPONSE = SimpleNamespace(headers={}, status_code=404, request=None)


@pytest.mark.parametrize(
    ("error", "message"),
    [
        (errors.RepositoryNotFoundError("no", response=RESPONSE), "neither a directory here nor"),
        (errors.GatedRepoError("no", response=RESPONSE), "accept its terms"),
        (errors.RevisionNotFoundError("no", response=RESPONSE), "no revision 'v1'"),
        (errors.LocalEntryNotFoundError("offline"), "cannot be reached"),
        (errors.HfHubHTTPError("server trouble\nand details", response=RESPONSE), "server trouble"),
    ],
)
def test_errors_of_the_hub_become_one_line(monkeypatch, error, message):
    def download(*args, **kwargs):
        raise error

    monkeypatch.setattr(huggingface_hub, "snapshot_download", download)
    with pytest.raises(UserError) as caught:
        hub.resolve("someone/model", "v1")
    assert message in str(caught.value) and "someone/model" in str(caught.value)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (errors.HTTPError("peer closed connection\nand details"), "peer closed connection"),
        (errors.HTTPError(""), "HTTPError"),
        (ConnectionResetError(errno.ECONNRESET, "reset by peer"), "reset by peer"),
        (OSError("Consistency check failed: file should be of size 3"), "Consistency check failed"),
        (RuntimeError("Data processing error: CAS service error"), "CAS service error"),
    ],
)
def test_a_connection_that_breaks_is_one_line_that_says_to_go_on(monkeypatch, error, said):
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: raise_(error))
    message = rf"someone/model.* broke off \(.*{said}.*\); the same command goes on"
    with pytest.raises(UserError, match=message) as caught:
        hub.resolve("someone/model", "v1")
    assert "\n" not in str(caught.value)
    # What nobody can tell from a full disk is not tried again by a launcher.
    assert isinstance(caught.value, Unreachable) is not isinstance(error, RuntimeError)


def test_what_the_file_system_says_of_a_download_is_told_as_it_is(monkeypatch):
    full = OSError(errno.ENOSPC, "No space left on device")
    monkeypatch.setattr(huggingface_hub, "snapshot_download", lambda *_, **__: raise_(full))
    with pytest.raises(OSError, match="No space left on device") as caught:
        hub.resolve("someone/model", "v1")
    assert caught.value is full


def raise_(error):
    raise error


def test_identity_is_the_content(tmp_path):
    for place in ("a", "b"):
        (tmp_path / place).mkdir()
        (tmp_path / place / "config.json").write_text("{}")
        (tmp_path / place / "model.safetensors").write_bytes(b"weights")
    (tmp_path / "b" / "README.md").write_text("no part of the model")
    first, second = hub.identity(tmp_path / "a"), hub.identity(tmp_path / "b")
    assert first["files"] == second["files"] and first["revision"] is None
    assert first["files"]["model.safetensors"] == hashlib.sha256(b"weights").hexdigest()
    (tmp_path / "b" / "model.safetensors").write_bytes(b"Weights")
    assert hub.identity(tmp_path / "b")["files"] != first["files"]


def test_identity_of_a_download_has_its_commit(tmp_path):
    """The layout of the Hub's cache: files are links to blobs that are named by their hash."""
    blob = tmp_path / "models--someone--model" / "blobs" / hashlib.sha256(b"weights").hexdigest()
    snapshot = tmp_path / "models--someone--model" / "snapshots" / "0123abcd"
    blob.parent.mkdir(parents=True)
    snapshot.mkdir(parents=True)
    blob.write_bytes(b"weights")
    (snapshot / "model.safetensors").symlink_to(blob)
    found = hub.identity(snapshot)
    assert (found["name"], found["revision"]) == ("someone/model", "0123abcd")
    assert found["files"] == {"model.safetensors": blob.name}


def test_a_tokenizer_that_is_not_there(tmp_path):
    assert not hub.has_tokenizer(tmp_path)
    with pytest.raises(UserError, match="has no tokenizer"):
        hub.load_tokenizer(tmp_path)
    (tmp_path / "tokenizer.json").write_text("{")
    with pytest.raises(UserError, match="cannot be loaded"):
        hub.load_tokenizer(tmp_path)
