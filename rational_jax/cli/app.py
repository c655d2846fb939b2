"""The command itself: the verbs in the order of the pipeline, and what happens to wrong options."""

import sys
from collections.abc import Sequence

import typer

from rational_jax.cli import (
    browse,
    curate,
    demo,
    doctor,
    evaluate,
    export,
    judge,
    plan,
    publish,
    report,
    sample,
    serve,
    train,
)
from rational_jax.cli.process import STOPPED, stopped
from rational_jax.cli.session import FAILED, fail

app = typer.Typer(
    name="rational",
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,  # a traceback here is a bug, and wanted as it is
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100},
    help="""Teaches a language model to reason about safety before it answers, and measures what changed.

    \b
    prompts -> curate -> train -> export -> sample -> evaluate -> report
    `rational demo` runs all of them on a small model that comes with the package, and `rational plan`
    says what training a large one takes on TPUs that are not there. `rational serve` puts one behind
    the HTTP interface that other tools speak.

    \b
    Each verb takes a configuration file and changes to it:
      rational train configs/demo.yaml train.steps=200 run=runs/longer
      rational train --print-config     every key, what it is set to and what it means

    Rerunning a command continues where it was stopped. See `rational VERB --help`.""",
)
for _verb in (
    demo.demo,
    curate.curate,
    browse.browse,
    train.train,
    export.export,
    sample.sample,
    evaluate.evaluate,
    judge.judge,
    report.report,
    plan.plan,
    serve.serve,
    publish.publish,
    doctor.doctor,
):
    app.command()(_verb)

# The base of all complaints about options and arguments. Typer has moved it between versions, its child it has not.
_UsageError = typer.BadParameter.__base__


def run(arguments: Sequence[str]) -> int:
    """Runs the command in this process.

    The exit code: 0 done, 2 something for the user to mend, 130 stopped, 75 stopped by the system (SIGTERM) with all
    work saved, or by a store that could not be reached for now, so that a launcher may start it again.
    """
    for stream in (sys.stdout, sys.stderr):
        stream.reconfigure(errors="replace")  # a terminal without Unicode shows "?" instead of ending the run
    try:
        code = app(args=list(arguments) or ["--help"], prog_name="rational", standalone_mode=False)
        sys.stdout.flush()
    except _UsageError as error:
        verb = f" {error.ctx.info_name}" if error.ctx is not None and error.ctx.parent is not None else ""
        fail(f"{error.format_message().rstrip('.')}; see `rational{verb} --help`")
        return FAILED
    except typer.Abort:  # what some versions of typer make of Ctrl-C, others an exit with this code
        code = STOPPED
    except BrokenPipeError:
        sys.stdout = None  # the reader, such as `head`, has what it wanted: nothing to flush at exit
        return 0
    if code == STOPPED:
        return stopped()
    return code if isinstance(code, int) else 0
