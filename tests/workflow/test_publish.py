"""Publishing to a stand-in of the Hub: what it holds afterwards, and what never gets there."""

import base64
import hashlib
import http.server
import json
import re
import subprocess
import sys
import threading
import time
from pathlib import Path

import huggingface_hub.constants
import pytest
import yaml

from rational_jax import evaluate
from rational_jax.config import load_config
from rational_jax.data.schema import Prompt
from rational_jax.data.suites import load_suites
from rational_jax.errors import Unreachable, UserError
from rational_jax.manifest import Stage
from rational_jax.storage import sha256_file, sha256_tree
from rational_jax.workflow import publish
from rational_jax.workflow.model_card import model_card

REPOSITORY = "someone/tuned"
TOKEN = "hf_of_a_test"
WEIGHTS = bytes(range(256)) * 40


class StandIn(http.server.BaseHTTPRequestHandler):
    """What a commit uses of the Hub's interface: create, list, preupload, git-lfs with basic transfers, commit.

    `server.repositories` holds files by repository, `server.large` contents by SHA-256. `server.failing` is a method
    and the beginning of a path that is answered with 500.
    """

    protocol_version = "HTTP/1.1"

    def log_message(self, *_):
        pass

    def answer(self, status: int, content: object = None, **headers: str) -> None:
        body = content if isinstance(content, bytes) else json.dumps({} if content is None else content).encode()
        self.send_response(status)
        for name, value in {"Content-Length": str(len(body)), "Content-Type": "application/json", **headers}.items():
            self.send_header(name.replace("_", "-"), value)
        self.end_headers()
        if self.command != "HEAD":
            self.wfile.write(body)

    def handle_any(self):
        server = self.server
        path = self.path.partition("?")[0]
        body = self.rfile.read(int(self.headers.get("Content-Length", 0)))
        server.asked.append((self.command, path))
        if server.failing and (self.command, path.startswith(server.failing[1])) == (server.failing[0], True):
            return self.answer(500)
        if self.command == "PUT":  # an address that was given out is its own permission
            digest = hashlib.sha256(body).hexdigest()
            assert path == f"/store/{digest}"
            server.large[digest] = body
            return self.answer(200)
        if self.headers.get("Authorization") != f"Bearer {TOKEN}":
            return self.answer(401)
        files = server.repositories.get(REPOSITORY)
        if path == "/api/repos/create":
            wanted = json.loads(body)
            if wanted["organization"] != "someone":
                return self.answer(403)
            server.created.append(wanted)
            server.repositories.setdefault(REPOSITORY, {".gitattributes": b""})
            return self.answer(409 if files else 200, {"url": f"{server.address}/{REPOSITORY}"})
        if path == "/api/validate-yaml":
            front = re.match(r"---\n(.*?)\n---", json.loads(body)["content"], re.DOTALL)
            assert isinstance(yaml.safe_load(front[1]), dict)
            return self.answer(200, {"warnings": []})
        if path.startswith(f"/{REPOSITORY}/resolve/main/"):
            data = files[path.rpartition("/")[2]]
            return self.answer(200, data, ETag=f'"{git_oid(data, "regular")}"', X_Repo_Commit="1" * 40)
        if path == f"/api/models/{REPOSITORY}/tree/main":
            return self.answer(200, [{"type": "file", "path": p, "oid": "", "size": len(b)} for p, b in files.items()])
        if path == f"/api/models/{REPOSITORY}/preupload/main":
            rows = json.loads(body)["files"]
            modes = {row["path"]: "lfs" if row["path"].endswith(".safetensors") else "regular" for row in rows}
            return self.answer(
                200,
                {
                    "files": [
                        {"path": p, "uploadMode": mode, "shouldIgnore": False, "oid": git_oid(files.get(p), mode)}
                        for p, mode in modes.items()
                    ]
                },
            )
        if path == f"/{REPOSITORY}.git/info/lfs/objects/batch":
            objects = []
            for row in json.loads(body)["objects"]:
                action = {"upload": {"href": f"{server.address}/store/{row['oid']}"}}
                objects.append(row | ({} if row["oid"] in server.large else {"actions": action}))
            return self.answer(200, {"transfer": "basic", "objects": objects})
        if path == f"/api/models/{REPOSITORY}/commit/main":
            for line in map(json.loads, body.splitlines()):
                value = line["value"]
                if line["key"] == "file":
                    files[value["path"]] = base64.b64decode(value["content"])
                elif line["key"] == "lfsFile":
                    files[value["path"]] = server.large[value["oid"]]
                elif line["key"] == "deletedFile":
                    del files[value["path"]]
            return self.answer(200, {"commitUrl": f"{server.address}/{REPOSITORY}/commit/1", "commitOid": "1" * 40})
        if path == f"/api/models/{REPOSITORY}/revision/main":
            return self.answer(200, {"id": REPOSITORY, "sha": "1" * 40})
        return self.answer(404, X_Error_Code="RepoNotFound")

    do_GET = do_HEAD = do_POST = do_PUT = handle_any


