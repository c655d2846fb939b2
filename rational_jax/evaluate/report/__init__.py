"""The verb `report`: one self-contained page that shows what an evaluation found, and the transcripts behind it."""

from rational_jax.evaluate.report.run import run

__all__ = ["run"]
