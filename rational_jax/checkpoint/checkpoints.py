"""The states of a training run on disk, through Orbax: written in the background, read back on any mesh.

A step becomes visible by the rename of its finished directory, so a process killed at any moment leaves the steps that
were complete before, and a directory with a temporary name that the next writer removes. Inside lies a list of the
files with their sizes and hashes, checked before anything is read: Orbax itself would take some damage for data.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import orbax.checkpoint as ocp
import tensorstore

from rational_jax.errors import UserError
from rational_jax.parallel.processes import agreed
from rational_jax.storage import atomic_write_json, sha256_file

_STATE = "state"
_METADATA = "run"
_LIST = "files.json"
_CHUNK_BYTES = 64 * 1024**2


class Checkpoints:
    """The checkpoints in one directory, by step. Use as a context manager: leaving it waits for the last save.

    A state is any pytree of arrays (nested dicts, optax states); with it goes a JSON object, the metadata. All
    processes of a run make the same calls. Errors that are not named here are those of the file system.
    """

    def __init__(
        self,
        directory: str | Path,
        *,
        keep: int | None = None,
        keep_every: int | None = None,
        keep_best: str | None = None,
        read_only: bool = False,
    ):
        """Open `directory`, making it unless `read_only`.

        After each save only the last `keep` steps stay (None: all), with the multiples of `keep_every` and the step
        whose metadata have the least `keep_best` among their `metrics`.

        A writer has removed what an earlier process left unfinished before its first save; a reader touches nothing,
        so it may look at a run that is being trained. Raises UserError for a reader where there is no such directory,
        and for a name with "[", which Orbax takes for a pattern and saves nothing that can be read.
        """
        self.directory = Path(directory).absolute()
        if "[" in str(self.directory):
            raise UserError(f"{self.directory}: checkpoints cannot be in a folder with '[' in its name; choose another")
        if read_only and not self.directory.is_dir():
            raise UserError(f"{self.directory}: there are no checkpoints")
        self._read_only = read_only
        self._saving: int | None = None
        self._checked: set[int] = set()
        self._policy = _Kept(self.directory, keep, keep_every, keep_best) if keep else None
        self._manager = ocp.CheckpointManager(
            self.directory,
            options=ocp.CheckpointManagerOptions(
                preservation_policy=self._policy,
                cleanup_tmp_directories=not read_only,
                create=not read_only,
                async_options=ocp.AsyncOptions(post_finalization_callback=self._write_list),
            ),
            item_handlers={_STATE: ocp.PyTreeCheckpointHandler(), _METADATA: ocp.JsonCheckpointHandler()},
        )

    def steps(self) -> list[int]:
        """All complete steps, ascending; a save that is under way is waited for."""
        self.wait()
        if self._read_only:
            self._manager.reload()
        return sorted(self._manager.all_steps())

    def latest(self) -> int | None:
        """The last complete step, or None."""
        return max(self.steps(), default=None)

    def save(self, step: int, tree: Any, metadata: dict[str, Any]) -> None:
        """Start to save a state and its metadata as `step`, and return once the arrays have been copied to the host.

        The arrays may be donated right after. What goes wrong in the background is raised by the next call. Raises
        ValueError for a step that is not after the latest, and where this is a reader.
        """
        if self._read_only:
            raise ValueError(f"{self.directory} was opened to be read")
        # A save that is still running has to end first: Orbax would wait here too, but without knowing its own step.
        latest = self.latest()
        if latest is not None and step <= latest:
            raise ValueError(f"step {step} cannot be saved in {self.directory} after step {latest}")
        self._saving = step
        if self._policy:
            self._policy.note(step, metadata)
        items = {
            _STATE: ocp.args.PyTreeSave(tree, jax.tree.map(_in_chunks, tree)),
            _METADATA: ocp.args.JsonSave(metadata),
        }
        self._manager.save(step, args=ocp.args.Composite(**items), force=True)

    def wait(self) -> None:
        """Return when everything started is on disk; raises what went wrong there."""
        self._manager.wait_until_finished()

    def metadata(self, step: int) -> dict[str, Any]:
        """The metadata saved with a step. Raises UserError as `restore` does."""
        self._check(step)
        return self._manager.restore(step, args=ocp.args.Composite(**{_METADATA: ocp.args.JsonRestore()}))[_METADATA]

    def abstract(self, step: int) -> Any:
        """The shapes and dtypes of a saved state as `jax.ShapeDtypeStruct`s. Dicts stay dicts; tuples become lists.

        Raises UserError as `restore` does.
        """
        self._check(step)
        tree = self._manager.item_metadata(step)[_STATE].tree
        return jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), tree)

    def restore(self, step: int, abstract_tree: Any, *, partial: bool = False) -> Any:
        """The state saved as `step`, in the structure of `abstract_tree`.

        Its leaves have a shape and a dtype (arrays or `jax.ShapeDtypeStruct`s); one with a sharding is restored onto
        that sharding, whatever mesh it was saved from, the others onto the default device; floating point numbers are
        cast to the dtype that is wanted. With `partial` the tree may leave out any part of what was saved, which is
        then not read into memory. Raises UserError where there is no such step, where a file is missing, cut short or
        changed, and where the saved arrays are not those of the tree.
        """
        saved = _by_name(self.abstract(step))
        wanted = _by_name(abstract_tree)
        where = self.directory / str(step)
        if missing := wanted.keys() - saved.keys():
            raise UserError(f"{where} has no {min(missing)}: it was saved by a run with other settings")
        if not partial and (surplus := saved.keys() - wanted.keys()):
            raise UserError(f"{where} has {min(surplus)}, which this run does not: it was saved with other settings")
        for name, leaf in wanted.items():
            ours, theirs = (f"{np.dtype(x.dtype)}{list(x.shape)}" for x in (leaf, saved[name]))
            floats = all(jnp.issubdtype(x.dtype, jnp.floating) for x in (leaf, saved[name]))
            if ours != theirs and not (floats and leaf.shape == saved[name].shape):
                raise UserError(f"{where}: {name} is {theirs}, this run has {ours}: it was saved with other settings")
        targets = jax.tree.map(_with_sharding, abstract_tree)
        arguments = ocp.args.PyTreeRestore(
            targets, restore_args=ocp.checkpoint_utils.construct_restore_args(targets), partial_restore=partial
        )
        return self._manager.restore(step, args=ocp.args.Composite(**{_STATE: arguments}))[_STATE]

    def opened(self, step: int, name: str) -> tensorstore.TensorStore:
        """A saved array by its path ("trainable.norm.weight"), not read yet: `x[3, :10].read().result()` reads a part.

        Raises UserError as `restore` does.
        """
        self._check(step)
        where = {"driver": "file", "path": f"{self.directory / str(step) / _STATE}/"}  # no URL, which wants escapes
        stored = {"driver": "ocdbt", "base": where, "path": f"{name}/"}
        return tensorstore.open({"driver": "zarr", "kvstore": stored}, open=True, read=True).result()

    def close(self) -> None:
        """Wait for what was started and release Orbax's threads."""
        self._manager.close()

    def __enter__(self) -> Checkpoints:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def _write_list(self) -> None:
        """Called by Orbax when all files of a step are written and its directory does not have its final name yet."""
        if jax.process_index() != 0:
            return
        (directory,) = [d for d in self.directory.iterdir() if d.name.split(".")[0] == str(self._saving)]
        files = sorted(f for item in (_STATE, _METADATA) for f in (directory / item).rglob("*") if f.is_file())
        listed = {str(f.relative_to(directory)): {"bytes": f.stat().st_size, "sha256": sha256_file(f)} for f in files}
        atomic_write_json(directory / _LIST, listed)

    def _check(self, step: int) -> None:
        """Compare the files of a step with the list beside them, once."""
        if step in self._checked:
            return
        if step not in (steps := self.steps()):
            there = ", ".join(map(str, steps)) or "none"
            raise UserError(f"{self.directory} has no complete checkpoint of step {step}; there are: {there}")
        directory = self.directory / str(step)
        # One process reads it all for the others.
        if cause := agreed(lambda: _damage(directory)):
            earlier = max((other for other in steps if other < step), default=None)
            then = "start again from the beginning" if earlier is None else f"continue from step {earlier}"
            raise UserError(f"{directory} is damaged or cut short ({cause}); delete that directory to {then}")
        self._checked.add(step)


