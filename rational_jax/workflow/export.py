"""`rational export`: a trained arm as a Hugging Face directory (merged) and a PEFT adapter, checked before they appear.

Each part is built under a temporary name, reloaded and compared (the gate), and renamed when it is right; so a part
that is there is complete, and a wrong one never appears. A stopped export goes on at the file that it was writing.
The bytes depend on the base, the checkpoint and the settings only, and neither is ever held in memory.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import numpy as np

from rational_jax import __version__, hub
from rational_jax.checkpoint import Checkpoints
from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.manifest import Stage, read_stage
from rational_jax.models import DecoderConfig, LoraConfig
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import KeptFiles, atomic_write_json, atomic_write_text, sha256_json, upload
from rational_jax.text.chat import Message, Renderer
from rational_jax.workflow.model_card import model_card
from rational_jax.workflow.trained import TrainedWeights

MERGED, ADAPTER = "merged", "adapter"
PART_MANIFEST = "manifest.json"

# What the gate asks besides random tokens: those of the template and of the reasoning format have to be right as well.
_CHAT = (
    Message(role="user", content="What does a compiler do?"),
    Message(role="assistant", content="It translates programs.", reasoning="The question is harmless."),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Trained:
    """What an export is made from: the base as it is stored, what training made of it, and the factors of LoRA.

    `quantized` says how the base was quantized while it was trained.
    """

    base: Path
    identity: dict[str, Any]
    weights: TrainedWeights
    lora: LoraConfig | None
    factors: dict
    quantized: str | None

    @property
    def decoder(self) -> DecoderConfig:
        return self.weights.config


def run(config: RunConfig, arm: str, progress: Progress = SILENT) -> Path:
    """Export `arm` from `<run>/train/<arm>` to `<run>/export/<arm>`, or finish it, and return that directory.

    It gets `merged/` if `export.merged` and, from a LoRA run, `adapter/` if `export.adapter`. Raises UserError where
    the arm is not trained, its checkpoint is damaged, the base has changed since, or the gate finds that what was
    written is not what was trained (then that part is not there). With `export.upload` the finished export is copied
    to `<upload>/<arm>`, also where it was finished before.
    """
    run_dir = Path(config.run)
    train = read_stage(run_dir / "train" / arm, verb="train")
    base = hub.resolve(config.model.name, config.model.revision)
    identity = hub.identity(base)
    with Checkpoints(run_dir / "train" / arm / "checkpoints", read_only=True) as checkpoints:
        step = checkpoints.latest()
        if step is None:
            raise UserError(
                f"{checkpoints.directory} holds no checkpoint: delete {run_dir / 'train' / arm} and train again"
            )
        made = checkpoints.metadata(step)
        if made["base"]["files"] != identity["files"]:
            raise UserError(
                f"the base model {config.model.name!r} is not the one that {arm!r} was trained from any more"
            )
        parts = [MERGED] * config.export.merged + [ADAPTER] * (config.export.adapter and made["lora"] is not None)
        if not parts:
            raise UserError(f"nothing to export of a {made['method']!r} run: set export.merged=true")
        settings = {
            "model": {"name": config.model.name, "revision": config.model.revision},
            "chat": config.chat.model_dump(mode="json"),
            "export": config.export.model_dump(mode="json", exclude={"upload"}),
        }
        inputs = {"train": train["digest"], "base": identity}
        stage = Stage.open(run_dir / "export" / arm, verb="export", settings=settings, inputs=inputs)
        if stage.complete:
            progress.message(f"export {arm}: already done")
        else:
            trained = functools.partial(_read, checkpoints, step, base, identity, made, config.export.dtype)
            made_from = sha256_json([settings, inputs, __version__])
            folders = {part: KeptFiles(stage.directory / part, made_from) for part in parts}
            _write_missing(folders, trained, config, arm, train, progress)
            stage.finish(
                outputs={f"{part}/{name}": digest for part in parts for name, digest in folders[part].files.items()},
                figures={part: folders[part].figures for part in parts},
            )
            for folder in folders.values():
                folder.forget()
    if config.export.upload is not None:
        address = f"{config.export.upload.rstrip('/')}/{arm}"
        upload(stage.directory, address, read_stage(stage.directory, verb="export")["outputs"])
        progress.message(f"export {arm}: uploaded to {address}")
    return stage.directory


def _write_missing(
    folders: dict[str, KeptFiles],
    read: Callable[[], _Trained],
    config: RunConfig,
    arm: str,
    train: dict[str, Any],
    progress: Progress,
) -> None:
    """Write, check and publish the parts that are not there."""
    missing = [part for part, folder in folders.items() if not folder.published]
    with progress.task(f"export {arm}", total=len(folders), unit="parts", done=len(folders) - len(missing)) as task:
        trained = read() if missing else None
        for part in missing:
            verification = _write_part(folders[part], part, trained, config, arm, train)
            progress.message(f"export {arm}: {part} {verification.label}")
            if (off := verification.from_quantized) is not None:
                progress.message(f"export {arm}: logits are {off:.1e} of the largest from the quantized base's")
            task.advance()


def _read(
    checkpoints: Checkpoints, step: int, base: Path, identity: dict[str, Any], made: dict[str, Any], dtype: str
) -> _Trained:
    stored = hub.FileWeights(hub.load_config(base), base)
    saved = checkpoints.abstract(step)["trainable"]
    if made["lora"] is None:
        lora, factors = None, {}
        paths = [tuple(key.key for key in where) for where, _ in jax.tree.leaves_with_path(saved)]
        arrays = {path: checkpoints.opened(step, ".".join(("trainable", *path))) for path in paths}
        weights = TrainedWeights(stored, dtype, arrays=arrays)
    else:
        # Rank, alpha and targets come from the run itself.
        lora = LoraConfig(**made["lora"])
        factors = checkpoints.restore(step, {"trainable": saved}, partial=True)["trainable"]
        weights = TrainedWeights(stored, dtype, lora=lora, factors=factors)
    return _Trained(
        base=base, identity=identity, weights=weights, lora=lora, factors=factors, quantized=made.get("quantize")
    )


def _write_part(
    folder: KeptFiles, part: str, trained: _Trained, config: RunConfig, arm: str, train: dict[str, Any]
) -> hub.Verification:
    """Fill the directory of one part, weights first and the description last, with the gate in between."""
    mode = config.export.verify
    computed = hub.is_computed(mode) or (trained.quantized and mode != "off")
    rows = hub.probe_tokens(trained.decoder, _rendered(trained.base, config)) if computed else []
    directory, decoder, gate = folder.begin(), trained.decoder, {"rows": rows, "mode": mode}
    try:
        if part == MERGED:
            hub.write_model(directory, decoder, trained.weights, source=trained.base, kept=folder)
            verification = hub.verify_model(directory, decoder, trained.weights, **gate)
            if trained.quantized and rows:
                run = (trained.factors, trained.lora, trained.quantized)
                distance = hub.distance_from_quantized(trained.base, decoder, trained.weights, *run, **gate)
                verification = dataclasses.replace(verification, from_quantized=distance)
        else:
            named = {"base_name": config.model.name, "base_revision": trained.identity["revision"]}
            hub.write_adapter(directory, decoder, trained.factors, trained.lora, **named)
            verification = hub.verify_adapter(directory, trained.base, decoder, trained.factors, trained.lora, **gate)
    except UserError:
        # What the gate refused must not be found again by the next run.
        folder.discard()
        raise
    card = model_card(
        part, arm=arm, model=config.model.name, base=trained.identity, train=train, checked=verification.label
    )
    atomic_write_text(directory / "README.md", card)
    atomic_write_json(
        directory / PART_MANIFEST,
        {
            "part": part,
            "arm": arm,
            "base": trained.identity,
            "train": train["digest"],
            # The error that was measured is among the figures of the stage: these bytes must not depend on rounding.
            "verified": {"method": verification.method, "tolerance": verification.tolerance},
            "files": folder.digests(),
        },
    )
    folder.publish(dataclasses.asdict(verification))
    return verification


def _rendered(base: Path, config: RunConfig) -> list[np.ndarray]:
    """A chat as the model sees it, for a base that has a chat template."""
    if not hub.has_tokenizer(base):
        return []
    tokenizer = hub.load_tokenizer(base)
    if not tokenizer.chat_template:
        return []
    return [Renderer.configured(tokenizer, config.chat).example(_CHAT).tokens]
