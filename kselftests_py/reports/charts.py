"""Inline SVG for the HTML report, drawn by matplotlib in CSS colours, so that one drawing fits light and dark."""

from __future__ import annotations

import io
import re
from collections.abc import Sequence
from itertools import groupby
from typing import Any

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import LogLocator, NullFormatter

from kselftests_py.measure import percentile, rebin
from kselftests_py.reports.comparison import SERIES, Column, Row, Table, format_number, format_ratio
from kselftests_py.reports.waterfall import Falls

_INK, _GRID = "#010101", "#010102"
_STYLE: Any = {
    "text.parse_math": False,  # a label may hold a dollar sign
    "svg.fonttype": "none",  # text stays text: selectable, in the page's font
    "svg.hashsalt": "kst",  # the same report from the same run
    "font.size": 9,
    "text.color": _INK,
    "axes.edgecolor": _GRID,
    "axes.labelcolor": _INK,
    "xtick.color": _INK,
    "ytick.color": _INK,
    "grid.color": _GRID,
    "grid.linewidth": 0.6,
    "axes.axisbelow": True,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.spines.left": False,
    "xtick.major.size": 0,
    "xtick.minor.size": 0,
    "ytick.major.size": 0,
}


def bars(table: Table) -> list[tuple[str, str]]:
    """Panels (title, SVG), one for each path and delivery, since their costs differ by orders of magnitude."""
    rows = [row for row in table.rows if any(cell.value > 0 for cell in row.cells.values())]
    panels = []
    for (path, delivery, name), group in groupby(rows, key=lambda row: (row.labels[0], row.labels[1], row.name)):
        members = list(group)
        title = " ".join(part for part in (path, delivery) if part) or name
        with mpl.rc_context(_STYLE):
            height = 0.45 + sum(0.15 + 0.17 * len(row.cells) for row in members)
            figure = Figure(figsize=(5.2, height), layout="constrained")
            _bar_panel(figure.subplots(), members, table)
            panels.append((f"{title}: {name}" if title != name else name, _svg(figure)))
    return panels


def _bar_panel(axes: Axes, rows: Sequence[Row], table: Table) -> None:
    place = 0.0
    ticks = []
    for row in rows:
        start = place
        for number, column in enumerate(table.columns):
            if column not in row.cells:
                continue
            width = 0 if row.cells[column].untrapped else max(row.cells[column].value, 0) / table.scale(row)
            axes.barh(place, width, height=0.8, color=_series(number))
            axes.annotate(
                table.shown(row, column), (width, place), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
            place += 1
        ticks.append(((start + place - 1) / 2, " ".join(row.labels[2:]).strip() or row.name))
        place += 0.9
    axes.set_yticks([at for at, _ in ticks], [label for _, label in ticks])
    axes.invert_yaxis()
    axes.set_xticks([])
    axes.spines["bottom"].set_visible(False)
    axes.margins(x=0.18, y=0.02)
    axes.set_xlim(left=0)


def waterfall(falls: Falls) -> str:
    """Each fault a bar of its stages, as long as they are together."""
    with mpl.rc_context(_STYLE):
        figure = Figure(figsize=(8.4, 0.3 + 0.26 * len(falls.rows)), layout="constrained")
        axes = figure.subplots()
        for place, fall in enumerate(falls.rows):
            left = 0.0
            for number, value in enumerate(fall.stages):
                width = max(value, 0)
                axes.barh(place, width, left=left, height=0.72, color=_series(number))
                left += width
            axes.annotate(
                format_number(fall.total), (left, place), (4, 0), textcoords="offset points", va="center", fontsize=8
            )
        axes.set_yticks(range(len(falls.rows)), [fall.title for fall in falls.rows])
        axes.invert_yaxis()
        axes.set_xticks([])
        axes.spines["bottom"].set_visible(False)
        axes.margins(x=0.1, y=0.02)
        axes.set_xlim(left=0)
        return _svg(figure)


class Panel:
    """One row's distributions: a drawing and, for each column, its percentiles in words."""

    def __init__(self, title: str, svg: str, lines: list[tuple[int, str, str]]) -> None:
        self.title, self.svg, self.lines = title, svg, lines


def histograms(table: Table) -> list[Panel]:
    """The distribution behind each row that has samples; a path of one thread has none worth a drawing."""
    panels = []
    for row in (row for row in table.rows if not row.aside):
        cells = [
            (number, column, [(value / table.scale(row), count) for value, count in row.cells[column].histogram])
            for number, column in enumerate(table.columns)
            if column in row.cells and row.cells[column].histogram and not row.cells[column].untrapped
        ]
        if not cells:
            continue
        with mpl.rc_context(_STYLE):
            figure = Figure(figsize=(3.6, 1.5), layout="constrained")
            _histogram_panel(figure.subplots(), cells, table)
            svg = _svg(figure)
        show = format_ratio if table.relative else format_number
        lines = [
            (
                number % SERIES,
                column.title,
                " · ".join(f"p{at} {show(percentile(data, at))}" for at in (50, 90, 99))
                + f" · max {show(percentile(data, 100))}",
            )
            for number, column, data in cells
        ]
        title = row.title if row.title == row.name else f"{row.title} ({row.name})"
        panels.append(Panel(title, svg, lines))
    return panels


def _histogram_panel(axes: Axes, cells: Sequence[tuple[int, Column, list[tuple[float, int]]]], table: Table) -> None:
    low = min(percentile(data, 0) for _, _, data in cells)
    # The last half percent is a matter of one interrupt; its extent is in the line below the drawing.
    high = max(percentile(data, 99.5) for _, _, data in cells)
    margin = (high - low) * 0.04 or max(abs(high) * 0.01, 1e-3)
    logarithmic = low > 0 and high / low > 20
    edges = np.geomspace(low, high, 61) if logarithmic else np.linspace(low - margin, high + margin, 61)
    for number, _, data in cells:
        shares = rebin(data, edges.tolist())
        axes.stairs(shares, edges, fill=True, color=_series(number), alpha=0.35)
        axes.stairs(shares, edges, color=_series(number), linewidth=1.1)
    if logarithmic:
        axes.set_xscale("log")
    axes.set_yticks([])
    axes.set_ylim(bottom=0)
    axes.grid(axis="x")
    show = format_ratio if table.relative else format_number
    if logarithmic:
        axes.xaxis.set_major_locator(LogLocator(numticks=4))
        axes.xaxis.set_minor_formatter(NullFormatter())
    else:
        axes.locator_params(axis="x", nbins=4)
    axes.xaxis.set_major_formatter(lambda value, _: show(value))


def _series(number: int) -> str:
    """A colour that stands for the CSS variable of this column."""
    return f"#0203{number % SERIES:02x}"


def _svg(figure: Figure) -> str:
    """The figure as an SVG element to put into HTML: no ids that could clash, no colours of its own."""
    buffer = io.StringIO()
    metadata = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    figure.savefig(buffer, format="svg", transparent=True, metadata=metadata)
    text = buffer.getvalue()
    text = text[text.index("<svg") :]
    text = re.sub(r'<g id="[^"]*"', "<g", text)
    text = re.sub(r"<defs>\s*<style.*?</style>\s*</defs>", "", text, flags=re.DOTALL)
    text = re.sub(r"font-family: [^;\"]*;? ?", "", text)
    text = re.sub(r"font: ([\d.]+px) [^;\"]*;?", r"font-size: \1;", text)
    for number in range(SERIES):
        text = text.replace(_series(number), f"var(--series-{number})")
    return text.replace(_INK, "currentColor").replace(_GRID, "var(--rule)")
