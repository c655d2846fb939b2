"""Weights as a Hugging Face directory: the same tensors, names and files that the model came with.

Without a cast every tensor's bytes are those that were loaded. Rows go through the host a few at a time, so its memory
holds neither the model nor a file of it. The bytes are a function of the weights and the source directory only.
"""

from __future__ import annotations

import functools
import json
import math
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, NamedTuple

import jax.numpy as jnp
import numpy as np
from jax.typing import DTypeLike

from rational_jax.errors import UserError
from rational_jax.hub.families import TreePath, load_config, read_json, write_config
from rational_jax.hub.resolve import LICENCE_FILES, PROCESSOR_FILES, TOKENIZER_FILES
from rational_jax.hub.tensor_files import (
    INDEX_FILE,
    SINGLE_FILE,
    Stored,
    float_name,
    format_dtype,
    in_file_order,
    write_tensors,
)
from rational_jax.hub.weights import BLOCK_BYTES, FileWeights, TreeWeights, Weights
from rational_jax.models import DecoderConfig
from rational_jax.storage import KeptFiles, atomic_directory

SHARD_BYTES = 2 * 1024**3
"""How large a file of weights gets, where nothing else is said."""


def save_model(
    directory: str | Path,
    config: DecoderConfig,
    params: Mapping[str, Any] | Weights,
    *,
    source: str | Path | None = None,
    dtype: DTypeLike | None = None,
    shard_bytes: int | None = None,
) -> None:
    """Write a model directory, which appears only when it is complete; one that was there before is replaced.

    `source` is the directory the model came from: its configuration, generation configuration, tokenizer, chat template
    and licence are carried over, and the tensors of other towers than ours. Without one (a new model) only a
    config.json is written. `dtype` casts every tensor of the decoder. Raises UserError where the source describes
    another architecture.
    """
    with atomic_directory(Path(directory)) as partial:
        write_model(partial, config, params, source=source, dtype=dtype, shard_bytes=shard_bytes)


def write_model(
    directory: Path,
    config: DecoderConfig,
    params: Mapping[str, Any] | Weights,
    *,
    source: str | Path | None = None,
    dtype: DTypeLike | None = None,
    shard_bytes: int | None = None,
    kept: KeptFiles | None = None,
) -> None:
    """As `save_model`, into an existing directory and without the promise that it is complete when it is there.

    With `kept`, files of weights that it has are not written again, and each new one is added to it when it is whole.
    """
    weights = params if isinstance(params, Weights) else TreeWeights(config, params)
    planned = _decoder(weights, None if dtype is None else jnp.dtype(dtype))
    dtypes = {tensor.stored.dtype for tensor in planned}
    metadata: dict[str, Any] = {}
    if source is None:
        hf_config = write_config(config)
    else:
        source = Path(source)
        hf_config = _source_config(source, config)
        planned = [*_carried(FileWeights(config, source)), *planned]
        if (source / INDEX_FILE).is_file():
            metadata = read_json(source / INDEX_FILE).get("metadata") or {}
        _copy_companions(source, directory)
    if len(dtypes) == 1:
        _set_dtype(hf_config, float_name(dtypes.pop()))
    write_json(directory / "config.json", hf_config)
    shards = _shards(planned, shard_bytes or SHARD_BYTES)
    names = [SINGLE_FILE]
    if len(shards) > 1:
        names = [f"model-{number:05d}-of-{len(shards):05d}.safetensors" for number in range(1, len(shards) + 1)]
        weight_map = {tensor.name: name for name, shard in zip(names, shards, strict=True) for tensor in shard}
        total = sum(tensor.stored.size for tensor in planned)
        index = {"metadata": metadata | {"total_size": total}, "weight_map": dict(sorted(weight_map.items()))}
        write_json(directory / INDEX_FILE, index)
    with ThreadPoolExecutor(1) as keeper:
        there, kept_files = set(kept.files if kept else ()), []
        for name, shard in zip(names, shards, strict=True):
            if name not in there:
                digest = _write_shard(directory / name, shard)
                if kept is not None:
                    # The next file is written while this one goes to the disk.
                    kept_files.append(keeper.submit(kept.add, name, digest))
        for keeping in kept_files:
            keeping.result()


def write_json(file: Path, value: Any) -> None:
    """JSON as transformers writes it: indented, keys sorted, a newline at the end."""
    file.write_text(json.dumps(value, indent=2, sort_keys=True, ensure_ascii=False) + "\n", encoding="utf-8")


class _Planned(NamedTuple):
    """A tensor to be written. `arrays` makes its rows a few at a time, `layer` says near which others it belongs."""

    name: str
    layer: int
    stored: Stored
    arrays: Callable[[], Iterator[np.ndarray]]


def _decoder(weights: Weights, dtype: np.dtype | None) -> list[_Planned]:
    """The tensors of the decoder, layer by layer."""
    parts: dict[str, list[tuple[TreePath, int]]] = {}
    layers: dict[str, int] = {}
    for place, (path, row) in enumerate(weights.table.items()):
        # What stands before the layers goes to the first file, what stands after them to the last.
        outside = -1 if place == 0 else weights.config.num_layers
        for number, piece in enumerate(row.pieces()):
            parts.setdefault(piece.name, []).append((path, number))
            layers[piece.name] = outside if row.layers is None else row.layers[piece.index[0]]

    def planned(name: str) -> _Planned:
        shapes = [weights.piece_shape(path) for path, _ in parts[name]]
        target = weights.dtype(*parts[name][0]) if dtype is None else dtype
        shape = (sum(rows for rows, *_ in shapes), *shapes[0][1:])

        def arrays() -> Iterator[np.ndarray]:
            # The rows of a fused tensor belong to several of our matrices.
            for (path, number), (rows, *rest) in zip(parts[name], shapes, strict=True):
                step = max(1, BLOCK_BYTES // (target.itemsize * math.prod(rest)))
                for start in range(0, rows, step):
                    found = weights.rows(path, number, start, min(start + step, rows))
                    yield found.astype(target, copy=False)

        return _Planned(name, layers[name], Stored(Path(), format_dtype(target), shape), arrays)

    return sorted(map(planned, parts), key=lambda tensor: tensor.layer)


def _carried(source: FileWeights) -> Iterator[_Planned]:
    """The tensors of other towers, byte for byte."""
    for name in source.carried():
        stored = source.files.stored(name)
        yield _Planned(name, -1, stored, functools.partial(source.files.raw, name, BLOCK_BYTES))


def _shards(planned: list[_Planned], shard_bytes: int) -> list[list[_Planned]]:
    """Cut into files of at most `shard_bytes`; a larger tensor gets a file of its own."""
    shards: list[list[_Planned]] = [[]]
    filled = 0
    for tensor in planned:
        if shards[-1] and filled + tensor.stored.size > shard_bytes:
            shards.append([])
            filled = 0
        shards[-1].append(tensor)
        filled += tensor.stored.size
    return shards


def _write_shard(file: Path, shard: list[_Planned]) -> str:
    """Write one file and return its SHA-256."""
    by_name = {tensor.name: tensor for tensor in shard}
    tensors = {name: tensor.stored for name, tensor in by_name.items()}
    return write_tensors(file, tensors, (array for name in in_file_order(tensors) for array in by_name[name].arrays()))


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
    for pattern in ("generation_config.json", *TOKENIZER_FILES, *PROCESSOR_FILES, *LICENCE_FILES):
        for file in source.glob(pattern):
            if file.is_file():
                shutil.copyfile(file, directory / file.name)
