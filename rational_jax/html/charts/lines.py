"""Line chart over steps."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rational_jax.html.charts.svg import WIDTH, element, figure, hint, line, number, text, ticks

# More points than this a line cannot show at the width of a column.
_POINTS = 220


@dataclass(frozen=True, kw_only=True)
class Line:
    """A line; points whose y is None or not finite are gaps in it."""

    label: str
    x: Sequence[float]
    y: Sequence[float | None]
    series: int = 0


def line_chart(lines: Sequence[Line], *, title: str, x_label: str) -> Markup:
    """Lines from zero up on common axes. Long ones are thinned by averaging neighbours, gaps stay."""
    left, top, right, bottom, height = 40.0, 10.0, 10.0, 40.0, 190.0
    thinned = [_thin(one) for one in lines]
    xs = [x for points in thinned for x, _ in points]
    ys = [y for points in thinned for _, y in points if y is not None]
    if not ys:
        return Markup("")
    x_low, x_high = min(xs), max(xs)
    y_high = max(ys) * 1.05 or 1.0
    across, down = WIDTH - left - right, height - top - bottom

    def x_of(x: float) -> float:
        return left + across * ((x - x_low) / (x_high - x_low) if x_high > x_low else 0.5)

    def y_of(y: float) -> float:
        return top + down * (1 - max(0.0, y) / y_high)

    parts = []
    for tick in ticks(0.0, y_high, 4):
        parts.append(line(left, y_of(tick), left + across, y_of(tick), "grid"))
        parts.append(text(left - 7, y_of(tick) + 4, f"{tick:g}", anchor="end", class_="tick"))
    for tick in ticks(x_low, x_high, 6):
        parts.append(text(x_of(tick), top + down + 16, f"{tick:g}", anchor="middle", class_="tick"))
    parts.append(line(left, top + down, left + across, top + down, "axis"))
    parts.append(text(left + across / 2, height - 4, x_label, anchor="middle"))
    for one, points in zip(lines, thinned, strict=True):
        path, drawing = "", False
        for x, y in points:
            if y is None:
                drawing = False
                continue
            path += f"{'L' if drawing else 'M'}{number(x_of(x))} {number(y_of(y))}"
            drawing = True
        parts.append(element("path", hint(one.label), d=path, class_=f"curve s{one.series % 6}"))
    return figure(height, title, *parts)


def _thin(one: Line) -> list[tuple[float, float | None]]:
    """At most `_POINTS` points: neighbours are averaged, and a group without any finite value is a gap."""
    points = [(x, y if y is not None and math.isfinite(y) else None) for x, y in zip(one.x, one.y, strict=True)]
    group = max(1, math.ceil(len(points) / _POINTS))
    thinned = []
    for start in range(0, len(points), group):
        part = points[start : start + group]
        values = [y for _, y in part if y is not None]
        x = sum(x for x, _ in part) / len(part)
        thinned.append((x, sum(values) / len(values) if values else None))
    return thinned
