"""`rational train`: SFT of one arm on what `rational curate` left."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import jax
import jax.numpy as jnp

from rational_jax import hub, models
from rational_jax.checkpoint import Checkpoints
from rational_jax.config import RunConfig
from rational_jax.data.batches import Batches
from rational_jax.data.packing import Packed, pack
from rational_jax.data.rationale_dataset import read_hf, read_tfds
from rational_jax.errors import UserError
from rational_jax.manifest import Stage, read_stage
from rational_jax.parallel import make_mesh
from rational_jax.parallel.processes import agreed, is_lead
from rational_jax.progress import SILENT, Progress
from rational_jax.text.chat import Renderer
from rational_jax.train.loop import compile_step, fit
from rational_jax.train.metrics import MetricsLog
from rational_jax.train.program import Program, make_program
from rational_jax.train.step import init_state


def run(config: RunConfig, arm: str, progress: Progress = SILENT) -> None:
    """Trains `arm` in `<run>/train/<arm>` from the base, or continues it from its newest checkpoint.

    Raises UserError where the data is missing or of other settings, a checkpoint is damaged, or the mesh does not fit.
    """
    section = config.train
    run_dir = Path(config.run)
    curated = read_stage(run_dir / "curate", verb="curate")
    base = hub.resolve(config.model.name, config.model.revision)
    directory = run_dir / "train" / arm
    settings = {
        "seed": config.seed,
        "chat": config.chat.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "train": section.model_dump(mode="json", exclude={"arms"}),
    }
    inputs = {"curate": curated["digest"], "base": hub.identity(base)}
    stages = []  # the lead process alone opens the folder

    def is_complete() -> bool:
        stages.append(Stage.open(directory, verb="train", settings=settings, inputs=inputs))
        return stages[0].complete

    if agreed(is_complete):
        progress.message(f"train {arm}: already done")
        return

    mesh = make_mesh(**config.mesh.model_dump())
    program = make_program(config, hub.load_config(base), mesh, mesh.devices.flat[0].platform, progress.message)
    if program.lora is not None:
        hub.check_lora(program.decoder, program.lora)
    packed = load_packed(config, arm, base)
    report = packed.report
    progress.message(f"train {arm}: {report.examples} examples in {report.rows} rows, {report.efficiency:.0%} full")
    trainable, frozen = _parameters(config, base, program)
    state = init_state(trainable, program.optimizer, mesh)
    compiled = compile_step(program.train_step, mesh, state, program.rules, program.compiler_options)
    batches = Batches(packed, batch_size=section.batch_size, seed=config.seed)
    metadata = {
        "method": section.method,
        "lora": dataclasses.asdict(program.lora) if program.lora else None,
        "quantize": program.quantized,
        "base": hub.identity(base),
        "arm": arm,
    }
    with Checkpoints(directory / "checkpoints", keep=section.keep_checkpoints) as checkpoints:
        latest = agreed(checkpoints.latest)
        if latest is not None:
            state = type(state)(**checkpoints.restore(latest, state._asdict()))
            progress.message(f"train {arm}: continues from step {latest}")
        with MetricsLog(directory, resumed_step=latest or 0) if is_lead() else nullcontext() as metrics:
            state = fit(
                compiled,
                state,
                frozen,
                lambda step: batches.placed(step, compiled.batch_sharding),
                mesh=mesh,
                steps=section.steps,
                checkpoints=checkpoints,
                save_every=section.save_every,
                metadata=metadata,
                metrics=metrics,
                log_every=section.log_every,
                description=f"train {arm}",
                progress=progress,
            )
    for stage in stages:
        stage.finish(outputs={}, figures={"packing": dataclasses.asdict(report)})


def load_packed(config: RunConfig, arm: str, base: Path) -> Packed:
    """The arm's curated dataset, rendered with the base's own template and packed."""
    section = config.train
    dataset = Path(config.run) / "curate" / arm
    rationales = read_tfds(dataset / "tfds") if section.format == "tfds" else read_hf(dataset / "dataset")
    if not rationales:
        raise UserError(f"{dataset} holds no example to train on; {dataset.parent / 'funnel.json'} says why")
    renderer = Renderer.configured(hub.load_tokenizer(base), config.chat)
    examples = [example for rationale in rationales for example in renderer.examples(rationale.training_messages())]
    return pack(examples, length=section.sequence_length, reasoning_weight=section.reasoning_weight)


def _parameters(config: RunConfig, base: Path, program: Program) -> tuple[dict, dict]:
    """Trainable and frozen arrays, where the program wants them."""
    lora = program.lora
    wanted = program.frozen if lora else program.trainable
    dtype = jnp.dtype(config.model.dtype if lora else config.train.parameters)
    placed = jax.tree.map(lambda leaf: leaf.sharding, wanted)
    params = hub.load_params(base, program.decoder, dtype, placed, quantized=program.quantized)
    if lora is None:
        return params, {}
    placed = jax.tree.map(lambda leaf: leaf.sharding, program.trainable)
    key = jax.random.key(config.seed)
    return jax.jit(lambda: models.init_lora(program.decoder, lora, key), out_shardings=placed)(), params
