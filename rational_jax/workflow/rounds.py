"""Rounds of self-training: each round's tuned model writes the next round's rationales, for the prompts still failed.

    <run>/rounds/1/curate
    <run>/rounds/1/tuned/    curate (what is kept so far)    train/ARM    export/ARM
    <run>/rounds/1/failed.jsonl
    <run>/rounds/2/curate
    <run>/curate             the datasets made of what all rounds kept, as `rational curate` always leaves them

A prompt of `curate.prompts` has failed while each of its samples has something wrong: one that was only too much
(`curate.most`) or like another has not. General prompts (`curate.mix`) are mixed in in the first round, in proportion
to what that kept. Each tuned model is trained from the untrained one, on everything kept so far. Every part is a stage
of its own, so a run that was stopped goes on where it was, also where its folder has been moved to.
"""

import dataclasses
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import jax

from rational_jax import curate, train
from rational_jax.config import BASE, ModelSection, PromptSource, RunConfig
from rational_jax.curate import Candidate, Funnel
from rational_jax.data.rationale_dataset import read_hf
from rational_jax.data.schema import Rationale
from rational_jax.data.sources import iter_prompts
from rational_jax.errors import UserError
from rational_jax.judges import RefusalJudge
from rational_jax.manifest import Stage, read_stage
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import atomic_write_json, read_jsonl, sha256_tree, write_rows
from rational_jax.text.reasoning import OK, Split
from rational_jax.workflow import export


def run(config: RunConfig, progress: Progress = SILENT, open_backend: Callable | None = None) -> None:
    """`rational curate`: one round as `curate.run` does it, or `curate.rounds` of them and their union.

    Raises UserError where the backend cannot load a model that was trained here, or several processes are to do more
    than one round, and what the verbs raise.
    """
    options = {"open_backend": open_backend} if open_backend else {}
    if config.curate.rounds == 1:
        curate.run(config, progress, **options)
        return
    if jax.process_count() > 1:
        raise UserError("curate.rounds: one process trains between the rounds; run this verb on one host")
    if config.engine.backend == "openai":
        raise UserError("curate.rounds: an endpoint cannot load the model of a round; use engine.backend=engine")
    plan = curate.make_plan(config)
    layout = "refusal" if plan.recipe.reasoning == "none" else "rational"
    if layout not in config.curate.datasets:
        raise UserError(f"curate.rounds trains on the layout {layout}, which is not in curate.datasets")
    rounds = list(_rounds(config, layout, plan.recipe.name, progress, options))
    _unite(config, rounds, layout, plan.recipe.name, progress)


def _rounds(config: RunConfig, layout: str, recipe: str, progress: Progress, options: dict) -> Iterator[Path]:
    """Does the rounds and yields their folders; ends early where no prompt has failed, or nothing more may be kept."""
    done: list[Path] = []
    here = first = _first(config, layout, recipe)
    covered: set[str] = set()
    for number in range(1, config.curate.rounds + 1):
        folder = Path(here.run)
        progress.message(f"curate: round {number} of {config.curate.rounds}")
        curate.run(here, progress, **options, further=number > 1)
        yield folder
        done.append(folder)
        asked = {prompt.id for prompt in iter_prompts(here.curate.prompts, here.curate.limit)}
        kept = [rationale.prompt.id for rationale in _kept(folder, layout) if rationale.prompt.id in asked]
        covered.update(kept)
        failed = _failed(folder / "curate", asked - covered)
        if number == config.curate.rounds:
            return
        if not failed:
            progress.message("curate: every prompt has a rationale, so there is no further round")
            return
        most = None if here.curate.most is None else here.curate.most - len(kept)
        if most == 0:
            progress.message("curate: curate.most rationales are there, so there is no further round")
            return
        write_rows(folder / "failed.jsonl", failed)
        tuned = _with(first, run=str(folder / "tuned"), train=first.train.model_copy(update={"data": None}))
        _unite(tuned, done, layout, recipe, SILENT)
        train.run(tuned, layout, progress)
        model = ModelSection(**{**vars(config.model), "name": str(export.run(tuned, layout, progress) / "merged")})
        here = _next(here, config, number + 1, model, failed=folder / "failed.jsonl", most=most)


def _failed(folder: Path, uncovered: set[str]) -> list[dict]:
    """The rows of these prompts, but for those that had a good sample."""
    rejected = read_jsonl(folder / curate.REJECTED)
    good = {row["prompt"]["id"] for row in rejected if row["reason"] in curate.GOOD_IN_THEMSELVES}
    return [row for row in read_jsonl(folder / curate.PROMPTS) if row["id"] in uncovered - good]


