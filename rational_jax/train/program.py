"""What a configuration trains and how, before an array exists: `train` runs it, `rational plan` compiles it."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh, NamedSharding, PartitionSpec

from rational_jax import models
from rational_jax.config import CIRCUIT_BREAKER, RunConfig
from rational_jax.errors import UserError
from rational_jax.models import DecoderConfig, Execution, LoraConfig
from rational_jax.models.attention import choose
from rational_jax.models.flops import model_flops, rerouting_flops
from rational_jax.parallel import DEFAULT_RULES, FSDP, AxisRules, replicate_kv_heads, shardings
from rational_jax.train.circuit_breaker import Rerouting, ReroutingLoss, adapted, rerouting
from rational_jax.train.optimizer import make_optimizer
from rational_jax.train.step import StepOptions, TrainState, make_measure, make_train_step, optimizer_shardings


@dataclasses.dataclass(frozen=True, kw_only=True)
class Program:
    """One training step of a configuration on a mesh, and the arrays it works on.

    `train_step` and `measure` are those of `train.step`. `trainable` and `frozen` are nested dicts of
    `jax.ShapeDtypeStruct`s with their shardings. `quantized` is how the frozen linear layers are kept, None for as they
    are. `compiler_options` are for this platform's compiler. `flops` are those that a token asks for in a full row
    (`models.flops`). `rerouting` is None for SFT.
    """

    decoder: DecoderConfig
    lora: LoraConfig | None
    quantized: str | None
    mesh: Mesh
    rules: AxisRules
    execution: Execution
    optimizer: optax.GradientTransformation
    train_step: Callable
    measure: Callable
    compiler_options: dict[str, str] | None
    flops: float
    rerouting: Rerouting | None
    trainable: dict
    frozen: dict

    def abstract_state(self) -> TrainState:
        """The state at step zero, as shapes with their shardings."""
        whole = NamedSharding(self.mesh, PartitionSpec())
        opt_state = jax.tree.map(
            lambda leaf, sharding: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding),
            jax.eval_shape(self.optimizer.init, self.trainable),
            optimizer_shardings(self.trainable, self.optimizer, self.mesh),
        )
        return TrainState(self.trainable, opt_state, jax.ShapeDtypeStruct((), jnp.int32, sharding=whole))

    def abstract_batch(self, rows: int, length: int) -> dict[str, jax.ShapeDtypeStruct]:
        """A packed batch of `rows` sequences of `length` tokens, as shapes with their shardings."""
        placed = NamedSharding(self.mesh, self.rules.spec(("batch", "sequence")))
        dtypes = {"tokens": jnp.int32, "segments": jnp.int32, "positions": jnp.int32, "kinds": jnp.uint8}
        dtypes |= {name: jnp.float32 for name in (("weights", "retain") if self.rerouting else ("weights",))}
        return {name: jax.ShapeDtypeStruct((rows, length), kind, sharding=placed) for name, kind in dtypes.items()}


def make_program(
    config: RunConfig,
    base: DecoderConfig,
    mesh: Mesh,
    platform: str,
    warn: Callable[[str], None],
    arm: str | None = None,
) -> Program:
    """The program of a configuration for a base model, on the devices of `mesh`, which are of `platform`.

    It is the same for all arms that are trained by SFT; None stands for these. `warn` hears what runs slower than it
    could. Raises UserError where the settings do not fit the model or the mesh.
    """
    section = config.train
    decoder = dataclasses.replace(base, context=section.sequence_length)
    lora = None if section.method == "full" else LoraConfig(**section.lora.model_dump())
    rerouted = None
    if arm == CIRCUIT_BREAKER:
        rerouted = rerouting(section.circuit_breaker, section.steps, decoder)
        lora = adapted(lora, rerouted, decoder)
    if lora is not None:
        lora.check(decoder)
    quantized = section.quantize if section.method == "qlora" else None
    compute = jnp.dtype(config.model.dtype)
    # Where nothing but the batch and the parameters is cut, a device can run its own rows and gather its weights; the
    # compiler's own partitioning is for tensor meshes, and cheaper on the CPU devices of one machine.
    own_rows = mesh.shape["tensor"] == 1 and platform != "cpu"
    _check_batch(section.batch_size, section.micro_batches, mesh.size // mesh.shape["tensor"], platform)
    execution = Execution(
        dtype=compute,
        attention=choose(config.model.attention, platform, decoder, section.sequence_length, warn),
        scan=platform != "cpu",
        remat=section.remat,
        gather=FSDP if own_rows else (),
    )
    rules = replicate_kv_heads(DEFAULT_RULES, mesh, decoder.num_kv_heads)
    axes = models.logical_axes(decoder, lora, quantized)
    trained_dtype = jnp.dtype(section.parameters)
    parameters = models.abstract_params(decoder, compute if lora else trained_dtype, quantized)
    trainable, frozen = parameters, {}
    if lora is not None:
        factors = jax.eval_shape(lambda: models.init_lora(decoder, lora, jax.random.key(0)))
        trainable, frozen = factors, parameters
    trainable, frozen = (_placed(tree, shardings(mesh, rules, tree, axes)) for tree in (trainable, frozen))
    optimizer = make_optimizer(section)
    options = StepOptions(micro_batches=section.micro_batches, z_loss=section.z_loss, seed=config.seed)
    flops, loss = model_flops(decoder, section.method, section.sequence_length), None
    if rerouted is not None:
        flops = rerouting_flops(decoder, rerouted.depth, section.sequence_length)
        loss = ReroutingLoss(rerouting=rerouted, config=decoder, execution=execution, lora=lora)
    train_step = make_train_step(
        decoder, optimizer, execution, lora, options=options, mesh=mesh, axes=axes, rules=rules, loss=loss
    )
    measure = make_measure(decoder, execution, lora, mesh=mesh, axes=axes, rules=rules)
    return Program(
        decoder=decoder,
        lora=lora,
        quantized=quantized,
        mesh=mesh,
        rules=rules,
        execution=execution,
        optimizer=optimizer,
        train_step=train_step,
        measure=measure,
        compiler_options=dict(flag.split("=", 1) for flag in section.tpu_flags) if platform == "tpu" else None,
        flops=flops,
        rerouting=rerouted,
        trainable=trainable,
        frozen=frozen,
    )


def _check_batch(rows: int, parts: int, groups: int, platform: str) -> None:
    """Raises UserError where a batch cannot be dealt out to groups of devices, in `parts` one after the other."""
    # On a CPU the compiler cuts a micro-batch, into unequal parts if need be; kernels and `shard_map` do not.
    multiple = math.lcm(groups, parts) if platform == "cpu" else groups * parts
    if rows % multiple:
        cut = f" in {parts} micro-batches" if parts > 1 else ""
        raise UserError(
            f"train.batch_size={rows} cannot be divided over {groups} groups of devices{cut}: "
            f"make it a multiple of {multiple}"
        )


def _placed(tree: dict, shardings: dict) -> dict:
    return jax.tree.map(
        lambda leaf, where: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=where), tree, shardings
    )
