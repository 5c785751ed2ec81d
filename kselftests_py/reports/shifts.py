"""Two sides in wall time, path by path: base, head, change, interval, verdict; and their percentiles side by side."""

from __future__ import annotations

from collections.abc import Sequence

from rich.table import Table
from rich.text import Text

from kselftests_py.measure import TAILS
from kselftests_py.measure.shift import FASTER, LEAST, SAME, SLOWER
from kselftests_py.reports.comparison import NOTHING, format_number, format_tails
from kselftests_py.reports.text import one_line
from kselftests_py.results.wall import Wall, WallChange

HEADINGS = ("change", "95 % interval", "p", "verdict")
_STYLES = {SLOWER: "bold red", FASTER: "green", SAME: ""}


def row(change: WallChange, *, relative: bool = False) -> list[str]:
    """Base and head, the change with its interval as shares of the base, p and verdict: as every report shows them.

    *relative*: nanoseconds of an emulator, of which only shares may be printed.
    """
    shift = change.shift
    figures = [NOTHING, NOTHING] if relative else [format_number(one) for one in (shift.base, shift.head)]
    told = [f"{_share(change, shift.low)} to {_share(change, shift.high)}", f"{change.p:.3f}"]
    if min(shift.replicates) < LEAST:  # too few for either
        told = [NOTHING, NOTHING]
    return [*figures, _share(change, shift.more), *told, change.verdict]


def percentiles(change: WallChange) -> list[str]:
    """p50 to p99.9 of both sides, "base | head"; a dash where there were too few samples."""
    sides = [format_tails(side) for side in (change.base_percentiles, change.head_percentiles)]
    return [" | ".join(both) for both in zip(*sides, strict=True)]


def table(found: Sequence[WallChange], compared: Wall, heads: tuple[str, str], *, relative: bool = False) -> Table:
    """One line a path; what is slower stands out."""
    title = f"Wall time: ns, a figure the median of a {compared.replicate}, n = {_counts(found)}"
    out = _table(title, ("path", "measured"), (*heads, *HEADINGS))
    for change in found:
        style = _STYLES.get(change.verdict, "dim")
        cells = (one_line(change.title), one_line(change.name), *row(change, relative=relative))
        out.add_row(*(Text(cell, style) for cell in cells))
    return out


def tails_table(found: Sequence[WallChange], heads: tuple[str, str]) -> Table | None:
    """The percentiles of all samples; None if no path has any."""
    shown = [change for change in found if change.base_percentiles or change.head_percentiles]
    if not shown:
        return None
    out = _table(f"Percentiles: ns, {one_line(heads[0])} | {one_line(heads[1])}", ("path", "measured"), tuple(TAILS))
    for change in shown:
        out.add_row(*(Text(cell) for cell in (one_line(change.title), one_line(change.name), *percentiles(change))))
    return out


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    out = Table(title=Text(title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in left:
        out.add_column(heading)
    for heading in right:
        out.add_column(Text(one_line(heading)), justify="right")
    return out


def _counts(found: Sequence[WallChange]) -> str:
    sizes = [one.shift.replicates for one in found]
    return " and ".join(str(min(size[side] for size in sizes)) for side in (0, 1)) if sizes else "0"


def _share(change: WallChange, value: float) -> str:
    base = change.shift.base
    return f"{100 * value / abs(base):+.1f} %" if base else f"{value:+.3g} ns"
