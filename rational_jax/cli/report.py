"""`rational report`."""

from pathlib import Path
from typing import Annotated

import typer

from rational_jax.cli.session import PrintConfig, Words, session
from rational_jax.errors import UserError

Out = Annotated[
    Path | None,
    typer.Option(
        "--out", help="Where the comparison of runs is written; `comparison` beside the first run if not given."
    ),
]


def report(words: Words = None, out: Out = None, print_config: PrintConfig = False) -> None:
    """Writes the findings, or compares several runs, on one page.

    \b
    Leaves index.html under RUN/report. Folders of runs in place of a configuration are compared with each other; those
    in buckets are fetched.
      rational report
      rational report run=runs/longer report.title="Twice as long"
      rational report runs/*
      rational report gs://bucket/runs/first gs://bucket/runs/second --out comparison
    """
    runs = [word for word in words or () if _is_run(word)]
    if out is None and runs and "://" in runs[0]:
        raise typer.BadParameter("--out is needed where the first run is in a bucket")
    with session([word for word in words or () if word not in runs], print_config) as (config, progress):
        from rational_jax.cli.summary import print_path
        from rational_jax.evaluate import report

        folders = {_fetched(run) if "://" in run else Path(run): run for run in runs}
        if folders:
            print_path(report.compare(folders, out or Path(runs[0]).parent / "comparison", config, progress))
        else:
            print_path(report.run(config, progress))


def _is_run(word: str) -> bool:
    return Path(word).is_dir() or ("://" in word and "=" not in word.partition("://")[0])


def _fetched(address: str) -> Path:
    from rational_jax.workflow.mirror import Mirror

    mirror = Mirror(address, copies="compared")
    mirror.pull()
    if not any(mirror.local.glob("*/manifest.json")):
        raise UserError(f"{address}: there is no run that `run={address}` has written")
    return mirror.local