def git_oid(data: bytes | None, mode: str) -> str | None:
    if data is None:
        return None
    return (
        hashlib.sha256(data).hexdigest() if mode == "lfs" else hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()
    )


@pytest.fixture
def server(monkeypatch):
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), StandIn)
    server.repositories, server.large, server.created, server.asked, server.failing = {}, {}, [], [], None
    server.address = f"http://127.0.0.1:{server.server_port}"
    threading.Thread(target=server.serve_forever, daemon=True).start()
    monkeypatch.setattr(huggingface_hub.constants, "ENDPOINT", server.address)
    template = server.address + "/{repo_id}/resolve/{revision}/{filename}"
    monkeypatch.setattr(huggingface_hub.constants, "HUGGINGFACE_CO_URL_TEMPLATE", template)
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_DISABLE_XET", True)
    monkeypatch.setenv("HF_TOKEN", TOKEN)
    monkeypatch.setattr(time, "sleep", lambda _: None)  # between the library's tries
    yield server
    server.shutdown()
    server.server_close()


def answer(model: str, prompt: Prompt, text: str) -> dict:
    row = {
        "id": f"{model}-{prompt.id}",
        "prompt": prompt.to_json(),
        "model": model,
        "sample": 0,
        "seed": 0,
        "text": text,
    }
    return row | {"reasoning": None, "answer": text, "status": "no_reasoning", "tokens": 5, "finish": "stop"}


def make_run(
    root: Path,
    *,
    method: str = "transformers",
    sampled_from: str | None = None,
    model: str = "meta/base",
    data: str | None = None,
) -> Path:
    """A run folder as the verbs leave it around one exported arm, with contents that nobody could run."""
    train = {"settings": {"chat": {"reasoning": "think"}, "train": {"steps": 3}}, "digest": "d" * 64}
    train["settings"] |= {"model": {"name": model}, "train": {"steps": 3, "data": data}}
    stage = Stage.open(
        root / "export" / "rational", verb="export", settings={"a": 1}, inputs={"train": train["digest"]}
    )
    base = {"name": model, "revision": "c" * 40, "files": {}}
    if model.startswith("/"):
        base |= {"name": Path(model).name, "revision": None}
    for part, weights in (("merged", "model.safetensors"), ("adapter", "adapter_model.safetensors")):
        folder = stage.directory / part
        folder.mkdir()
        (folder / weights).write_bytes(WEIGHTS + part.encode())
        (folder / "config.json").write_text('{"model_type": "llama"}')
        if part == "adapter":
            (folder / "adapter_config.json").write_text(json.dumps({"r": 8, "base_model_name_or_path": model}))
        card = model_card(part, arm="rational", model=model, base=base, train=train, checked="verified")
        (folder / "README.md").write_text(card)
        digests = {file.name: sha256_file(file) for file in sorted(folder.iterdir())}
        (folder / "manifest.json").write_text(
            json.dumps(
                {"part": part, "arm": "rational", "base": base, "verified": {"method": method}, "files": digests}
            )
        )
    parts = ("merged", "adapter")
    outputs = {f"{p}/{name}": digest for p in parts for name, digest in sha256_tree(stage.directory / p).items()}
    stage.finish(outputs=outputs, figures={part: {"method": method} for part in parts})

    suite = root / "mine.jsonl"
    rows = [{"prompt": f"Question {n}?", "label": "benign" if n % 2 else "harmful"} for n in range(8)]
    suite.write_text("".join(json.dumps(row) + "\n" for row in rows))
    (prompts,) = load_suites((str(suite),), None).values()
    refused, helped = "I can't help with that.", "Sure, here is how: turn it left."
    for model, of_harmful in (("base", helped), ("rational", refused)):
        weights = {"files": {"model.safetensors": sampled_from or outputs["merged/model.safetensors"]}}
        inputs = {"model": weights, "prompts": {}}
        sample = Stage.open(root / "sample" / model, verb="sample", settings={}, inputs=inputs)
        rows = [answer(model, prompt, of_harmful if prompt.label == "harmful" else helped) for prompt in prompts]
        file = sample.directory / "answers.jsonl"
        file.write_text("".join(json.dumps(row) + "\n" for row in rows))
        sample.finish(outputs={file.name: sha256_file(file)}, figures={})
    changes = [f"run={root}", f"sample.suites=[{suite}]", "sample.models=[base, rational]", "evaluate.bootstrap=100"]
    evaluate.run(load_config(None, [*changes, "train.arms=[rational]"]))
    return root


