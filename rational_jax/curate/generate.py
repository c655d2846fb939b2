"""The model writes samples: which are asked for, and the log that a stop at any moment leaves whole."""

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

import numpy as np

from rational_jax.config import CurateSection, RunConfig
from rational_jax.curate.store import Part, Rows
from rational_jax.data.schema import Prompt
from rational_jax.errors import UserError
from rational_jax.progress import Progress
from rational_jax.sample.requests import STOP, Completion, Request, derive_seed
from rational_jax.storage import JsonlLog, atomic_write_bytes
from rational_jax.text.reasoning import OK, ReasoningFormat

# Requests that a backend is given at once. It holds all of them, and what it runs beside each other gets thin at the
# end of them.
AT_ONCE = 8192


class Backend(Protocol):
    """What curation needs of a model: completions in any order."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]: ...


def make_request(section: CurateSection, seed: int, part: Part, prompt: Prompt, sample: int) -> Request:
    """What is asked for one sample. Its seed is a function of the run's, the prompt's id and the sample's number."""
    return Request(
        id=f"{prompt.id}#{sample}",
        messages=part.recipe.messages(prompt),
        max_new_tokens=section.max_new_tokens,
        temperature=section.temperature,
        top_p=section.top_p,
        seed=derive_seed(seed, "curate", prompt.id, sample),
    )


def generate(
    config: RunConfig,
    path: Path,
    parts: Sequence[Part],
    prompts: Rows,
    reasoning: ReasoningFormat,
    progress: Progress,
    open_backend: Callable[[RunConfig, Progress], Backend],
) -> Rows:
    """The samples of all parts in their order; draws only those that the log at `path` does not have."""
    places = {prompts[number]["id"]: (part, at) for part in parts for at, number in enumerate(part.prompts)}
    total = sum(len(part.numbers) for part in parts)
    offsets = np.full(total, -1, np.int64)
    usable = 0

    def take(row: dict, offset: int) -> None:
        nonlocal usable
        name, _, sample = str(row.get("id")).rpartition("#")
        part, at = places.get(name, (None, 0))
        if part is not None and sample.isdecimal() and int(sample) < part.samples:
            number = part.first + at * part.samples + int(sample)
            usable += offsets[number] < 0 and _is_usable(row, reasoning)
            offsets[number] = offset

    def missing() -> Iterator[Request]:
        for part in parts:
            for at, number in enumerate(part.prompts):
                first = part.first + at * part.samples
                lacking = np.flatnonzero(offsets[first : first + part.samples] < 0).tolist()
                if lacking:
                    prompt = Prompt.from_json(prompts[number])
                    yield from (make_request(config.curate, config.seed, part, prompt, i) for i in lacking)

    with JsonlLog(path, take) as log:
        done = int(np.count_nonzero(offsets >= 0))
        if 0 < done < total:
            progress.message(f"curate: {done:,} of {total:,} samples are there already")
        if done < total:
            backend = open_backend(config, progress)
            with progress.task("curate", total=total, unit="samples", done=done) as task:
                asked = missing()
                while requests := list(itertools.islice(asked, AT_ONCE)):
                    for completion in backend.generate(requests):
                        log.append(_row(completion, reasoning))
                        done += 1
                        task.advance()
                        task.note(f"{usable / done:.0%} with reasoning and answer")
    lost = np.flatnonzero(offsets < 0)
    if len(lost):
        part = next(part for part in parts if lost[0] in part.numbers)
        at, sample = divmod(int(lost[0]) - part.first, part.samples)
        raise UserError(
            f"curate: the model gave no sample for {len(lost)} requests, the first is "
            f"'{prompts[part.prompts[at]]['id']}#{sample}'; rerun to go on"
        )
    return _in_order(path, offsets)


def _in_order(path: Path, offsets: np.ndarray) -> Rows:
    """The log in the order of its requests: a run that was stopped ends in the same bytes as one that was not."""
    rows = Rows(path, offsets)
    atomic_write_bytes(path, map(rows.line, range(len(rows))))
    return Rows(path)


def _row(completion: Completion, reasoning: ReasoningFormat) -> dict:
    # Half of a surrogate pair fits in no dataset.
    text = completion.whole(reasoning.open).encode("utf-8", "replace").decode("utf-8")
    return {"id": completion.id, "text": text, "tokens": completion.tokens, "finish": completion.finish}


def _is_usable(row: dict, reasoning: ReasoningFormat) -> bool:
    return reasoning.split(row["text"], finished=row["finish"] == STOP).status == OK
