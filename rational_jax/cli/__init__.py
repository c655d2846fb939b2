"""The `rational` command. One thin file a verb: each calls one public function of its room, imported when it runs.

So `rational --help` is instant: nothing here imports jax, and the rooms are imported inside the verbs.
"""

import sys

from rational_jax.cli.process import catch_interrupts, leave, stopped, use_huge_pages


def main() -> None:
    """The command as a process of its own. May start that process over; `rational_jax.cli.app.run` does not."""
    use_huge_pages()
    catch_interrupts()
    try:
        from rational_jax.cli.app import run

        code = run(sys.argv[1:])
    except KeyboardInterrupt:  # before the verb began
        code = stopped()
    leave(code)
