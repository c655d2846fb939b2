"""`rational curate`: prompts in, datasets of rationales out."""

import json
from collections.abc import Callable, Iterable, Iterator, Sequence
from pathlib import Path
from typing import Protocol

from rational_jax import hub
from rational_jax.config import RunConfig
from rational_jax.curate.filters import Candidate, Filtered, Rules, apply_filters, check_filter_names
from rational_jax.curate.funnel import Funnel, make_funnel
from rational_jax.curate.layouts import derive
from rational_jax.curate.recipes import Recipe, load_recipe
from rational_jax.data.rationale_dataset import write_hf, write_tfds
from rational_jax.data.schema import Prompt, Rationale
from rational_jax.data.sources import prompt_file, read_prompts
from rational_jax.errors import UserError
from rational_jax.judges import RefusalJudge
from rational_jax.manifest import Stage
from rational_jax.progress import SILENT, Progress
from rational_jax.sample import deciding
from rational_jax.sample.requests import STOP, Completion, Request, derive_seed
from rational_jax.storage import JsonlLog, atomic_write_bytes, atomic_write_json, sha256_file, sha256_tree
from rational_jax.text.chat import Renderer
from rational_jax.text.reasoning import OK, ReasoningFormat, format_named

GENERATIONS, REJECTED, FUNNEL = "generations.jsonl", "rejected.jsonl", "funnel.json"


class Backend(Protocol):
    """What curation needs of a model: completions in any order."""

    def generate(self, requests: Iterable[Request]) -> Iterator[Completion]: ...


def run(
    config: RunConfig,
    progress: Progress = SILENT,
    open_backend: Callable[[RunConfig, Progress], Backend] | None = None,
) -> None:
    """Writes `<run>/curate`: the samples, what was rejected and why, the funnel, and each dataset in both formats.

    Every sample's seed is a function of the configuration's seed, the prompt's id and the sample's number. Samples
    are logged as they finish; a run that was stopped goes on with those that are missing, and no finished sample is
    drawn again. `open_backend` opens the model, by default what `engine.backend` says; it is called only if samples are
    missing.

    Raises UserError where prompts, recipe or settings do not fit, and where no sample is kept (the funnel and the
    rejected samples are there to say why).
    """
    section = config.curate
    prompts = read_prompts(section.prompts, section.limit)
    recipe = load_recipe(section.recipe, config.model.name)
    check_filter_names(recipe.filters)
    if section.samples > 1 and section.temperature == 0:
        raise UserError(
            f"curate.temperature: 0 makes all {section.samples} samples of a prompt equal; "
            "set it above 0, or curate.samples=1"
        )
    requests = make_requests(config, recipe, prompts)
    base = hub.resolve(config.model.name, config.model.revision)
    identity = hub.identity(base)
    judge = RefusalJudge()
    stage = Stage.open(
        Path(config.run) / "curate",
        verb="curate",
        settings={
            "seed": config.seed,
            "chat": config.chat.model_dump(mode="json"),
            "model": config.model.model_dump(mode="json"),
            "engine": deciding(config.engine),
            "curate": section.model_dump(mode="json"),
        },
        inputs={
            "prompts": sha256_file(prompt_file(section.prompts)),
            "recipe": recipe.digest,
            "base": identity,
            "judge": judge.identity,
        },
    )
    if stage.complete:
        progress.message("curate: already done")
        return

    reasoning = format_named(config.chat.reasoning)
    rows = _generate(
        config, stage.directory / GENERATIONS, requests, reasoning, progress, open_backend or _open_backend
    )
    candidates = make_candidates(prompts, rows, section.samples, reasoning, judge)
    renderer = Renderer.configured(hub.load_tokenizer(base), config.chat)
    rules = Rules(
        reasoning=reasoning, control_tokens=renderer.control_tokens_in, samples=section.samples, keep=section.keep
    )
    filtered = apply_filters(candidates, rules, recipe.filters)
    funnel = make_funnel(candidates, filtered)
    atomic_write_json(stage.directory / FUNNEL, funnel.to_json())
    _write_rejected(stage.directory / REJECTED, filtered)
    for line in funnel.lines():
        progress.message(f"curate: {line}")
    if not filtered.kept:
        raise UserError(
            f"curate: not one of {funnel.samples} samples passed the filters; "
            f"{stage.directory / REJECTED} says why for each"
        )
    for layout in section.datasets:
        rationales = derive(filtered.kept, layout, recipe=recipe.name, generator=identity["name"], seed=config.seed)
        _write_dataset(stage.directory / layout, layout, rationales, recipe, funnel)
    outputs = sha256_tree(stage.directory, ignore=["manifest.json", ".*"])
    stage.finish(outputs=outputs, figures={"funnel": funnel.to_json()})


