"""Object stores by their addresses of fsspec ("gs://bucket/folder"): finished folders go there, files come from there.

There is neither append nor rename there: what is sent counts once a marker says so, and what is fetched is read in
ranges, so that a connection which breaks costs a part of a file.
"""

from __future__ import annotations

import asyncio
import fnmatch
import hashlib
import json
import os
import socket
import ssl
import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rational_jax.errors import Unreachable, UserError
from rational_jax.storage import alone, atomic_write_json, json_bytes, sha256_json

if TYPE_CHECKING:
    from fsspec import AbstractFileSystem

COMMITTED = "COMMITTED.json"
"""The object that makes an upload count."""
RANGE_BYTES = 16 * 2**20
"""How much of a file is asked for at once."""

_TRIES = 4
_RECORD = "record.json"
# What is raised below fsspec, for HTTP and gs://, gs:// and s3://.
_ERRORS = (
    ("aiohttp", "ClientError"),
    ("gcsfs.retry", "HttpError"),
    ("google.auth.exceptions", "GoogleAuthError"),
    ("botocore.exceptions", "BotoCoreError"),
    ("botocore.exceptions", "ClientError"),
)
# Of these, what says that a connection did not come about or did not last; and that nobody answered at all.
_CUT = (
    ("aiohttp", "ClientConnectionError"),
    ("aiohttp", "ClientPayloadError"),
    ("requests.exceptions", "ConnectionError"),
    ("requests.exceptions", "Timeout"),
    ("requests.exceptions", "ChunkedEncodingError"),
    ("google.auth.exceptions", "TransportError"),
    ("botocore.exceptions", "ConnectionError"),
    ("botocore.exceptions", "HTTPClientError"),
    ("httpx2", "TransportError"),
)
_NOBODY = (("aiohttp", "ClientConnectorError"),)
# What stays as it is until somebody mends it, in libraries that tell it as a connection that was cut.
_LASTING = ("CERTIFICATE_VERIFY_FAILED", "SSLCertVerificationError", "OfflineModeIsEnabled", "UnsupportedProtocol")
# HTTP's words for "later", besides those from 500 on.
_LATER = (408, 429)
# What stores say of a file that is another one when the file is.
_VERSION = ("size", "etag", "ETag", "md5Hash", "crc32c", "generation", "updated", "mtime", "Last-Modified", "created")


def is_remote(address: str) -> bool:
    """Whether this is an address of an object store and no path."""
    return "://" in address


def cache_folder() -> Path:
    """Where copies of what lies elsewhere are kept: `$RATIONAL_CACHE`, or `~/.cache/rational_jax`."""
    return Path(os.environ.get("RATIONAL_CACHE", Path.home() / ".cache" / "rational_jax"))


def open_store(address: str) -> tuple[AbstractFileSystem, str]:
    """The store of an address, and the place in it. Raises UserError where its package is not installed."""
    import fsspec

    folders = {"auto_mkdir": True} if address.startswith(("file://", "local://")) else {}
    try:
        store, root = fsspec.core.url_to_fs(address.rstrip("/"), **folders)
    except (ImportError, ValueError) as error:
        needed = {"gs": "gcsfs", "s3": "s3fs", "http": "aiohttp", "https": "aiohttp"}.get(address.partition("://")[0])
        raise UserError(f"{address}: {error}" + (f"; pip install {needed}" if needed else "")) from error
    return store, root.rstrip("/")


def local_copy(address: str | Path, wanted: Sequence[str] | None = None) -> Path:
    """The path of what lies at an address, which is fetched first; a path is returned as it is.

    It is a file, or a folder: of one only the files whose names match `wanted` are fetched, and none from folders in
    it; all of them where that is None. Over HTTP an address that ends in "/" is a folder, whose page lists its files.
    A copy stays under `cache_folder` and is compared with what is there now; one that was stopped is continued at the
    byte where it was. Raises UserError where there is nothing, and Unreachable where the connection breaks again and
    again.
    """
    if not is_remote(str(address)):
        return Path(address)
    address = str(address)
    store, root = open_store(address)
    store.invalidate_cache()
    home = cache_folder() / "fetched" / hashlib.sha256(address.rstrip("/").encode()).hexdigest()[:16]
    # What a link asks for behind its path is no part of the name, and would hide how that ends.
    target = home / (root.partition("?")[0] if address.startswith("http") else root).rpartition("/")[2]
    with _told(address):
        # To HTTP anything may be both; it is not asked, since fsspec would begin to read the file for it.
        if not address.endswith("/") and (address.startswith("http") or store.isfile(root)):
            files = {target.name: root}
        else:
            names = {name.removeprefix(root).lstrip("/"): name for name in store.find(f"{root}/")}
            if wanted is not None:
                names = {at: name for at, name in names.items() if "/" not in at and _matches(at, wanted)}
            files = {f"{target.name}/{at}": name for at, name in names.items()}
        infos = {name: store.info(file) for name, file in files.items()}
    if not files:
        raise UserError(f"{address}: there is nothing to read")
    with alone(home):
        _update(store, home, files, infos)
    return target


