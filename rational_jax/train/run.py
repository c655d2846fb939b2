"""`rational train`: SFT of one arm on what `rational curate` left, or on a data set of the user's own; or its rival."""

import dataclasses
from contextlib import nullcontext
from pathlib import Path

import jax
import jax.numpy as jnp

from rational_jax import hub, models
from rational_jax.checkpoint import Checkpoints
from rational_jax.config import CIRCUIT_BREAKER, RunConfig, TrainSection
from rational_jax.data.sources import read_prompts
from rational_jax.errors import UserError
from rational_jax.manifest import Stage, read_stage
from rational_jax.parallel import make_mesh
from rational_jax.parallel.processes import agreed, dissenters, is_lead
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import sha256_file, sha256_json, sha256_tree
from rational_jax.stores import local_copy
from rational_jax.text.chat import Renderer
from rational_jax.train.breaker_sets import digest_sets, load_breaker_sets
from rational_jax.train.circuit_breaker import begun
from rational_jax.train.examples import load_examples
from rational_jax.train.heldout import HeldOut
from rational_jax.train.loop import Trace, Watcher, compile_step, fit
from rational_jax.train.meter import Speed, peak_flops
from rational_jax.train.metrics import MetricsLog
from rational_jax.train.program import Program, make_program
from rational_jax.train.samples import Samples
from rational_jax.train.step import init_state

# Settings that decide how a run is watched and kept, and not what comes out of it.
_OUTSIDE = {"arms", "keep_checkpoints", "keep_every", "log_every", "profile", "sample_every", "sample_prompts"}
_SAMPLED_PROMPTS = 4


def run(config: RunConfig, arm: str, progress: Progress = SILENT) -> None:
    """Trains `arm` in `<run>/train/<arm>` from the base, or continues it from its newest checkpoint.

    All processes of a run call this together; they share the run folder, into which the lead process writes all but its
    part of the checkpoints.

    Raises UserError where the data is missing or of other settings, a checkpoint is damaged, or the mesh does not fit.
    Raises Preempted where the system wants the machine back, with the state saved.
    """
    section = config.train
    base = hub.resolve(config.model.name, config.model.revision)
    directory = Path(config.run) / "train" / arm
    settings = {
        "seed": config.seed,
        "chat": config.chat.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json"),
        "train": section.model_dump(mode="json", exclude=_OUTSIDE | _others_settings(arm)),
    }
    inputs = _data_digest(config, arm) | {"base": hub.identity(base)}
    stages = []  # the lead process alone opens the folder

    def is_complete() -> bool:
        stages.append(Stage.open(directory, verb="train", settings=settings, inputs=inputs))
        kept = directory / "checkpoints"
        # A last checkpoint that was damaged has been deleted; whoever deletes them all is done with them.
        left = {step.name for step in kept.iterdir() if step.name.isdigit()} if kept.is_dir() else ()
        if stages[0].complete and left and str(section.steps) not in left:
            stages[0].reopen()
        return stages[0].complete

    mesh_settings = config.mesh.model_dump()
    if others := dissenters(sha256_json({"settings": settings, "inputs": inputs, "mesh": mesh_settings})):
        raise UserError(
            f"process {', '.join(map(str, others))} has other settings than process 0, or reads another base or other "
            "data; start all with the same command"
        )
    if agreed(is_complete):
        progress.message(f"train {arm}: already done")
        return

    if section.sample_prompts and jax.process_count() > 1:
        raise UserError("train.sample_prompts: only a run of one process can sample; leave it out")
    mesh = make_mesh(**mesh_settings)
    device = mesh.devices.flat[0]
    program = make_program(config, hub.load_config(base), mesh, device.platform, progress.message, arm)
    if program.lora is not None:
        hub.check_lora(program.decoder, program.lora)
    examples = load_breaker_sets(config, base) if program.rerouting else load_examples(config, arm, base)
    progress.message(f"train {arm}: {examples.reported}")
    if examples.others:
        progress.message(f"train {arm}: {examples.others} rationales of other layouts are left out")
    trainable, frozen = _parameters(config, base, program)
    state = init_state(trainable, program.optimizer, mesh)
    compiled = compile_step(program.train_step, mesh, state, program.rules, program.compiler_options)
    batches = examples.batches(section.batch_size, config.seed)
    watchers = []
    if examples.heldout is not None:
        look = HeldOut(program.measure, examples.heldout, section.batch_size, compiled.batch_sharding, frozen)
        watchers.append(Watcher(every=section.heldout_every, look=look))
    metadata = {
        "method": section.method,
        "lora": dataclasses.asdict(program.lora) if program.lora else None,
        "quantize": program.quantized,
        "base": hub.identity(base),
        "arm": arm,
        "seed": config.seed,
        "renderer": examples.renderer,
    }
    kept = {
        "keep": section.keep_checkpoints,
        "keep_every": section.keep_every,
        "keep_best": "heldout_loss" if section.keep_best else None,
    }
    with Checkpoints(directory / "checkpoints", **kept) as checkpoints:
        latest = agreed(checkpoints.latest)
        if latest is not None:
            state = type(state)(**checkpoints.restore(latest, state._asdict()))
            progress.message(f"train {arm}: continues from step {latest}")
        with MetricsLog(directory, resumed_step=latest or 0) if is_lead() else nullcontext() as metrics:
            if section.sample_prompts:
                look = _samples(config, base, program, frozen, metrics)
                watchers.append(Watcher(every=section.sample_every, look=look))
            fit(
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
                watchers=watchers,
                trace=_trace(section, directory, latest or 0),
                speed=Speed(
                    chips=mesh.size,
                    flops=program.flops,
                    peak=peak_flops(device.device_kind),
                ),
                contents=lambda step: examples.named(batches.rows_of(step)),
                shapes=len(batches.lengths),
                description=f"train {arm}",
                progress=progress,
            )
    for stage in stages:
        stage.finish(outputs={}, figures={"packing": examples.report})


