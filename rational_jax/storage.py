"""Files that are whole or absent: atomic writes, logs that survive a kill, and digests of what was written.

All of it is plain local files with one writer at a time; `stores` has those that lie elsewhere. Temporary files have
fixed names beside their target (`.<name>.tmp`, `<name>.partial`), so that what a killed process left is replaced by the
next, and never piles up. Where several processes write in one folder, they do so under its lock (`alone`).
"""

import fcntl
import fnmatch
import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from rational_jax.errors import UserError

_SYNC_SECONDS = 1.0
_REMEMBERED_BYTES = 64 * 1024**2
_SETTLED_SECONDS = 2.0


def atomic_write_bytes(path: str | Path, data: bytes | Iterable[bytes]) -> None:
    """Writes a whole file, from one piece or many, or nothing; a reader never sees half of it. Makes parent folders."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.tmp")
    with temporary.open("wb") as file:
        file.writelines([data] if isinstance(data, bytes) else data)
        file.flush()
        os.fsync(file.fileno())
    os.replace(temporary, path)
    _sync(path.parent)


def atomic_write_text(path: str | Path, text: str) -> None:
    """`atomic_write_bytes` of the text in UTF-8; line ends stay as they are."""
    atomic_write_bytes(path, text.encode("utf-8"))


def atomic_write_json(path: str | Path, obj: Any) -> None:
    """`atomic_write_bytes` of indented JSON. Raises ValueError for NaN and infinities, which JSON has no word for."""
    atomic_write_bytes(path, json_bytes(obj, indent=2) + b"\n")


def write_rows(path: str | Path, rows: Iterable[Any]) -> Path:
    """One object a line; the whole file or nothing. Returns the path."""
    atomic_write_bytes(path, (json_bytes(row) + b"\n" for row in rows))
    return Path(path)


def sha256_file(path: str | Path) -> str:
    """The file's SHA-256 in hexadecimal."""
    with Path(path).open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def sha256_json(obj: Any) -> str:
    """The SHA-256 of an object's canonical JSON: keys sorted, no spaces, UTF-8; tuples count as lists."""
    return hashlib.sha256(json_bytes(obj, sort_keys=True, separators=(",", ":"))).hexdigest()


def sha256_tree(directory: str | Path, ignore: Iterable[str] = ()) -> dict[str, str]:
    """Every file under `directory`, as relative path with `/` -> SHA-256, in sorted order.

    `ignore` holds shell patterns (`*.tmp`, `tensorboard`): a file is left out where one matches its relative path or
    the name of any part of it.
    """
    directory, patterns = Path(directory), tuple(ignore)
    found = {}
    for file in sorted(f for f in directory.rglob("*") if f.is_file()):
        relative = file.relative_to(directory)
        names = (relative.as_posix(), *relative.parts)
        if not any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns for name in names):
            found[relative.as_posix()] = sha256_file(file)
    return found


