"""Heat map of shares: the number stands in every cell, colour only helps the eye."""

from collections.abc import Mapping, Sequence

from markupsafe import Markup

from rational_jax.html.charts.svg import WIDTH, element, figure, hint, shorten, text


def heat_map(
    rows: Sequence[str], columns: Sequence[str], values: Mapping[tuple[str, str], float | None], *, title: str
) -> Markup:
    """A grid of shares in [0, 1] by (row, column). A cell without a value is left open."""
    left, head, height = 122.0, 26.0, 24.0
    # Cells have one width in every map, so that narrow maps stay legible beside each other in a row.
    width = min(78.0, (WIDTH - left) / max(1, len(columns)))
    parts = [
        text(left + width * (place + 0.5), head - 9, shorten(column, int(width / 6)), anchor="middle", class_="tick")
        for place, column in enumerate(columns)
    ]
    for down, row in enumerate(rows):
        y = head + down * height
        parts.append(text(left - 10, y + 16, shorten(row, 18), anchor="end"))
        for along, column in enumerate(columns):
            x = left + along * width
            value = values.get((row, column))
            said = hint(f"{row}, {column}: " + ("none" if value is None else f"{100 * value:.1f}%"))
            box = {"x": x, "y": y, "width": width - 2, "height": height - 2}
            if value is None:
                parts.append(element("rect", said, class_="cell empty", **box))
                continue
            # Opacity carries the value, so that one hue serves light and dark; .8 keeps the number legible on top.
            opacity = f"{0.04 + 0.76 * min(max(value, 0.0), 1.0):.3f}"
            parts.append(element("rect", said, class_="cell", fill_opacity=opacity, **box))
            parts.append(text(x + width / 2 - 1, y + 16, f"{100 * value:.0f}", anchor="middle", class_="label figure"))
    return figure(head + len(rows) * height + 2, title, *parts, width=left + len(columns) * width)
