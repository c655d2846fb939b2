"""From a finished evaluation to `report/index.html`; or from several, to a page that compares them."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from rational_jax.config import RunConfig, to_yaml
from rational_jax.data.schema import Prompt
from rational_jax.data.suites import attacked_suites, find_suite
from rational_jax.errors import UserError
from rational_jax.evaluate import inspect_log
from rational_jax.evaluate.compare import FEW
from rational_jax.evaluate.metrics import DEFINITIONS
from rational_jax.evaluate.outcomes import Outcome
from rational_jax.evaluate.power import least_difference
from rational_jax.evaluate.report import figures, gather, published
from rational_jax.evaluate.report.findings import find
from rational_jax.evaluate.report.transcripts import transcripts
from rational_jax.evaluate.results import Results, SuiteResults, p_value, percent, points, read_results
from rational_jax.evaluate.run import RESULTS, read_outcomes
from rational_jax.html import Page, environment, render
from rational_jax.manifest import Stage, read_stage
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import atomic_write_text, sha256_file

PAGE, INSPECT = "index.html", "inspect"
REASONING = ("with_reasoning", "names_intent", "names_harm", "names_decision", "verdict_agreement", "reasoning_leak")
_ROOM = Path(__file__).parent / "templates"


def run(config: RunConfig, progress: Progress = SILENT) -> Path:
    """Writes the report of `config.run` and returns its path. Raises UserError where nothing has been evaluated.

    The page is a pure function of the run's files, without a date; unchanged files give an unchanged page. With
    `report.inspect` logs for `inspect view` lie beside it, one for each suite and model.
    """
    logs = config.report.inspect
    if logs and not inspect_log.available():
        raise UserError("report.inspect needs inspect_ai: pip install 'rational-jax[inspect]'")
    root = Path(config.run)
    evaluated = read_stage(root / "evaluate", verb="evaluate")
    stage = Stage.open(
        root / "report",
        verb="report",
        settings={"report": config.report.model_dump(mode="json")},
        inputs={"evaluate": evaluated["digest"]} | _optional(root, config),
    )
    path = stage.directory / PAGE
    # Written anew each time, which takes seconds: a page of an older version of this package would be the only gain.
    with progress.task("writing the report", total=3, unit="parts") as task:
        results, outcomes = read_results(root / "evaluate" / RESULTS), read_outcomes(config)
        suites = suites_of(sampled_suites(root, evaluated["settings"]["sample"]))
        task.advance()
        material = Material(
            title=config.report.title,
            model=config.model.name,
            results=results,
            outcomes=outcomes,
            suites=suites,
            curves=gather.training_curves(root, config.train.arms),
            curation=gather.curation(root),
            chain=gather.chain(root),
            versions=gather.versions(root),
            configuration=to_yaml(config),
            validation=gather.validation(Path(config.report.validation)) if config.report.validation else None,
            published=config.report.published,
            inspect=f"report/{INSPECT}" if logs else "",
            beside_page="evaluate/",
        )
        atomic_write_text(path, page(material))
        task.advance()
        if logs:
            inspect_log.write(stage.directory / INSPECT, outcomes, suites, results.judge, evaluated.get("finished", ""))
        task.advance()
    stage.finish(outputs={PAGE: sha256_file(path)}, figures={})
    return path


def sampled_suites(root: Path, sampled: Mapping) -> dict[str, list[Prompt]]:
    """The suites of a run as the settings of its evaluation name them, under its attacks."""
    return attacked_suites(root, sampled["suites"], sampled["limit"], sampled.get("attacks", ()))


def suites_of(suites: Mapping[str, Sequence[Prompt]]) -> dict[str, str]:
    """Prompt id -> name of its suite."""
    return {prompt.id: name for name, prompts in suites.items() for prompt in prompts}


def _optional(root: Path, config: RunConfig) -> dict[str, str]:
    """Digests of what the report shows of other verbs, where there is any."""
    stages = [f"train/{arm}" for arm in config.train.arms] + ["curate"]
    return {name: link.digest for link in gather.chain(root) if (name := link.folder) in stages}


@dataclass(frozen=True, kw_only=True)
class Material:
    """All that a page shows. `suites` is prompt id -> suite's name; `beside_page` is where results.json lies."""

    title: str
    model: str
    results: Results
    outcomes: Mapping[str, list[Outcome]]
    suites: Mapping[str, str]
    curves: Sequence[gather.Curves] = ()
    curation: gather.Curation | None = None
    chain: Sequence[gather.Link] = ()
    versions: Mapping[str, str]
    configuration: str = ""
    validation: gather.Validation | None = None
    published: str | None = None
    inspect: str = ""
    beside_page: str = ""


