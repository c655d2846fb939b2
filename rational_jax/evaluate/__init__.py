"""Evaluation: what the models' answers did, with the uncertainty, and the page that shows it.

`run` judges and computes, `report.run` writes the page. Everything that shows a figure takes it from `Results`.
"""

from rational_jax.evaluate.outcomes import Answer, Outcome
from rational_jax.evaluate.results import Results, SummaryRow, read_results, summary_rows
from rational_jax.evaluate.run import read_outcomes, run

__all__ = [
    "Answer",
    "Outcome",
    "Results",
    "SummaryRow",
    "read_outcomes",
    "read_results",
    "run",
    "summary_rows",
]
