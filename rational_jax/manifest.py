"""What made what: each verb's folder carries a manifest of its settings, its inputs and what came out.

A verb opens its folder as a `Stage`. The same settings and inputs continue what is there; other ones are refused by
name. A digest covers settings, inputs and outputs, never dates or timings, and is what the next verb records as input.
"""

import errno
import fcntl
import importlib.metadata
import json
import os
import platform
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from rational_jax import __version__
from rational_jax.errors import UserError
from rational_jax.storage import atomic_write_json, sha256_json

FILE = "manifest.json"
"""The file that a verb leaves in its folder."""
RUNNING, COMPLETE = "running", "complete"
"""How far a verb has got, in its manifest."""
_PACKAGES = (
    "jax",
    "jaxlib",
    "flax",
    "optax",
    "orbax-checkpoint",
    "grain",
    "transformers",
    "tokenizers",
    "datasets",
    "tensorflow-datasets",
    "array_record",
    "safetensors",
    "numpy",
)
_SHOWN = 5

# Descriptors of the folders that this process has locked. To open a folder twice in one process is no conflict.
_LOCKS: dict[Path, int] = {}


def versions() -> dict[str, str]:
    """The versions that a result may depend on: Python, the platform, this package and the libraries installed."""
    found = {"python": platform.python_version(), "platform": platform.platform(), "rational_jax": __version__}
    for name in _PACKAGES:
        try:
            found[name] = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


class Stage:
    """One verb's folder, opened for work. Use `Stage.open`."""

    def __init__(self, directory: Path, manifest: dict[str, Any]):
        self.directory = directory
        self._manifest = manifest

    @classmethod
    def open(cls, directory: Path, *, verb: str, settings: dict, inputs: dict) -> "Stage":
        """Begins the folder, or continues it; `complete` says whether there is anything left to do.

        `settings` is everything in the configuration that decides the output, `inputs` a digest or identity of all
        that is read; both are JSON. Raises UserError where the folder was made with others (naming at most five of
        the differing keys), where it holds files of unknown origin, where a finished output is gone, and where
        another process is at work in it.
        """
        directory = Path(directory)
        settings, inputs = (json.loads(json.dumps(part)) for part in (settings, inputs))
        for folder in (directory, *directory.parents):
            if folder.exists() and not folder.is_dir():
                raise UserError(f"{folder} is a file where a folder is needed; choose another run=...")
        if not (directory / FILE).exists():
            return cls._begin(directory, verb, settings, inputs)
        manifest = _read(directory, verb)
        differing = _differences(manifest["settings"], settings)
        what = "with other settings" if differing else "from other inputs"
        differing += _differences(manifest["inputs"], inputs, "input ")
        if differing:
            more = f" and {len(differing) - _SHOWN} more" if len(differing) > _SHOWN else ""
            raise UserError(
                f"{directory} was made {what}: {', '.join(differing[:_SHOWN])}{more}; "
                "choose another run=..., or delete that folder"
            )
        stage = cls(directory, manifest)
        if stage.complete:
            _check_outputs(directory, manifest)
        else:
            _lock(directory)
        return stage

    @classmethod
    def _begin(cls, directory: Path, verb: str, settings: dict, inputs: dict) -> "Stage":
        strangers = sorted(p.name for p in directory.glob("*") if not p.name.startswith("."))
        if strangers:
            raise UserError(
                f"{directory} holds {strangers[0]!r} but no {FILE}, so nobody knows what made it; "
                "choose another run=..., or delete that folder"
            )
        manifest = {"verb": verb, "status": RUNNING, "settings": settings, "inputs": inputs}
        stage = cls(directory, manifest | {"versions": versions(), "created": _now()})
        try:
            directory.mkdir(parents=True, exist_ok=True)
            _lock(directory)
            stage._write()
        except OSError as error:
            raise UserError(f"{directory} cannot be written: {error.strerror}; choose another run=...") from None
        return stage

    @property
    def complete(self) -> bool:
        """Whether the verb has finished here."""
        return self._manifest["status"] == COMPLETE

    def reopen(self) -> None:
        """Takes finished work up again, with the same settings and inputs."""
        _lock(self.directory)
        self._manifest["status"] = RUNNING
        self._write()

    @property
    def digest(self) -> str:
        """The SHA-256 of settings, inputs and outputs. Raises UserError before the verb has finished."""
        if not self.complete:
            raise UserError(f"{self.directory} is not finished: run `rational {self._manifest['verb']}` again")
        return self._manifest["digest"]

    def finish(self, outputs: dict[str, str], figures: dict) -> None:
        """Marks the work as done. `outputs`: relative path -> SHA-256 of the files left; `figures`: what to report."""
        made = {part: self._manifest[part] for part in ("settings", "inputs")} | {"outputs": outputs}
        self._manifest |= {
            "status": COMPLETE,
            "outputs": outputs,
            "figures": figures,
            "digest": sha256_json(made),
            "finished": _now(),
        }
        self._write()
        _unlock(self.directory)

    def _write(self) -> None:
        atomic_write_json(self.directory / FILE, self._manifest)


