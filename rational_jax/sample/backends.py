"""What answers requests: one protocol, and what the configuration puts behind it."""

import dataclasses
import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import jax
import jax.numpy as jnp
from jax.sharding import Mesh

from rational_jax import hub, models
from rational_jax.checkpoint import Trained, TrainedWeights, read_trained
from rational_jax.config import BASE, EngineSection, RunConfig
from rational_jax.errors import UserError
from rational_jax.manifest import read_stage
from rational_jax.models import DecoderConfig
from rational_jax.parallel import AxisRules, make_mesh, shardings
from rational_jax.progress import SILENT, Progress
from rational_jax.sample import endpoint, fleet
from rational_jax.sample.engine import Engine
from rational_jax.sample.requests import Completion, Request
from rational_jax.sample.sequence import begins_inside
from rational_jax.sample.torch_model import TransformersBackend
from rational_jax.text.chat import Renderer
from rational_jax.text.reasoning import format_named

# Every device holds the whole width of a matrix and its own heads: what training gathers layer by layer would be
# gathered for each single token here.
RULES = AxisRules(embed=None)


class Backend(Protocol):
    """Whatever can be asked. `identity` is JSON for manifests: all that decides an answer besides the request."""

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
        requests = list(requests)
        completions = self.engine.generate(requests)
        return self._marked(requests, completions) if self.renderer.reasoning.open else completions

    def _marked(self, requests: list[Request], completions: Iterator[Completion]) -> Iterator[Completion]:
        asked = {request.id: request for request in requests}
        known: dict[tuple, bool] = {}  # one look for all samples of a prompt
        for completion in completions:
            request = asked[completion.id]
            prompt = request.messages, request.prompt_ids
            if prompt not in known:
                known[prompt] = begins_inside(self.renderer, request)
            yield dataclasses.replace(completion, begins_inside=known[prompt])


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


@dataclasses.dataclass(frozen=True, kw_only=True)
class _Stored:
    """A model on disk: the directory of its configuration, tokenizer and, if it is not a training run's, weights."""

    directory: Path
    identity: dict
    trained: Trained | None = None

    @property
    def weights(self) -> Path | TrainedWeights:
        return self.trained.weights if self.trained else self.directory


def _stored(config: RunConfig, model: str) -> _Stored:
    """Where `engine.weights` says that the model is. Raises UserError as `model_directory` does."""
    if model == BASE or config.engine.weights == "export":
        directory = model_directory(config, model)
        return _Stored(directory=directory, identity=hub.identity(directory))
    if jax.process_count() > 1:
        # Orbax reads with all processes together, and here each of them reads for itself.
        raise UserError("engine.weights=checkpoint: one process reads it; export, and leave engine.weights=export")
    run = Path(config.run) / "train" / model
    train = read_stage(run, verb="train")
    base = hub.resolve(config.model.name, config.model.revision)
    identity = hub.identity(base)
    # In the dtypes of an export, so that the answers are those of the export.
    trained = read_trained(run, base, identity, config.export.dtype)
    named = {"name": model, "train": train["digest"], "base": identity, "dtype": config.export.dtype}
    return _Stored(directory=base, identity=named, trained=trained)


def deciding(section: EngineSection) -> dict:
    """What of the section decides answers, for the settings of a stage: for the engine what it has always been."""
    if section.backend == "engine":
        quantized = {} if section.quantize is None else {"quantize": section.quantize}
        return {"slots": section.slots, "max_length": section.max_length} | quantized
    if section.backend == "transformers":
        return {"backend": section.backend}
    return {name: getattr(section, name) for name in ("backend", "endpoint", "endpoint_model")}


def model_identity(config: RunConfig, model: str) -> dict:
    """What names the model that answers: digests of its files, or its name at an endpoint.

    Raises UserError as `model_directory` does, where the model is to be a directory.
    """
    if config.engine.backend == "openai":
        return endpoint.identity(config.engine, _endpoint_model(config, model))
    if config.engine.backend == "transformers":
        return hub.identity(model_directory(config, model))
    return _stored(config, model).identity


