"""Which functions made a path dearer or cheaper: rows for each exact sample that changed (``kst compare --where``)."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec
from rich.table import Table
from rich.text import Text

from kselftests_py.reports.comparison import format_change, format_number
from kselftests_py.reports.text import one_line
from kselftests_py.results import Manifest, Record, Where
from kselftests_py.results.regression import changes, of_kernel, pair

MORE = "more"
_FUNCTIONS = 12
_PLACES = ("user", "entry", "kernel")


class Moved(msgspec.Struct, frozen=True):
    """The median sample of the probe's *histogram* in *test*, on both kernels."""

    test: str
    histogram: str
    base: Where
    head: Where

    @property
    def title(self) -> str:
        """The test as ``-k`` finds it, and both samples."""
        test = self.test.rpartition("::")[2].removeprefix("test_")
        name = "" if self.histogram == "histogram" else f" {self.histogram}"
        return one_line(f"{test}{name}: {format_number(self.base.ticks)} -> {format_number(self.head.ticks)}")

    @property
    def functions(self) -> list[tuple[str, int, int]]:
        """Name, base and head of each function that is not the same; the largest change first."""
        base, head = self.base.functions, self.head.functions
        both = ((name, base.get(name, 0), head.get(name, 0)) for name in sorted(base.keys() | head.keys()))
        return sorted((one for one in both if one[1] != one[2]), key=lambda one: -abs(one[2] - one[1]))

    def rows(self) -> list[tuple[str, str, str, str]]:
        """Name, base, head and how much more: of the places, then of the functions that changed most."""
        functions = self.functions
        shown = [(place, getattr(self.base, place), getattr(self.head, place)) for place in _PLACES]
        shown += functions[:_FUNCTIONS]
        if rest := functions[_FUNCTIONS:]:
            shown.append((f"{len(rest)} more functions", sum(one[1] for one in rest), sum(one[2] for one in rest)))
        return [_row(*one) for one in shown]


def changed(records: Sequence[Record], manifest: Manifest) -> list[tuple[Record, Record]]:
    """Base and head of each test in which a figure changed by more than noise."""
    both = pair(manifest)
    if both is None:
        return []
    base, head = (of_kernel(records, entry) for entry in both)
    before = {record.id: record for record in base}
    pairs = [(before[record.id], record) for record in head if record.id in before]
    return [(old, new) for old, new in pairs if any(one.verdict != "same" for one in changes([old], [new]))]


def moved(pairs: Sequence[tuple[Record, Record]]) -> list[Moved]:
    """Every sample that is known of both; the largest change first."""
    found = [
        Moved(new.id, name, old.where[name], where)
        for old, new in pairs
        for name, where in new.where.items()
        if name in old.where
    ]
    return sorted(found, key=lambda one: -abs(one.head.ticks - one.base.ticks))


def table(one: Moved, base: str, head: str) -> Table:
    """The same for a terminal."""
    out = Table(box=None, pad_edge=False)
    out.add_column("where")
    for heading in (base, head, MORE):
        out.add_column(Text(one_line(heading)), justify="right")
    for number, row in enumerate(one.rows()):
        out.add_row(*map(Text, row), style="dim" if number < len(_PLACES) else "")
    return out


def _row(name: str, base: int, head: int) -> tuple[str, str, str, str]:
    return one_line(name), format_number(base), format_number(head), format_change(head - base)