def upload(directory: str | Path, address: str, digests: Mapping[str, str]) -> None:
    """Copies the files of a finished folder to an object store, where nothing can be renamed and nothing appended to.

    Each file is one object; `COMMITTED.json`, written last, lists them with their SHA-256, and without it what is there
    counts for nothing. `UPLOADED.json` does so until then, so that a copy which was stopped goes on with the files that
    are missing. Raises UserError where the store's package is not installed, and where the store refuses or fails.
    """
    store, root = open_store(address)
    marker, record = f"{root}/{COMMITTED}", f"{root}/UPLOADED.json"
    done: dict[str, str] = {}
    with _told(address, "written"):
        for file in (marker, record):
            if store.exists(file):
                done = json.loads(store.cat_file(file))
                break
        if done == digests and store.exists(marker):
            return
        # First of all, or a mixture of two uploads would count as complete.
        if store.exists(marker):
            store.rm_file(marker)
        for name, digest in digests.items():
            if done.get(name) != digest or not store.exists(f"{root}/{name}"):
                # The record loses a file before it is overwritten, or it would name what a stop in between replaced.
                if done.pop(name, None):
                    store.pipe_file(record, json_bytes(done, indent=2))
                store.put_file(str(Path(directory) / name), f"{root}/{name}")
                done[name] = digest
                store.pipe_file(record, json_bytes(done, indent=2))
        for name in done.keys() - digests.keys():
            if store.exists(f"{root}/{name}"):
                store.rm_file(f"{root}/{name}")
        store.pipe_file(marker, json_bytes(dict(digests), indent=2))
        if store.exists(record):
            store.rm_file(record)


def _update(
    store: AbstractFileSystem, home: Path, files: Mapping[str, str], infos: Mapping[str, Mapping[str, Any]]
) -> None:
    """Makes the copies in `home`, by their path there, those of the files at the store; what has gone there goes."""
    from tqdm import tqdm

    record_file = home / _RECORD
    record = json.loads(record_file.read_bytes()) if record_file.is_file() else {}
    versions = {name: _version(info) for name, info in infos.items()}
    for name in record.keys() - files.keys():
        (home / name).unlink(missing_ok=True)
        del record[name]
    missing = [name for name in files if record.get(name) != versions[name] or not (home / name).is_file()]
    size = sum(infos[name]["size"] or 0 for name in missing)
    with tqdm(total=size, unit="B", unit_scale=True, desc=f"fetching {len(missing)} files", disable=None) as bar:
        for name in missing:
            if ".." in Path(name).parts:
                raise UserError(f"{files[name]}: its name leads out of the folder")
            (home / name).parent.mkdir(parents=True, exist_ok=True)
            # The name says what version it is a part of: of another one nothing is of use.
            made_from = sha256_json(versions[name])[:16]
            part = (home / name).with_name(f".{Path(name).name}.{made_from}.part")
            _fetch(store, files[name], infos[name]["size"], part, bar.update)
            with _told(files[name]):
                now = _version(store.info(files[name]))
            if now != versions[name]:
                raise UserError(f"{files[name]} was changed while it was read; run the same command again")
            os.replace(part, home / name)
            record[name] = versions[name]
            atomic_write_json(record_file, record)


