"""Runs on object stores: `run=gs://bucket/folder` works in a local copy, and the bucket is kept in step with it.

An object store has neither append nor rename, so nothing there is ever changed. Contents lie under their SHA-256 in
`contents/`; a log that has grown gets one more piece. `INDEX.json` says which pieces make up which file, and one PUT of
it is the commit: who reads sees a run as it was at some moment, wherever a writer was killed. Manifests are read before
all else, so a finished one never stands for files that are missing.

One machine writes a run at a time. Another one that takes over gets what was committed last.
"""

from __future__ import annotations

import hashlib
import json
import os
import secrets
import shutil
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path, PurePosixPath
from typing import Any, BinaryIO

from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import alone, atomic_write_json, atomic_write_text, sha256_file, sha256_json
from rational_jax.stores import broken, cache_folder, first_line, is_remote, open_store, trouble

INDEX, CONTENTS = "INDEX.json", "contents"
EVERY_SECONDS = 60.0
"""How often what is new is sent while a verb works."""
_STATE, _LEAD = ".mirror.json", ".lead"
_MANIFEST = "manifest.json"
# What a writer replaces or removes itself; Orbax names a step that it is still writing so.
_UNFINISHED = (".partial", ".old", ".tmp")
_ORBAX_UNFINISHED = "orbax-checkpoint-tmp"
_TRIES = 3
_ABANDONED_SECONDS = 24 * 3600.0
"""Pieces that were never committed and are older belong to nobody; younger ones may be on their way into a commit."""
_BLOCK = 4 * 2**20
# An index where there is none. Its id tells it from another one of the same version, as where the run was deleted and
# begun again; those of earlier releases have none.
_NOTHING = {"version": 0, "id": None, "files": {}}


@contextmanager
def mirrored(
    config: RunConfig, progress: Progress = SILENT, *, processes: int = 1, all_write: bool = False
) -> Iterator[RunConfig]:
    """The configuration with a local folder as its run, which ends up at `config.run` if that is an address.

    What is there is fetched first. While the block runs, and when it ends, however that is, what is new is sent. Of
    several `processes`, all of which call this, the lead alone sends; the others read its folder, or a copy of their
    own. Where `all_write` (checkpoints, to which each adds its part) they have to see the lead's.

    Raises UserError for an unknown store, one that fails, and where processes that write do not see one folder. An
    exception of the block stays what it is where the sending fails as well, which is then told.
    """
    if not is_remote(config.run):
        yield config
        return
    mirror = Mirror(config.run)

    def begin() -> str:
        if fetched := mirror.pull():
            progress.message(f"{fetched} files fetched from {config.run}")
        mirror.push()  # what a copy that is ahead has, the others shall find too
        token = secrets.token_hex(8)
        atomic_write_text(mirror.local / _LEAD, token)
        return token

    local = config.model_copy(update={"run": str(mirror.local)})
    if processes == 1:
        begin()
    elif not _joined(mirror, begin, all_write):
        yield local
        return
    stop = threading.Event()

    def keep_sending() -> None:
        failed = False
        while not stop.wait(EVERY_SECONDS):
            try:
                mirror.push()
            except (UserError, OSError) as error:
                # Tried again in a minute, and at the end for good.
                if not failed:
                    progress.message(f"nothing could be sent to {config.run}, it is tried again and again: {error}")
                failed = True

    sender = threading.Thread(target=keep_sending, daemon=True)
    sender.start()
    whole = False
    try:
        yield local
        whole = True
    finally:
        stop.set()
        sender.join()
        try:
            mirror.push()
        except (UserError, OSError) as error:
            if whole:
                raise
            # Why the work ended, such as with the machine being taken, is more than that this failed too.
            progress.message(f"what is new could not be sent to {config.run}: {error}")


def _joined(mirror: Mirror, begin: Callable[[], str], all_write: bool) -> bool:
    """Whether this is the lead, once every process has the run's folder before it; `begin` gives the lead's token."""
    from rational_jax.parallel.processes import agreed, dissenters, is_lead  # imports JAX, which other verbs do without

    token = agreed(begin)
    mark = mirror.local / _LEAD
    here = mark.is_file() and mark.read_text() == token
    apart = dissenters(sha256_json(here))
    if apart and all_write:
        raise UserError(
            f"run={mirror.address}: process {', '.join(map(str, apart))} is on another machine than process 0, and "
            "checkpoints need a folder that all of them see; mount the bucket (tpu/prepare.sh does) and set run to it"
        )
    if not here:
        with alone(mirror.local):  # several may be on one machine
            Mirror(mirror.address).pull()
    return is_lead()


