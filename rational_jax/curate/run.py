"""`rational curate`: prompts in, datasets of rationales out."""

import itertools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from rational_jax import hub
from rational_jax.config import RunConfig
from rational_jax.curate.asked import Ask, asking
from rational_jax.curate.candidates import Candidate, Filtered, Lazy, Rejection, Rules
from rational_jax.curate.filters import apply_filters
from rational_jax.curate.funnel import Funnel, make_funnel, total
from rational_jax.curate.generate import Backend, generate
from rational_jax.curate.inputs import Inputs, make_plan, without_tested
from rational_jax.curate.layouts import derive
from rational_jax.curate.recipes import OFF, REMOVE
from rational_jax.curate.store import Part, Rows, StoredSamples
from rational_jax.data.rationale_dataset import write_hf, write_tfds
from rational_jax.data.schema import Prompt, Rationale
from rational_jax.data.sources import digest_prompts
from rational_jax.data.suites import load_suites
from rational_jax.errors import UserError
from rational_jax.judges import RefusalJudge, load_judge
from rational_jax.manifest import Stage
from rational_jax.progress import SILENT, Progress
from rational_jax.sample import deciding
from rational_jax.storage import atomic_write_json, sha256_tree, write_rows
from rational_jax.text.chat import Renderer
from rational_jax.text.reasoning import ReasoningFormat, format_named

PROMPTS, GENERATIONS, REJECTED, FUNNEL = "prompts.jsonl", "generations.jsonl", "rejected.jsonl", "funnel.json"
"""The files of a run's `curate` folder: what was asked, what was written, what was rejected and why, how many."""
# Prompts that are in a suite too.
TESTED = "tested.jsonl"
# What of the section decides nothing here but how often all of this is done.
_OUTSIDE = {"rounds"}


def run(
    config: RunConfig,
    progress: Progress = SILENT,
    open_backend: Callable[[RunConfig, Progress], Backend] | None = None,
    *,
    further: bool = False,
) -> None:
    """Writes `<run>/curate`: prompts, samples, what was rejected and why, the funnel, each dataset in both formats.

    Every sample's seed is a function of the configuration's seed, the prompt's id and the sample's number. Samples
    are logged as they finish; a run that was stopped goes on with those that are missing, and no finished sample is
    drawn again. `open_backend` opens the model, by default what `engine.backend` says; it is called only if samples are
    missing.

    Raises UserError where prompts, recipe or settings do not fit, and where no sample is kept (the funnel and the
    rejected samples are there to say why). In a `further` round of self-training there are then no datasets, and what
    names its prompts and its model are their digests alone: they lie in the run's folder, wherever that is.
    """
    section = config.curate
    plan = make_plan(config)
    inputs = Inputs(config, plan)
    suites = load_suites(config.sample.suites) if plan.decontaminate != OFF else {}
    base = hub.resolve(config.model.name, config.model.revision)
    identity = hub.identity(base)
    judge = RefusalJudge()
    judges = {name: load_judge(name, config, progress) for name in section.judges}
    stage = Stage.open(
        Path(config.run) / "curate",
        verb="curate",
        settings=stage_settings(config, _OUTSIDE, further=further),
        inputs={
            **inputs.digests,
            **{f"suite {name}": digest_prompts(suite) for name, suite in suites.items()},
            "recipe": plan.recipe.digest,
            "base": identity,
            "judge": judge.identity,
            **{name: one.identity for name, one in judges.items()},
        },
    )
    if stage.complete:
        progress.message("curate: already done")
        return

    if "guard" in (plan.filters or ()) and "guard" not in judges:
        progress.message("curate: the filter guard has nobody to ask; curate.judges=[guard] asks evaluate.judge_model")
    asked, counts, trained_on = _write_prompts(stage.directory, inputs, suites, plan.decontaminate, progress)
    parts = plan.parts(*counts)

    reasoning = format_named(config.chat.reasoning)
    samples = generate(
        config, stage.directory / GENERATIONS, parts, asked, reasoning, progress, open_backend or _open_backend
    )
    renderer = Renderer.configured(hub.load_tokenizer(base), config.chat)
    ask = {name: asking(one, stage.directory / f"{name}.jsonl", progress) for name, one in judges.items()}
    filtered, funnel = _filter(config, parts, asked, samples, reasoning, renderer, judge, ask)
    atomic_write_json(stage.directory / FUNNEL, funnel.to_json())
    write_rows(stage.directory / REJECTED, (_rejected_row(one) for part in filtered for one in part.rejected))
    for line in funnel.lines():
        progress.message(f"curate: {line}")
    if not funnel.kept and not further:
        raise UserError(
            f"curate: not one of {funnel.samples} samples passed the filters; "
            f"{stage.directory / REJECTED} says why for each"
        )
    for layout in section.datasets if funnel.kept else ():
        rationales = rationales_of(
            [part.kept for part in filtered], parts, layout, generator=identity["name"], seed=config.seed
        )
        write_dataset(stage.directory / layout, layout, rationales, plan.recipe.name, funnel)
    outputs = sha256_tree(stage.directory, ignore=["manifest.json", ".*"])
    stage.finish(outputs=outputs, figures={"funnel": funnel.to_json(), "trained_on": trained_on})


