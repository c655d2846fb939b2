"""The export gate: a directory is reloaded by somebody else's code before it is called done.

With torch installed, `transformers` (and `peft` for an adapter) load the directory and their logits are compared with
those of our decoder on the parameters that were meant to be written, all in float32. Without it, the directory is
reloaded through our own reader and must give back the very same numbers; such an export is marked "self-verified".

Models that do not fit into memory twice in float32 are compared layer by layer (`layerwise`), on the same tokens and
within the same tolerance; nothing larger than a layer is held then.

The tolerance is on max|a - b| / max|b|. Two correct float32 implementations differ by the order of their sums: a sum of
n terms is off by about sqrt(n) * 2^-24 of its size, 4e-6 for n = 4096, and L layers of independent errors add up to
sqrt(L) times that, 3e-5 for 80 layers. 1e-4 leaves a factor of three; a transposed, swapped or rounded tensor (bfloat16
keeps 8 bits: 2e-3) is far above it.
"""

from __future__ import annotations

import contextlib
import dataclasses
import functools
import importlib.util
import math
import os
import sys
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import jax
import jax.numpy as jnp
import numpy as np

from rational_jax.errors import UserError
from rational_jax.hub import layerwise
from rational_jax.hub.adapter import load_adapter
from rational_jax.hub.families import load_config
from rational_jax.hub.load import load_params
from rational_jax.hub.weights import BLOCK_BYTES, FileWeights, TreeWeights, Weights
from rational_jax.models import DecoderConfig, LoraConfig, abstract_params, bind, combine

if TYPE_CHECKING:
    from transformers import PreTrainedModel

TOLERANCE = 1e-4
"""How far logits in float32 may differ, as a share of the largest."""
MODES = ("auto", "transformers", "layerwise", "self", "off")


@dataclasses.dataclass(frozen=True, kw_only=True)
class Verification:
    """How an export was checked: by "transformers", "peft", "self" or "none"; on how many tokens; the error found.

    `error` is max|a - b| / max|b| over all logits; None where nothing was computed. `from_quantized` is the same number
    for a model that was trained over a quantized base and merged into the original one: how far it is from what was
    trained. That is no error, and no limit is set to it. `layerwise` says that the models were never held whole.
    """

    method: str
    tokens: int
    error: float | None
    tolerance: float
    from_quantized: float | None = None
    layerwise: bool = False

    @property
    def label(self) -> str:
        """One phrase for a model card."""
        if self.method == "none":
            return "not verified"
        if self.method == "self":
            return "self-verified (read back with rational_jax, equal bit for bit)"
        return f"verified with {self.method}: float32 logits agree within {self.tolerance:g} of the largest"


def is_computed(mode: str) -> bool:
    """Whether a check in this mode compares logits, and so needs token rows, on this installation."""
    return _method(mode, "transformers") == "transformers"


def probe_tokens(config: DecoderConfig, rendered: Sequence[Sequence[int]] = (), *, seed: int = 0) -> list[np.ndarray]:
    """Token rows to compare logits on: two random rows over the whole vocabulary, and `rendered` chats. int32 `[S]`."""
    length = min(64, config.max_positions)
    random = np.random.default_rng(seed).integers(0, config.vocab_size, (2, length), dtype=np.int32)
    return [*random, *(np.asarray(row[: config.max_positions], np.int32) for row in rendered)]


def verify_model(
    directory: str | Path,
    config: DecoderConfig,
    params: Mapping | Weights,
    rows: Sequence[np.ndarray],
    *,
    mode: str = "auto",
    tolerance: float = TOLERANCE,
) -> Verification:
    """Check that a model directory holds `params` (in the dtypes they were saved in), by its logits on `rows`.

    `mode` is one of `MODES`. "auto" takes transformers where torch is installed, and goes layer by layer where the
    model is too large for the memory that is free; "transformers" holds it whole all the same, "layerwise" does not.
    Raises UserError naming the tensors that are most off, or saying that the weights agree and the configuration does
    not.
    """
    directory = Path(directory)
    weights = params if isinstance(params, Weights) else TreeWeights(config, params)
    method = _method(mode, "transformers")
    if method == "none":
        return Verification(method=method, tokens=0, error=None, tolerance=tolerance)
    if method == "self":
        if (found := load_config(directory)) != config:
            raise UserError(f"export check failed: {directory / 'config.json'} reads back as {found}")
        if off := _differing(weights, FileWeights(config, directory)):
            raise UserError(f"export check failed in {directory}: {off}")
        return Verification(method=method, tokens=0, error=0.0, tolerance=tolerance)
    alone = is_layerwise(mode, config)
    where = layerwise.LOGITS
    with _quiet_transformers():
        if alone:
            run = _as_run(config, rows)
            steps = layerwise.our_steps(weights, run, rows), layerwise.their_steps(directory, run, rows)
            error, where = layerwise.largest_error(*steps, tolerance)
        else:
            ours = _our_logits(config, params.tree() if isinstance(params, Weights) else params, None, rows)
            error = _relative_error(ours, _their_logits(_load_transformers(directory), rows))
    if not error <= tolerance:
        off = _differing(weights, FileWeights(config, directory))
        why = off or "all tensors are as they should be, so config.json is understood differently"
        raise UserError(
            f"export check failed in {directory}: {where} differ from transformers by {error:.1e} of the largest "
            f"(allowed {tolerance:g}); {why}"
        )
    return Verification(method=method, tokens=sum(map(len, rows)), error=error, tolerance=tolerance, layerwise=alone)


