"""Two kernels side by side, path by path, as kernel reviewers read a benchmark: base, head, change, spread."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from rich.table import Table
from rich.text import Text

from kselftests_py.reports.comparison import LABELS, NOTHING, format_change, format_number, place_of
from kselftests_py.reports.text import one_line
from kselftests_py.reports.waterfall import STAGES
from kselftests_py.results.regression import Change

HEADINGS = ("more", "change", "p10 to p90, each")
_NAMED = 8
_STYLES = {"dearer": "bold red", "cheaper": "green", "same": ""}


def configurations(symbols: Sequence[str]) -> str:
    """In which symbols two configurations differ, the first of them named; empty if in none."""
    if not symbols:
        return ""
    named = ", ".join(symbols[:_NAMED]) + (", ..." if len(symbols) > _NAMED else "")
    return f"the configurations differ in {len(symbols)} symbol{'' if len(symbols) == 1 else 's'} ({named})"


def in_order(found: Iterable[Change]) -> list[Change]:
    """Path by path: of one kind of memory and access what nobody protects, then WP, then RWP."""
    return sorted(found, key=_place)


def _place(change: Change) -> tuple[object, ...]:
    labels = change.labels
    known = (*LABELS, "protection", "trapped", "stage")
    rest = sorted(f"{name}={value}" for name, value in labels.items() if name not in known)
    stage = [*STAGES].index(labels["stage"]) if labels.get("stage") in STAGES else len(STAGES)
    path = [place_of(labels.get(name, "")) for name in LABELS]
    protection = labels.get("protection", "")
    # Of two numbers the one with more digits is the larger.
    return (*path, [(len(one), one) for one in rest], bool(protection), place_of(protection), stage, change.name)


def percent(change: Change) -> str:
    """The change as a share of the base, signed; "=" where it is none; what of it is no noise, where a part is."""
    if change.verdict == "same":
        return "="
    if change.counts != change.more:
        return beside_noise(change)
    return f"{100 * change.more / change.base:+.2f} %" if change.base else format_change(change.more)


def beside_noise(change: Change) -> str:
    """What of the change is no noise, in words; empty where that is all of it, or none."""
    return f"{format_change(change.counts)} beside noise" if change.counts not in (0, change.more) else ""


def row(change: Change) -> list[str]:
    """Base, head, how much more, the change as a share, and both spreads: as every report shows them."""
    figures = [format_number(change.base), format_number(change.head), format_change(change.more), percent(change)]
    return [*figures, " | ".join(_spread(one) for one in (change.base_spread, change.head_spread))]


def table(found: Sequence[Change], base: str, head: str) -> Table:
    """One line a path; the dearer ones stand out."""
    unit = found[0].unit if found else "instructions"
    out = Table(title=Text(f"Exact: {unit}"), title_justify="left", title_style="bold", box=None, pad_edge=False)
    out.add_column("path")
    for heading in (base, head, *HEADINGS):
        out.add_column(Text(one_line(heading)), justify="right")
    for change in found:
        style = _STYLES[change.verdict]
        *figures, spreads = row(change)
        out.add_row(Text(one_line(change.title), style), *(Text(one, style) for one in figures), Text(spreads))
    return out


def _spread(spread: tuple[float, float] | None) -> str:
    if spread is None:
        return NOTHING
    low, high = (format_number(bound) for bound in spread)
    return low if low == high else f"{low} to {high}"
