"""`rational export`: a trained arm as a Hugging Face directory (merged) and a PEFT adapter, checked before they appear.

Each part is built under a temporary name, reloaded and compared (the gate), and renamed when it is right; so a part
that is there is complete, a stopped export goes on with the parts that are missing, and a wrong one never appears.
The bytes depend on the base, the checkpoint and the settings only.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from rational_jax import hub
from rational_jax.checkpoint import Checkpoints
from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.manifest import Stage, read_stage
from rational_jax.models import DecoderConfig, LoraConfig, combine, merge_lora
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import atomic_directory, atomic_write_json, atomic_write_text, sha256_tree
from rational_jax.text.chat import Message, Renderer
from rational_jax.text.reasoning import format_named
from rational_jax.workflow.model_card import model_card

MERGED, ADAPTER = "merged", "adapter"
PART_MANIFEST = "manifest.json"

# What the gate asks besides random tokens: those of the template and of the reasoning format have to be right as well.
_CHAT = (
    Message(role="user", content="What does a compiler do?"),
    Message(role="assistant", content="It translates programs.", reasoning="The question is harmless."),
)


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Trained:
    """What an export is made from: the base as it is stored, and `trainable`, what training added or changed.

    `quantized` says how the base was quantized while it was trained.
    """

    base: Path
    identity: dict[str, Any]
    decoder: DecoderConfig
    lora: LoraConfig | None
    quantized: str | None
    params: dict
    trainable: dict

    def merged(self, dtype: str) -> dict:
        """The whole trained model, LoRA added in float32, cast to `dtype` ("base": as each array of the base is)."""
        if self.lora is None:
            whole = combine(self.params, self.trainable)
        else:
            wide = jax.tree.map(lambda leaf: leaf.astype(jnp.float32), self.params)
            whole = merge_lora(wide, self.trainable, self.decoder, self.lora)
        return jax.tree.map(lambda new, old: new.astype(old.dtype if dtype == "base" else dtype), whole, self.params)


def run(config: RunConfig, arm: str, progress: Progress = SILENT) -> Path:
    """Export `arm` from `<run>/train/<arm>` to `<run>/export/<arm>`, or finish it, and return that directory.

    It gets `merged/` if `export.merged` and, from a LoRA run, `adapter/` if `export.adapter`. Raises UserError where
    the arm is not trained, its checkpoint is damaged, the base has changed since, or the gate finds that what was
    written is not what was trained (then that part is not there).
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
        stage = Stage.open(
            run_dir / "export" / arm,
            verb="export",
            settings={
                "model": {"name": config.model.name, "revision": config.model.revision},
                "chat": config.chat.model_dump(mode="json"),
                "export": config.export.model_dump(mode="json"),
            },
            inputs={"train": train["digest"], "base": identity},
        )
        if stage.complete:
            progress.message(f"export {arm}: already done")
            return stage.directory
        missing = [part for part in parts if not (stage.directory / part).is_dir()]
        trained = _read(checkpoints, step, base, identity, made) if missing else None
    figures = {}
    with progress.task(f"export {arm}", total=len(parts), unit="part", done=len(parts) - len(missing)) as task:
        for part in missing:
            with atomic_directory(stage.directory / part) as partial:
                verification = _write_part(partial, part, trained, config, arm, train)
            figures[part] = dataclasses.asdict(verification)
            progress.message(f"export {arm}: {part} {verification.label}")
            if (distance := verification.from_quantized) is not None:
                progress.message(f"export {arm}: logits are {distance:.1e} of the largest from the quantized base's")
            task.advance()
    stage.finish(outputs=_outputs(stage.directory, parts), figures=figures)
    return stage.directory


def _read(checkpoints: Checkpoints, step: int, base: Path, identity: dict[str, Any], made: dict[str, Any]) -> _Trained:
    decoder = hub.load_config(base)
    # Rank, alpha and targets come from the run itself.
    lora = None if made["lora"] is None else LoraConfig(**made["lora"])
    part = {"trainable": checkpoints.abstract(step)["trainable"]}
    trainable = checkpoints.restore(step, part, partial=True)["trainable"]
    params = hub.load_params(base, decoder)
    return _Trained(
        base=base,
        identity=identity,
        decoder=decoder,
        lora=lora,
        quantized=made.get("quantize"),
        params=params,
        trainable=trainable,
    )


def _write_part(
    directory: Path, part: str, trained: _Trained, config: RunConfig, arm: str, train: dict[str, Any]
) -> hub.Verification:
    """Fill the directory of one part, weights first and the description last, with the gate in between."""
    mode = config.export.verify
    computed = hub.is_computed(mode) or (trained.quantized and mode != "off")
    rows = hub.probe_tokens(trained.decoder, _rendered(trained.base, config)) if computed else []
    gate = {"rows": rows, "mode": mode}
    if part == MERGED:
        params = trained.merged(config.export.dtype)
        hub.write_model(directory, trained.decoder, params, source=trained.base)
        verification = hub.verify_model(directory, trained.decoder, params, **gate)
        if trained.quantized and rows:
            factors, lora = trained.trainable, trained.lora
            distance = hub.distance_from_quantized(
                trained.base, trained.decoder, params, factors, lora, trained.quantized, rows
            )
            verification = dataclasses.replace(verification, from_quantized=distance)
    else:
        named = {"base_name": config.model.name, "base_revision": trained.identity["revision"]}
        hub.write_adapter(directory, trained.decoder, trained.trainable, trained.lora, **named)
        verification = hub.verify_adapter(
            directory, trained.base, trained.decoder, trained.params, trained.trainable, trained.lora, **gate
        )
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
            "files": sha256_tree(directory),
        },
    )
    return verification


def _rendered(base: Path, config: RunConfig) -> list[np.ndarray]:
    """A chat as the model sees it, for a base that has a chat template."""
    if not hub.has_tokenizer(base):
        return []
    tokenizer = hub.load_tokenizer(base)
    if not tokenizer.chat_template:
        return []
    return [Renderer(tokenizer, format_named(config.chat.reasoning)).example(_CHAT).tokens]


def _outputs(directory: Path, parts: list[str]) -> dict[str, str]:
    """The hash of every file, by its path below the directory of the export."""
    return {f"{part}/{name}": digest for part in parts for name, digest in sha256_tree(directory / part).items()}