class _Kept:
    """Which steps stay: Orbax's interface of a preservation policy."""

    def __init__(self, directory: Path, last: int, every: int | None, best: str | None):
        self._last, self._every, self._best = last, every, best
        self._values: dict[int, float] = {}
        for file in directory.glob(f"*/{_METADATA}/metadata") if best else ():
            if file.parts[-3].isdigit():  # and no save that was cut off
                self.note(int(file.parts[-3]), json.loads(file.read_bytes()))

    def note(self, step: int, metadata: dict[str, Any]) -> None:
        """Remembers how good a step is, if its metadata say so."""
        value = metadata.get("metrics", {}).get(self._best)
        if value is not None:
            self._values[step] = value

    def should_preserve(self, checkpoints: Sequence[Any], *, context: Any) -> list[bool]:
        """True for every one of the checkpoints, which come in the order of their steps, that stays."""
        steps = [checkpoint.step for checkpoint in checkpoints]
        known = [step for step in steps if step in self._values]
        stay = {*steps[-self._last :], *sorted(known, key=self._values.__getitem__)[:1]}
        return [step in stay or bool(self._every and step % self._every == 0) for step in steps]


def _damage(directory: Path) -> str | None:
    """What is wrong with the files of a step, in a few words; None if nothing is."""
    try:
        listed = json.loads((directory / _LIST).read_bytes())
    except FileNotFoundError:
        return f"{_LIST} is missing"
    except ValueError:
        return f"{_LIST} cannot be read"
    for name, expected in listed.items():
        file = directory / name
        if not file.is_file():
            return f"{name} is missing"
        if (size := file.stat().st_size) != expected["bytes"]:
            return f"{name} has {size} of {expected['bytes']} bytes"
        if sha256_file(file) != expected["sha256"]:
            return f"{name} has changed since it was written"
    return None


def _by_name(tree: Any) -> dict[str, Any]:
    """Leaves by their path; the names are the same for a tuple and for the list that Orbax makes of it."""
    return {_name(path): leaf for path, leaf in jax.tree.leaves_with_path(tree)}


def _name(path: tuple[Any, ...]) -> str:
    return jax.tree_util.keystr(path, simple=True, separator=".")


def _in_chunks(leaf: Any) -> ocp.SaveArgs:
    """How an array is cut on disk: stacks by their layers and experts, since an export reads one of them at a time."""
    return ocp.SaveArgs(chunk_byte_size=_CHUNK_BYTES, shard_axes=tuple(range(np.ndim(leaf) - 2)))


def _with_sharding(leaf: Any) -> jax.ShapeDtypeStruct:
    sharding = getattr(leaf, "sharding", None) or jax.sharding.SingleDeviceSharding(jax.local_devices()[0])
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
