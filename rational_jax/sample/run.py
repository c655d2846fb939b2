"""`rational sample`: a model answers the prompts of the suites."""

import collections
import time
from collections.abc import Callable
from pathlib import Path

from rational_jax.config import RunConfig, SampleSection
from rational_jax.data.attacks import PREFILL
from rational_jax.data.schema import Prompt
from rational_jax.data.sources import digest_prompts
from rational_jax.data.suites import configured_suites
from rational_jax.errors import UserError
from rational_jax.manifest import Stage
from rational_jax.progress import SILENT, Progress
from rational_jax.sample.backends import Backend, deciding, model_identity, open_backend
from rational_jax.sample.requests import Completion, Request, derive_seed
from rational_jax.sample.rewrites import write_missing
from rational_jax.storage import JsonlLog, sha256_file, sha256_json, write_rows
from rational_jax.text.chat import Message
from rational_jax.text.reasoning import ReasoningFormat, format_named

ANSWERS = "answers.jsonl"

OpenBackend = Callable[[RunConfig, str, Progress], Backend]


def run(config: RunConfig, model: str, progress: Progress = SILENT, open_backend: OpenBackend = open_backend) -> None:
    """Writes `<run>/sample/<model>/answers.jsonl`: the answers of "base" or of a trained arm to all prompts.

    Answers are logged as they finish; a run that was stopped goes on with those that are missing. When all are there
    the file is put in the order of the prompts, so it ends in the same bytes however often it was stopped. A sample's
    seed is a function of the configuration's seed, the prompt's id and the sample's number, and so the same for every
    model. `open_backend` is called only if answers are missing.

    Raises UserError where the prompts cannot be read, the model is not there, the settings contradict each other or
    the folder was made with others.
    """
    section = config.sample
    if section.samples > 1 and section.temperature == 0:
        raise UserError(
            f"sample.temperature: 0 makes all {section.samples} answers to a prompt equal; "
            "set it above 0, or sample.samples=1"
        )
    write_missing(config, progress, open_backend)
    suites = configured_suites(config)
    prompts = [prompt for suite in suites.values() for prompt in suite]
    identity = model_identity(config, model)
    stage = Stage.open(
        Path(config.run) / "sample" / model,
        verb="sample",
        settings={
            "seed": config.seed,
            "chat": config.chat.model_dump(mode="json"),
            "model": {"dtype": config.model.dtype, "attention": config.model.attention},
            "engine": deciding(config.engine),
            "sample": _deciding(section),
        },
        inputs={
            "model": identity,
            "prompts": {name: digest_prompts(prompts) for name, prompts in suites.items()},
        },
    )
    if stage.complete:
        progress.message(f"sample {model}: already done")
        return
    requests = _requests(config, prompts, identity)
    path = stage.directory / ANSWERS
    rows = _answer(config, model, path, requests, progress, open_backend)
    ordered = [rows[key] for key in requests]
    # One piece in order: what the log looks like depends on who finished first and on where it was stopped.
    write_rows(path, ordered)
    stage.finish(
        outputs={ANSWERS: sha256_file(path)},
        figures={
            "answers": len(ordered),
            "tokens": sum(row["tokens"] for row in ordered),
            "status": dict(sorted(collections.Counter(row["status"] for row in ordered).items())),
        },
    )


def _deciding(section: SampleSection) -> dict:
    """The section as it decides answers; without attacks it says what it said before there were any."""
    said = section.model_dump(mode="json", exclude={"models"})
    return said if section.attacks else {key: value for key, value in said.items() if key != "attacks"}


def _messages(prompt: Prompt) -> tuple[Message, ...]:
    """What the model is given: the prompt, and the beginning of its own turn where an attack begins it."""
    begins = prompt.meta.get(PREFILL)
    return (*prompt.messages, Message(role="assistant", content=begins)) if begins else prompt.messages


def _requests(config: RunConfig, prompts: list[Prompt], identity: dict) -> dict[str, tuple[Request, Prompt, int]]:
    """Requests by the key of their row: a hash of all that decides the answer."""
    section = config.sample
    decoding = {name: getattr(section, name) for name in ("temperature", "top_p", "max_new_tokens")}
    requests = {}
    for prompt in prompts:
        for sample in range(section.samples):
            seed = derive_seed(config.seed, prompt.id, sample)
            named = f"{prompt.id} sample {sample}" if section.samples > 1 else prompt.id
            request = Request(id=named, messages=_messages(prompt), seed=seed, **decoding)
            asked = [identity, prompt.id, prompt.to_json()["messages"], decoding, sample, seed]
            asked += [prompt.meta[PREFILL]] if PREFILL in prompt.meta else []
            requests[sha256_json(asked)[:16]] = (request, prompt, sample)
    return requests


def _answer(
    config: RunConfig,
    model: str,
    path: Path,
    requests: dict[str, tuple[Request, Prompt, int]],
    progress: Progress,
    open_backend: OpenBackend,
) -> dict[str, dict]:
    """The row of every request by its key; generates only those that the log does not have."""
    reasoning = format_named(config.chat.reasoning)
    with JsonlLog(path) as log:
        rows = {row["id"]: row for row in log.records() if row.get("id") in requests}
        missing = {requests[key][0].id: key for key in requests if key not in rows}
        if missing and rows:
            progress.message(f"sample {model}: {len(rows):,} of {len(requests):,} answers are there already")
        if missing:
            backend = open_backend(config, model, progress)
            with progress.task(f"sample {model}", total=len(requests), unit="answers", done=len(rows)) as task:
                begun, tokens = time.monotonic(), 0
                for completion in backend.generate([requests[key][0] for key in missing.values()]):
                    key = missing.pop(completion.id)
                    request, prompt, sample = requests[key]
                    rows[key] = _row(key, model, request, prompt, sample, completion, reasoning)
                    log.append(rows[key])
                    tokens += completion.tokens
                    task.advance()
                    task.note(f"{tokens / max(time.monotonic() - begun, 1e-3):,.0f} tokens/s")
    if missing:
        raise UserError(
            f"sample {model}: no answer came for {len(missing)} prompts, the first is {next(iter(missing))!r}; "
            "rerun to go on"
        )
    return rows


def _row(
    key: str,
    model: str,
    request: Request,
    prompt: Prompt,
    sample: int,
    completion: Completion,
    reasoning: ReasoningFormat,
) -> dict:
    # Where the prompt opened the reasoning, the text alone does not show that it was never closed.
    split = completion.apart(reasoning)
    return {
        "id": key,
        "prompt": prompt.to_json(),
        "model": model,
        "sample": sample,
        "seed": request.seed,
        "text": completion.text,
        "reasoning": split.reasoning,
        "answer": split.answer,
        "status": split.status,
        "tokens": completion.tokens,
        "finish": completion.finish,
    }
