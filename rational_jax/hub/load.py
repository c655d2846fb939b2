"""Weights from safetensors files straight into stacked, sharded arrays; no conversion step and no second copy.

Every process reads only the rows that its own devices hold. Everything that can be wrong with the files is found in
their headers before the first array is made.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike
from safetensors import SafetensorError, safe_open

from rational_jax.errors import UserError
from rational_jax.hub.families import Weight, family_of, read_json, weight_table
from rational_jax.models import DecoderConfig, abstract_params, quantize

INDEX_FILE = "model.safetensors.index.json"
SINGLE_FILE = "model.safetensors"
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
_DTYPES = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


class TensorFiles:
    """The tensors of a directory, in one safetensors file or in many with an index; opened, not read."""

    def __init__(self, path: str | Path):
        """Open the files. Raises UserError naming what is missing, cut short, or only there as a pickle."""
        self.path = Path(path)
        if (self.path / INDEX_FILE).is_file():
            weight_map = _weight_map(self.path / INDEX_FILE)
        elif (self.path / SINGLE_FILE).is_file():
            weight_map = None
        else:
            raise UserError(_no_weights(self.path))
        wanted = {SINGLE_FILE} if weight_map is None else set(weight_map.values())
        opened = {name: open_safetensors(self.path / name) for name in sorted(wanted)}
        if weight_map is None:
            weight_map = dict.fromkeys(opened[SINGLE_FILE].keys(), SINGLE_FILE)
        held = {name: set(file.keys()) for name, file in opened.items()}
        for tensor, name in weight_map.items():
            if tensor not in held[name]:
                raise UserError(f"{self.path / name}: tensor {tensor} is not in it, although {INDEX_FILE} says so")
        self._where = weight_map
        self._slices = {tensor: opened[name].get_slice(tensor) for tensor, name in weight_map.items()}

    def names(self) -> set[str]:
        """The names of all tensors."""
        return set(self._slices)

    def file(self, tensor: str) -> Path:
        """The file that holds a tensor."""
        return self.path / self._where[tensor]

    def shape(self, tensor: str) -> tuple[int, ...]:
        """The shape of a tensor, from the file's header."""
        return tuple(self._slices[tensor].get_shape())

    def dtype(self, tensor: str) -> np.dtype:
        """The stored dtype of a tensor. Raises UserError for one that is no plain floating point number."""
        stored = self._slices[tensor].get_dtype()
        if stored not in _DTYPES:
            raise UserError(f"{self.file(tensor)}: tensor {tensor} has dtype {stored}; supported: {', '.join(_DTYPES)}")
        return jax.numpy.dtype(_DTYPES[stored])

    def read(self, tensor: str, index: tuple[slice, ...] = ()) -> np.ndarray:
        """A tensor, or the part of it that `index` (one slice an axis) selects, in its stored dtype."""
        whole = tuple(slice(0, size) for size in self.shape(tensor))
        return self._slices[tensor][index or whole]


def open_safetensors(file: Path) -> Any:
    """An open safetensors file. Raises UserError where it is missing or cut short."""
    try:
        return safe_open(file, framework="numpy")
    except FileNotFoundError as error:
        raise UserError(f"{file} is missing: download or copy the model again") from error
    except SafetensorError as error:
        raise UserError(f"{file} is damaged or cut short ({error}): download or copy it again") from error


def load_params(
    path: str | Path,
    config: DecoderConfig,
    dtype: DTypeLike | None = None,
    shardings: Mapping | None = None,
    *,
    quantized: str | None = None,
) -> dict:
    """The parameters of the model in a Hugging Face directory, as the decoder's nested dict of arrays.

    `dtype` casts every array (None keeps the stored dtypes). `shardings` is a nested dict of `jax.sharding.Sharding`
    with the parameters' structure; without it arrays lie on the default device. With `quantized` ("nf4", "int8") each
    weight of a linear layer is quantized, before the next one is read, and the tree is that of `quantize_tree`. Raises
    UserError naming the file and the tensor for missing, unexpected and mis-shaped tensors and for files that are cut
    short.
    """
    files = TensorFiles(path)
    table = weight_table(config)
    shapes = {tuple(_keys(where)): leaf.shape for where, leaf in _leaves(abstract_params(config))}
    _check(files, config, shapes)
    tree: dict = {}
    for where, shape in shapes.items():
        node, placed = tree, shardings or {}
        for key in where[:-1]:
            node, placed = node.setdefault(key, {}), placed.get(key, {})
        if quantized is None or not quantize.is_linear(where):
            node[where[-1]] = _load(files, table[where], shape, dtype, placed.get(where[-1]))
            continue
        parts = {name: placed.get(name) for name in quantize.parts(quantized, ".".join(where), shape)}
        # From the numbers as they are stored, whatever is computed with; the codes lie as the weight does.
        weight = _load(files, table[where], shape, None, placed.get(f"{quantized}_codes"))
        node.update(quantize.quantize(weight, quantized, parts if shardings else None))
    return tree