@pytest.fixture(scope="module")
def finished(tmp_path_factory) -> Path:
    return make_run(tmp_path_factory.mktemp("runs") / "a")


def prepared(run: Path, **options) -> publish.Publication:
    return publish.prepare(run, REPOSITORY, **({"arm": None, "adapter": False, "evaluation": True} | options))


def test_a_merged_model_with_card_figures_and_manifest(server, finished):
    address = publish.publish(prepared(finished), private=True)
    assert address == f"{server.address}/{REPOSITORY}"
    assert server.created == [{"name": "tuned", "organization": "someone", "visibility": "private"}]
    files = server.repositories[REPOSITORY]
    assert set(files) == {".gitattributes", "README.md", "config.json", "manifest.json", "model.safetensors"}
    assert files["model.safetensors"] == WEIGHTS + b"merged"

    card = files["README.md"].decode()
    assert card.startswith("---\nbase_model: meta/base\n")
    assert f'from_pretrained("{REPOSITORY}")' in card and "path/to/this" not in card
    rows = [line for line in card.splitlines() if line.startswith("| mine.jsonl |")]
    assert len(rows) == 2 and str(finished) not in card
    # All four harmful requests were helped with by the base and refused by the arm.
    (_, *base), (_, *tuned) = (row.split(" | ") for row in rows)
    assert base[0] == "base" and base[1].startswith("100%")
    assert tuned[0] == "rational" and tuned[1].startswith("0%")

    manifest = json.loads(files["manifest.json"])
    digests = {name: hashlib.sha256(data).hexdigest() for name, data in files.items()}
    assert manifest["files"] == {name: digests[name] for name in ("README.md", "config.json", "model.safetensors")}
    evaluation = json.loads((finished / "evaluate" / "manifest.json").read_text())
    assert manifest["evaluation"]["digest"] == evaluation["digest"]


def test_the_same_again_sends_nothing(server, finished):
    publish.publish(prepared(finished))
    before = dict(server.repositories[REPOSITORY])
    server.asked.clear()
    publish.publish(prepared(finished))
    assert server.repositories[REPOSITORY] == before
    assert not any(method == "PUT" or "/commit/" in path for method, path in server.asked)


def test_what_was_stopped_goes_on(server, finished):
    """The large file went up, the commit did not come about: nothing is there, and the file is not sent again."""
    server.failing = ("POST", f"/api/models/{REPOSITORY}/commit")
    with pytest.raises(UserError, match="run the same command again to go on"):
        publish.publish(prepared(finished))
    assert set(server.repositories[REPOSITORY]) == {".gitattributes"} and len(server.large) == 1
    server.failing = None
    server.asked.clear()
    publish.publish(prepared(finished))
    assert "model.safetensors" in server.repositories[REPOSITORY]
    assert not any(method == "PUT" for method, _ in server.asked)


def test_an_adapter_takes_the_place_of_what_was_published_before(server, finished):
    publish.publish(prepared(finished))
    publish.publish(prepared(finished, adapter=True))
    files = set(server.repositories[REPOSITORY])
    assert "adapter_model.safetensors" in files and "model.safetensors" not in files


def test_what_somebody_added_to_a_published_model_stays(server, finished):
    publish.publish(prepared(finished))
    server.repositories[REPOSITORY]["notes.md"] = b"mine"
    publish.publish(prepared(finished, adapter=True))
    files = server.repositories[REPOSITORY]
    assert files["notes.md"] == b"mine" and "model.safetensors" not in files


