"""What every verb does around its work: the configuration from its arguments, progress, and errors in one line."""

import errno
import sys
import warnings
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from rational_jax.cli.process import STOPPED, stopped
from rational_jax.errors import Preempted, Unreachable, UserError
from rational_jax.progress import SILENT, Progress

if TYPE_CHECKING:
    from rational_jax.config import RunConfig

FAILED = 2
AGAIN = 75

Words = Annotated[
    list[str] | None,
    typer.Argument(
        metavar="CONFIG|KEY=VALUE",
        help="A YAML file, the bundled demo.yaml if none is given; then changes to it, such as train.steps=10.",
        show_default=False,
    ),
]
PrintConfig = Annotated[
    bool, typer.Option("--print-config", help="Print the configuration with the meaning of every key, and do nothing.")
]

# What a file system says when the user has to do something about it; other OSErrors are bugs.
_FILE_SYSTEM = {
    errno.EACCES,
    errno.EDQUOT,
    errno.EISDIR,
    errno.ENAMETOOLONG,
    errno.ENOSPC,
    errno.ENOTDIR,
    errno.EPERM,
    errno.EROFS,
}


@contextmanager
def session(
    words: Sequence[str] | None,
    print_config: bool,
    *,
    jax: bool = False,
    processes: bool = False,
    all_write: bool = False,
) -> Iterator[tuple["RunConfig", "Progress"]]:
    """The configuration and the progress for the body of a verb. `jax`: the body computes, so JAX is set up first.

    `processes`: the body may be run by several processes at once, of which only the lead shows progress. `all_write`:
    they all write into the run, and not the lead alone.

    A UserError, or a disk that cannot be written, ends the command with one line; Ctrl-C, and the system's notice that
    it takes the machine away, with the advice to run it again. What may succeed without anybody mending anything (that
    notice, a store that could not be reached) has an exit code of its own. All else passes through with its traceback.
    """
    try:
        config = configuration(words or ())
        if print_config:
            from rational_jax.config import to_yaml

            sys.stdout.write(to_yaml(config))
            sys.stdout.flush()
            raise typer.Exit
        if jax:
            from rational_jax.parallel.setup import configure_runtime

            configure_runtime()
        lead, count = True, 1
        if processes:
            from jax import process_count

            from rational_jax.parallel.processes import is_lead, join

            join()
            lead, count = is_lead(), process_count()
        from rational_jax.cli.progress import TerminalProgress

        # What libraries announce to programmers means nothing to who runs the command, and breaks into the bars.
        warnings.filterwarnings("ignore", category=FutureWarning)
        warnings.filterwarnings("ignore", category=DeprecationWarning)
        progress = TerminalProgress() if lead else SILENT
        if "://" in config.run:
            from rational_jax.workflow.mirror import mirrored

            with mirrored(config, progress, processes=count, all_write=all_write) as local:
                yield local, progress
        else:
            yield config, progress
        sys.stdout.flush()
    except UserError as error:
        fail(str(error))
        raise typer.Exit(_code(error)) from None
    except Preempted as stop:
        sys.stdout.flush()
        sys.stderr.write(f"{stop}; run the same command again to continue\n")
        raise typer.Exit(AGAIN) from None
    except KeyboardInterrupt:
        raise typer.Exit(STOPPED) from None
    except OSError as error:
        if error.errno not in _FILE_SYSTEM:
            raise
        fail(f"{error.filename or 'output'}: {error.strerror}")
        raise typer.Exit(FAILED) from None


def configuration(words: Sequence[str]) -> "RunConfig":
    """The configuration that positional arguments ask for: a file in the first place, if any, then KEY=VALUE."""
    from rational_jax.config import bundled_configs, load_config

    path, changes = bundled_configs().get("demo.yaml"), list(words)
    if changes and _is_file_name(changes[0]):
        name = changes.pop(0)
        path = bundled_configs()[name] if name in bundled_configs() and not Path(name).exists() else Path(name)
    for word in changes:
        if _is_file_name(word):
            raise UserError(f"{word!r} is no change to the configuration; a file comes first, then KEY=VALUE")
    return load_config(path, changes)


def chosen(wanted: Sequence[str] | None, there: Sequence[str], option: str, key: str) -> Sequence[str]:
    """What an option such as --arm picks from the configuration; all, where it was not given."""
    for name in wanted or ():
        if name not in there:
            raise UserError(f"{option} {name}: {key} has only {', '.join(there)}")
    return tuple(dict.fromkeys(wanted)) if wanted else there


def exit_code(work: Callable[[], None]) -> int:
    """Runs a script's work as a verb's: 0 done, 2 with one line where the user has to mend something, 130 stopped.

    75 with one line where a store could not be reached for now.
    """
    try:
        work()
    except UserError as error:
        fail(str(error))
        return _code(error)
    except KeyboardInterrupt:
        return stopped()
    return 0


def fail(message: str) -> None:
    """Prints one "error: ..." line on stderr; file contents quoted in it cannot reach the terminal's controls."""
    from rational_jax.text.terminal import one_line

    sys.stdout.flush()
    sys.stderr.write(f"error: {one_line(message)}\n")


def _code(error: UserError) -> int:
    return AGAIN if isinstance(error, Unreachable) else FAILED


def _is_file_name(word: str) -> bool:
    return "=" not in word or (word.endswith((".yaml", ".yml")) and Path(word).exists())
