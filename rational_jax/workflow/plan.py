"""`rational plan`: compiles a configuration's training step for TPUs that are not there, and says what it costs.

Memory is what the compiler reports. Times are compiled estimates (`rational_jax.parallel.hlo`): no step is shorter, how
much longer it takes only a TPU can tell.
"""

from __future__ import annotations

import dataclasses
import math
import re
import tempfile
import time
from pathlib import Path
from typing import Any

import jax

from rational_jax import hub
from rational_jax.config import RunConfig
from rational_jax.errors import UserError
from rational_jax.models.flops import splash_flops
from rational_jax.models.remat import POLICIES
from rational_jax.parallel import make_mesh
from rational_jax.parallel.aot import HBM_GIB, topology_devices
from rational_jax.parallel.hlo import CHIPS, GIB, Collective, Estimate, estimate, read_costs
from rational_jax.progress import SILENT, Progress
from rational_jax.train.loop import jit_step
from rational_jax.train.program import Program, make_program

ESTIMATE = "compiled estimate"
"""What every figure is called that follows from the program's text."""

_USED = re.compile(r"[Uu]sed ([0-9.]+)([KMGT]?) of ")
_UNIT_GIB = {"": 1 / GIB, "K": 2**-20, "M": 2**-10, "G": 1.0, "T": 2.0**10}


@dataclasses.dataclass(frozen=True, kw_only=True)
class Memory:
    """Memory of one chip in GiB. What cannot be known where the step does not fit is None.

    `parameters` (frozen ones too), `optimizer` and `batch` are the arrays that the step is given, without padding;
    `padding` is what the chip's layout adds to them. `temporaries` is what is held besides at the worst moment:
    activations kept for the backward pass, gathered weights, gradients.
    """

    parameters: float
    optimizer: float
    batch: float
    padding: float | None
    temporaries: float | None
    limit: float


@dataclasses.dataclass(frozen=True, kw_only=True)
class Plan:
    """What the compiler says of a training step; FLOPs, GiB and seconds are of one chip and one step.

    Where the step does not fit, `advice` is what to change, cheapest first, and all that only a compiled program tells
    is None or empty; `peak_gib` is then what the compiler would have needed, if it said so. `estimate` is None, with
    `unknown` saying why, where the program runs a kernel whose FLOPs we do not know.
    """

    topology: str
    chips: int
    mesh: dict[str, int]
    fits: bool
    memory: Memory
    peak_gib: float | None
    model_flops: float
    matmul_flops: float | None
    collectives: dict[str, Collective]
    kernels: dict[str, int]
    estimate: Estimate | None
    unknown: str | None
    tokens: int
    steps: int
    lower_seconds: float
    compile_seconds: float
    notes: tuple[str, ...]
    advice: tuple[str, ...]

    @property
    def bound(self) -> float | None:
        """Model FLOPs utilization in percent that no run exceeds: a compiled estimate."""
        return self.estimate.bound if self.estimate else None

    @property
    def headroom_gib(self) -> float | None:
        """What the peak leaves of a chip's memory."""
        return None if self.peak_gib is None else self.memory.limit - self.peak_gib

    @property
    def tokens_per_second(self) -> float | None:
        """Of all chips together, at most."""
        return self.tokens / self.estimate.step if self.estimate else None

    @property
    def run_hours(self) -> float | None:
        """All steps of the run, without input, evaluation, checkpoints and compiling."""
        return self.steps * self.estimate.step / 3600 if self.estimate else None

    def cost(self, chip_hour_price: float) -> float | None:
        """Of all steps, in the currency of the price of one chip for an hour."""
        return None if self.run_hours is None else self.run_hours * self.chips * chip_hour_price

    def to_json(self, chip_hour_price: float | None = None) -> dict[str, Any]:
        """All figures under plain keys: `chip_gib`, `_seconds`, `_tflops` and `_percent` say the unit."""
        tera = 1e12
        seconds = dataclasses.asdict(self.estimate) | {"step": self.estimate.step} if self.estimate else None
        return {
            "topology": self.topology,
            "chips": self.chips,
            "mesh": self.mesh,
            "fits": self.fits,
            "peak_gib": self.peak_gib,
            "limit_gib": self.memory.limit,
            "headroom_gib": self.headroom_gib,
            "memory_gib": {k: v for k, v in dataclasses.asdict(self.memory).items() if k != "limit"},
            "model_tflops": self.model_flops / tera,
            "matmul_tflops": None if self.matmul_flops is None else self.matmul_flops / tera,
            "collectives": {
                kind: {
                    "times": moved.times,
                    "gib": moved.gib,
                    "overlapped_gib": moved.gib - moved.exposed_gib,
                    "exposed_gib": moved.exposed_gib,
                }
                for kind, moved in self.collectives.items()
            },
            "kernels": self.kernels,
            "figures_are": ESTIMATE,
            "bound": self.bound,
            "seconds": seconds,
            "unknown": self.unknown,
            "tokens_per_step": self.tokens,
            "tokens_per_second": self.tokens_per_second,
            "steps": self.steps,
            "run_hours": self.run_hours,
            "cost": None if chip_hour_price is None else self.cost(chip_hour_price),
            "lower_seconds": self.lower_seconds,
            "compile_seconds": self.compile_seconds,
            "notes": list(self.notes),
            "advice": list(self.advice),
        }


