"""`rational plan --generate`: compiles the engine's programs for TPUs that are not there, and says what fits.

Memory is what the compiler reports. The speed is a bound from memory traffic alone: a step of decoding reads every
weight and the whole cache once, so none is shorter than that takes.
"""

from __future__ import annotations

import dataclasses
import time
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import NamedSharding, PartitionSpec

from rational_jax import hub, models
from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.models import cache
from rational_jax.parallel import AxisRules, make_mesh, shardings
from rational_jax.parallel.aot import HBM_GIB, topology_devices
from rational_jax.parallel.hlo import GIB
from rational_jax.progress import SILENT, Progress
from rational_jax.sample import programs
from rational_jax.sample.backends import generation_mesh, generation_rules
from rational_jax.sample.engine import CHUNK, PREFILL_TOKENS
from rational_jax.workflow.plan import asked_for, chip_gib

HBM_BANDWIDTH = {"v4": 1228e9, "v5e": 819e9, "v5p": 2765e9, "v6e": 1640e9}
"""Bytes a second that a chip reads from its memory, as Google's pages on each kind state."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class GenerationPlan:
    """What the compiler says of the engine on a topology; GiB are of one chip.

    `parameters` and `cache` are what the engine holds; `decode_gib` and `prefill_gib` are the peaks of its programs,
    both with all that it holds. A peak is None where its program does not fit. `step_seconds` is the least that one
    step of all slots takes.
    """

    topology: str
    chips: int
    mesh: dict[str, int]
    slots: int
    max_length: int
    parameters: float
    cache: float
    decode_gib: float | None
    prefill_gib: float | None
    limit: float
    asked_gib: float | None
    step_seconds: float
    compile_seconds: float
    advice: tuple[str, ...]

    @property
    def fits(self) -> bool:
        return self.peak_gib is not None and self.peak_gib <= self.limit

    @property
    def peak_gib(self) -> float | None:
        peaks = (self.decode_gib, self.prefill_gib)
        return None if None in peaks else max(peaks)

    @property
    def tokens_per_second(self) -> float:
        """Of all chips together, at most, with every slot in use."""
        return self.slots / self.step_seconds

    def to_json(self) -> dict[str, Any]:
        """All figures under plain keys."""
        return dataclasses.asdict(self) | {
            "fits": self.fits,
            "peak_gib": self.peak_gib,
            "tokens_per_second_bound": self.tokens_per_second,
        }


def run(config: RunConfig, topology: str, progress: Progress = SILENT) -> GenerationPlan:
    """Compiles decoding for all slots, and the prefill of the longest prompts, for one slice of a topology.

    Needs the model's config.json and no weights; call it in a process with JAX_PLATFORMS=cpu. Raises UserError where
    libtpu is missing, the topology is unknown, or the slots do not divide over it; that it does not fit is a result.
    """
    section, kind = config.engine, topology.partition(":")[0]
    if kind not in HBM_BANDWIDTH:
        raise UserError(f"topology {topology!r}: chips are {', '.join(HBM_BANDWIDTH)}, such as v5e:4x4")
    decoder = hub.load_config(hub.resolve(config.model.name, config.model.revision, weights=False))
    decoder = dataclasses.replace(decoder, context=section.max_length)
    devices = topology_devices(topology)
    mesh = generation_mesh(decoder, devices) or make_mesh(devices=devices)
    dtype = jnp.dtype(config.model.dtype)
    execution = models.execution_for("tpu", dtype=dtype, attention=config.model.attention)
    shapes = models.abstract_params(decoder, dtype, section.quantize)
    axes = models.logical_axes(decoder, None, section.quantize)
    placed = shardings(mesh, generation_rules(decoder, mesh), shapes, axes)
    params = jax.tree.map(_shaped, shapes, placed)
    empty = jax.eval_shape(lambda: programs.empty_slots(decoder, section.slots, section.max_length, execution))
    sizes = jax.ShapeDtypeStruct((section.slots, decoder.num_kv_heads), np.int32)
    shardings(mesh, AxisRules(), {"slots": sizes}, {"slots": ("batch", "kv_heads")}, "engine.")  # refuses what it must
    axes = programs.slot_axes(empty)
    slots = jax.tree.map(lambda leaf, names: _shaped(leaf, NamedSharding(mesh, AxisRules().spec(names))), empty, axes)
    whole = NamedSharding(mesh, PartitionSpec())
    held = {"parameters": chip_gib(params), "cache": chip_gib(slots)}

    def one(shape: tuple[int, ...]) -> jax.ShapeDtypeStruct:
        return jax.ShapeDtypeStruct(shape, np.int32, sharding=whole)

    def decode():
        stops, enough = one((1,)), one(())
        plain = programs.PLAIN
        return programs.advance.lower(
            decoder, execution, section.steps_per_dispatch, plain, stops, params, None, slots, enough
        )

    def prefill():
        if section.max_length > CHUNK:
            caches = jax.eval_shape(lambda: cache.empty(decoder, 1, section.max_length, dtype))
            caches = jax.tree.map(lambda leaf: _shaped(leaf, whole), caches)
            tokens, place = one((1, CHUNK)), one((1,))
            return programs.prefill_chunk.lower(decoder, execution, params, caches, tokens, place, place)
        rows = max(1, PREFILL_TOKENS // section.max_length)
        return programs.prefill.lower(decoder, execution, params, one((rows, section.max_length)), one((rows,)))

    peaks: list[float | None] = []
    asked, clock = None, time.perf_counter()
    with progress.task(f"compile for {topology}", total=2, unit="programs") as task:
        # The slots are no argument of the prefill, and there all the same.
        # As in the engine: the few rows of a prefill cannot be divided over the batch axes.
        for lower, where, beside in ((decode, jax.set_mesh(mesh), 0.0), (prefill, nullcontext(), held["cache"])):
            try:
                with where:
                    analysis = lower().compile().memory_analysis()
                peaks.append(analysis.peak_memory_in_bytes / GIB + beside)
            except jax.errors.JaxRuntimeError as error:
                if "RESOURCE_EXHAUSTED" not in str(error):
                    raise
                peaks.append(None)
                asked = asked_for(str(error))
            task.advance()
    limit = HBM_GIB[kind]
    fits = None not in peaks and max(peaks) <= limit
    return GenerationPlan(
        topology=topology,
        chips=mesh.devices.size,
        mesh=dict(mesh.shape),
        slots=section.slots,
        max_length=section.max_length,
        **held,
        decode_gib=peaks[0],
        prefill_gib=peaks[1],
        limit=limit,
        asked_gib=asked,
        step_seconds=sum(held.values()) * GIB / HBM_BANDWIDTH[kind],
        compile_seconds=time.perf_counter() - clock,
        advice=() if fits else _advice(config, held["parameters"], limit),
    )


def _advice(config: RunConfig, parameters: float, limit: float) -> tuple[str, ...]:
    """What to change, cheapest first."""
    section, found = config.engine, []
    if parameters < limit:
        found.append(f"engine.slots={max(1, section.slots // 2)}: fewer sequences at a time")
        found.append(f"engine.max_length={section.max_length // 2}: shorter ones, half the cache")
    if config.model.dtype == "float32":
        found.append("model.dtype=bfloat16: weights and cache at half the size")
    if section.quantize is None:
        found.append("engine.quantize=int8, or nf4: the weights of linear layers in 8 or 4 bits")
    return (*found, "a larger topology")


def _shaped(leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(leaf.shape, leaf.dtype, sharding=sharding)
