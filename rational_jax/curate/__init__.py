"""The model writes rationales, filters decide which are kept, and datasets to train on are made of those."""

from rational_jax.curate.candidates import Candidate, Filtered, Rejection, Rules
from rational_jax.curate.filters import FILTERS, apply_filters
from rational_jax.curate.funnel import Funnel, make_funnel, total
from rational_jax.curate.inputs import make_plan
from rational_jax.curate.layouts import derive
from rational_jax.curate.recipes import Recipe, load_recipe
from rational_jax.curate.run import FUNNEL, PROMPTS, REJECTED, run, stage_settings, write_dataset
from rational_jax.curate.set_filters import GOOD_IN_THEMSELVES

__all__ = [
    "FILTERS",
    "FUNNEL",
    "GOOD_IN_THEMSELVES",
    "PROMPTS",
    "REJECTED",
    "Candidate",
    "Filtered",
    "Funnel",
    "Recipe",
    "Rejection",
    "Rules",
    "apply_filters",
    "derive",
    "load_recipe",
    "make_funnel",
    "make_plan",
    "run",
    "stage_settings",
    "total",
    "write_dataset",
]
