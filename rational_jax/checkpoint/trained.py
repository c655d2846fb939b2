"""What a training run left, matrix by matrix: the base with LoRA merged into it, or the arrays that were trained."""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rational_jax import hub
from rational_jax.checkpoint.checkpoints import Checkpoints
from rational_jax.errors import UserError
from rational_jax.hub.families import TreePath
from rational_jax.hub.weights import FileWeights, Weights
from rational_jax.manifest import read_stage
from rational_jax.models import DecoderConfig, LoraConfig
from rational_jax.models.lora import merged


@dataclasses.dataclass(frozen=True, kw_only=True)
class Trained:
    """A training run's newest checkpoint, over the base that it was trained from. Arrays are read when asked for.

    `identity` is the base's (`hub.identity`), `dtype` as in `TrainedWeights`; `method` is how it was trained, `lora`
    the factors' settings, and `quantized` how the base was quantized meanwhile (None: not at all).
    """

    directory: Path
    step: int
    base: Path
    identity: dict[str, Any]
    dtype: str
    method: str
    lora: LoraConfig | None
    quantized: str | None

    @functools.cached_property
    def decoder(self) -> DecoderConfig:
        return hub.load_config(self.base)

    @functools.cached_property
    def factors(self) -> dict:
        """LoRA's parameters; none of a run that trained all."""
        if self.lora is None:
            return {}
        with Checkpoints(self.directory, read_only=True) as checkpoints:
            saved = checkpoints.abstract(self.step)["trainable"]
            return checkpoints.restore(self.step, {"trainable": saved}, partial=True)["trainable"]

    @functools.cached_property
    def weights(self) -> TrainedWeights:
        """What training made of the base, matrix by matrix."""
        stored = hub.FileWeights(self.decoder, self.base)
        if self.lora is not None:
            return TrainedWeights(stored, self.dtype, lora=self.lora, factors=self.factors)
        with Checkpoints(self.directory, read_only=True) as checkpoints:
            saved = checkpoints.abstract(self.step)["trainable"]
            paths = [tuple(key.key for key in where) for where, _ in jax.tree.leaves_with_path(saved)]
            arrays = {path: checkpoints.opened(self.step, ".".join(("trainable", *path))) for path in paths}
        return TrainedWeights(stored, self.dtype, arrays=arrays)


def read_trained(directory: Path, base: Path, identity: dict[str, Any], dtype: str) -> Trained:
    """What the finished training run in `directory` left.

    Raises UserError where that is no checkpoint or not one of the last step, and where the base has changed; that the
    checkpoint is damaged is a UserError as well, when its arrays are asked for.
    """
    steps = read_stage(directory, verb="train")["settings"]["train"]["steps"]
    with Checkpoints(directory / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise UserError(f"{checkpoints.directory} holds no checkpoint: delete {directory} and train again")
        if step != steps:
            raise UserError(f"{checkpoints.directory} ends at step {step} of {steps}: run `rational train` again")
        made = checkpoints.metadata(step)
    if made["base"]["files"] != identity["files"]:
        raise UserError(f"the base model in {base} is not the one that {directory.name!r} was trained from any more")
    return Trained(
        directory=directory / "checkpoints",
        step=step,
        base=base,
        identity=identity,
        dtype=dtype,
        method=made["method"],
        # Rank, alpha and targets come from the run itself.
        lora=LoraConfig(**made["lora"]) if made["lora"] else None,
        quantized=made.get("quantize"),
    )


class TrainedWeights(Weights):
    """The trained model in the dtypes of an export; nothing is held but the factors of LoRA.

    `dtype` is "base" (each matrix as the base has it) or the name of a dtype. `factors` are LoRA's parameters. `arrays`
    are the arrays of full training by their path, opened and not read (`Checkpoints.opened`).
    """

    def __init__(
        self,
        base: FileWeights,
        dtype: str,
        *,
        lora: LoraConfig | None = None,
        factors: Mapping[str, Any] | None = None,
        arrays: Mapping[TreePath, Any] | None = None,
    ):
        super().__init__(base.config)
        self._base = base
        self._dtype = None if dtype == "base" else jnp.dtype(dtype)
        self._lora = lora
        self._factors = jax.tree.map(np.asarray, factors or {})
        self._arrays = arrays or {}

    def dtype(self, path: TreePath, number: int) -> np.dtype:
        return self._base.dtype(path, number) if self._dtype is None else self._dtype

    def rows(self, path: TreePath, number: int, start: int, stop: int) -> np.ndarray:
        target = self.dtype(path, number)
        if path in self._arrays:
            array = self._arrays[path]
            stack = array.shape[: len(array.shape) - len(self.piece_shape(path))]
            index = np.unravel_index(number, stack) if stack else ()
            found = array[(*map(int, index), slice(start, stop))].read().result()
            return np.ascontiguousarray(found.astype(target, copy=False))
        rows = self._base.rows(path, number, start, stop)
        if (pair := self._pair(path, number)) is None:
            return rows.astype(target, copy=False)
        a, b = pair
        # Always by the host's processor: the bytes of an export must not depend on the accelerator.
        with jax.default_device(jax.local_devices(backend="cpu")[0]):
            return np.asarray(_merge(rows, a, b[start:stop], self._lora.scale, target))

    def _pair(self, path: TreePath, number: int) -> tuple[np.ndarray, np.ndarray] | None:
        """The factors of LoRA on one matrix, if it has them."""
        if self._lora is None or path[-1] != "weight" or path[0] != "layers":
            return None
        row = self.table[path]
        chosen = self._lora.chosen(".".join(path[1:-1]), row.layers)
        at, *expert = map(int, np.unravel_index(number, self.shapes[path][: 1 + (row.experts is not None)]))
        if row.layers[at] not in chosen:
            return None
        node = functools.reduce(lambda node, key: node[key], path[:-1], self._factors)
        index = (chosen.index(row.layers[at]), *expert)
        return node["lora_a"][index], node["lora_b"][index]


@functools.partial(jax.jit, static_argnums=(3, 4))
def _merge(weight: jax.Array, a: jax.Array, b: jax.Array, scale: float, dtype: np.dtype) -> jax.Array:
    return merged(weight.astype(jnp.float32), a, b, scale).astype(dtype)
