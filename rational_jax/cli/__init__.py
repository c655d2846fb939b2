"""The `rational` command. One thin file a verb: each calls one public function of its room, imported when it runs.

So `rational --help` is instant: nothing here imports jax, and the rooms are imported inside the verbs.
"""

from rational_jax.cli.app import app, main

__all__ = ["app", "main"]
