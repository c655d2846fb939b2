"""What stands in the terminal at the end: the headline figures as a table, and where the page is."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table
from rich.text import Text

from rational_jax.text.terminal import one_line

if TYPE_CHECKING:
    from rational_jax.config import RunConfig
    from rational_jax.evaluate.results import Results

_UNBOUNDED = 100_000


def print_summary(results: "Results") -> None:
    """One row a model and suite, with intervals."""
    from rational_jax.evaluate.results import SummaryRow, summary_rows

    rows = summary_rows(results)
    # A column that says the same in every row only takes the place of figures.
    named = len({row.suite for row in rows}) > 1
    marked = any(row.mean_score.n for row in rows)
    header = (*(("suite",) if named else ()), *SummaryRow.HEADER, *(SummaryRow.MARKS if marked else ()))
    cells = [(*((row.suite,) if named else ()), *row.cells(), *(row.marks() if marked else ())) for row in rows]
    print_table(header, cells, names=1 + named)


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]], *, names: int = 1) -> None:
    """A table without frames; the first `names` columns are names, the others figures.

    Where all columns are names the last is a sentence, which may go over several lines.
    """
    console = Console(highlight=False)
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0))
    for i, name in enumerate(header):
        fit = {"overflow": "fold"} if i + 1 == len(header) == names else {"no_wrap": True}
        table.add_column(Text(one_line(name)), justify="left" if i < names else "right", **fit)
    for row in rows:
        table.add_row(*(Text(one_line(cell)) for cell in row))
    if not console.is_terminal:
        # A file or a pipe has no width of its own, and rich's guess of 80 columns would cut figures off.
        console.width = console.measure(table, options=console.options.update(max_width=_UNBOUNDED)).maximum
    console.print()
    with console.capture() as drawn:
        console.print(table)
    # Rich fills the last column with blanks.
    print("\n".join(line.rstrip() for line in drawn.get().splitlines()))


def print_funnel(config: "RunConfig") -> None:
    """What became of the samples, a row a filter: how many it rejected, and how many were left."""
    path = Path(config.run) / "curate" / "funnel.json"
    if path.is_file():
        from rational_jax.curate import Funnel

        print_table(("samples", "rejected", "left"), Funnel.from_json(json.loads(path.read_text("utf-8"))).table())
        print_path(path.parent, "curated")


def print_path(path: Path, what: str = "report") -> None:
    """A path, on a line of its own and unbroken, so that a terminal makes it a link."""
    print(f"\n{what}: {path}", flush=True)