def _fetch(store: AbstractFileSystem, file: str, size: int | None, part: Path, tell: Callable[[int], object]) -> None:
    """Appends to `part` what is missing of a file, range by range; the whole of it from a server that has no ranges."""
    start = part.stat().st_size if part.exists() else 0
    failures, source = 0, None
    with part.open("ab") as out:
        while size is not None and start < size:
            try:
                if source is None:
                    source = store.open(file, "rb", block_size=RANGE_BYTES, cache_type="none", size=size)
                source.seek(start)
                if not (data := source.read(min(RANGE_BYTES, size - start))):
                    raise ConnectionError(f"it ended after {start:,} of {size:,} bytes")
            except ValueError:  # the whole was sent where a range was asked for
                break
            except broken() as error:
                failures, source = failures + 1, None
                if failures == _TRIES or isinstance(error, FileNotFoundError | PermissionError):
                    raise trouble(
                        f"{file}: the connection broke ({first_line(error)}); run the same command again, it goes on "
                        f"after {start:,} bytes",
                        error,
                    ) from error
                continue
            out.write(data)
            start, failures = start + len(data), 0
            tell(len(data))
    if start != size:
        with _told(file):
            store.get_file(file, str(part))
        if size is not None and (came := part.stat().st_size) != size:
            raise Unreachable(f"{file}: {came:,} of {size:,} bytes came, from a server without ranges; try again")


def _version(info: Mapping[str, Any]) -> dict[str, str]:
    return {key: str(info[key]) for key in _VERSION if info.get(key) is not None}


def _matches(name: str, patterns: Sequence[str]) -> bool:
    return any(fnmatch.fnmatchcase(name, pattern) for pattern in patterns)


@contextmanager
def _told(address: str, done: str = "read") -> Iterator[None]:
    """Makes one line of what a store says, of which something is `done`."""
    try:
        yield
    except FileNotFoundError as error:
        # To fsspec a server that does not answer is the same. Where there is none, the address may well be wrong.
        cause = error.__cause__
        if isinstance(cause, Exception) and _passes(cause) and not isinstance(cause, _loaded(_NOBODY)):
            raise Unreachable(f"{address} cannot be {done}: {first_line(cause)}") from error
        silent = ", or nobody answers there" if address.startswith("http") else ""
        raise UserError(f"{address}: there is no such file or folder{silent}") from error
    except (PermissionError, *broken()) as error:
        raise trouble(f"{address} cannot be {done}: {first_line(error)}", error) from error


def broken() -> tuple[type[Exception], ...]:
    """What a store that fails raises: the packages behind fsspec have errors of their own, where they are in use."""
    return (OSError, asyncio.TimeoutError, *_loaded(_ERRORS))


def trouble(message: str, error: Exception) -> UserError:
    """The error to raise for one of a store's or the Hub's: Unreachable where its reason passes by itself."""
    return (Unreachable if _passes(error) else UserError)(message)


def broken_off(what: str, error: Exception) -> UserError:
    """The error to raise where the Hub's library failed in the middle of a download, `what`.

    What the file system says has a number, and is raised as it is.
    """
    if getattr(error, "errno", None) and not isinstance(error, ConnectionError | TimeoutError):
        raise error
    # A file that ended early has no number. RuntimeError is what hf_xet makes of all else, a full disk among it.
    kind = UserError if isinstance(error, RuntimeError) or _lasts(error) else Unreachable
    return kind(f"{what} broke off ({first_line(error)}); the same command goes on where it was")


def _lasts(error: BaseException | None) -> bool:
    if error is None:
        return False
    return any(word in f"{type(error).__name__}: {error}" for word in _LASTING) or _lasts(error.__cause__)


def _passes(error: Exception) -> bool:
    """Whether a store was overloaded or a connection cut; not where something is missing, forbidden or wrong."""
    if isinstance(error, FileNotFoundError | PermissionError) or _lasts(error):
        return False
    if status := _status(error):
        return status in _LATER or status >= 500
    cut = (ConnectionError, TimeoutError, asyncio.TimeoutError, socket.gaierror, ssl.SSLError, *_loaded(_CUT))
    if isinstance(error, cut) or getattr(error, "retryable", False):
        return True
    return isinstance(error.__cause__, Exception) and _passes(error.__cause__)


def _status(error: Exception) -> int:
    """HTTP's status where the error has one, as those of aiohttp, gcsfs, the Hub and botocore do; else 0."""
    reply = getattr(error, "response", None)
    if isinstance(reply, dict):
        said = reply.get("ResponseMetadata", {}).get("HTTPStatusCode")
    else:
        said = getattr(reply, "status_code", None) or getattr(error, "status", None) or getattr(error, "code", None)
    return int(said) if str(said).isdecimal() else 0


def _loaded(names: Sequence[tuple[str, str]]) -> tuple[type[Exception], ...]:
    return tuple(getattr(sys.modules[module], name) for module, name in names if module in sys.modules)


def first_line(error: Exception) -> str:
    """What an error says, as far as it fits into a message."""
    return (str(error).splitlines() or [type(error).__name__])[0]
