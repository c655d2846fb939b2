"""From a finished evaluation to `report/index.html`."""

from pathlib import Path

from rational_jax.config import RunConfig, to_yaml
from rational_jax.data.suites import find_suite
from rational_jax.evaluate.metrics import DEFINITIONS
from rational_jax.evaluate.report import figures, gather
from rational_jax.evaluate.report.findings import find
from rational_jax.evaluate.report.transcripts import transcripts
from rational_jax.evaluate.results import Results, p_value, percent, points, read_results, summary_rows
from rational_jax.evaluate.run import RESULTS, read_outcomes
from rational_jax.html import Page, environment, render
from rational_jax.manifest import Stage, read_stage
from rational_jax.progress import SILENT, Progress
from rational_jax.storage import atomic_write_text, sha256_file

PAGE = "index.html"
_ROOM = Path(__file__).parent / "templates"


def run(config: RunConfig, progress: Progress = SILENT) -> Path:
    """Writes the report of `config.run` and returns its path. Raises UserError where nothing has been evaluated.

    The page is a pure function of the run's files, without a date; unchanged files give an unchanged page.
    """
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
    with progress.task("writing the report", total=2, unit="parts") as task:
        results, outcomes = read_results(root / "evaluate" / RESULTS), read_outcomes(config)
        task.advance()
        atomic_write_text(path, page(config, results, outcomes))
        task.advance()
    stage.finish(outputs={PAGE: sha256_file(path)}, figures={})
    return path


def _optional(root: Path, config: RunConfig) -> dict[str, str]:
    """Digests of what the report shows of other verbs, where there is any."""
    stages = [f"train/{arm}" for arm in config.train.arms] + ["curate"]
    return {name: link.digest for link in gather.chain(root) if (name := link.folder) in stages}


def page(config: RunConfig, results: Results, outcomes: dict) -> str:
    """The report as HTML text."""
    root = Path(config.run)
    env = environment(_ROOM)
    env.globals.update(draw=figures, percent=percent, points=points, p_value=p_value)
    curves = gather.training_curves(root, config.train.arms)
    return render(
        env,
        "report.html",
        Page(
            title=config.report.title,
            scripts=((_ROOM / "transcripts.js").read_text("utf-8"),),
            styles=((_ROOM / "report.css").read_text("utf-8"),),
        ),
        model=config.model.name,
        results=results,
        suites=[(suite, find_suite(suite.name), find(suite)) for suite in results.suites],
        rows=summary_rows(results),
        series=figures.series([model for suite in results.suites for model in suite.models]),
        definitions=DEFINITIONS,
        transcripts=transcripts(outcomes),
        failures=_failures(outcomes),
        losses=figures.losses(curves),
        arms=[one.arm for one in curves],
        curation=gather.curation(root),
        chain=gather.chain(root),
        versions=gather.versions(root),
        configuration=to_yaml(config),
    )


def _failures(outcomes: dict) -> list:
    """Every answer without a score, in the order of the models and their requests."""
    return [(model, one) for model, rows in outcomes.items() for one in rows if not one.scored]
