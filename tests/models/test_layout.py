"""Runs of layers: every layer is in exactly one, and those of one place in a period are of one kind."""

import pytest

from rational_jax.models.layout import Run, runs


@pytest.mark.parametrize(
    ("kinds", "expected"),
    [
        ("aaaa", [Run(start=0, period=1, repeats=4)]),
        ("ababab", [Run(start=0, period=2, repeats=3)]),
        # Gemma 3: five with a window, one without; what is left over is a run of its own.
        ("aaaaab" * 4 + "aa", [Run(start=0, period=6, repeats=4), Run(start=24, period=1, repeats=2)]),
        # LoRA in the middle layers only.
        (
            "aabbba",
            [Run(start=0, period=1, repeats=2), Run(start=2, period=1, repeats=3), Run(start=5, period=1, repeats=1)],
        ),
        ("ab", [Run(start=0, period=1, repeats=1), Run(start=1, period=1, repeats=1)]),
        ("a", [Run(start=0, period=1, repeats=1)]),
    ],
)
def test_runs_are_the_longest_that_repeat(kinds, expected):
    assert runs(kinds) == expected


@pytest.mark.parametrize("kinds", ["abcabcabca", "aabaabab", "abcdefghijkl", "abbabbbab", "aaaaaaaaab" * 3])
def test_every_layer_is_run_once_and_as_what_it_is(kinds):
    ran = []
    for run in runs(kinds):
        assert run.start == len(ran)
        period = kinds[run.start : run.start + run.period]
        ran += period * run.repeats
    assert "".join(ran) == kinds