def _first(config: RunConfig, layout: str, recipe: str) -> RunConfig:
    own = Path(config.curate.recipe).suffix in (".yaml", ".yml")
    # The wording of a packaged recipe is that for the untrained model, whatever a tuned one's folder is called.
    name = config.curate.recipe if own else recipe
    section = config.curate.model_copy(update={"rounds": 1, "datasets": (layout,), "recipe": name})
    return _with(
        config,
        run=str(Path(config.run) / "rounds" / "1"),
        curate=section,
        train=config.train.model_copy(update={"arms": (layout,)}),
        export=config.export.model_copy(update={"merged": True, "adapter": False, "upload": None}),
        sample=config.sample.model_copy(update={"models": (BASE,)}),
    )


def _next(
    here: RunConfig, config: RunConfig, number: int, model: ModelSection, *, failed: Path, most: int | None
) -> RunConfig:
    # What the first round decided about prompts holds: they are checked against the suites, and general ones are mixed
    # in, once.
    asked = {"prompts": (PromptSource(source=str(failed)),), "limit": None, "mix": None, "decontaminate": "off"}
    return _with(
        here,
        run=str(Path(config.run) / "rounds" / str(number)),
        model=model,
        curate=here.curate.model_copy(update=asked | {"most": most}),
    )


def _with(config: RunConfig, **changes: object) -> RunConfig:
    return config.model_copy(update=changes)


def _kept(folder: Path, layout: str) -> list[Rationale]:
    dataset = folder / "curate" / layout / "dataset"
    return read_hf(dataset) if dataset.exists() else []


def _unite(config: RunConfig, rounds: Sequence[Path], layout: str, recipe: str, progress: Progress) -> None:
    """`<run>/curate`: the datasets, the rejected samples with their round, and the funnel of all rounds."""
    manifests = [read_stage(folder / "curate", verb="curate") for folder in rounds]
    stage = Stage.open(
        Path(config.run) / "curate",
        verb="curate",
        settings=curate.stage_settings(config),
        inputs={f"round {number}": manifest["digest"] for number, manifest in enumerate(manifests, start=1)},
    )
    if stage.complete:
        progress.message("curate: already done")
        return
    funnels = [Funnel.from_json(manifest["figures"]["funnel"]) for manifest in manifests]
    funnel = dataclasses.replace(curate.total(funnels), prompts=funnels[0].prompts)
    figures = {"funnel": funnel.to_json(), "rounds": [one.to_json() for one in funnels]}
    atomic_write_json(stage.directory / curate.FUNNEL, funnel.to_json())
    write_rows(stage.directory / curate.PROMPTS, read_jsonl(rounds[0] / "curate" / curate.PROMPTS))
    write_rows(stage.directory / curate.REJECTED, _rejected(rounds))
    for line in funnel.lines():
        progress.message(f"curate: all rounds: {line}")
    made = [rationale for folder in rounds for rationale in _kept(folder, layout)]
    own = [rationale for rationale in made if rationale.recipe == recipe]
    general = [rationale for rationale in made if rationale.recipe != recipe]
    judge = RefusalJudge()
    for wanted in config.curate.datasets:
        derived = [
            dataclasses.replace(again, recipe=before.recipe, generator=before.generator)
            for part, as_they_are in ((own, False), (general, True))
            for again, before in zip(
                curate.derive(
                    [_candidate(rationale, judge) for rationale in part],
                    "rational" if as_they_are else wanted,
                    recipe=recipe,
                    generator="",
                    seed=config.seed,
                    written=wanted,
                ),
                part,
                strict=True,
            )
        ]
        curate.write_dataset(stage.directory / wanted, wanted, derived, recipe, funnel)
    outputs = sha256_tree(stage.directory, ignore=["manifest.json", ".*"])
    stage.finish(outputs=outputs, figures=figures | {"trained_on": manifests[0]["figures"]["trained_on"]})


def _candidate(rationale: Rationale, judge: RefusalJudge) -> Candidate:
    return Candidate(
        id=rationale.id,
        prompt=rationale.prompt,
        sample=rationale.sample,
        text="",
        split=Split(reasoning=rationale.reasoning or None, answer=rationale.answer, status=OK),
        verdict=judge.judge(rationale.answer, rationale.prompt.goal).label,
    )


def _rejected(rounds: Sequence[Path]) -> Iterator[dict]:
    for number, folder in enumerate(rounds, start=1):
        yield from (row | {"round": number} for row in read_jsonl(folder / "curate" / curate.REJECTED))