def _others_settings(arm: str) -> set[str]:
    """Settings that decide nothing of what becomes of this arm."""
    return {"data", "format"} if arm == CIRCUIT_BREAKER else {"circuit_breaker"}


def _data_digest(config: RunConfig, arm: str) -> dict[str, str]:
    """What is trained on, as inputs of the stage."""
    if arm == CIRCUIT_BREAKER:
        return digest_sets(config)
    if config.train.data is None:
        return {"curate": read_stage(Path(config.run) / "curate", verb="curate")["digest"]}
    path = local_copy(config.train.data)
    if not path.exists():
        raise UserError(f"train.data={path}: no such file or folder")
    return {"data": sha256_json(sha256_tree(path)) if path.is_dir() else sha256_file(path)}


def _samples(config: RunConfig, base: Path, program: Program, frozen: dict, metrics: MetricsLog) -> Samples:
    return Samples(
        program,
        frozen,
        Renderer.configured(hub.load_tokenizer(base), config.chat),
        read_prompts(config.train.sample_prompts, _SAMPLED_PROMPTS),
        max_length=config.engine.max_length,
        max_new_tokens=config.sample.max_new_tokens,
        write=metrics.write_text,
    )


def _trace(section: TrainSection, directory: Path, done: int) -> Trace | None:
    """The trace that is asked for, unless it would begin in what an earlier process has done."""
    if section.profile is None or not done < section.profile[0] <= section.steps:
        return None
    first, last = section.profile
    return Trace(first=first, last=min(last, section.steps), directory=str(directory / "tensorboard"))


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

    def start() -> dict:
        factors = models.init_lora(program.decoder, lora, key)
        return begun(factors, jax.random.fold_in(key, 1)) if program.rerouting else factors

    return jax.jit(start, out_shardings=placed)(), params
