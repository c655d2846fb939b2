"""Suites: which prompts a model is asked, and what a suite's headline is about."""

from rational_jax.evaluate.suites.registry import SUITES, Headline, Suite, find_suite, load_suite, load_suites

__all__ = ["SUITES", "Headline", "Suite", "find_suite", "load_suite", "load_suites"]
