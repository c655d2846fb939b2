"""A conversation with a model, its turns told while they are written."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator

import jax

from rational_jax.config import BASE, RunConfig
from rational_jax.errors import UserError
from rational_jax.progress import SILENT, Progress
from rational_jax.sample.backends import Backend, EngineBackend, named, open_backend
from rational_jax.sample.pieces import Pieces, Tokens
from rational_jax.sample.requests import Completion, Request, derive_seed
from rational_jax.sample.sequence import Generated, begins_inside
from rational_jax.text.chat import Message
from rational_jax.text.reasoning import ReasoningFormat, Split, format_named


@dataclasses.dataclass(frozen=True, kw_only=True)
class Decoding:
    """How turns are drawn; see `Request`. Without `seed` 0 to 2**32 - 1 being changed, the same words get the same."""

    max_new_tokens: int
    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    min_p: float = 0.0
    seed: int = 0
    reasoning_budget: int | None = None


class Conversation:
    """Turns of a user's and of a model's, which any backend writes; the native engine's are told as they grow."""

    def __init__(self, backend: Backend, reasoning: ReasoningFormat, decoding: Decoding, system: str = ""):
        self._backend, self._form = backend, reasoning
        self.decoding = decoding
        self.system = system
        self.turns: list[Message] = []
        self.last: Split | None = None

    def say(self, text: str) -> Iterator[tuple[str, str]]:
        """The model's turn after this one of the user's: ("reasoning", text) and ("content", text), piece by piece.

        Both turns are part of the conversation once the last piece has been taken, and neither before that. Raises
        UserError where the conversation has grown longer than the model's context, or a setting is out of range.
        """
        asked = Message(role="user", content=text)
        system = [Message(role="system", content=self.system)] if self.system else []
        settings = dataclasses.asdict(self.decoding)
        settings["seed"] = derive_seed(self.decoding.seed, len(self.turns))
        request = Request(id="turn", messages=(*system, *self.turns, asked), **settings)
        done = None
        if isinstance(self._backend, EngineBackend):
            renderer = self._backend.renderer
            lead = self._form.open if begins_inside(renderer, request) else ""
            pieces = Pieces(renderer, (), lead)
            for event in _events(self._backend, request):
                done = event if isinstance(event, Completion) else None
                yield from pieces.more(event)
            done = dataclasses.replace(done, begins_inside=bool(lead))
        else:
            (done,) = self._backend.generate([request])
        self.last = done.apart(self._form)
        if not isinstance(self._backend, EngineBackend):
            if self.last.reasoning:
                yield "reasoning", self.last.reasoning
            yield "content", self.last.answer
        self.turns += [asked, Message(role="assistant", content=self.last.answer, reasoning=self.last.reasoning)]

    def undo(self) -> str:
        """Forgets the last two turns and gives what the user had said. Raises UserError where there are none."""
        if not self.turns:
            raise UserError("nothing has been said yet")
        *self.turns, asked, _ = self.turns
        return asked.content


def _events(backend: EngineBackend, request: Request) -> Iterator[Tokens | Completion]:
    grown: list[Generated] = []
    session = backend.engine.session(grown.append)
    session.add([request])
    while session.busy:
        yield from session.step()
        for generated in grown:
            yield Tokens(request.id, tuple(generated.tokens))
        grown.clear()


def open_conversation(config: RunConfig, model: str = BASE, progress: Progress = SILENT) -> Conversation:
    """A conversation with "base", an arm of the run, a directory or a Hugging Face name, as `config.sample` draws.

    Raises UserError as `open_backend` does.
    """
    # One slot is enough, but where slots lie over several devices they have to divide over them.
    native = config.engine.backend == "engine"
    slots = jax.local_device_count() if native and jax.default_backend() != "cpu" else 1
    engine = config.engine.model_copy(update={"slots": slots})
    backend = open_backend(*named(config.model_copy(update={"engine": engine}), model), progress)
    section = config.sample
    decoding = Decoding(
        max_new_tokens=section.max_new_tokens,
        temperature=section.temperature,
        top_p=section.top_p,
        seed=config.seed,
    )
    return Conversation(backend, format_named(config.chat.reasoning), decoding)