def verify_adapter(
    directory: str | Path,
    base: str | Path,
    config: DecoderConfig,
    lora_params: dict,
    lora: LoraConfig,
    rows: Sequence[np.ndarray],
    *,
    mode: str = "auto",
    tolerance: float = TOLERANCE,
) -> Verification:
    """Check that an adapter directory on the base directory `base` gives the logits of that base with `lora_params`.

    As `verify_model`; "transformers" means `peft` here.
    """
    directory, base = Path(directory), Path(base)
    method = _method(mode, "peft")
    if method == "none":
        return Verification(method=method, tokens=0, error=None, tolerance=tolerance)
    if method == "self":
        found = load_adapter(directory, config)
        if found.lora != lora.spelled_out(config):
            raise UserError(f"export check failed: {directory} reads back as {found.lora}, the run had {lora}")
        if off := _differing_factors(lora_params, found.params):
            raise UserError(f"export check failed in {directory}: {off}")
        return Verification(method=method, tokens=0, error=0.0, tolerance=tolerance)
    from peft import PeftModel

    alone = is_layerwise(mode, config)
    where = layerwise.LOGITS
    with _quiet_transformers():
        if alone:
            run = _as_run(config, rows)
            ours = layerwise.our_steps(FileWeights(config, base), run, rows, lora_params, lora)
            error, where = layerwise.largest_error(ours, layerwise.their_steps(base, run, rows, directory), tolerance)
        else:
            model = PeftModel.from_pretrained(_load_transformers(base), directory).eval()
            ours = _our_logits(config, combine(load_params(base, config), lora_params), lora, rows)
            error = _relative_error(ours, _their_logits(model, rows))
    if not error <= tolerance:
        off = _differing_factors(lora_params, load_adapter(directory, config).params)
        why = off or f"all factors are as they should be, so the base {base} or the scale is understood differently"
        raise UserError(
            f"export check failed in {directory}: {where} differ from peft by {error:.1e} of the largest "
            f"(allowed {tolerance:g}); {why}"
        )
    return Verification(method=method, tokens=sum(map(len, rows)), error=error, tolerance=tolerance, layerwise=alone)


def distance_from_quantized(
    base: str | Path,
    config: DecoderConfig,
    merged: Mapping | Weights,
    factors: dict,
    lora: LoraConfig,
    kind: str,
    rows: Sequence[np.ndarray],
    *,
    mode: str = "auto",
) -> float:
    """How far the logits of `merged` are from those of the quantized base with the adapter, which a QLoRA run trained.

    max|a - b| / max|b| over `rows`, both in float32; `base` is the directory of the original base.
    """
    if is_layerwise(mode, config):
        run = _as_run(config, rows)
        ours = layerwise.our_steps(merged if isinstance(merged, Weights) else TreeWeights(config, merged), run, rows)
        trained = layerwise.our_steps(FileWeights(config, base), run, rows, factors, lora, kind)
        return layerwise.largest_error(ours, trained, float("inf"))[0]
    quantized = load_params(base, config, quantized=kind)
    trained = _our_logits(config, combine(quantized, factors), lora, rows)
    ours = _our_logits(config, merged.tree() if isinstance(merged, Weights) else merged, None, rows)
    return _relative_error(ours, trained)


def is_layerwise(mode: str, config: DecoderConfig) -> bool:
    """Whether a check in this mode takes the model layer by layer, as it is too large for the memory that is free."""
    if mode in ("transformers", "layerwise"):
        return mode == "layerwise"
    elements = sum(leaf.size for leaf in jax.tree.leaves(abstract_params(config)))
    # Two sides in float32, and as much again for what is cast and what is computed.
    return 2 * 2 * 4 * elements > _free_memory()