def read_stage(directory: Path, *, verb: str) -> dict:
    """The manifest of a finished stage, with its `digest`, `outputs` and `figures`.

    Raises UserError, saying which verb to run first, where it is missing, unfinished or lacks an output.
    """
    directory = Path(directory)
    if not (directory / FILE).is_file():
        raise UserError(f"{directory} has no {FILE}: run `rational {verb}` first")
    manifest = _read(directory, verb)
    if manifest["status"] != COMPLETE:
        raise UserError(f"{directory} is not finished: run `rational {verb}` again, it continues")
    _check_outputs(directory, manifest)
    return manifest


def _read(directory: Path, verb: str) -> dict:
    path = directory / FILE
    try:
        manifest = json.loads(path.read_text("utf-8"))
    except (ValueError, RecursionError):
        raise UserError(f"{path} is damaged; delete the folder {directory} and run `rational {verb}` again") from None
    expected = {"verb": str, "status": str, "settings": dict, "inputs": dict}
    if isinstance(manifest, dict) and manifest.get("status") == COMPLETE:
        expected |= {"outputs": dict, "figures": dict, "digest": str}
    if not isinstance(manifest, dict) or any(not isinstance(manifest.get(k), t) for k, t in expected.items()):
        raise UserError(f"{path} is no manifest of this program; choose another run=..., or delete that folder")
    if manifest["verb"] != verb:
        raise UserError(f"{directory} was made by `rational {manifest['verb']}`, not by `rational {verb}`")
    return manifest


def _check_outputs(directory: Path, manifest: dict) -> None:
    missing = [name for name in manifest["outputs"] if not (directory / name).is_file()]
    if missing:
        verb = manifest["verb"]
        raise UserError(f"{directory / missing[0]} is gone; delete the folder {directory} and run `rational {verb}`")


def _differences(before: dict, after: dict, prefix: str = "") -> list[str]:
    """Lines "a.b: 1 -> 2" for every leaf that differs."""
    before, after = _leaves(before), _leaves(after)
    keys = [*before, *(key for key in after if key not in before)]
    changes = [(key, before.get(key, _ABSENT), after.get(key, _ABSENT)) for key in keys]
    return [f"{prefix}{key}: {_short(old)} -> {_short(new)}" for key, old, new in changes if old != new]


_ABSENT = object()


def _leaves(tree: dict, prefix: str = "") -> dict[str, Any]:
    leaves = {}
    for key, value in tree.items():
        inner = isinstance(value, dict) and value  # an empty one is a leaf, or it would vanish from the comparison
        leaves |= _leaves(value, f"{prefix}{key}.") if inner else {f"{prefix}{key}": value}
    return leaves


def _short(value: Any) -> str:
    if value is _ABSENT:
        return "(absent)"
    text = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 48 else f"{text[:12]}…{text[-4:]}"


def _lock(directory: Path) -> None:
    """Keeps a second process out of a folder that is being written. The lock goes with the process, however it ends."""
    key = directory.resolve()
    if key in _LOCKS:
        return
    descriptor = os.open(key, os.O_RDONLY)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        os.close(descriptor)
        if error.errno in (errno.EACCES, errno.EAGAIN):
            raise UserError(
                f"another process is at work in {directory}; wait until it has ended, or choose another run=..."
            ) from None
        return  # a file system without locks, as some network ones are
    _LOCKS[key] = descriptor


def _unlock(directory: Path) -> None:
    descriptor = _LOCKS.pop(directory.resolve(), None)
    if descriptor is not None:
        os.close(descriptor)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