def stage_settings(config: RunConfig, without: set[str] = frozenset(), *, further: bool = False) -> dict:
    """What of the configuration decides which rationales are written; `without` are keys of its section that do not.

    `further` is as in `run`.
    """
    return {
        "seed": config.seed,
        "chat": config.chat.model_dump(mode="json"),
        "model": config.model.model_dump(mode="json", exclude={"name"} if further else None),
        "engine": deciding(config.engine),
        "curate": config.curate.model_dump(mode="json", exclude=without | ({"prompts"} if further else set())),
    }


def _write_prompts(
    directory: Path, inputs: Inputs, suites: Mapping[str, Sequence[Prompt]], what: str, progress: Progress
) -> tuple[Rows, tuple[int, int], dict[str, int]]:
    """The file of all prompts that are asked: the recipe's, then general ones; how many of each; what is tested on."""
    all_of_them = directory / f".{PROMPTS}"
    everything = itertools.chain(inputs.read(), inputs.read_general())
    rows = Rows(write_rows(all_of_them, (prompt.to_json() for prompt in everything)))
    prompts = Lazy(range(inputs.prompts), lambda number: Prompt.from_json(rows[number]))
    general = Lazy(range(inputs.prompts, len(rows)), lambda number: Prompt.from_json(rows[number]))
    prompts, found, trained_on = without_tested(prompts, suites, what)
    general, also, _ = without_tested(general, suites, OFF if what == OFF else REMOVE)
    write_rows(directory / TESTED, found + also)
    if what == REMOVE and found:
        progress.message(
            f"curate: {len(found):,} of {inputs.prompts:,} prompts are in sample.suites too and are left out; "
            f"{directory / TESTED} lists them"
        )
    if trained_on:
        suites_named = ", ".join(f"{name} ({count:,})" for name, count in trained_on.items())
        progress.message(f"curate: prompts that are tested on too, by suite: {suites_named}")
    if not len(prompts):
        raise UserError(
            "curate.decontaminate: every prompt is in sample.suites too; train on others, test on others, or set it to "
            "report"
        )
    path = write_rows(directory / PROMPTS, (prompt.to_json() for prompt in itertools.chain(prompts, general)))
    counts = len(prompts), len(general)
    all_of_them.unlink()
    return Rows(path), counts, trained_on


def _filter(
    config: RunConfig,
    parts: Sequence[Part],
    asked: Rows,
    samples: Rows,
    reasoning: ReasoningFormat,
    renderer: Renderer,
    judge: RefusalJudge,
    ask: Mapping[str, Ask],
) -> tuple[list[Filtered], Funnel]:
    """Each part through its own filters; of general samples only as many stay as `curate.mix_share` says."""
    section, found, funnels = config.curate, [], []
    most = section.most
    for part in parts:
        rules = Rules(
            reasoning=reasoning,
            control_tokens=renderer.control_tokens_in,
            samples=part.samples,
            keep=part.keep,
            needs=part.recipe.reasoning,
            most=most,
            seed=config.seed,
            least_score=section.least_score,
            # Nobody asks for marks of general answers: the rubric is about reasoning.
            guard=ask.get("guard") if not found else None,
            score=ask.get("reasoning") if not found else None,
        )
        filtered = apply_filters(StoredSamples(part, asked, samples, reasoning, judge), rules, part.filters)
        found.append(filtered)
        funnels.append(make_funnel(filtered, part.filters))
        most = round(funnels[0].kept * section.mix_share / (1 - section.mix_share))
    return found, total(funnels)


def rationales_of(
    kept: Sequence[Sequence[Candidate]], parts: Sequence[Part], layout: str, *, generator: str, seed: int
) -> Sequence[Rationale]:
    """The kept samples of all parts in one layout. General ones have the reasoning that they came with, if any."""
    derived = [derive(kept[0], layout, recipe=parts[0].recipe.name, generator=generator, seed=seed)]
    for samples, part in zip(kept[1:], parts[1:], strict=True):
        plain = "refusal" if layout == "refusal" else "rational"
        derived.append(derive(samples, plain, recipe=part.recipe.name, generator=generator, seed=seed, written=layout))
    places = [(rationales, i) for rationales in derived for i in range(len(rationales))]
    return Lazy(range(len(places)), lambda number: places[number][0][places[number][1]])


def write_dataset(directory: Path, layout: str, rationales: Sequence[Rationale], recipe: str, funnel: Funnel) -> None:
    """One layout in both formats."""
    title = f"Rationales, layout {layout}"
    about = f"The generator is {rationales[0].generator}, asked by the recipe {recipe}."
    write_tfds(rationales, directory / "tfds", description=f"{title}. {about}")
    write_hf(rationales, directory / "dataset", title=title, about=about, funnel=funnel.rows())


def _open_backend(config: RunConfig, progress: Progress) -> Backend:
    from rational_jax.sample import open_backend

    return open_backend(config, model="base", progress=progress)


def _rejected_row(rejection: Rejection) -> dict:
    candidate = rejection.candidate
    return {
        "id": candidate.id,
        "prompt": candidate.prompt.to_json(),
        "sample": candidate.sample,
        "reason": rejection.reason,
        "detail": rejection.detail,
        "verdict": candidate.verdict,
        "reasoning": candidate.split.reasoning,
        "answer": candidate.split.answer,
        "text": candidate.text,
    }
