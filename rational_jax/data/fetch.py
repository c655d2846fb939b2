"""From the name of a published prompt set to local files: a copy of the user's, the Hub, or its authors' repository."""

import os
from pathlib import Path

from rational_jax.data.benchmarks import Benchmark
from rational_jax.errors import UserError
from rational_jax.storage import atomic_write_bytes
from rational_jax.stores import broken_off, first_line, trouble

TIMEOUT_SECONDS = 60.0


def local_files(name: str, benchmark: Benchmark, path: Path) -> list[Path]:
    """The set's files in a copy: the file itself, or those in a folder. UserError where there are none."""
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UserError(f"{name}@{path}: no such file or folder")
    for pattern in benchmark.files:
        found = sorted(file for file in path.glob(f"**/{pattern}") if file.is_file() and not _hidden(file, path))
        if found:
            return found
    raise UserError(f"{name}@{path}: no file there is called {' or '.join(benchmark.files)}")


def published_files(name: str, benchmark: Benchmark, revision: str | None = None) -> list[Path]:
    """The set's files, downloaded where they are not in the cache yet. UserError without access or network."""
    if benchmark.hub:
        folder = hub_snapshot(name, benchmark.hub, revision, benchmark.files[:1])
        return local_files(name, benchmark, folder)
    if revision is not None:
        raise UserError(f"{name}: is not on the Hub, so it has no revision; use a copy of your own: {name}@PATH")
    cache = Path(os.environ.get("RATIONAL_CACHE", Path.home() / ".cache" / "rational_jax")) / "prompts" / name
    # Two attacks on one model are two files of one name.
    targets = [cache / "-".join(url.split("/")[-3:]) for url in benchmark.urls]
    for url, target in zip(benchmark.urls, targets, strict=True):
        if not target.is_file():
            atomic_write_bytes(target, _get(name, url))
    return targets


def hub_snapshot(name: str, repository: str, revision: str | None, patterns: tuple[str, ...]) -> Path:
    """The folder with those files of a dataset on the Hub.

    UserError in one line where it cannot be had, Unreachable where the connection breaks.
    """
    # Imported here because it costs half a second that no local file needs.
    from huggingface_hub import errors, snapshot_download

    page = f"https://huggingface.co/datasets/{repository}"
    copy = f"or read a copy of your own: {name}@PATH"
    try:
        return Path(
            snapshot_download(repository, repo_type="dataset", revision=revision, allow_patterns=list(patterns))
        )
    except errors.GatedRepoError as error:
        raise UserError(f"{name} is gated: ask for access at {page}, then run `hf auth login`; {copy}") from error
    except errors.RevisionNotFoundError as error:
        raise UserError(f"{name}: {page} has no revision {revision!r}") from error
    except errors.RepositoryNotFoundError as error:
        raise UserError(f"{name}: {page} is not there, or not for you; {copy}") from error
    except (errors.LocalEntryNotFoundError, errors.OfflineModeIsEnabled) as error:
        said = f"{name} is not in the local cache and the Hub cannot be reached ({page}); {copy}"
        raise trouble(said, error.__cause__ or error) from error
    except errors.HfHubHTTPError as error:
        raise trouble(f"{name} could not be downloaded from {page}: {first_line(error)}", error) from error
    except (errors.HTTPError, OSError, RuntimeError) as error:
        raise broken_off(f"{name}: the download from {page}", error) from error


def _get(name: str, url: str) -> bytes:
    import httpx2

    try:
        reply = httpx2.get(url, follow_redirects=True, timeout=TIMEOUT_SECONDS)
        reply.raise_for_status()
    except httpx2.HTTPError as error:
        said = f"{name} could not be downloaded from {url} ({first_line(error)})"
        raise trouble(f"{said}; read a copy of your own: {name}@PATH", error) from error
    return reply.content


def _hidden(file: Path, folder: Path) -> bool:
    return any(part.startswith(".") for part in file.relative_to(folder).parts)
