"""The `rational` command. One thin file a verb: each calls one public function of its room, imported when it runs.

So `rational --help` is instant: nothing here imports jax, and the rooms are imported inside the verbs.
"""

import sys

from rational_jax.cli.process import use_huge_pages


def main() -> None:
    """The command as a process of its own. May start that process over; `rational_jax.cli.app.run` does not."""
    use_huge_pages()
    from rational_jax.cli.app import run

    sys.exit(run(sys.argv[1:]))
