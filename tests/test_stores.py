"""What lies elsewhere is fetched in ranges: which of them are asked for, and what a connection that breaks costs."""

import errno
import socket
import ssl

import fsspec
import httpx2
import numpy as np
import pytest
from range_server import Shelf, shelved

from rational_jax import hub, stores
from rational_jax.data import read_prompts, read_rationales
from rational_jax.errors import Unreachable, UserError
from rational_jax.stores import local_copy, trouble

BLOCK = 2**18
DATA = np.random.default_rng(0).bytes(3 * BLOCK + 1000)
BLOCKS = [(0, BLOCK), (BLOCK, 2 * BLOCK), (2 * BLOCK, 3 * BLOCK), (3 * BLOCK, len(DATA))]


@pytest.fixture(autouse=True)
def elsewhere(tmp_path, monkeypatch):
    monkeypatch.setenv("RATIONAL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(stores, "RANGE_BYTES", BLOCK)


@pytest.fixture
def shelf():
    pytest.importorskip("aiohttp", reason="fsspec reads HTTP with aiohttp")
    with shelved(data=DATA) as found:
        yield found


def test_a_file_is_read_once_range_by_range(shelf: Shelf):
    assert local_copy(f"{shelf.address}/data").read_bytes() == DATA
    assert shelf.ranges_of("/data") == BLOCKS
    assert local_copy(f"{shelf.address}/data").read_bytes() == DATA
    assert shelf.ranges_of("/data") == BLOCKS, "what is here is not asked for again"
    shelf.files["/data"] = DATA[::-1]
    assert local_copy(f"{shelf.address}/data").read_bytes() == DATA[::-1]


def test_what_a_link_asks_for_is_no_part_of_the_name(shelf: Shelf):
    shelf.files["/answers.csv?download=true"] = DATA
    found = local_copy(f"{shelf.address}/answers.csv?download=true")
    assert (found.name, found.read_bytes()) == ("answers.csv", DATA)


def test_a_range_that_was_cut_is_asked_for_again_and_no_other(shelf: Shelf):
    shelf.cuts = 2
    assert local_copy(f"{shelf.address}/data").read_bytes() == DATA
    assert shelf.ranges_of("/data") == [BLOCKS[0]] * 2 + BLOCKS


def test_a_connection_that_breaks_again_and_again_is_said_and_the_next_start_goes_on(shelf: Shelf):
    breaking = iter((0, 0, 99))
    fetched = []

    def count(size):
        fetched.append(size)
        shelf.cuts = next(breaking, 99)

    store, root = stores.open_store(f"{shelf.address}/data")
    part = stores.cache_folder() / "part"
    part.parent.mkdir(parents=True)
    with pytest.raises(Unreachable, match=f"the connection broke .* goes on after {3 * BLOCK:,} bytes"):
        stores._fetch(store, root, len(DATA), part, count)
    assert fetched == [BLOCK] * 3 and part.read_bytes() == DATA[: 3 * BLOCK]
    assert len(shelf.asked) == 3 + stores._TRIES
    shelf.cuts, shelf.asked = 0, []
    stores._fetch(store, root, len(DATA), part, count)
    assert shelf.ranges_of("/data") == BLOCKS[3:] and part.read_bytes() == DATA


@pytest.mark.parametrize("lengths", [True, False])
def test_a_server_without_ranges_sends_the_whole(shelf: Shelf, lengths):
    shelf.ranges, shelf.lengths = False, lengths
    assert local_copy(f"{shelf.address}/data").read_bytes() == DATA
    assert shelf.ranges_of("/data")[-1] == (None, None) and len(shelf.asked) <= 3


def test_a_server_that_loses_its_ranges_half_way(shelf: Shelf):
    store, root = stores.open_store(f"{shelf.address}/data")
    part = stores.cache_folder() / "part"
    part.parent.mkdir(parents=True)
    stores._fetch(store, root, len(DATA), part, lambda size: setattr(shelf, "ranges", False))
    assert part.read_bytes() == DATA


def test_what_changes_meanwhile_is_refused(shelf: Shelf, monkeypatch):
    fetch = stores._fetch

    def changing(*arguments):
        fetch(*arguments)
        shelf.files["/data"] = DATA[1:]

    monkeypatch.setattr(stores, "_fetch", changing)
    with pytest.raises(UserError, match="was changed while it was read"):
        local_copy(f"{shelf.address}/data")


def test_what_is_not_there(shelf: Shelf):
    with pytest.raises(UserError, match="no such file or folder"):
        local_copy(f"{shelf.address}/nothing")
    for folder in (f"{shelf.address}/nothing/", "memory://bucket/nothing"):
        with pytest.raises(UserError, match="nothing to read"):
            local_copy(folder)
    with pytest.raises(UserError, match="nowhere://"):
        local_copy("nowhere://bucket/data")
    with pytest.raises(UserError, match="or nobody answers there") as caught:
        local_copy("http://127.0.0.1:1/data")
    assert not isinstance(caught.value, Unreachable), "that address is wrong as likely as not"


@pytest.mark.parametrize(("status", "kind"), [(429, Unreachable), (503, Unreachable), (403, UserError)])
def test_a_server_that_is_overloaded_is_told_from_one_that_refuses(shelf: Shelf, status, kind):
    shelf.refuses = status
    for fetch in (lambda: local_copy(f"{shelf.address}/data"), lambda: local_copy(f"{shelf.address}/")):
        with pytest.raises(UserError) as caught:
            fetch()
        assert type(caught.value) is kind, caught.value


class StoreError(Exception):
    """Like gcsfs.retry.HttpError, whose code is a number or a text."""

    def __init__(self, code):
        super().__init__(f"status {code}")
        self.code = code


def raised_from(error: Exception, cause: Exception) -> Exception:
    error.__cause__ = cause
    return error


def replied(status: int) -> Exception:
    """Like botocore.exceptions.ClientError."""
    error = Exception(f"status {status}")
    error.response = {"ResponseMetadata": {"HTTPStatusCode": status}}
    return error


@pytest.mark.parametrize(
    "error",
    [
        ConnectionResetError("reset"),
        TimeoutError("too slow"),
        socket.gaierror("name server"),
        StoreError(500),
        StoreError("503"),
        raised_from(OSError(errno.EBUSY, "slow down"), replied(503)),  # what s3fs makes of it
    ],
)
def test_what_passes_by_itself(error):
    assert type(trouble("said", error)) is Unreachable


@pytest.mark.parametrize(
    "error",
    [
        FileNotFoundError("gone"),
        PermissionError("refused"),
        OSError("Forbidden: what gcsfs makes of 403"),
        OSError(errno.ENOSPC, "the disk is full"),
        ssl.SSLCertVerificationError("a wrong certificate"),
        httpx2.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] certificate verify failed"),
        raised_from(httpx2.ConnectError("failed"), ssl.SSLCertVerificationError("a wrong certificate")),
        httpx2.UnsupportedProtocol("ftp://"),
        ConnectionError("Couldn't reach 'a/b' on the Hub (OfflineModeIsEnabled)"),
        StoreError(401),
        raised_from(PermissionError("refused"), replied(403)),
    ],
)
def test_what_somebody_has_to_mend(error):
    assert type(trouble("said", error)) is UserError