def make_requests(config: RunConfig, recipe: Recipe, prompts: Sequence[Prompt]) -> list[Request]:
    """One request a sample, a prompt's samples side by side. UserError where the recipe does not fit a prompt."""
    section = config.curate
    requests = []
    for prompt in prompts:
        messages = recipe.messages(prompt)
        for sample in range(section.samples):
            requests.append(
                Request(
                    id=f"{prompt.id}#{sample}",
                    messages=messages,
                    max_new_tokens=section.max_new_tokens,
                    temperature=section.temperature,
                    top_p=section.top_p,
                    seed=derive_seed(config.seed, "curate", prompt.id, sample),
                )
            )
    return requests


def make_candidates(
    prompts: Sequence[Prompt], rows: Sequence[dict], samples: int, reasoning: ReasoningFormat, judge: RefusalJudge
) -> list[Candidate]:
    """The rows of the generation log, `samples` for each prompt in order, taken apart and judged."""
    candidates = []
    for number, row in enumerate(rows):
        split = reasoning.split(row["text"], finished=row["finish"] == STOP)
        verdict = judge.judge(split.answer)
        candidates.append(
            Candidate(
                id=row["id"],
                prompt=prompts[number // samples],
                sample=number % samples,
                text=row["text"],
                split=split,
                verdict=verdict.label,
                verdict_reason=verdict.reason,
            )
        )
    return candidates


def _generate(
    config: RunConfig,
    path: Path,
    requests: Sequence[Request],
    reasoning: ReasoningFormat,
    progress: Progress,
    open_backend: Callable[[RunConfig, Progress], Backend],
) -> list[dict]:
    """The rows of all requests in their order; draws only those that the log does not have."""
    wanted = {request.id for request in requests}
    with JsonlLog(path) as log:
        rows = {row["id"]: row for row in log.records() if row.get("id") in wanted}
        missing = [request for request in requests if request.id not in rows]
        if missing and rows:
            progress.message(f"curate: {len(rows):,} of {len(requests):,} samples are there already")
        if missing:
            backend = open_backend(config, progress)
            with progress.task("curate", total=len(requests), unit="samples", done=len(rows)) as task:
                usable = sum(_is_usable(row, reasoning) for row in rows.values())
                for completion in backend.generate(missing):
                    row = {
                        "id": completion.id,
                        "text": completion.text,
                        "tokens": completion.tokens,
                        "finish": completion.finish,
                    }
                    log.append(row)
                    rows[completion.id] = row
                    usable += _is_usable(row, reasoning)
                    task.advance()
                    task.note(f"{usable / len(rows):.0%} with reasoning and answer")
    lost = [request.id for request in requests if request.id not in rows]
    if lost:
        raise UserError(
            f"curate: the model gave no sample for {len(lost)} requests, the first is {lost[0]!r}; rerun to go on"
        )
    ordered = [rows[request.id] for request in requests]
    _write_jsonl(path, ordered)
    return ordered


def _open_backend(config: RunConfig, progress: Progress) -> Backend:
    from rational_jax.sample import open_backend

    return open_backend(config, model="base", progress=progress)


def _is_usable(row: dict, reasoning: ReasoningFormat) -> bool:
    return reasoning.split(row["text"], finished=row["finish"] == STOP).status == OK


def _write_rejected(path: Path, filtered: Filtered) -> None:
    _write_jsonl(
        path,
        [
            {
                "id": rejection.candidate.id,
                "prompt": rejection.candidate.prompt.to_json(),
                "sample": rejection.candidate.sample,
                "reason": rejection.reason,
                "detail": rejection.detail,
                "verdict": rejection.candidate.verdict,
                "reasoning": rejection.candidate.split.reasoning,
                "answer": rejection.candidate.split.answer,
                "text": rejection.candidate.text,
            }
            for rejection in filtered.rejected
        ],
    )


def _write_dataset(directory: Path, layout: str, rationales: list[Rationale], recipe: Recipe, funnel: Funnel) -> None:
    title = f"Rationales, layout {layout}"
    about = f"The generator is {rationales[0].generator}, asked by the recipe {recipe.name}."
    write_tfds(rationales, directory / "tfds", description=f"{title}. {about}")
    write_hf(rationales, directory / "dataset", title=title, about=about, funnel=funnel.rows())


def _write_jsonl(path: Path, rows: Sequence[dict]) -> None:
    """The log in one piece and in order, so that a run that was stopped ends in the same bytes as one that was not."""
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    atomic_write_bytes(path, "".join(lines).encode("utf-8"))
