"""Parameters as a Hugging Face directory: the same tensors, names and files that the model came with.

Without a cast every tensor's bytes are those that were loaded. Host memory holds one shard at a time, not the model.
The bytes are a function of the parameters and the source directory only.
"""

from __future__ import annotations

import dataclasses
import json
import math
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
from jax.typing import DTypeLike
from safetensors.numpy import save_file

from rational_jax.errors import UserError
from rational_jax.hub.families import load_config, read_json, weight_table, write_config
from rational_jax.hub.load import INDEX_FILE, SINGLE_FILE
from rational_jax.hub.resolve import LICENCE_FILES, TOKENIZER_FILES
from rational_jax.models import DecoderConfig
from rational_jax.storage import atomic_directory

SHARD_BYTES = 2 * 1024**3
# torch readers look for this to know the layout of the data.
_METADATA = {"format": "pt"}
_SAVED_DTYPES = ("float32", "float16", "bfloat16")


def save_model(
    directory: str | Path,
    config: DecoderConfig,
    params: dict,
    *,
    source: str | Path | None = None,
    dtype: DTypeLike | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """Write a model directory, which appears only when it is complete; one that was there before is replaced.

    `source` is the directory the model came from: its configuration, generation configuration, tokenizer, chat template
    and licence are carried over. Without one (a new model) only a config.json is written. `dtype` casts every tensor.
    Raises UserError where the source describes another architecture.
    """
    with atomic_directory(Path(directory)) as partial:
        write_model(partial, config, params, source=source, dtype=dtype, shard_bytes=shard_bytes)


def write_model(
    directory: Path,
    config: DecoderConfig,
    params: dict,
    *,
    source: str | Path | None = None,
    dtype: DTypeLike | None = None,
    shard_bytes: int = SHARD_BYTES,
) -> None:
    """As `save_model`, into an existing directory and without the promise that it is complete when it is there."""
    hf_config = write_config(config) if source is None else _source_config(Path(source), config)
    stored = {str(leaf.dtype) if dtype is None else str(jax.numpy.dtype(dtype)) for leaf in jax.tree.leaves(params)}
    if unknown := stored.difference(_SAVED_DTYPES):
        raise UserError(f"cannot save a model in {', '.join(sorted(unknown))}, only in {', '.join(_SAVED_DTYPES)}")
    if len(stored) == 1:
        _set_dtype(hf_config, stored.pop())
    write_json(directory / "config.json", hf_config)
    if source is not None:
        _copy_companions(Path(source), directory)
    shards = _plan(config, params, dtype, shard_bytes)
    if len(shards) == 1:
        save_file(dict(_tensors(params, shards[0], dtype)), directory / SINGLE_FILE, metadata=_METADATA)
        return
    weight_map = {}
    for number, shard in enumerate(shards, start=1):
        name = f"model-{number:05d}-of-{len(shards):05d}.safetensors"
        save_file(dict(_tensors(params, shard, dtype)), directory / name, metadata=_METADATA)
        weight_map |= dict.fromkeys((tensor.name for tensor in shard), name)
    total = sum(tensor.size for shard in shards for tensor in shard)
    index = {"metadata": {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
    write_json(directory / INDEX_FILE, index)


def write_json(file: Path, value: Any) -> None:
    """JSON as transformers writes it: indented, keys sorted, a newline at the end."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


def lookup(tree: dict, path: tuple[str, ...]) -> Any:
    """The leaf of a nested dict at a path."""
    for key in path:
        tree = tree[key]
    return tree


@dataclasses.dataclass(kw_only=True)
class _Planned:
    """One tensor to be written: the parts of our arrays whose rows it is made of, in their order, and its bytes."""

    name: str
    layer: int
    parts: list[tuple[tuple[str, ...], tuple[int, ...]]]
    size: int


def _plan(config: DecoderConfig, params: dict, dtype: DTypeLike | None, shard_bytes: int) -> list[list[_Planned]]:
    """All tensors, layer by layer, cut into files of at most `shard_bytes` (a larger tensor gets a file of its own)."""
    planned: dict[str, _Planned] = {}
    for place, (path, row) in enumerate(weight_table(config).items()):
        leaf = lookup(params, path)
        width = (leaf.dtype if dtype is None else jax.numpy.dtype(dtype)).itemsize
        # What stands before the layers goes to the first file, what stands after them to the last.
        outside = -1 if place == 0 else config.num_layers
        for piece in row.pieces():
            layer = outside if row.layers is None else row.layers[piece.index[0]]
            tensor = planned.setdefault(piece.name, _Planned(name=piece.name, layer=layer, parts=[], size=0))
            tensor.parts.append((path, piece.index))
            tensor.size += width * math.prod(leaf.shape[len(piece.index) :])
    shards: list[list[_Planned]] = [[]]
    filled = 0
    for tensor in sorted(planned.values(), key=lambda tensor: tensor.layer):
        if shards[-1] and filled + tensor.size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.size
    return shards


def _tensors(params: dict, shard: list[_Planned], dtype: DTypeLike | None) -> Iterator[tuple[str, np.ndarray]]:
    for tensor in shard:
        parts = [_part(lookup(params, path), index) for path, index in tensor.parts]
        array = parts[0] if len(parts) == 1 else np.concatenate(parts)
        # safetensors writes the buffer as it lies, so it has to lie in order.
        yield tensor.name, np.ascontiguousarray(array if dtype is None else array.astype(jax.numpy.dtype(dtype)))


def _part(leaf: jax.Array | np.ndarray, index: tuple[int, ...]) -> np.ndarray:
    """One layer of a stacked array, without bringing the others to the host."""
    if not index or (isinstance(leaf, jax.Array) and [device.platform for device in leaf.devices()] == ["cpu"]):
        # In the host's own memory a view is free, and indexing in JAX would compile a program for each shape.
        return np.asarray(leaf)[index]
    return np.asarray(leaf[index])


def _source_config(source: Path, config: DecoderConfig) -> dict[str, Any]:
    """The source's own config.json, once it is known to describe this model."""
    if (described := load_config(source)) != config:
        raise UserError(f"{source / 'config.json'} describes another architecture than the parameters: {described}")
    return read_json(source / "config.json")


def _set_dtype(hf_config: dict[str, Any], dtype: str) -> None:
    # transformers 5 writes "dtype" and reads both; older readers know "torch_dtype" only.
    hf_config.pop("dtype", None)
    hf_config["torch_dtype"] = dtype


def _copy_companions(source: Path, directory: Path) -> None:
    for pattern in ("generation_config.json", *TOKENIZER_FILES, *LICENCE_FILES):
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, directory / file.name)