def _free_memory() -> int:
    """Bytes that can be used without swapping; all there are where the system does not tell."""
    try:
        lines = Path("/proc/meminfo").read_text("ascii").splitlines()
        return next(int(line.split()[1]) * 1024 for line in lines if line.startswith("MemAvailable:"))
    except (FileNotFoundError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _as_run(config: DecoderConfig, rows: Sequence[np.ndarray]) -> DecoderConfig:
    """With the rotary frequencies that transformers takes for these rows, where they switch with length."""
    return dataclasses.replace(config, context=max(map(len, rows)))


def _method(mode: str, real: str) -> str:
    if mode not in MODES:
        raise UserError(f"verify={mode!r}: choose one of {', '.join(MODES)}")
    if mode == "off":
        return "none"
    needed = ("torch", "transformers") if real == "transformers" else ("torch", "transformers", "peft")
    absent = [name for name in needed if importlib.util.find_spec(name) is None]
    if mode in ("transformers", "layerwise") and absent:
        raise UserError(f"checking the export with {real} needs {' and '.join(absent)}: install it, or use verify=self")
    return "self" if mode == "self" or absent else real


def _our_logits(config: DecoderConfig, params: dict, lora: LoraConfig | None, rows: Sequence[np.ndarray]) -> np.ndarray:
    """Our decoder's logits at every token of the rows, float32 `[tokens, V]`, one row after the other."""
    config = _as_run(config, rows)
    # Attention is causal, so what is behind the end of a short row does not matter.
    padded = np.zeros((len(rows), max(map(len, rows))), np.int32)
    for target, row in zip(padded, rows, strict=True):
        target[: len(row)] = row

    # Accelerators multiply float32 in fewer bits unless told otherwise.
    with jax.default_matmul_precision("highest"):
        logits_BxSxV = np.asarray(_logits(config, lora, params, padded))
    return np.concatenate([found[: len(row)] for found, row in zip(logits_BxSxV, rows, strict=True)])


@functools.partial(jax.jit, static_argnums=(0, 1))
def _logits(config: DecoderConfig, lora: LoraConfig | None, params: dict, tokens_BxS: jax.Array) -> jax.Array:
    wide = jax.tree.map(lambda x: x.astype(jnp.float32) if jnp.issubdtype(x.dtype, jnp.floating) else x, params)
    decoder = bind(config, wide, lora)
    hidden_BxSxD, _ = decoder(tokens_BxS)
    return decoder.unembed(hidden_BxSxD)


def _load_transformers(directory: Path) -> PreTrainedModel:
    import torch
    from transformers import AutoModelForCausalLM

    # Eager attention is the one that applies every family's soft caps.
    model, report = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=torch.float32,
        attn_implementation="eager",
        trust_remote_code=False,
        local_files_only=True,
        output_loading_info=True,
    )
    layerwise.check_report(directory, report)
    return model.eval()


def _their_logits(model: Any, rows: Sequence[np.ndarray]) -> np.ndarray:
    """A torch model's logits, as `_our_logits` gives ours; each row by itself, so there is no padding to trust."""
    import torch

    with torch.no_grad():
        found = [
            model(input_ids=torch.from_numpy(row[None].astype(np.int64))).logits[0].float().numpy() for row in rows
        ]
    return np.concatenate(found)


@contextlib.contextmanager
def _quiet_transformers() -> Iterator[None]:
    """No progress bars and advice from transformers while it only checks; its settings are put back."""
    from transformers.utils import logging

    level, bars = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        logging.set_verbosity(level)
        if bars:
            logging.enable_progress_bar()


def _relative_error(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max|a - b| / max|b|; NaN where either has one, which no tolerance allows."""
    return float(np.max(np.abs(ours - theirs)) / np.max(np.abs(theirs)))


def _differing(expected: Weights, found: Weights) -> str:
    """The tensors that are not equal, worst first, by their names in the file; empty where all are equal."""
    differences: list[tuple[float, str]] = []
    for path, row in expected.table.items():
        size, *rest = expected.piece_shape(path)
        step = max(1, BLOCK_BYTES // (4 * math.prod(rest)))
        for number, piece in enumerate(row.pieces()):
            parts = [(path, number, start, min(start + step, size)) for start in range(0, size, step)]
            # Of a large matrix this is the worst of its blocks, each measured against itself.
            off = max(_difference(expected.rows(*part), found.rows(*part)) for part in parts)
            differences.append((off, piece.name))
    return _worst(differences)


def _differing_factors(expected: dict, found: dict) -> str:
    """As `_differing`, for a LoRA tree, by the paths in it."""
    if jax.tree.structure(expected) != jax.tree.structure(found):
        return "it has other factors than the run"
    differences = [
        (_difference(np.asarray(ours), np.asarray(theirs)), jax.tree_util.keystr(where, simple=True, separator="."))
        for (where, ours), theirs in zip(jax.tree.leaves_with_path(expected), jax.tree.leaves(found), strict=True)
    ]
    return _worst(differences)


def _difference(ours: np.ndarray, theirs: np.ndarray) -> float:
    """max|a - b| / max|a|; 0 only for arrays of equal bits, infinite where the difference is not a number."""
    if ours.dtype == theirs.dtype and ours.tobytes() == theirs.tobytes():
        return 0.0
    ours, theirs = ours.astype(np.float32), theirs.astype(np.float32)
    relative = float(np.max(np.abs(ours - theirs)) / max(float(np.max(np.abs(ours))), 1e-30))
    return max(relative, sys.float_info.min) if np.isfinite(relative) else float("inf")


def _worst(differences: list[tuple[float, str]]) -> str:
    off = sorted((pair for pair in differences if pair[0] > 0), key=lambda pair: (-pair[0], pair[1]))
    if not off:
        return ""
    named = ", ".join(f"{name} (by {size:.0e} of its largest value)" for size, name in off[:3])
    return f"tensors that are off: {named}" + (f" and {len(off) - 3} more" if len(off) > 3 else "")
