"""Small charts as inline SVG: drawn in Python, coloured by the page's theme, readable on a phone without a script.

Every chart is a `Markup` whose width follows its column. Series are told apart by colour and by the shape of their
marks. Numbers go in as shares or plain values and are never rounded before they are drawn.
"""

from rational_jax.html.charts.bars import Part, count_bars, stacked_bars
from rational_jax.html.charts.dots import Dot, dot_plot
from rational_jax.html.charts.heat import heat_map
from rational_jax.html.charts.lines import Line, line_chart
from rational_jax.html.charts.scatter import Point, scatter
from rational_jax.html.charts.svg import legend_mark

__all__ = [
    "Dot",
    "Line",
    "Part",
    "Point",
    "count_bars",
    "dot_plot",
    "heat_map",
    "legend_mark",
    "line_chart",
    "scatter",
    "stacked_bars",
]
