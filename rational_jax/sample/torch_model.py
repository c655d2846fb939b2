"""The model in torch, by `transformers`, as a backend: slow, and independent of all that is ours but the renderer."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from rational_jax import hub
from rational_jax.errors import UserError
from rational_jax.sample.requests import LENGTH, STOP, Completion, Request, check_ids, refuse
from rational_jax.sample.sequence import begins_inside, find_stop, prompt_tokens
from rational_jax.text.chat import Renderer


class TransformersBackend:
    """One request after another, so that its answer depends on nothing else. On the CPU.

    Draws follow the request's seed, but are other ones than the engine's. Raises UserError where torch is missing or
    the directory cannot be loaded.
    """

    def __init__(self, directory: Path, renderer: Renderer, dtype: str):
        try:
            import torch
            from transformers import AutoModelForCausalLM, GenerationConfig
        except ImportError as error:
            raise UserError("engine.backend=transformers needs torch: pip install 'rational-jax[torch]'") from error
        self.renderer = renderer
        self.identity = {
            "backend": "transformers",
            "model": hub.identity(directory),
            "dtype": dtype,
            "renderer": renderer.settings,
        }
        try:
            self._model = AutoModelForCausalLM.from_pretrained(directory, dtype=getattr(torch, dtype)).eval()
        except (OSError, ValueError) as error:
            raise UserError(f"{directory}: transformers cannot load it: {error}") from error
        # What the model's own file asks for (repetition penalties and the like) is no part of a request.
        self._model.generation_config = GenerationConfig()

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]:
        """Completions in the order of the requests."""
        requests = list(requests)
        check_ids(requests)
        for request in requests:
            refuse(request, "transformers", ("reasoning_budget", "logprobs", "prompt_logprobs"))
        return map(self._answer, requests)

    def _answer(self, request: Request) -> Completion:
        import torch

        prompt = torch.tensor([prompt_tokens(self.renderer, request)])
        ends = [*self.renderer.stop_ids, *request.stop_ids]
        with torch.inference_mode(), torch.random.fork_rng(devices=[]):
            torch.manual_seed(request.seed)
            out = self._model.generate(
                prompt,
                attention_mask=torch.ones_like(prompt),
                max_new_tokens=request.max_new_tokens,
                eos_token_id=ends or None,
                pad_token_id=0,
                **self._draws(request),
            )
        tokens, finish = out[0, prompt.shape[1] :].tolist(), LENGTH
        if tokens[-1] in ends:
            tokens, finish = tokens[:-1], STOP
        text = self.renderer.decode(tokens)
        inside = begins_inside(self.renderer, request)
        if request.stop:
            stop, _ = find_stop(text, request.stop, self.renderer.reasoning, inside)
            if stop is not None:
                text, finish = text[:stop], STOP
        return Completion(
            id=request.id,
            text=text,
            token_ids=tuple(tokens),
            finish=finish,
            prompt_tokens=prompt.shape[1],
            begins_inside=inside and bool(self.renderer.reasoning.open),
        )

    def _draws(self, request: Request) -> dict[str, Any]:
        if not request.temperature:
            return {"do_sample": False}
        return {
            "do_sample": True,
            "temperature": request.temperature,
            "top_k": request.top_k,
            "top_p": request.top_p,
            "min_p": request.min_p or None,
        }
