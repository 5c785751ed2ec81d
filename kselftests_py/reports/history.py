"""A path's figures over kernels: a table for the terminal, a drawing for a file."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from matplotlib.figure import Figure
from rich.table import Table
from rich.text import Text

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.reports.comparison import NOTHING, format_number
from kselftests_py.reports.text import one_line

_MOST = 24
_FORMATS = (".svg", ".png", ".pdf")

Rows = Sequence[tuple[str, Sequence[float | None]]]
"""Path and its figure on each kernel."""


def table(kernels: Sequence[str], rows: Rows) -> Table:
    """One line a path, one column a kernel."""
    out = Table(title=Text("Exact: instructions"), title_justify="left", title_style="bold", box=None, pad_edge=False)
    out.add_column("path")
    for kernel in kernels:
        out.add_column(Text(one_line(kernel)), justify="right")
    for title, figures in rows:
        shown = [NOTHING if figure is None else format_number(figure) for figure in figures]
        out.add_row(Text(one_line(title)), *(Text(one) for one in shown))
    return out


def plot(kernels: Sequence[str], rows: Rows, file: Path) -> None:
    """Draw each path in a panel of its own, instructions over kernels, into *file* (.svg, .png or .pdf).

    :raises UsageError: too many paths to be read, or another kind of file.
    :raises HarnessError: the file cannot be written.
    """
    if len(rows) > _MOST:
        raise UsageError(f"{len(rows)} paths are too many for one drawing (at most {_MOST}); choose some with -k")
    if file.suffix not in _FORMATS:
        raise UsageError(f"{file}: give a file name that ends in {', '.join(_FORMATS)}")
    wide = min(3, len(rows))
    high = -(-len(rows) // wide)
    figure = Figure(figsize=(4.2 * wide, 0.8 + 1.9 * high), layout="constrained")
    panels = figure.subplots(high, wide, squeeze=False).flat
    for (title, figures), axes in zip(rows, panels, strict=False):
        seen = [(kernel, value) for kernel, value in enumerate(figures) if value is not None]
        axes.plot(*zip(*seen, strict=True), marker="o")
        for at, value in seen:
            axes.annotate(format_number(value), (at, value), (0, 5), textcoords="offset points", fontsize=8)
        axes.set_title(one_line(title), fontsize=9, loc="left", parse_math=False)
        axes.set_xticks(range(len(kernels)), [one_line(kernel) for kernel in kernels], fontsize=7, parse_math=False)
        axes.margins(x=0.15, y=0.3)
    for axes in list(panels):
        axes.set_axis_off()
    figure.supylabel("instructions", fontsize=8)
    try:
        figure.savefig(file)
    except OSError as error:
        raise HarnessError(f"{file}: {error.strerror}; name a file that can be written") from None