def test_a_model_is_read_from_an_address():
    """Its weights range by range, and of the other files those that a model consists of: never a pickle."""
    pytest.importorskip("aiohttp", reason="fsspec reads HTTP with aiohttp")
    micro = hub.resolve("micro")
    files = {f"models__mine__{file.name}": file.read_bytes() for file in micro.iterdir() if file.is_file()}
    files |= {"models__mine__pytorch_model.bin": b"pickle", "models__mine__old__config.json": b"{}"}
    with shelved(**files) as shelf:
        found = hub.resolve(f"{shelf.address}/models/mine")
        asked = {path for path, *_ in shelf.asked}
        size = (micro / "model.safetensors").stat().st_size
        ends = [*range(BLOCK, size, BLOCK), size]
        assert shelf.ranges_of("/models/mine/model.safetensors") == list(zip([0, *ends[:-1]], ends, strict=True))
        assert "/models/mine/config.json" in asked and not any("bin" in path or "old" in path for path in asked)
        ours, theirs = hub.identity(found), hub.identity(micro)
        assert ours["files"] == theirs["files"] and ours["name"] == "mine"
        with pytest.raises(UserError, match="has no revision"):
            hub.resolve(f"{shelf.address}/models/mine", "main")


def test_prompts_are_read_from_an_address(shelf: Shelf):
    lines = b'{"id": "a", "prompt": "How do I open a door?", "label": "benign"}\n'
    shelf.files["/lists/prompts.jsonl"] = lines
    (prompt,) = read_prompts(f"{shelf.address}/lists/prompts.jsonl")
    assert prompt.text == "How do I open a door?"
    shelf.files["/lists/prompts.jsonl"] = b"{\n"
    with pytest.raises(UserError, match=r"prompts.jsonl:1: not valid JSON"):
        read_prompts(f"{shelf.address}/lists/prompts.jsonl")


def test_a_folder_on_a_bucket():
    store = fsspec.filesystem("memory")
    store.store.clear()
    store.pipe({"/bucket/data/a.jsonl": b"1\n", "/bucket/data/deep/b.jsonl": b"2\n"})
    folder = local_copy("memory://bucket/data")
    assert folder.name == "data"
    assert {f.relative_to(folder).as_posix() for f in folder.rglob("*.jsonl")} == {"a.jsonl", "deep/b.jsonl"}
    store.pipe_file("/bucket/answers.jsonl", b'{"prompt": "Hello?", "answer": "Hello."}\n')
    assert [rationale.answer for rationale in read_rationales("memory://bucket/answers.jsonl")] == ["Hello."]
    store.rm("/bucket/data/a.jsonl")
    assert {f.name for f in local_copy("memory://bucket/data").rglob("*.jsonl")} == {"b.jsonl"}
    assert local_copy(folder) == folder, "a path is a path"
