"""Any number of runs on one page: their models answered the same prompts, so the differences are paired."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path

from rational_jax.config import RunConfig
from rational_jax.data.schema import Prompt
from rational_jax.data.suites import find_suite
from rational_jax.errors import UserError
from rational_jax.evaluate.compute import suite_results
from rational_jax.evaluate.metrics import Settings
from rational_jax.evaluate.outcomes import Outcome
from rational_jax.evaluate.report import gather
from rational_jax.evaluate.report.run import PAGE, Material, page, sampled_suites
from rational_jax.evaluate.results import VERSION, Capability, Results, read_results, write_results
from rational_jax.evaluate.run import RESULTS, TABLES, read_judged
from rational_jax.evaluate.tables import write_tables
from rational_jax.manifest import FILE as MANIFEST
from rational_jax.manifest import read_stage
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import atomic_write_text


def compare(folders: Mapping[Path, str], out: Path, config: RunConfig, progress: Progress = SILENT) -> Path:
    """Writes index.html, results.json and tables/*.csv of all evaluated runs among `folders` to `out`.

    `folders` says of each what the user called it: its path, or the address that it was fetched from.
    A model is called MODEL where every run that has it has the same answers of it, as of a common base; others are
    called RUN where each run has but one such, and RUN/MODEL otherwise.
    `config` gives the intervals and the title. Raises UserError where none was evaluated, where their judges differ,
    or where two have other prompts under one name: a suite's, or a prompt's id.
    """
    found = [folder for folder in folders if (folder / "evaluate" / MANIFEST).is_file()]
    for folder, said in folders.items():
        if folder not in found:
            progress.message(f"report: {said} has no evaluation, so it is left out")
    if not found:
        raise UserError(f"none of {', '.join(folders.values())} was evaluated: run `rational evaluate` first")
    names = _names({folder: folders[folder] for folder in found})
    manifests = {names[root]: read_stage(root / "evaluate", verb="evaluate") for root in found}
    judges = {name: manifest["settings"]["judge"] for name, manifest in manifests.items()}
    if len(set(judges.values())) > 1:
        said = ", ".join(f"{name} by {judge}" for name, judge in judges.items())
        raise UserError(f"the runs were judged by different judges, which cannot be compared ({said}): evaluate again")
    settings = Settings(confidence=config.evaluate.confidence, samples=config.evaluate.bootstrap, seed=config.seed)
    one = read_results(found[0] / "evaluate" / RESULTS)
    called = _called(manifests)
    outcomes: dict[str, list[Outcome]] = {}
    capability: list[Capability] = []
    prompts: dict[str, set[str]] = {}
    trained: Counter[str] = Counter()
    chain = []
    with progress.task("comparing the runs", total=len(found) + 1, unit="parts") as task:
        for root in found:
            name, manifest = names[root], manifests[names[root]]
            sampled = manifest["settings"]["sample"]
            for suite, members in sampled_suites(root, sampled).items():
                ids = {prompt.id for prompt in members}
                if prompts.setdefault(suite, ids) != ids:
                    raise UserError(f"suite {suite} of run {name} has other prompts than in the runs before it")
            results = read_results(root / "evaluate" / RESULTS)
            for suite in results.suites:
                trained[suite.name] = max(trained[suite.name], suite.trained_on)
            for model, rows in read_judged(root, sampled["models"], judges[name]).items():
                outcomes.setdefault(called[name, model], rows)
            capability += [
                replace(score, model=called.get((name, score.model), f"{name}/{score.model}"))
                for score in results.capability
            ]
            chain += [replace(link, folder=f"{name}/{link.folder}") for link in gather.chain(root)]
            task.advance()
        suites = []
        for suite, ids in prompts.items():
            by_model = {m: [o for o in rows if o.answer.prompt.id in ids] for m, rows in outcomes.items()}
            asked = {model: rows for model, rows in by_model.items() if rows}
            _check_same_prompts(suite, asked)
            suites.append(suite_results(find_suite(suite), len(ids), asked, settings, trained[suite]))
        results = Results(
            version=VERSION,
            judge=one.judge,
            judge_identity=one.judge_identity,
            confidence=settings.confidence,
            bootstrap=settings.samples,
            seed=settings.seed,
            samples=one.samples,
            suites=tuple(suites),
            capability=tuple(dict.fromkeys(capability)),
        )
        write_results(results, out / RESULTS)
        write_tables(results, outcomes, out / TABLES)
        material = Material(
            title=config.report.title,
            model=" and ".join(names.values()) if len(names) < 4 else f"{len(names)} runs",
            results=results,
            outcomes=outcomes,
            suites={prompt: suite for suite, ids in prompts.items() for prompt in ids},
            chain=chain,
            versions=gather.versions(found[0]),
            validation=gather.validation(Path(config.report.validation)) if config.report.validation else None,
            published=config.report.published,
        )
        atomic_write_text(out / PAGE, page(material))
        task.advance()
    return out / PAGE


def _check_same_prompts(suite: str, by_model: Mapping[str, list[Outcome]]) -> None:
    """Ids say little: rows of a file are numbered where it gives none, and a file may be edited between two runs."""
    known: dict[str, tuple[str, Prompt]] = {}
    for model, rows in by_model.items():
        for prompt in (one.answer.prompt for one in rows):
            first, same = known.setdefault(prompt.id, (model, prompt))
            if _content(prompt) != _content(same):
                raise UserError(
                    f"suite {suite}: prompt {prompt.id!r} of {model} is another than that of {first}, so their answers "
                    "cannot be paired; compare runs that were asked the same prompts"
                )


def _content(prompt: Prompt) -> tuple:
    """What a prompt asks, and what parts of a suite it is counted in."""
    return prompt.messages, prompt.label, prompt.category, prompt.style, prompt.base_id


def _names(folders: Mapping[Path, str]) -> dict[Path, str]:
    """The folders' last names, or what the user called them where two are alike."""
    counts = Counter(folder.resolve().name for folder in folders)
    return {f: f.resolve().name if counts[f.resolve().name] == 1 else said for f, said in folders.items()}


def _called(manifests: dict[str, dict]) -> dict[tuple[str, str], str]:
    """(run, model) -> what the page calls it. Answers of one digest are of one model, whatever run they lie in."""
    digests: dict[str, set[str]] = {}
    of: dict[tuple[str, str], str] = {}
    for run, manifest in manifests.items():
        for name, digest in manifest["inputs"].items():
            model = name.removeprefix("sample/")
            digests.setdefault(model, set()).add(digest)
            of[run, model] = model
    own = [(run, model) for run, model in of if len(digests[model]) > 1]
    runs = [run for run, _ in own]
    # Short names are legible beside charts; they must be nobody else's.
    short = len(set(runs)) == len(runs) and not set(runs) & set(digests)
    return of | {(run, model): run if short else f"{run}/{model}" for run, model in own}