class Mirror:
    """One run at an address of fsspec, and its local copy under `$RATIONAL_CACHE` (default `~/.cache/rational_jax`).

    `copies` is the folder of local copies there: who only reads has one of its own, apart from what a verb writes.
    """

    def __init__(self, address: str, copies: str = "runs"):
        self._store, self._root = open_store(address)
        self.address = address
        # Called as it is there, since pages and tables name a run by its folder.
        name = self._root.rpartition("/")[2]
        self.local = cache_folder() / copies / hashlib.sha256(address.encode()).hexdigest()[:16] / name
        self.local.mkdir(parents=True, exist_ok=True)
        # The version that the local copy is of, its files there, and their size and time here when they were sent.
        self._state: dict[str, Any] = _NOTHING | {"seen": {}}
        if (self.local / _STATE).is_file():
            self._state |= json.loads((self.local / _STATE).read_bytes())
        self._swept = False

    def pull(self) -> int:
        """Makes the local copy what the store has, if another machine went on there; the number of files fetched.

        A copy that is ahead of the store, because the sending failed, stays. Nothing changes at the store. Raises
        UserError for damage there, and where it has lost what this copy is of.
        """
        index = self._index()
        if index["version"] < self._state["version"]:
            raise UserError(
                f"{self.address} has gone back to version {index['version']}, and {self.local} is of version "
                f"{self._state['version']}: delete {self.local / _STATE} to send that copy there again, or the folder "
                "to go on with what is there"
            )
        if self._is_of(index):
            return 0
        known, fetched = self._state["files"], 0
        self._state |= {"version": 0, "id": None}  # until all is here, it is a copy of nothing
        self._save()
        for file in self._files():
            if file not in index["files"]:
                (self.local / file).unlink()
        for name, entry in index["files"].items():
            path = self.local / name
            if path.is_file() and known.get(name) == entry and self._state["seen"].get(name) == _seen(path):
                continue
            self._fetch(entry, path)
            self._state["seen"][name] = _seen(path)
            fetched += 1
        self._state |= index
        self._save()
        return fetched

    def push(self) -> None:
        """Sends what is new and commits it. Raises UserError where another machine went on meanwhile."""
        for last in (*[False] * (_TRIES - 1), True):
            try:
                files = {name: self._send(name) for name in self._files()}
                break
            except FileNotFoundError:  # an old checkpoint was removed in between
                if last:
                    raise
        if files == self._state["files"]:
            return
        there = self._index()
        if not self._is_of(there):
            raise UserError(f"{self.address} was changed by another machine meanwhile; let only one work on a run")
        # Whatever became of a piece since it was sent, a commit names none that is not there.
        stored = self._stored()
        files |= {name: self._send(name, again=True) for name in files if not stored.issuperset(files[name]["pieces"])}
        index = {"version": there["version"] + 1, "id": secrets.token_hex(8), "files": files}
        with self._telling():
            self._store.pipe_file(f"{self._root}/{INDEX}", json.dumps(index, indent=1).encode())
        gone = _contents(there) - _contents(index)
        self._state |= index
        self._save()
        with self._telling():
            for name in gone & stored:
                self._store.rm_file(self._object(name))
            if not self._swept:
                self._sweep(stored - gone)

    def _files(self) -> list[str]:
        """What is to be kept, manifests first."""
        names = []
        for folder, folders, files in os.walk(self.local):
            folders[:] = [name for name in folders if not _is_unfinished(name)]
            inside = Path(folder).relative_to(self.local)
            names += [(inside / name).as_posix() for name in files if not _is_unfinished(name)]
        return sorted(names, key=lambda name: (not name.endswith(f"/{_MANIFEST}"), name))

    def _send(self, name: str, again: bool = False) -> dict[str, Any]:
        """The entry of a file, with all its pieces at the store; `again` sends the whole of it."""
        path, before = self.local / name, None if again else self._state["files"].get(name)
        seen = _seen(path)
        if before and self._state["seen"].get(name) == seen:
            return before
        whole, pieces, start = hashlib.sha256(), [], 0
        with path.open("rb") as file:
            if before and _feed(whole, file, before["bytes"]) and whole.hexdigest() == before["sha256"]:
                # A log has grown: what is there stays, and the rest is one more piece.
                pieces, start = list(before["pieces"]), before["bytes"]
            else:
                whole = hashlib.sha256()
                file.seek(0)
            piece, size = hashlib.sha256(), start
            while block := file.read(_BLOCK):
                whole.update(block)
                piece.update(block)
                size += len(block)
            if size > start:
                self._put(file, start, size - start, piece.hexdigest())
                pieces.append(piece.hexdigest())
        self._state["seen"][name] = seen
        return {"bytes": size, "sha256": whole.hexdigest(), "pieces": pieces}

    def _put(self, file: BinaryIO, start: int, size: int, digest: str) -> None:
        target = self._object(digest)
        with self._telling():
            if self._store.exists(target) and self._store.size(target) == size:
                return
            file.seek(start)
            # It appears when it is closed, and so as a whole.
            with self._store.open(target, "wb") as piece:
                while size and (block := file.read(min(size, _BLOCK))):
                    piece.write(block)
                    size -= len(block)

    def _fetch(self, entry: dict[str, Any], path: Path) -> None:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.tmp")
        with temporary.open("wb") as file, self._telling():
            for piece in entry["pieces"]:
                with self._store.open(self._object(piece), "rb") as source:
                    shutil.copyfileobj(source, file, _BLOCK)
        if sha256_file(temporary) != entry["sha256"]:
            raise UserError(f"{self.address} is damaged: {path.name} is not what its index says")
        os.replace(temporary, path)

    def _stored(self) -> set[str]:
        """The pieces that are at the store."""
        folder = f"{self._root}/{CONTENTS}"
        with self._telling():
            self._store.invalidate_cache()
            names = self._store.ls(folder, detail=False) if self._store.exists(folder) else []
        return {name.rpartition("/")[2] for name in names}

    def _sweep(self, stored: set[str]) -> None:
        """Removes the pieces that a killed writer left without committing them."""
        self._swept = True
        for name in stored - _contents(self._state):
            age = datetime.now(UTC) - self._store.modified(self._object(name))
            if age.total_seconds() > _ABANDONED_SECONDS:
                self._store.rm_file(self._object(name))

    @contextmanager
    def _telling(self) -> Iterator[None]:
        """Makes one line of what the store says."""
        try:
            yield
        except FileNotFoundError as error:
            lost = (
                f"{self.address}: {first_line(error)} is gone; if it was replaced just now, run the same command again"
            )
            raise UserError(lost) from error
        except broken() as error:
            raise trouble(
                f"{self.address}: the store fails ({first_line(error)}); run the same command again", error
            ) from error

    def _index(self) -> dict[str, Any]:
        # What fsspec remembers of a listing is older than what another machine wrote.
        self._store.invalidate_cache()
        with self._telling():
            try:
                index = _NOTHING | json.loads(self._store.cat_file(f"{self._root}/{INDEX}"))
            except FileNotFoundError:
                return dict(_NOTHING)
        # Whoever may write there must not choose what is written here, beside the copy or over its own records.
        for name in index["files"]:
            path = PurePosixPath(name)
            if path.is_absolute() or not path.parts or any(part == ".." or _is_unfinished(part) for part in path.parts):
                raise UserError(
                    f"{self.address}/{INDEX} names a file {name!r}, which no run has; use another run, or remove that "
                    "name there if you trust who wrote it"
                )
        return index

    def _is_of(self, index: dict[str, Any]) -> bool:
        """Whether the local copy is of this index."""
        return all(self._state[key] == index[key] for key in ("version", "id"))

    def _object(self, digest: str) -> str:
        return f"{self._root}/{CONTENTS}/{digest}"

    def _save(self) -> None:
        atomic_write_json(self.local / _STATE, self._state)


def _is_unfinished(name: str) -> bool:
    return name.startswith(".") or name.endswith(_UNFINISHED) or _ORBAX_UNFINISHED in name


def _contents(index: dict[str, Any]) -> set[str]:
    return {piece for entry in index["files"].values() for piece in entry["pieces"]}


def _seen(path: Path) -> list[int]:
    found = path.stat()
    return [found.st_size, found.st_mtime_ns, found.st_ino]


def _feed(digest: Any, file: BinaryIO, size: int) -> bool:
    """Whether a file had `size` bytes to read into a digest."""
    while size and (block := file.read(min(size, _BLOCK))):
        digest.update(block)
        size -= len(block)
    return size == 0