def read_jsonl(path: str | Path) -> Iterator[dict]:
    """The objects of a JSON-lines file, one at a time; empty lines are skipped, a byte-order mark is allowed.

    Raises UserError "file:line: ..." at the first line that is not one JSON object, and where there is no such file.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such file" if not path.exists() else f"{path} is not a file")
    with path.open("rb") as file:
        for number, line in enumerate(file, start=1):
            line = line.removeprefix(b"\xef\xbb\xbf") if number == 1 else line
            if not line.isspace():
                yield _parse_row(line, path, number)


class JsonlLog:
    """A JSON-lines file that one process appends to and that survives being killed at any moment.

    Opening makes the file where there is none, and repairs the end that a kill or a power cut left: a last line
    without its newline, or which is no JSON, is cut off. A malformed line before the last is damage that nobody can
    repair: UserError "file:line: ...". A context manager; closing flushes.

    `on_record` is for logs that are too long for memory: it gets each record with the offset of its line (bytes), those
    that are there and those that are appended, and `records` has none.
    """

    def __init__(self, path: str | Path, on_record: Callable[[dict, int], None] | None = None):
        self.path = Path(path)
        self._records: list[dict] = []
        self._end = 0
        self._take = on_record or (lambda record, offset: self._records.append(record))
        self.path.parent.mkdir(parents=True, exist_ok=True)
        self._file = self.path.open("a+b")
        try:
            self._read_and_repair()
        except UserError:
            self._file.close()
            raise
        self._synced = time.monotonic()

    def records(self) -> list[dict]:
        """Everything in the log, in the order of its lines, also what was appended since opening."""
        return list(self._records)

    def append(self, record: dict) -> None:
        """Adds one line. It survives a kill of this process at once; a power cut, from the next `flush` on.

        `flush` is called by itself about once a second. Raises ValueError for NaN, infinities and what is not JSON.
        """
        line = json_bytes(record)
        self._file.write(line + b"\n")
        self._file.flush()
        self._take(json.loads(line), self._end)
        self._end += len(line) + 1
        if time.monotonic() - self._synced > _SYNC_SECONDS:
            self.flush()

    def flush(self) -> None:
        """Returns when all that was appended is on the disk."""
        self._file.flush()
        os.fsync(self._file.fileno())
        self._synced = time.monotonic()

    def close(self) -> None:
        """Flushes and closes; a second call does nothing."""
        if not self._file.closed:
            self.flush()
            self._file.close()

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.close()

    def _read_and_repair(self) -> None:
        self._file.seek(0)
        torn = None
        for number, line in enumerate(self._file, start=1):
            if torn:
                raise torn
            if not line.endswith(b"\n"):
                break
            try:
                record = _parse_row(line, self.path, number)
            except UserError as error:
                torn = error  # cut off if it is the last line, raised if one more follows
                continue
            self._take(record, self._end)
            self._end += len(line)
        self._file.truncate(self._end)


@contextmanager
def atomic_directory(path: str | Path) -> Iterator[Path]:
    """Yields an empty folder `<name>.partial` beside `path`, and puts it in place of `path` when the block succeeds.

    On any exception the partial folder is removed and `path` stays what it was. What a killed process left behind is
    removed first. Between the removal of an old `path` and the renaming a kill can leave no `path`, never half of one.
    """
    path = Path(path)
    partial, old = (path.with_name(f"{path.name}.{suffix}") for suffix in ("partial", "old"))
    for leftover in (partial, old):
        if leftover.exists():
            shutil.rmtree(leftover)
    partial.mkdir(parents=True)
    done = False
    try:
        yield partial
        for item in partial.rglob("*"):
            _sync(item)
        done = True
    finally:
        if not done:
            shutil.rmtree(partial)
    if path.exists():
        path.rename(old)
    partial.rename(path)
    _sync(path.parent)
    if old.exists():
        shutil.rmtree(old)


@contextmanager
def alone(home: Path) -> Iterator[None]:
    """Makes other processes of this machine wait that want to write in the same folder."""
    home.mkdir(parents=True, exist_ok=True)
    with (home / ".lock").open("w") as lock:
        with suppress(OSError):  # a file system without locks, as some network ones are
            fcntl.flock(lock, fcntl.LOCK_EX)
        yield


class KeptFiles:
    """A folder that is filled file by file and appears when it is complete; a writer that was killed finds its files.

    Files are written in `partial`, a folder `<name>.partial` beside `path`. A record beside both, `.<name>.json`, has
    the digest of each file that is whole, and after `publish` the figures too, until `forget`. Opening removes all else
    from `partial`, and everything if the record is of another `made_from`.
    """

    def __init__(self, path: str | Path, made_from: str):
        self.path = Path(path)
        self.partial = self.path.with_name(f"{self.path.name}.partial")
        self._record_file = self.path.with_name(f".{self.path.name}.json")
        self._record: dict[str, Any] = {"made_from": made_from, "files": {}, "figures": {}}
        found = self._read()
        if self.published:
            # Whatever made it, it is complete.
            self._record |= found or {"files": _measured(self.path)}
            return
        if found.get("made_from") == made_from:
            self._record = found
        sizes = {f.name: f.stat().st_size for f in self.partial.iterdir()} if self.partial.is_dir() else {}
        whole = {name: file for name, file in self._record["files"].items() if sizes.get(name) == file["bytes"]}
        self._record |= {"files": whole, "figures": {}}
        for name in sizes.keys() - whole.keys():
            (self.partial / name).unlink()

    @property
    def published(self) -> bool:
        """Whether the folder is complete and in its place."""
        return self.path.is_dir()

    @property
    def files(self) -> dict[str, str]:
        """The SHA-256 of every whole file, by name."""
        return {name: file["sha256"] for name, file in self._record["files"].items()}

    @property
    def figures(self) -> dict[str, Any]:
        """What `publish` was given; nothing where the record did not come along, as with a copy of the run."""
        return self._record["figures"]

    def begin(self) -> Path:
        """The folder to write in, made where there is none."""
        self.partial.mkdir(parents=True, exist_ok=True)
        return self.partial

    def add(self, name: str, sha256: str) -> None:
        """Records a file that has been written; it survives a kill or a power cut from here on."""
        file = self.partial / name
        _sync(file)
        self._record["files"][name] = {"bytes": file.stat().st_size, "sha256": sha256}
        atomic_write_json(self._record_file, self._record)

    def digests(self) -> dict[str, str]:
        """The SHA-256 of every file that is in `partial` now; those that are not in the record are read for it."""
        return {file.name: self.files.get(file.name) or sha256_file(file) for file in sorted(self.partial.iterdir())}

    def publish(self, figures: dict[str, Any]) -> None:
        """Puts the folder in its place, with all files that are in it."""
        for name, digest in self.digests().items():
            self.add(name, digest)
        self._record["figures"] = figures
        atomic_write_json(self._record_file, self._record)
        _sync(self.partial)
        self.partial.rename(self.path)
        _sync(self.path.parent)

    def verified(self, figures: dict[str, Any]) -> None:
        """Gives figures to a published folder that came here without its record."""
        self._record["figures"] = figures
        atomic_write_json(self._record_file, self._record)

    def discard(self) -> None:
        """Removes what there is of a folder that is not complete."""
        if self.partial.exists():
            shutil.rmtree(self.partial)
        self.forget()

    def forget(self) -> None:
        """Removes the record, once somebody else has what is in it."""
        self._record_file.unlink(missing_ok=True)

    def _read(self) -> dict[str, Any]:
        try:
            return json.loads(self._record_file.read_bytes())
        except (FileNotFoundError, ValueError):
            return {}


def remembered_sha256(path: str | Path) -> str:
    """`sha256_file`, but a large file is not read again while its size, time and inode are what they were.

    What is known is kept under `$RATIONAL_CACHE` (default `~/.cache/rational_jax`). A file that was written a moment
    ago is not remembered: it could change once more within the resolution of its time.
    """
    path = Path(path).resolve()
    found = path.stat()
    if found.st_size < _REMEMBERED_BYTES:
        return sha256_file(path)
    cache = Path(os.environ.get("RATIONAL_CACHE", Path.home() / ".cache" / "rational_jax")) / "digests.json"
    key, state = str(path), [found.st_size, found.st_mtime_ns, found.st_ino]
    known = _digests(cache).get(key, {})
    if known.get("state") == state:
        return known["sha256"]
    began = time.time()
    digest = sha256_file(path)
    if began - found.st_mtime > _SETTLED_SECONDS:
        # Read once more, since the processes of a job come here together, each with a file of its own or with the same.
        with alone(cache.parent):
            kept = {name: entry for name, entry in _digests(cache).items() if Path(name).exists()}
            atomic_write_json(cache, kept | {key: {"state": state, "sha256": digest}})
    return digest


def _digests(cache: Path) -> dict[str, dict[str, Any]]:
    try:
        return json.loads(cache.read_bytes())
    except (FileNotFoundError, ValueError):
        return {}


def _measured(directory: Path) -> dict[str, dict[str, Any]]:
    return {
        file.name: {"bytes": file.stat().st_size, "sha256": sha256_file(file)} for file in sorted(directory.iterdir())
    }


def json_bytes(obj: Any, **options: Any) -> bytes:
    """JSON in UTF-8, without a line end; ValueError for NaN and infinities. `options` are those of `json.dumps`."""
    text = json.dumps(obj, ensure_ascii=False, allow_nan=False, **options)
    try:
        return text.encode("utf-8")
    except UnicodeEncodeError:  # half of a surrogate pair; only JSON's escapes can carry it
        return json.dumps(obj, ensure_ascii=True, allow_nan=False, **options).encode("ascii")


def _parse_row(line: bytes, path: Path, number: int) -> dict:
    try:
        row = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError:
        raise UserError(f"{path}:{number}: is not UTF-8 text") from None
    except json.JSONDecodeError as error:
        raise UserError(f"{path}:{number}: is not JSON ({error.msg} at column {error.colno})") from None
    except (ValueError, RecursionError) as error:  # a number of thousands of digits; brackets thousands deep
        raise UserError(f"{path}:{number}: is JSON that cannot be read ({error})") from None
    if not isinstance(row, dict):
        raise UserError(f"{path}:{number}: expected a JSON object in braces, got {type(row).__name__}")
    return row


def _sync(path: Path) -> None:
    """Asks the disk to keep a file, or a folder's entries, through a power cut."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
