"""What the model in training answers to a few prompts, to be read beside the curves."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import jax

from rational_jax import models
from rational_jax.data.schema import Prompt
from rational_jax.sample import Engine, Request
from rational_jax.text.chat import Renderer
from rational_jax.train.program import Program
from rational_jax.train.step import TrainState


class Samples:
    """Answers the prompts greedily with the state it is shown; `write(step, name, text)` gets each as Markdown.

    For one process, and for weights that are not quantized. Raises UserError for a prompt that is too long.
    """

    def __init__(
        self,
        program: Program,
        frozen: dict,
        renderer: Renderer,
        prompts: Sequence[Prompt],
        *,
        max_length: int,
        max_new_tokens: int,
        write: Callable[[int, str, str], None],
    ):
        self._prompts = {prompt.id: prompt for prompt in prompts}
        self._requests = [Request(id=p.id, messages=p.messages, max_new_tokens=max_new_tokens) for p in prompts]
        self._program, self._frozen, self._write = program, frozen, write
        decoder, lora, mesh = program.decoder, program.lora, program.mesh
        self._merge = jax.jit(lambda base, factors: models.merge_lora(base, factors, decoder, lora)) if lora else None
        platform = mesh.devices.flat[0].platform
        spread = mesh.size // mesh.shape["tensor"]
        # Its programs are compiled once: the parameters are given to it before each use.
        self._engine = Engine(
            decoder,
            {},
            renderer,
            slots=-(-len(prompts) // spread) * spread,
            max_length=max_length,
            execution=models.execution_for(platform, dtype=program.execution.dtype),
            mesh=mesh,
        )
        self._engine.render(self._requests)  # what cannot be asked is told before the first step

    def __call__(self, step: int, state: TrainState) -> dict[str, float]:
        """Writes the answers; no figures come of it."""
        trained = state.trainable
        self._engine.params = self._merge(self._frozen, trained) if self._merge else trained
        for completion in self._engine.generate(self._requests):
            asked = self._prompts[completion.id].text
            self._write(step, f"samples/{completion.id}", f"**{_quoted(asked)}**\n\n{_quoted(completion.text)}")
        self._engine.params = {}  # or a second copy of the model would stay
        return {}


def _quoted(text: str) -> str:
    """As it is, in Markdown: tags of the reasoning are no tags of the page."""
    return text.replace("&", "&amp;").replace("<", "&lt;").replace("\n", "  \n")
