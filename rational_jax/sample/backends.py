"""What answers requests: one protocol, and the native engine behind it."""

import dataclasses
import math
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rational_jax import hub, models
from rational_jax.config import BASE, RunConfig
from rational_jax.errors import UserError
from rational_jax.manifest import read_stage
from rational_jax.models import DecoderConfig
from rational_jax.parallel import AxisRules, make_mesh, shardings
from rational_jax.progress import SILENT, Progress
from rational_jax.sample.engine import Engine
from rational_jax.sample.requests import Completion, Request
from rational_jax.text.chat import Renderer

# Every device holds the whole width of a matrix and its own heads: what training gathers layer by layer would be
# gathered for each single token here.
RULES = AxisRules(embed=None)


class Backend(Protocol):
    """Whatever can be asked. `identity` is JSON for manifests: all that decides an answer besides the request."""

    renderer: Renderer
    identity: dict

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions as they finish, in any order. Raises UserError where a request cannot be answered."""


@dataclasses.dataclass(frozen=True, kw_only=True)
class EngineBackend:
    """The native engine as a `Backend`."""

    engine: Engine
    renderer: Renderer
    identity: dict

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        return self.engine.generate(requests)


def model_directory(config: RunConfig, model: str) -> Path:
    """The Hugging Face directory of "base" (`model.name`) or of a trained arm as it was exported.

    Raises UserError where there is none, naming the verb to run first.
    """
    if model == BASE:
        return hub.resolve(config.model.name, config.model.revision)
    export = Path(config.run) / "export" / model
    read_stage(export, verb="export")
    merged = export / "merged"
    if not merged.is_dir():
        raise UserError(f"{merged} is missing: export {model!r} with export.merged=true")
    return merged


def open_engine(config: RunConfig, model: str = BASE, progress: Progress = SILENT) -> EngineBackend:
    """Loads "base" or a trained arm into an engine of `config.engine`, computing in `config.model.dtype`.

    On several accelerators the heads are divided over as many of them as they can be, and the slots over the rest.
    Raises UserError where the model is not there, cannot be read, or the engine's settings do not fit it.
    """
    path = model_directory(config, model)
    decoder = dataclasses.replace(hub.load_config(path), context=config.engine.max_length)
    renderer = Renderer.configured(hub.load_tokenizer(path), config.chat)
    dtype = jnp.dtype(config.model.dtype)
    platform = jax.default_backend()
    # A CPU's devices are parts of one pool of threads, which one program uses better than several copies of it.
    mesh = None if platform == "cpu" else generation_mesh(decoder, jax.devices())
    placed = None
    if mesh is not None:
        placed = shardings(mesh, RULES, models.abstract_params(decoder, dtype), models.logical_axes(decoder))
    engine = Engine(
        decoder,
        hub.load_params(path, decoder, dtype, placed),
        renderer,
        slots=config.engine.slots,
        max_length=config.engine.max_length,
        steps_per_dispatch=config.engine.steps_per_dispatch,
        execution=models.execution_for(platform, dtype=dtype, attention=config.model.attention),
        mesh=mesh,
    )
    identity = {
        "backend": "engine",
        "model": hub.identity(path),
        "dtype": config.model.dtype,
        "renderer": renderer.settings,
        **engine.settings,
    }
    return EngineBackend(engine=engine, renderer=renderer, identity=identity)


def generation_mesh(decoder: DecoderConfig, devices: Sequence) -> Mesh | None:
    """Heads over as many of the devices as they divide over, slots over the rest; None where there is one device."""
    if len(devices) == 1:
        return None
    tensor = math.gcd(decoder.num_kv_heads, len(devices))
    return make_mesh(fsdp=len(devices) // tensor, tensor=tensor, devices=devices)
