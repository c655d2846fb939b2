"""Interval dot plot: one row a figure, a mark at its value, a bar for its interval."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rational_jax.html.charts.svg import WIDTH, element, figure, line, mark, shorten, text


@dataclass(frozen=True, kw_only=True)
class Dot:
    """A row. `group` heads the rows that follow under the same name; `shown` is the value as the page prints it."""

    label: str
    value: float | None
    low: float | None
    high: float | None
    shown: str
    series: int = 0
    group: str = ""


def dot_plot(
    dots: Sequence[Dot], *, title: str, reference: float | None = None, low: float = 0.0, high: float = 1.0
) -> Markup:
    """Rows of dots on one axis from `low` to `high`, in shares; `reference` draws a dashed line across."""
    left, right, row, head = 96.0, 58.0, 22.0, 24.0
    plot = WIDTH - left - right

    def place(value: float) -> float:
        return left + plot * (min(max(value, low), high) - low) / (high - low)

    parts, y, group = [], 8.0, ""
    for dot in dots:
        if dot.group != group:
            y += 8.0 if group else 0.0
            group = dot.group
            parts.append(text(0, y + 14, group, class_="label strong"))
            y += head
        middle = y + row / 2
        parts.append(line(left, middle, left + plot, middle, "grid"))
        parts.append(text(left - 10, middle + 4, shorten(dot.label, 15), anchor="end"))
        if dot.value is not None:
            if dot.low is not None and dot.high is not None:
                start, end = place(dot.low), place(dot.high)
                series = f"interval s{dot.series % 6}"
                parts.append(element("line", x1=start, y1=middle, x2=end, y2=middle, class_=series))
            parts.append(mark(dot.series, place(dot.value), middle))
        parts.append(text(WIDTH, middle + 4, dot.shown, anchor="end", class_="label figure"))
        y += row
    bottom = y + 4
    axis = [line(left, bottom, left + plot, bottom, "axis")]
    for share in (low, (low + high) / 2, high):
        axis.append(text(place(share), bottom + 15, f"{100 * share:.0f}%", anchor="middle", class_="tick"))
    if reference is not None:
        axis.append(line(place(reference), 4, place(reference), bottom, "reference"))
    return figure(bottom + 20, title, *axis, *parts)