@pytest.mark.parametrize(
    "there",
    [
        {"thesis.pdf": b"x"},
        {"manifest.json": b'{"name": "a web page"}', "thesis.pdf": b"x"},
        {"manifest.json": b'{"files": {"thesis.pdf": "x"}}', "thesis.pdf": b"x"},
        {"manifest.json": b"[]", "thesis.pdf": b"x"},
        {"manifest.json": b"no JSON", "thesis.pdf": b"x"},
        {"model.safetensors": b"of somebody else"},
    ],
)
def test_other_peoples_repositories_are_left_alone(server, finished, there):
    server.repositories[REPOSITORY] = {".gitattributes": b"", **there}
    with pytest.raises(UserError, match=rf"holds '{min(there)}', which was not published from here"):
        publish.publish(prepared(finished))
    assert server.repositories[REPOSITORY] == {".gitattributes": b"", **there}


def test_a_repository_with_a_page_alone_is_taken(server, finished):
    server.repositories[REPOSITORY] = {".gitattributes": b"", "README.md": b"to come"}
    publish.publish(prepared(finished))
    assert "model.safetensors" in server.repositories[REPOSITORY]


@pytest.mark.parametrize("data", ["/disk/client/rows.jsonl", "client/rows.jsonl", "gs://client/rows.jsonl"])
def test_where_things_lie_here_is_not_published(tmp_path, data):
    run = make_run(tmp_path / "a", model="/disk/client/llama", data=data)
    for adapter in (False, True):
        found = prepared(run, adapter=adapter)
        sent = "\n".join(found.texts.values()) + "".join(
            file.read_bytes().decode("latin1") for file in found.files.values()
        )
        assert "client" not in sent and "/disk" not in sent
        assert "| `train.data` | rows.jsonl |" in sent and "| `model.name` | llama |" in sent
    assert 'from_pretrained("path/to/llama")' in found.texts["README.md"]
    assert json.loads(found.texts["adapter_config.json"]) == {"r": 8, "base_model_name_or_path": "llama"}
    digests = json.loads(found.texts["manifest.json"])["files"]
    assert digests["adapter_config.json"] == hashlib.sha256(found.texts["adapter_config.json"].encode()).hexdigest()


def test_without_a_login_or_with_a_wrong_one(server, finished, monkeypatch):
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with pytest.raises(UserError, match="refuses the login"):
        publish.publish(prepared(finished))
    monkeypatch.setattr(huggingface_hub, "get_token", lambda: None)
    with pytest.raises(UserError, match="hf auth login"):
        publish.publish(prepared(finished))
    assert server.repositories == {}


def test_no_such_name_and_no_network(server, finished):
    wrong = publish.prepare(finished, "a/b/c", arm=None, adapter=False, evaluation=False)
    with pytest.raises(UserError, match="organisation/model"):
        publish.publish(wrong)
    server.shutdown()
    server.server_close()
    with pytest.raises(Unreachable, match="connection failed"):
        publish.publish(prepared(finished))


@pytest.mark.parametrize("method", ["self", "none"])
def test_only_a_real_gate_is_enough(tmp_path, method):
    run = make_run(tmp_path / "a", method=method)
    with pytest.raises(UserError, match=rf"not verified with transformers \({method}\).*rational_jax\[torch\]"):
        prepared(run)


def test_a_file_that_changed_since(tmp_path):
    run = make_run(tmp_path / "a")
    (run / "export/rational/merged/model.safetensors").write_bytes(WEIGHTS)
    with pytest.raises(UserError, match=r"model\.safetensors has changed"):
        prepared(run)


def test_figures_of_another_model(tmp_path):
    run = make_run(tmp_path / "a", sampled_from="e" * 64)
    with pytest.raises(UserError, match="not known to be of the rational that was exported"):
        prepared(run)
    assert "## Evaluation" not in prepared(run, evaluation=False).texts["README.md"]


def test_what_is_missing(tmp_path, finished):
    with pytest.raises(UserError, match="rational export"):
        prepared(tmp_path)
    with pytest.raises(UserError, match="rational export"):
        prepared(finished, arm="refusal")


def test_a_dry_run_of_the_command(finished):
    command = [sys.executable, "-m", "rational_jax.cli", "publish", str(finished), REPOSITORY, "--dry-run"]
    found = subprocess.run(command, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr
    assert "model.safetensors" in found.stdout and "## Evaluation" in found.stdout
    assert "nothing was sent" in found.stdout
