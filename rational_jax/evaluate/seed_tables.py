"""Several models over several seeds as one summary: JSON, and tables in Markdown that can be read as they are."""

import dataclasses
from collections.abc import Sequence

from rational_jax.data.suites import Suite
from rational_jax.evaluate.metrics import DEFINITIONS, Settings
from rational_jax.evaluate.results import Estimate, Figures, Slice, percent, points, with_interval
from rational_jax.evaluate.seeds import Runs, differences_over_seeds, slice_over_seeds

ERRORS = ("asr", "over_refusal", "mean_error")
FIGURES = (*ERRORS, "premise_accuracy")

Table = tuple[str, Sequence[str], Sequence[Sequence[str]]]
"""Title, header, rows."""


def summarise(runs: Runs, *, suite: Suite, first: str, settings: Settings) -> dict:
    """The figures of the suite's headline prompts and of its tiers, and how `first` differs from the other models.

    A dict for JSON: `figures` (model -> figure -> estimate, and its coverage), `by_seed` (for each seed model -> figure
    -> value), `differences` and `tiers` (tier -> model -> figure -> estimate). `compare.differences` must have `first`
    come last in its order, as it has "rational".
    """

    def part(*tiers: str) -> Runs:
        return {
            model: [[o for o in outcomes if o.answer.prompt.category in tiers] for outcomes in seeds]
            for model, seeds in runs.items()
        }

    headline = part(*suite.headline.tiers)
    found, alone = slice_over_seeds(headline, by="headline", settings=settings)
    tiers = {tier: part(tier) for tier in suite.tiers}
    tiers = {tier: members for tier, members in tiers.items() if any(any(seeds) for seeds in members.values())}
    compared = differences_over_seeds(headline, where="headline", settings=settings)
    return {
        "headline": suite.headline.words,
        "confidence": settings.confidence,
        "figures": {m: {**_figures(one), "coverage": one.coverage.share} for m, one in found.figures.items()},
        "by_seed": [_values(one) for one in alone],
        "differences": [
            {key: getattr(d, key) for key in ("metric", "first", "second", "value", "low", "high")}
            for d in compared
            if d.first == first
        ],
        "tiers": {
            tier: {m: _figures(figures) for m, figures in one.figures.items()}
            for tier, members in tiers.items()
            for one in (slice_over_seeds(members, by="tier", name=tier, settings=settings)[0],)
        },
    }


def _figures(figures: Figures) -> dict[str, dict]:
    return {name: dataclasses.asdict(getattr(figures, name)) for name in FIGURES}


def _values(one: Slice) -> dict[str, dict]:
    return {m: {name: getattr(figures, name).value for name in FIGURES} for m, figures in one.figures.items()}


def tables(summary: dict) -> list[Table]:
    """What `summarise` found: the headline figures, the differences from the other models, the tiers."""
    figures, by_pair = summary["figures"], {}
    for difference in summary["differences"]:
        by_pair.setdefault((difference["first"], difference["second"]), {})[difference["metric"]] = difference
    tiers = summary["tiers"]
    names = {name: DEFINITIONS[name][0] for name in FIGURES}
    return [
        (
            f"{summary['headline']} ({summary['confidence']:.0%} intervals)",
            ("model", *names.values(), "coverage"),
            [(m, *(_shown(found[key]) for key in FIGURES), percent(found["coverage"])) for m, found in figures.items()],
        ),
        (
            "differences, in points",
            ("", *(names[key] for key in ERRORS), "mean error says"),
            [
                (f"{first} − {second}", *(_points(found.get(key)) for key in ERRORS), reading(found.get("mean_error")))
                for (first, second), found in by_pair.items()
            ],
        ),
        (
            f"{names['mean_error']} by tier",
            ("model", *tiers),
            [(m, *(_shown(by_model[m]["mean_error"]) for by_model in tiers.values())) for m in figures],
        ),
    ]


def reading(difference: dict | None) -> str:
    """What an interval allows to say of two models: nothing where it holds zero."""
    if difference is None:
        return "–"
    if difference["low"] <= 0 <= difference["high"]:
        return "no difference shown"
    return f"{difference['first']} errs {'less' if difference['value'] < 0 else 'more'}"


def markdown(title: str, notes: Sequence[str], found: Sequence[Table]) -> str:
    """A page of a heading, sentences and tables, the columns aligned for those who read it in a terminal."""
    lines = [f"# {title}", *(line for note in notes for line in ("", note))]
    for heading, header, rows in found:
        widths = [max(map(len, column)) for column in zip(header, *rows, strict=True)]
        lines += ["", f"## {heading}", ""]
        for cells in (header, ["-" * width for width in widths], *rows):
            lines.append(f"| {' | '.join(cell.ljust(width) for cell, width in zip(cells, widths, strict=True))} |")
    return "\n".join(lines) + "\n"


def _shown(estimate: dict) -> str:
    return with_interval(Estimate(**estimate))


def _points(difference: dict | None) -> str:
    if difference is None:
        return "–"
    value, low, high = (points(difference[key]) for key in ("value", "low", "high"))
    return f"{value} [{low} to {high}]"