def page(of: Material) -> str:
    """The report as HTML text."""
    env = environment(_ROOM)
    own = Path(of.published) if of.published else None
    points_of = {suite.name: published.or_bench_points(own) for suite in of.results.suites if own}
    known = published.or_bench_points(own or published.OR_BENCH)
    titles = {suite.name: suite.title for suite in of.results.suites}
    env.globals.update(
        draw=figures,
        percent=percent,
        points=points,
        p_value=p_value,
        about_of=find_suite,
        beside=published.beside,
        backdrop=lambda name: points_of.get(name, ()),
        power=lambda suite: power(suite, of.results.confidence),
        present=_present,
        few=FEW,
        marked=lambda suite: any(one.mean_score.n for one in suite.main().figures.values()),
        fives=lambda suite: any(one.full_marks.n for one in suite.main().figures.values()),
    )
    return render(
        env,
        "report.html",
        Page(
            title=of.title,
            scripts=((_ROOM / "transcripts.js").read_text("utf-8"),),
            styles=((_ROOM / "report.css").read_text("utf-8"),),
        ),
        model=of.model,
        results=of.results,
        suites=[(suite, find_suite(suite.name), find(suite)) for suite in of.results.suites],
        some_clean=not all(suite.trained_on for suite in of.results.suites),
        series=figures.series([model for suite in of.results.suites for model in suite.models]),
        definitions=DEFINITIONS,
        reasoning_metrics=REASONING,
        transcripts=transcripts(of.outcomes, {prompt: titles[name] for prompt, name in of.suites.items()}),
        failures=_failures(of.outcomes),
        losses=figures.losses(of.curves),
        arms=[one.arm for one in of.curves],
        curation=of.curation,
        chain=of.chain,
        versions=of.versions,
        configuration=of.configuration,
        validation=of.validation,
        paper_source=published.SOURCE,
        or_bench=figures.or_bench(of.results.suites, known),
        or_bench_source=of.published or published.OR_BENCH_SOURCE,
        inspect=of.inspect,
        beside_page=of.beside_page,
    )


def _present(suite: SuiteResults, by: str) -> list[str]:
    """The error figures that some part has: a suite of harmful prompts has no over-refusal to show."""
    metrics = ("mean_error", "asr", "unacceptable", "over_refusal", "premise_accuracy")
    parts = (suite.main(),) if by == "main" else suite.parts(by)
    every = [figures for part in parts for figures in part.figures.values()]
    there = [metric for metric in metrics if any(getattr(one, metric).value is not None for one in every)]
    # Where all that should not be complied with is harmful, it is ASR once more.
    same = all(one.unacceptable.n == one.asr.n for one in every)
    return [metric for metric in there if metric != "unacceptable" or not same]


def power(suite: SuiteResults, confidence: float) -> list[str]:
    """What difference the suite could show at all, from the pairs that the first comparison of each error found."""
    said = []
    for metric in ("asr", "over_refusal"):
        one = next((d for d in suite.differences if d.slice == suite.main().by and d.metric == metric), None)
        if one is None or not one.pairs:
            continue
        discordant = (one.first_only + one.second_only) / one.pairs
        prompts = getattr(suite.main().figures[one.first], metric).clusters
        least = least_difference(prompts, discordant, confidence=confidence)
        what = (
            f"{DEFINITIONS[metric][0]}, {one.first} − {one.second}: just one of the two erred on {percent(discordant)}"
        )
        if least is None:
            said.append(f"{what}; {prompts:,} base prompts with so few such pairs show no difference with 80% power.")
        else:
            shown = f"{100 * least:.0f}" if least >= 0.01 else f"{100 * least:.1f}"
            said.append(
                f"{what}; so {prompts:,} base prompts find a difference of {shown} points or more with 80% power."
            )
    return said


def _failures(outcomes: Mapping[str, list[Outcome]]) -> list:
    """Every answer without a score, in the order of the models and their requests."""
    return [(model, one) for model, rows in outcomes.items() for one in rows if not one.scored]
