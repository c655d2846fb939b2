"""A model by its Hub id, from a stand-in of the Hub on this machine: what is asked for, what is kept, its commit."""

import hashlib
import http.server
import importlib
import json
import threading
import time

import family_cases
import huggingface_hub
import jax
import numpy as np
import pytest

from rational_jax import hub
from rational_jax.errors import Unreachable, UserError

pytest.importorskip("torch")
COMMIT = "0123456789abcdef0123456789abcdef01234567"
REPOSITORY = "someone/tiny-model"


class StandIn(http.server.BaseHTTPRequestHandler):
    """What a download of a snapshot uses of the Hub's interface; `server.files` are those of its only commit."""

    def log_message(self, *_):
        pass

    def answer(self, status: int, body: bytes = b"", **headers: str) -> None:
        self.server.asked.append((self.command, self.path, status))
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)

    def do_GET(self):
        path, _, _ = self.path.partition("?")
        if path in (f"/api/models/{REPOSITORY}/revision/{name}" for name in ("main", "v1", COMMIT)):
            listed = [{"rfilename": name} for name in self.server.files]
            return self.answer(200, json.dumps({"id": REPOSITORY, "sha": COMMIT, "siblings": listed}).encode())
        if path == f"/api/models/{REPOSITORY}/tree/{COMMIT}":
            return self.answer(200, json.dumps([entry(*file) for file in self.server.files.items()]).encode())
        if path.startswith(f"/api/models/{REPOSITORY}/revision/"):
            return self.answer(404, X_Error_Code="RevisionNotFound")
        if path.startswith("/api/models/someone/gated"):
            return self.answer(403, X_Error_Code="GatedRepo")
        name = path.removeprefix(f"/{REPOSITORY}/resolve/{COMMIT}/")
        if name not in self.server.files:
            return self.answer(404, X_Error_Code="RepoNotFound")
        body = self.server.files[name]
        listed = entry(name, body)
        headers = {"X_Repo_Commit": COMMIT, "ETag": f'"{listed["oid"]}"'}
        if "lfs" in listed:
            headers |= {"X_Linked_Etag": f'"{listed["lfs"]["oid"]}"', "X_Linked_Size": str(len(body))}
        return self.answer(200, body, **headers)

    do_HEAD = do_GET


def entry(name: str, body: bytes) -> dict:
    """A file in a listing. Large ones have a SHA-256 too."""
    large = {"lfs": {"oid": hashlib.sha256(body).hexdigest(), "size": len(body), "pointerSize": 130}}
    listed = {"type": "file", "path": name, "oid": hashlib.sha1(body).hexdigest(), "size": len(body)}
    return listed | (large if name.endswith(".safetensors") else {})


@pytest.fixture(scope="module")
def files(tmp_path_factory) -> dict[str, bytes]:
    """A sharded model, and what else lies in repositories."""
    directory = tmp_path_factory.mktemp("repository")
    family_cases.make("llama", "mha, untied", directory, shards="60KB")
    found = {file.name: file.read_bytes() for file in directory.iterdir()}
    others = ("pytorch_model.bin", "modeling_llama.py", "onnx/model.safetensors", "README.md")
    return found | dict.fromkeys(others, b"not to be downloaded") | {"LICENSE.txt": b"the licence"}


@pytest.fixture
def server(files, tmp_path, monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.files, server.asked = files, []
    threading.Thread(target=server.serve_forever, daemon=True).start()
    address = f"http://127.0.0.1:{server.server_port}"
    for name, value in {"ENDPOINT": address, "HF_HUB_CACHE": str(tmp_path / "cache")}.items():
        monkeypatch.setattr(huggingface_hub.constants, name, value)
    monkeypatch.setattr(
        huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", address + "/{repo_id}/resolve/{revision}/{filename}"
    )
    yield server
    server.shutdown()
    server.server_close()


@pytest.mark.parametrize("revision", [None, "v1", COMMIT])
def test_a_snapshot_with_its_commit(server, files, revision):
    directory = hub.resolve(REPOSITORY, revision)
    wanted = {name for name in files if name.endswith((".json", ".safetensors", ".txt")) and "/" not in name}
    assert {file.name: file.read_bytes() for file in directory.iterdir()} == {name: files[name] for name in wanted}
    asked = {path for _, path, _ in server.asked if "/resolve/" in path}
    assert asked == {f"/{REPOSITORY}/resolve/{COMMIT}/{name}" for name in wanted}

    identity = hub.identity(directory)
    assert (identity["name"], identity["revision"]) == (REPOSITORY, COMMIT)
    weights = {name: hashlib.sha256(files[name]).hexdigest() for name in wanted if name.endswith(".safetensors")}
    assert len(weights) > 1 and weights.items() <= identity["files"].items()
    params = hub.load_params(directory, hub.load_config(directory))
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(params))

    server.asked.clear()
    assert hub.resolve(REPOSITORY, revision) == directory
    assert not any("/resolve/" in path for _, path, _ in server.asked), "nothing is downloaded twice"


def test_weights_are_not_read_to_be_known(server, monkeypatch):
    """The Hub names them by their SHA-256."""
    directory = hub.resolve(REPOSITORY)
    read = []
    module = importlib.import_module("rational_jax.hub.resolve")
    monkeypatch.setattr(module, "remembered_sha256", lambda file: read.append(file.name) or "")
    assert set(hub.identity(directory)["files"]) > set(read)
    assert not any(name.endswith(".safetensors") for name in read)


@pytest.mark.parametrize(
    ("name", "revision", "message"),
    [
        (REPOSITORY, "v2", "has no revision 'v2'"),
        ("someone/gated", None, "is gated"),
        ("someone/nothing", None, "neither a directory here nor"),
    ],
)
def test_what_the_hub_refuses_is_one_line(server, name, revision, message):
    with pytest.raises(UserError, match=message) as caught:
        hub.resolve(name, revision)
    assert name in str(caught.value) and "\n" not in str(caught.value)


def test_a_repository_of_pickles_is_refused(server):
    pickled = {name: data for name, data in server.files.items() if "safetensors" not in name}
    server.files = pickled
    with pytest.raises(UserError, match="no safetensors weights on the Hub; pickle"):
        hub.resolve(REPOSITORY)


def test_without_the_network_the_cache_is_enough(server, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the library's tries
    directory = hub.resolve(REPOSITORY, COMMIT)
    server.shutdown()
    server.server_close()
    assert hub.resolve(REPOSITORY, COMMIT) == directory
    with pytest.raises(Unreachable, match="the Hub cannot be reached"):
        hub.resolve("someone/other", COMMIT)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    with pytest.raises(UserError, match="the Hub cannot be reached") as caught:
        hub.resolve("someone/other", COMMIT)
    assert not isinstance(caught.value, Unreachable), "somebody has turned it off"


def test_a_hub_that_is_overloaded(server, monkeypatch):
    monkeypatch.setattr(time, "sleep", lambda _: None)
    monkeypatch.setattr(StandIn, "do_GET", lambda self: self.answer(503))
    monkeypatch.setattr(StandIn, "do_HEAD", StandIn.do_GET)
    with pytest.raises(Unreachable, match="the Hub cannot be reached"):
        hub.resolve(REPOSITORY)