def run(
    config: RunConfig, topology: str, slices: int = 1, progress: Progress = SILENT, *, module: Path | None = None
) -> Plan:
    """Compiles the training step of `config` for `slices` slices of a topology such as "v5e:4x4".

    `module` is a file that the text of the compiled program goes to. Needs the model's config.json and no weights; call
    it in a process with JAX_PLATFORMS=cpu. Raises UserError where libtpu is missing, the topology is unknown, or the
    settings do not fit the model or the mesh; that the step does not fit a chip's memory is a result and no error.
    """
    decoder = hub.load_config(hub.resolve(config.model.name, config.model.revision, weights=False))
    kind = topology.partition(":")[0]
    if kind not in CHIPS:
        raise UserError(f"topology {topology!r}: chips are {', '.join(CHIPS)}, such as v5e:4x4")
    devices = topology_devices(topology, slices)
    mesh = make_mesh(**config.mesh.model_dump(), devices=devices)
    notes: list[str] = []
    # Arms share a program, but for one that has a run of its own where it is to be planned.
    program = make_program(config, decoder, mesh, "tpu", notes.append, config.train.arms[0])
    return _compiled(config, program, topology, tuple(notes), progress, module)


def _compiled(
    config: RunConfig, program: Program, topology: str, notes: tuple[str, ...], progress: Progress, module: Path | None
) -> Plan:
    """The plan of a program that is made for the devices of a topology."""
    section, mesh = config.train, program.mesh
    kind = topology.partition(":")[0]
    chips = mesh.devices.size
    batch, state = program.abstract_batch(section.batch_size, section.sequence_length), program.abstract_state()
    given = {
        "parameters": chip_gib(program.trainable) + chip_gib(program.frozen),
        "optimizer": chip_gib(state.opt_state),
        "batch": chip_gib(batch),
    }
    limit, tokens = HBM_GIB[kind], section.batch_size * section.sequence_length
    shared: dict[str, Any] = {
        "topology": topology,
        "chips": chips,
        "mesh": dict(mesh.shape),
        "model_flops": program.flops * tokens / chips,
        "tokens": tokens,
        "steps": section.steps,
        "notes": notes,
    }
    with (
        progress.task(f"compile for {topology}", total=None),
        jax.set_mesh(mesh),
        tempfile.TemporaryDirectory() as dumped,
    ):
        clock = time.perf_counter()
        lowered = jit_step(program.train_step, mesh, state, program.compiler_options).lower(
            state, program.frozen, batch
        )
        shared["lower_seconds"] = time.perf_counter() - clock
        clock = time.perf_counter()
        try:
            # The text is libtpu's own: jaxlib's reader does not know all that v6e's and v5p's programs are made of.
            compiled = lowered.compile({"xla_dump_to": dumped, "xla_dump_hlo_as_text": True})
        except jax.errors.JaxRuntimeError as error:
            if "RESOURCE_EXHAUSTED" not in str(error):
                raise
            return Plan(
                fits=False,
                peak_gib=asked_for(str(error)),
                memory=Memory(**given, padding=None, temporaries=None, limit=limit),
                matmul_flops=None,
                collectives={},
                kernels={},
                estimate=None,
                unknown=None,
                compile_seconds=time.perf_counter() - clock,
                advice=advice(config, chips // mesh.shape["tensor"], sum(given.values()), limit),
                **shared,
            )
        shared["compile_seconds"] = time.perf_counter() - clock
        (final,) = Path(dumped).glob("*.after_codegen.txt")
        text = final.read_text()
    analysis = compiled.memory_analysis()
    arguments, peak = analysis.argument_size_in_bytes / GIB, analysis.peak_memory_in_bytes / GIB
    if module is not None:
        module.write_text(text)
    costs = read_costs(text)
    times, unknown = None, None
    executed = splash_flops(program.decoder, section.sequence_length)
    rows = section.batch_size / section.micro_batches / chips
    try:
        times = estimate(
            costs, CHIPS[kind], chips, shared["model_flops"], {name: flops * rows for name, flops in executed.items()}
        )
    except ValueError as error:
        unknown = str(error)
    return Plan(
        fits=True,
        peak_gib=peak,
        memory=Memory(**given, padding=arguments - sum(given.values()), temporaries=peak - arguments, limit=limit),
        matmul_flops=costs.matmul_flops,
        collectives=costs.collectives,
        kernels=costs.kernels,
        estimate=times,
        unknown=unknown,
        advice=(),
        **shared,
    )


def advice(config: RunConfig, groups: int, given_gib: float, limit_gib: float) -> tuple[str, ...]:
    """What to change where a step does not fit, cheapest first; `given_gib` is what it holds before it begins.

    The batch is divided over `groups` of chips.
    """
    section, found = config.train, []
    if given_gib < limit_gib:
        # The policies are listed from the most memory to the least.
        lower = list(POLICIES)[list(POLICIES).index(section.remat) + 1 :]
        if lower:
            found.append(f"train.remat={lower[0]}, or further down to full: {POLICIES[lower[0]]}")
        rows, parts = section.batch_size // groups, section.micro_batches
        if rows > parts:
            more = next(n for n in range(parts + 1, rows + 1) if rows % n == 0)
            found.append(f"train.micro_batches={more}: the same batch in smaller parts, one after the other")
    if section.method == "full":
        if section.parameters == "float32":
            found.append("train.parameters=bfloat16: parameters and optimizer at half the size, updates less exact")
        found.append("train.method=lora: the parameters are frozen, in bfloat16 and without optimizer state")
    if section.method != "qlora":
        found.append("train.method=qlora: frozen weights in 4 bits, dequantized a layer at a time")
    larger = math.ceil(given_gib / limit_gib) if given_gib >= limit_gib else 2
    found.append(f"a larger topology, of {max(2, larger)} times as many chips, with mesh.fsdp to match")
    return tuple(found)


def chip_gib(tree: Any) -> float:
    """Bytes a device of shapes with shardings, in GiB."""

    def nbytes(leaf: jax.ShapeDtypeStruct) -> int:
        return math.prod(leaf.sharding.shard_shape(leaf.shape)) * leaf.dtype.itemsize

    return sum(map(nbytes, jax.tree.leaves(tree))) / GIB


def asked_for(message: str) -> float | None:
    """The GiB that a program wants, from the compiler's complaint that it does not fit; None where it says none."""
    found = _USED.search(message)
    return float(found[1]) * _UNIT_GIB[found[2]] if found else None
