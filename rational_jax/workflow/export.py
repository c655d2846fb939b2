"""`rational export`: a trained arm as a Hugging Face directory (merged) and a PEFT adapter, checked before they appear.

Each part is built under a temporary name, reloaded and compared (the gate), and renamed when it is right; so a part
that is there is complete, and a wrong one never appears. A stopped export goes on at the file that it was writing.
The bytes depend on the base, the checkpoint and the settings only, and neither is ever held in memory.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import numpy as np

from rational_jax import __version__, hub
from rational_jax.checkpoint import Trained, read_trained
from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.manifest import Stage, read_stage
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import KeptFiles, atomic_write_json, atomic_write_text, sha256_json
from rational_jax.stores import upload
from rational_jax.text.chat import Message, Renderer
from rational_jax.workflow.model_card import model_card

MERGED, ADAPTER = "merged", "adapter"
PART_MANIFEST = "manifest.json"
"""What made an exported folder, as a file in it."""

# What the gate asks besides random tokens: those of the template and of the reasoning format have to be right as well.
_CHAT = (
    Message(role="user", content="What does a compiler do?"),
    Message(role="assistant", content="It translates programs.", reasoning="The question is harmless."),
)


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
    trained = read_trained(run_dir / "train" / arm, base, identity, config.export.dtype)
    parts = [MERGED] * config.export.merged + [ADAPTER] * (config.export.adapter and trained.lora is not None)
    if not parts:
        raise UserError(f"nothing to export of a {trained.method!r} run: set export.merged=true")
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
    trained: Trained,
    config: RunConfig,
    arm: str,
    train: dict[str, Any],
    progress: Progress,
) -> None:
    """Write, check and publish the parts that are not there; check again what came without its verification."""
    missing = [part for part, folder in folders.items() if not folder.published or not folder.figures]
    with progress.task(f"export {arm}", total=len(folders), unit="parts", done=len(folders) - len(missing)) as task:
        for part in missing:
            if folders[part].published:
                verification = _verified(folders[part].path, part, trained, config)
                folders[part].verified(dataclasses.asdict(verification))
            else:
                verification = _write_part(folders[part], part, trained, config, arm, train)
            progress.message(f"export {arm}: {part} {verification.label}")
            if (off := verification.from_quantized) is not None:
                progress.message(f"export {arm}: logits are {off:.1e} of the largest from the quantized base's")
            task.advance()


def _write_part(
    folder: KeptFiles, part: str, trained: Trained, config: RunConfig, arm: str, train: dict[str, Any]
) -> hub.Verification:
    """Fill the directory of one part, weights first and the description last, with the gate in between."""
    directory = folder.begin()
    try:
        if part == MERGED:
            hub.write_model(directory, trained.decoder, trained.weights, source=trained.base, kept=folder)
        else:
            named = {"base_name": config.model.name, "base_revision": trained.identity["revision"]}
            hub.write_adapter(directory, trained.decoder, trained.factors, trained.lora, **named)
        verification = _verified(directory, part, trained, config)
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


def _verified(directory: Path, part: str, trained: Trained, config: RunConfig) -> hub.Verification:
    """What the gate finds of a part as it lies in `directory`."""
    mode = config.export.verify
    computed = hub.is_computed(mode) or (trained.quantized and mode != "off")
    rows = hub.probe_tokens(trained.decoder, _rendered(trained.base, config)) if computed else []
    decoder, gate = trained.decoder, {"rows": rows, "mode": mode}
    if part == ADAPTER:
        return hub.verify_adapter(directory, trained.base, decoder, trained.factors, trained.lora, **gate)
    verification = hub.verify_model(directory, decoder, trained.weights, **gate)
    if trained.quantized and rows:
        run = (trained.factors, trained.lora, trained.quantized)
        distance = hub.distance_from_quantized(trained.base, decoder, trained.weights, *run, **gate)
        verification = dataclasses.replace(verification, from_quantized=distance)
    return verification


def _rendered(base: Path, config: RunConfig) -> list[np.ndarray]:
    """A chat as the model sees it, for a base that has a chat template."""
    if not hub.has_tokenizer(base):
        return []
    tokenizer = hub.load_tokenizer(base)
    if not tokenizer.chat_template:
        return []
    return [Renderer.configured(tokenizer, config.chat).example(_CHAT).tokens]