def _load(
    files: TensorFiles,
    row: Weight,
    shape: tuple[int, ...],
    dtype: DTypeLike | None,
    sharding: jax.sharding.Sharding | None,
) -> jax.Array:
    """One of our arrays from the tensors that its row of the table names."""
    pieces = {piece.index: piece for piece in row.pieces()}
    names = [piece.name for piece in pieces.values()]
    stored = {files.dtype(name) for name in names}
    if dtype is None and len(stored) > 1:
        found = ", ".join(sorted(str(d) for d in stored))
        raise UserError(f"{files.file(names[0])}: {names[0]} and its like in other layers differ in dtype ({found})")
    target = jax.numpy.dtype(dtype) if dtype is not None else stored.pop()

    def read(index: tuple[slice, ...]) -> np.ndarray:
        bounds = [range(*part.indices(size)) for part, size in zip(index, shape, strict=True)]
        out = np.empty([len(part) for part in bounds], target)
        lead = len(next(iter(pieces)))
        for place in itertools.product(*(enumerate(part) for part in bounds[:lead])):
            piece = pieces[tuple(number for _, number in place)]
            start = piece.rows.start or 0
            inside = [slice(part.start, part.stop) for part in bounds[lead:]]
            inside[0] = slice(start + inside[0].start, start + inside[0].stop)
            out[tuple(at for at, _ in place)] = files.read(piece.name, tuple(inside))
        return out

    if sharding is None:
        return jax.device_put(read((slice(None),) * len(shape)))
    # Devices that hold the same part (replicas) share one read.
    parts: dict[tuple, np.ndarray] = {}

    def part(index: tuple[slice, ...]) -> np.ndarray:
        key = tuple((s.start, s.stop) for s in index)
        if key not in parts:
            parts[key] = read(index)
        return parts[key]

    return jax.make_array_from_callback(shape, sharding, part)


def _check(files: TensorFiles, config: DecoderConfig, shapes: Mapping[tuple[str, ...], tuple[int, ...]]) -> None:
    """Compare the headers with what the decoder needs."""
    expected: dict[str, tuple[int, ...]] = {}
    for where, row in weight_table(config).items():
        for piece in row.pieces():
            rows, *rest = shapes[where][len(piece.index) :]
            # Fused matrices are as long as their last part reaches.
            rows = max(piece.rows.stop or rows, expected.get(piece.name, (0,))[0])
            expected[piece.name] = (rows, *rest)
    if missing := sorted(expected.keys() - files.names()):
        raise UserError(f"{files.path}: {_listed(missing)} missing for a {config.family} model of this config.json")
    family = family_of(config.family)
    # A tied model may still come with its output matrix; transformers ignores it too.
    tied = {f"{config.tensor_prefix}lm_head.weight"} if config.tie_embeddings else set()
    unexpected = sorted(n for n in files.names() - expected.keys() - tied if not family.ignored.fullmatch(n))
    if family.carried is not None:
        unexpected = [name for name in unexpected if not family.carried.fullmatch(name)]
    if unexpected:
        where = files.file(unexpected[0])
        raise UserError(f"{where}: {_listed(unexpected)} unexpected in a {config.family} model of this config.json")
    for name, shape in expected.items():
        if files.shape(name) != shape:
            found = list(files.shape(name))
            raise UserError(f"{files.file(name)}: tensor {name} has shape {found}, config.json asks for {list(shape)}")


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


def _listed(names: list[str]) -> str:
    """The first three names and how many more there are, with the verb: "tensors a, b, c and 4 more are"."""
    more = f" and {len(names) - 3} more" if len(names) > 3 else ""
    noun, verb = ("tensors", "are") if len(names) > 1 else ("tensor", "is")
    return f"{noun} {', '.join(names[:3])}{more} {verb}"


def _leaves(tree: Any) -> list[tuple[Any, Any]]:
    return jax.tree.leaves_with_path(tree)


def _keys(where: Iterable[Any]) -> list[str]:
    return [key.key for key in where]
