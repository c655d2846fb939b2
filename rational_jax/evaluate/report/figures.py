"""The charts of a suite: which figures go where. Drawing is the kit's; numbers are the results'."""

from collections.abc import Sequence

from markupsafe import Markup

from rational_jax.evaluate.report.gather import LOSSES, Curves
from rational_jax.evaluate.results import Estimate, Slice, SuiteResults, percent
from rational_jax.html import charts

# Every model keeps its colour and mark in all charts and all reports.
_SERIES = {"base": 0, "refusal": 1, "rational": 2, "answer-first": 3, "shuffled": 4}


def series(models: Sequence[str]) -> dict[str, int]:
    """Colour and mark of each model: a fixed one for the arms there are, the next free ones for others."""
    free = iter(range(5, 1000))
    return {model: _SERIES[model] if model in _SERIES else next(free) for model in models}


def errors(suite: SuiteResults) -> Markup:
    """Dot plot of the three error figures with their intervals, by model."""
    colour = series(suite.models)
    dots = [
        _dot(model, getattr(figures, metric), colour[model], group)
        for metric, group in (
            ("mean_error", "mean error"),
            ("asr", "ASR (harmful, complied)"),
            ("over_refusal", "over-refusal (benign, refused)"),
        )
        for model, figures in suite.main().figures.items()
    ]
    return charts.dot_plot(dots, title="Error rates by model with intervals", reference=0.5)


def _dot(label: str, estimate: Estimate, place: int, group: str) -> charts.Dot:
    return charts.Dot(
        label=label,
        value=estimate.value,
        low=estimate.low,
        high=estimate.high,
        shown=percent(estimate.value),
        series=place,
        group=group,
    )


def trade(suite: SuiteResults) -> Markup:
    """Over-refusal against ASR: the lower left is best, the dashed line is what chance reaches."""
    colour = series(suite.models)
    points = [
        charts.Point(label=model, x=_triple(f.over_refusal), y=_triple(f.asr), series=colour[model])
        for model, f in suite.main().figures.items()
        if f.asr.value is not None and f.over_refusal.value is not None
    ]
    if not points:
        return Markup("")
    return charts.scatter(
        points,
        title="ASR against over-refusal by model",
        x_label="over-refusal (benign refused)",
        y_label="ASR (harmful complied)",
        chance=True,
    )


def _triple(estimate: Estimate) -> tuple[float, float | None, float | None]:
    return estimate.value, estimate.low, estimate.high


def classes(suite: SuiteResults, label: str) -> Markup:
    """Stacked bars of the three classes on harmful or on benign prompts."""
    rows = []
    for model, figures in suite.main().figures.items():
        shares = getattr(figures, label)
        parts = [
            charts.Part(name="complied", size=shares.compliance, class_="full"),
            charts.Part(name="partly refused", size=shares.partial, class_="part"),
            charts.Part(name="refused", size=shares.refusal, class_="none"),
        ]
        rows.append((model, parts))
    return charts.stacked_bars(rows, title=f"What became of {label} requests, by model")


def heat(suite: SuiteResults, model: str) -> Markup:
    """Mean error of one model by wrapper (style) and tier; the one error there is where a cell has but one label."""
    cells: Sequence[Slice] = suite.parts("style x tier")
    values = {(cell.name, cell.other): _error(cell, model) for cell in cells}
    rows = list(dict.fromkeys(cell.name for cell in cells))
    columns = list(dict.fromkeys(part.name for part in suite.parts("tier")))
    return charts.heat_map(rows, columns, values, title=f"Mean error of {model} by wrapper and tier, in percent")


def _error(cell: Slice, model: str) -> float | None:
    figures = cell.figures[model]
    for estimate in (figures.mean_error, figures.asr, figures.over_refusal):
        if estimate.value is not None:
            return estimate.value
    return None


def premise(suite: SuiteResults) -> Markup:
    """Premise accuracy by tier for the models that reason."""
    colour = series(suite.models)
    dots = [
        _dot(model, part.figures[model].premise_accuracy, colour[model], part.name or suite.title)
        for part in suite.parts("tier") or suite.parts("all")
        for model in suite.models
        if part.figures[model].premise_accuracy.value is not None
    ]
    return charts.dot_plot(dots, title="Premise accuracy by tier") if dots else Markup("")


def losses(curves: Sequence[Curves]) -> list[tuple[str, Markup]]:
    """A chart for each loss that some arm has: (what it is over, chart)."""
    colour = series([one.arm for one in curves])
    drawn = []
    for name, over in LOSSES.items():
        lines = [
            charts.Line(label=one.arm, x=one.steps, y=one.losses[name], series=colour[one.arm])
            for one in curves
            if any(value is not None for value in one.losses[name])
        ]
        if lines:
            drawn.append((over, charts.line_chart(lines, title=f"Loss over {over}", x_label="step")))
    return drawn
