"""`rational train`: SFT of one arm on what `rational curate` left."""

import dataclasses
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
from rational_jax.parallel import DEFAULT_RULES, make_mesh, replicate_kv_heads, shardings
from rational_jax.progress import SILENT, Progress
from rational_jax.text.chat import Renderer
from rational_jax.text.reasoning import format_named
from rational_jax.train.loop import compile_step, fit
from rational_jax.train.metrics import MetricsLog
from rational_jax.train.optimizer import make_optimizer
from rational_jax.train.step import init_state, make_train_step


def run(config: RunConfig, arm: str, progress: Progress = SILENT) -> None:
    """Trains `arm` in `<run>/train/<arm>` from the base, or continues it from its newest checkpoint.

    Raises UserError where the data is missing or of other settings, a checkpoint is damaged, or the mesh does not fit.
    """
    section = config.train
    run_dir = Path(config.run)
    curated = read_stage(run_dir / "curate", verb="curate")
    base = hub.resolve(config.model.name, config.model.revision)
    stage = Stage.open(
        run_dir / "train" / arm,
        verb="train",
        settings={
            "seed": config.seed,
            "chat": config.chat.model_dump(mode="json"),
            "model": config.model.model_dump(mode="json"),
            "train": section.model_dump(mode="json", exclude={"arms"}),
        },
        inputs={"curate": curated["digest"], "base": hub.identity(base)},
    )
    if stage.complete:
        progress.message(f"train {arm}: already done")
        return

    decoder_config = dataclasses.replace(hub.load_config(base), context=section.sequence_length)
    lora = None if section.method == "full" else models.LoraConfig(**section.lora.model_dump())
    if lora is not None:
        hub.check_lora(decoder_config, lora)
    packed = load_packed(config, arm, base)
    report = packed.report
    progress.message(f"train {arm}: {report.examples} examples in {report.rows} rows, {report.efficiency:.0%} full")
    mesh = make_mesh(**config.mesh.model_dump())
    trainable, frozen = _parameters(config, base, decoder_config, lora, mesh)
    optimizer = make_optimizer(section)
    dtype = jnp.dtype(config.model.dtype)
    execution = models.execution_for(mesh.devices.flat[0].platform, dtype=dtype, attention=config.model.attention)
    state = init_state(trainable, optimizer, mesh)
    compiled = compile_step(make_train_step(decoder_config, optimizer, execution, lora), mesh, state)
    batches = Batches(packed, batch_size=section.batch_size, seed=config.seed)
    metadata = {
        "method": section.method,
        "lora": dataclasses.asdict(lora) if lora else None,
        "quantize": section.quantize if section.method == "qlora" else None,
        "base": hub.identity(base),
        "arm": arm,
    }
    with Checkpoints(stage.directory / "checkpoints", keep=section.keep_checkpoints) as checkpoints:
        latest = checkpoints.latest()
        if latest is not None:
            state = type(state)(**checkpoints.restore(latest, state._asdict()))
            progress.message(f"train {arm}: continues from step {latest}")
        with MetricsLog(stage.directory, resumed_step=latest or 0) as metrics:
            state = fit(
                compiled,
                state,
                frozen,
                batches.batch,
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
    stage.finish(outputs={}, figures={"packing": dataclasses.asdict(report)})


def load_packed(config: RunConfig, arm: str, base: Path) -> Packed:
    """The arm's curated dataset, rendered with the base's own template and packed."""
    section = config.train
    dataset = Path(config.run) / "curate" / arm
    rationales = read_tfds(dataset / "tfds") if section.format == "tfds" else read_hf(dataset / "dataset")
    if not rationales:
        raise UserError(f"{dataset} holds no example to train on; {dataset.parent / 'funnel.json'} says why")
    renderer = Renderer(hub.load_tokenizer(base), format_named(config.chat.reasoning))
    examples = [renderer.example(rationale.training_messages()) for rationale in rationales]
    return pack(examples, length=section.sequence_length, reasoning_weight=section.reasoning_weight)


def _parameters(config, base, decoder_config, lora, mesh) -> tuple[dict, dict]:
    """Trainable and frozen arrays, sharded over the mesh by the axis rules. What is trained is float32."""
    quantized = config.train.quantize if config.train.method == "qlora" else None
    axes = models.logical_axes(decoder_config, lora, quantized)
    base_dtype = jnp.dtype(config.model.dtype) if lora else jnp.float32
    abstract = models.abstract_params(decoder_config, base_dtype, quantized)
    rules = replicate_kv_heads(DEFAULT_RULES, mesh, decoder_config.num_kv_heads)
    placed = shardings(mesh, rules, abstract, axes)
    params = hub.load_params(base, decoder_config, base_dtype, placed, quantized=quantized)
    if lora is None:
        return params, {}
    key = jax.random.key(config.seed)
    shapes = jax.eval_shape(lambda: models.init_lora(decoder_config, lora, key))
    placed = shardings(mesh, rules, shapes, axes)
    return jax.jit(lambda: models.init_lora(decoder_config, lora, key), out_shardings=placed)(), params
