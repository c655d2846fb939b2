"""The charts of a suite: which figures go where. Drawing is the kit's; numbers are the results'."""

import itertools
from collections.abc import Sequence

from markupsafe import Markup

from rational_jax.evaluate.report.gather import LOSSES, Curves
from rational_jax.evaluate.results import Capability, Estimate, Slice, SuiteResults, percent
from rational_jax.html import charts

# Every model keeps its colour and mark in all charts and all reports.
_SERIES = {"base": 0, "refusal": 1, "rational": 2, "answer-first": 3, "shuffled": 4}


def series(models: Sequence[str]) -> dict[str, int]:
    """Colour and mark of each model: a fixed one for the arms there are, the next free ones for others."""
    taken = {_SERIES[model] for model in models if model in _SERIES}
    # The kit's six colours come round again; the grey of the base is the last that others get.
    free = itertools.chain((n for n in (5, 2, 3, 4, 1) if n not in taken), itertools.count(7))
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
        if any(getattr(one, metric).value is not None for one in suite.main().figures.values())
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


def trade(suite: SuiteResults, backdrop: Sequence[tuple[str, float, float]] = ()) -> Markup:
    """Refusal of harmful prompts against over-refusal: the upper left is best.

    `backdrop` are published models, (name, over-refusal, refusal of harmful prompts).
    """
    colour = series(suite.models)
    points = [
        charts.Point(label=model, x=_triple(f.over_refusal), y=_refused(f.asr), series=colour[model])
        for model, f in suite.main().figures.items()
        if f.asr.value is not None and f.over_refusal.value is not None
    ]
    if not points:
        return Markup("")
    return charts.scatter(
        points,
        title="Refusal of harmful requests against over-refusal by model",
        x_label="over-refusal (benign refused)",
        y_label="harmful refused",
        chance=True,
        backdrop=backdrop,
    )


def or_bench(suites: Sequence[SuiteResults], backdrop: Sequence[tuple[str, float, float]]) -> Markup:
    """OR-Bench's own picture, for whom its hard and its toxic prompts were asked, with its published models."""
    named = {suite.name.partition("@")[0]: suite for suite in suites}
    hard, toxic = named.get("or-bench-hard-1k"), named.get("or-bench-toxic")
    if hard is None or toxic is None:
        return Markup("")
    colour = series(hard.models)
    points = [
        charts.Point(label=model, x=_triple(over), y=_refused(figures.asr), series=colour[model])
        for model, figures in toxic.main().figures.items()
        if model in colour
        and (over := hard.main().figures[model].over_refusal).value is not None
        and figures.asr.value is not None
    ]
    labels = {"x_label": "refusal of hard-1k (benign)", "y_label": "refusal of toxic"}
    return charts.scatter(points, title="OR-Bench: toxic against hard-1k", chance=True, backdrop=backdrop, **labels)


def _refused(asr: Estimate) -> tuple[float, float | None, float | None]:
    low, high = (None if end is None else 1 - end for end in (asr.high, asr.low))
    return 1 - asr.value, low, high


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
    """Mean error of one model by style and category; the one error there is where a cell has but one label.

    Styles are rows; where there are many categories, these are.
    """
    cells: Sequence[Slice] = suite.parts("style x tier")
    values = {(cell.name, cell.other): _error(cell, model) for cell in cells}
    styles = list(dict.fromkeys(cell.name for cell in cells))
    tiers = [part.name for part in suite.parts("tier") if any((style, part.name) in values for style in styles)]
    title = f"Mean error of {model} by style and category, in percent"
    if len(tiers) > 6:
        return charts.heat_map(tiers, styles, {(t, s): value for (s, t), value in values.items()}, title=title)
    return charts.heat_map(styles, tiers, values, title=title)


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


def harm(suite: SuiteResults) -> Markup:
    """Harm in the answer alone beside that in reasoning and answer, for the models that reason."""
    colour = series(suite.models)
    dots = [
        _dot(model, getattr(figures, metric), colour[model], group)
        for metric, group in (("asr", "answer alone"), ("asr_with_reasoning", "reasoning and answer"))
        for model, figures in suite.main().figures.items()
        if figures.reasoning_leak.n and figures.asr.value is not None
    ]
    return (
        charts.dot_plot(dots, title="ASR in the answer alone, and with the reasoning counted") if dots else Markup("")
    )


def capability(scores: Sequence[Capability], models: Sequence[str]) -> Markup:
    """Scores of every task by model, with intervals of 1.96 standard errors."""
    colour = series(models)
    dots = []
    # Models of one task stand together, so that the eye compares them.
    for one in sorted(scores, key=lambda score: [s.task for s in scores].index(score.task)):
        half = None if one.stderr is None else 1.96 * one.stderr
        dots.append(
            charts.Dot(
                label=one.model,
                value=one.value,
                low=None if half is None else one.value - half,
                high=None if half is None else one.value + half,
                shown=percent(one.value),
                series=colour.get(one.model, 5),
                group=f"{one.task}, {one.metric}, {one.mode}",
            )
        )
    return charts.dot_plot(dots, title="Capability by task and model") if dots else Markup("")


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
