"""safetensors files: headers checked first, rows read where they lie, new files written in one pass.

Rows come through plain reads instead of a memory map. Pages of a map count as the process's own memory until the kernel
wants them back, and a model that was read once would look as if it were held.
"""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np

from rational_jax.errors import UserError
from rational_jax.hub.families import read_json

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
# Bytes of an element, in the order in which the format sorts the tensors of a file, last ones first.
_SIZES = {
    **{"BOOL": 1, "U8": 1, "I8": 1, "F8_E5M2": 1, "F8_E4M3": 1, "I16": 2, "U16": 2, "F16": 2, "BF16": 2},
    **{"I32": 4, "U32": 4, "F32": 4, "F64": 8, "I64": 8, "U64": 8},
}
_FLOATS = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}
# torch readers look for this to know the layout of the data.
_METADATA = {"format": "pt"}


class Stored(NamedTuple):
    """A tensor in a file: its dtype as the format calls it, its shape, and where in the file its bytes begin."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    offset: int = 0

    @property
    def size(self) -> int:
        """Bytes."""
        return _SIZES[self.dtype] * math.prod(self.shape)


class TensorFiles:
    """The tensors of a directory, in one safetensors file or in many with an index; headers are read, data is not."""

    def __init__(self, path: str | Path):
        """Read the headers. Raises UserError naming what is missing, cut short, or only there as a pickle."""
        self.path = Path(path)
        if (self.path / INDEX_FILE).is_file():
            weight_map = _weight_map(self.path / INDEX_FILE)
        elif (self.path / SINGLE_FILE).is_file():
            weight_map = None
        else:
            raise UserError(_no_weights(self.path))
        wanted = {SINGLE_FILE} if weight_map is None else set(weight_map.values())
        held = {name: read_header(self.path / name) for name in sorted(wanted)}
        if weight_map is None:
            weight_map = dict.fromkeys(held[SINGLE_FILE], SINGLE_FILE)
        for tensor, name in weight_map.items():
            if tensor not in held[name]:
                raise UserError(f"{self.path / name}: tensor {tensor} is not in it, although {INDEX_FILE} says so")
        self._tensors = {tensor: held[name][tensor] for tensor, name in weight_map.items()}

    def names(self) -> set[str]:
        """The names of all tensors."""
        return set(self._tensors)

    def stored(self, tensor: str) -> Stored:
        """Where a tensor lies."""
        return self._tensors[tensor]

    def dtype(self, tensor: str) -> np.dtype:
        """The stored dtype of a tensor. Raises UserError for one that is no plain floating point number."""
        stored = self._tensors[tensor]
        if stored.dtype not in _FLOATS:
            supported = ", ".join(_FLOATS)
            raise UserError(f"{stored.file}: tensor {tensor} has dtype {stored.dtype}; supported: {supported}")
        return jnp.dtype(_FLOATS[stored.dtype])

    def rows(self, tensor: str, start: int, stop: int) -> np.ndarray:
        """Rows `start` to `stop` (elements of a vector) in the stored dtype: one contiguous read."""
        stored = self._tensors[tensor]
        out = np.empty((stop - start, *stored.shape[1:]), self.dtype(tensor))
        width = _SIZES[stored.dtype] * math.prod(stored.shape[1:])
        _read(stored.file, stored.offset + start * width, out.reshape(-1).view(np.uint8))
        return out

    def raw(self, tensor: str, most: int) -> Iterator[np.ndarray]:
        """The bytes of a tensor of any dtype and shape, at most so many at a time."""
        stored = self._tensors[tensor]
        for start in range(0, stored.size, most):
            out = np.empty(min(most, stored.size - start), np.uint8)
            _read(stored.file, stored.offset + start, out)
            yield out


def format_dtype(dtype: np.dtype) -> str:
    """A floating point dtype as the format calls it. Raises UserError for any other."""
    for name, ours in _FLOATS.items():
        if ours == str(dtype):
            return name
    raise UserError(f"cannot save a model in {dtype}, only in {', '.join(_FLOATS.values())}")


def float_name(dtype: str) -> str:
    """The other way round: "BF16" is "bfloat16"."""
    return _FLOATS[dtype]


def read_header(file: Path) -> dict[str, Stored]:
    """The tensors of a safetensors file. Raises UserError where it is missing, cut short or no such file."""
    try:
        size = file.stat().st_size
        with file.open("rb") as handle:
            length = int.from_bytes(handle.read(8), "little")
            if size < 8 or length > size - 8:
                raise ValueError(f"its header is longer than its {size} bytes")
            header = json.loads(handle.read(length))
        tensors, end = {}, 8 + length
        for name, entry in header.items():
            if name != "__metadata__":
                begin, stop = entry["data_offsets"]
                tensors[name] = Stored(file, entry["dtype"], tuple(entry["shape"]), 8 + length + begin)
                if entry["dtype"] in _SIZES and tensors[name].size != stop - begin:
                    raise ValueError(f"{name} has {stop - begin} bytes, its shape says {tensors[name].size}")
                end = max(end, 8 + length + stop)
        if end != size:
            raise ValueError(f"it has {size} bytes, its header says {end}")
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: download or copy the model again") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise UserError(f"{file} is damaged or cut short ({error}): download or copy it again") from error
    return tensors


def in_file_order(tensors: Mapping[str, Stored]) -> list[str]:
    """Names in the order of the format: wide elements first, so that all are aligned; then by name."""
    rank = list(_SIZES)
    return sorted(tensors, key=lambda name: (-rank.index(tensors[name].dtype), name))


def write_tensors(file: Path, tensors: Mapping[str, Stored], arrays: Iterable[np.ndarray]) -> str:
    """Write a safetensors file in one pass and return its SHA-256.

    `arrays` are the parts of all tensors, contiguous and in the order of `in_file_order`. The next one is made, this
    one written and hashed at the same time, so two of them are held.
    """
    entries: dict[str, Any] = {"__metadata__": _METADATA}
    end = 0
    for name in in_file_order(tensors):
        stored = tensors[name]
        offsets = [end, end := end + stored.size]
        entries[name] = {"dtype": stored.dtype, "shape": list(stored.shape), "data_offsets": offsets}
    header = json.dumps(entries, ensure_ascii=False, separators=(",", ":")).encode()
    header += b" " * (-len(header) % 8)
    start = len(header).to_bytes(8, "little") + header
    digest = hashlib.sha256(start)
    source = iter(arrays)
    with file.open("wb", buffering=0) as out, ThreadPoolExecutor(1) as maker, ThreadPoolExecutor(1) as hasher:
        _write(out, memoryview(start))
        following = maker.submit(next, source, None)
        while (array := following.result()) is not None:
            following = maker.submit(next, source, None)
            data = memoryview(array.reshape(-1).view(np.uint8))
            hashed = hasher.submit(digest.update, data)
            _write(out, data)
            hashed.result()
        written = out.tell() - len(start)
    if written != end:
        raise ValueError(f"{file}: the header promises {end} bytes of data, {written} were given")
    return digest.hexdigest()


def _write(out: Any, data: memoryview) -> None:
    # One call takes less than all where that is more than the kernel's limit of 2 GiB.
    while data:
        data = data[out.write(data) :]


def _read(file: Path, offset: int, out: np.ndarray) -> None:
    with file.open("rb", buffering=0) as handle:
        handle.seek(offset)
        left = memoryview(out)
        while left:
            count = handle.readinto(left)
            if not count:
                raise UserError(f"{file} became shorter while it was read: download or copy it again")
            left = left[count:]


def _weight_map(file: Path) -> dict[str, str]:
    """Tensor name to file name, from an index file."""
    weight_map = read_json(file).get("weight_map")
    if not isinstance(weight_map, dict) or not weight_map:
        raise UserError(f"{file}: no weight_map in it")
    for tensor, name in weight_map.items():
        if not isinstance(name, str) or Path(name).name != name or not name.endswith(".safetensors"):
            raise UserError(f"{file}: tensor {tensor} is put in {name!r}, which is no safetensors file beside it")
    return weight_map


def _no_weights(path: Path) -> str:
    if not path.is_dir():
        return f"{path} is not a directory"
    if any(found for pattern in _PICKLES for found in path.glob(pattern)):
        return f"{path} has its weights as pickle files, which can run code: convert them to safetensors first"
    return f"{path} has no safetensors weights ({SINGLE_FILE} or {INDEX_FILE})"
