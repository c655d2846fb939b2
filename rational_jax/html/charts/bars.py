"""Bars: the parts of a whole, one bar a row, and plain counts."""

from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup

from rational_jax.html.charts.svg import WIDTH, element, figure, hint, shorten, text

_LEFT, _ROW, _THICK = 96.0, 28.0, 18.0


@dataclass(frozen=True, kw_only=True)
class Part:
    """A part of a bar: `size` in any unit, `class_` one of the theme's fills (full, part, none)."""

    name: str
    size: float
    class_: str


def stacked_bars(rows: Sequence[tuple[str, Sequence[Part]]], *, title: str) -> Markup:
    """Bars of equal length whose parts are shares of the row's sum; a row without anything says so."""
    across = WIDTH - _LEFT
    parts = []
    for place, (label, pieces) in enumerate(rows):
        y = 4 + place * _ROW
        parts.append(text(_LEFT - 10, y + _THICK / 2 + 4, shorten(label, 15), anchor="end"))
        whole = sum(piece.size for piece in pieces)
        if whole <= 0:
            parts.append(text(_LEFT, y + _THICK / 2 + 4, "none scored", class_="tick"))
            continue
        x = _LEFT
        for piece in pieces:
            share = piece.size / whole
            width = across * share
            if width > 0:
                said = hint(f"{label}: {piece.name} {100 * share:.1f}%")
                box = {"x": x, "y": y, "width": max(0.5, width - 1), "height": _THICK}
                parts.append(element("rect", said, class_=piece.class_, **box))
            if width > 34:
                parts.append(text(x + 6, y + _THICK / 2 + 4, f"{100 * share:.0f}%", class_=f"inside {piece.class_}"))
            x += width
    return figure(4 + len(rows) * _ROW, title, *parts)


def count_bars(rows: Sequence[tuple[str, float]], *, title: str) -> Markup:
    """Bars of counts on one scale from zero, with the count at the end of each."""
    left, right = 150.0, 60.0
    most = max((count for _, count in rows), default=0) or 1
    parts = []
    for place, (label, count) in enumerate(rows):
        y = 4 + place * _ROW
        width = max(1.0, (WIDTH - left - right) * count / most)
        parts.append(text(left - 10, y + _THICK / 2 + 4, shorten(label, 24), anchor="end"))
        parts.append(
            element("rect", hint(f"{label}: {count:,}"), x=left, y=y, width=width, height=_THICK, class_="part")
        )
        parts.append(text(left + width + 8, y + _THICK / 2 + 4, f"{count:,}", class_="label figure"))
    return figure(4 + len(rows) * _ROW, title, *parts)