def open_backend(config: RunConfig, model: str = BASE, progress: Progress = SILENT) -> Backend:
    """What `config.engine.backend` asks for, with "base" or a trained arm; engines on all processes of the job.

    At an endpoint "base" is `engine.endpoint_model`, or else `model.name`, and an arm has its own name.
    """
    if config.engine.backend == "openai":
        reasoning = format_named(config.chat.reasoning)
        return endpoint.EndpointBackend(config.engine, _endpoint_model(config, model), reasoning)
    if config.engine.backend == "transformers":
        path = model_directory(config, model)
        renderer = Renderer.configured(hub.load_tokenizer(path), config.chat)
        return TransformersBackend(path, renderer, config.model.dtype)
    if jax.process_count() > 1:
        return fleet.open_fleet(config, model, progress, open_engine)
    return open_engine(config, model)


def led(action: Callable[[], object]) -> None:
    """Runs `action` on the lead process of a job, while the others generate for the backends that it opens.

    With one process, just runs it. Raises what `action` does; UserError on the other processes where it does.
    """
    fleet.led(action, open_engine)


def _endpoint_model(config: RunConfig, model: str) -> str:
    return model if model != BASE else config.engine.endpoint_model or config.model.name


def open_engine(config: RunConfig, model: str = BASE) -> EngineBackend:
    """Loads "base" or a trained arm into an engine of `config.engine`, computing in `config.model.dtype`.

    On several accelerators of this process the heads are divided over as many of them as they can be, and the slots
    over the rest.
    Raises UserError where the model is not there, cannot be read, or the engine's settings do not fit it.
    """
    stored, quantized = _stored(config, model), config.engine.quantize
    decoder = dataclasses.replace(hub.load_config(stored.directory), context=config.engine.max_length)
    renderer = Renderer.configured(hub.load_tokenizer(stored.directory), config.chat)
    dtype = jnp.dtype(config.model.dtype)
    platform = jax.default_backend()
    execution = models.execution_for(platform, dtype=dtype, attention=config.model.attention)
    # A CPU's devices are parts of one pool of threads, which one program uses better than several copies of it.
    mesh = None if platform == "cpu" else generation_mesh(decoder, jax.local_devices())
    placed = None
    if mesh is not None:
        shapes, axes = models.abstract_params(decoder, dtype, quantized), models.logical_axes(decoder, None, quantized)
        placed = shardings(mesh, generation_rules(decoder, mesh), shapes, axes)
    engine = Engine(
        decoder,
        hub.load_params(stored.weights, decoder, dtype, placed, quantized=quantized),
        renderer,
        slots=config.engine.slots,
        max_length=config.engine.max_length,
        steps_per_dispatch=config.engine.steps_per_dispatch,
        execution=execution,
        mesh=mesh,
    )
    identity = {
        "backend": "engine",
        "model": stored.identity,
        "dtype": config.model.dtype,
        "renderer": renderer.settings,
        **deciding(config.engine),
    }
    return EngineBackend(engine=engine, renderer=renderer, identity=identity)


def named(config: RunConfig, model: str) -> tuple[RunConfig, str]:
    """What `open_backend` takes for "base", one of `sample.models`, a directory or a Hugging Face name."""
    if model == BASE or model in config.sample.models:
        return config, model
    section = config.model.model_copy(update={"name": model, "revision": None})
    return config.model_copy(update={"model": section}), BASE


def generation_mesh(decoder: DecoderConfig, devices: Sequence) -> Mesh | None:
    """Heads over as many of the devices as they divide over, slots over the rest; None where there is one device."""
    if len(devices) == 1:
        return None
    tensor = math.gcd(decoder.num_kv_heads, len(devices))
    return make_mesh(fsdp=len(devices) // tensor, tensor=tensor, devices=devices)


def generation_rules(decoder: DecoderConfig, mesh: Mesh) -> AxisRules:
    """`RULES`, with the whole vocabulary on every device where it does not divide over the tensor axis."""
    return RULES if decoder.vocab_size % mesh.shape["tensor"] == 0 else dataclasses.replace(RULES, vocab=None)
