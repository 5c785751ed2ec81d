"""The side-by-side table: what each kernel and each protection measured, in columns that can be compared.

Used by the terminal and by the HTML report. The rows come from the metrics' labels, the columns are the kernels (the
baseline first) times the protections they measured.
"""

from __future__ import annotations

import re
import statistics
from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from functools import cached_property
from itertools import chain

import msgspec

from kselftests_py.measure import TAILS, merge, samples, tails
from kselftests_py.reports.text import one_line
from kselftests_py.results import Manifest, Metric, Record

_WORDS = "fault protect resolve scan evict idle sync async anon shmem tmpfs hugetlb read write wp rwp"
_ORDER = {word: place for place, word in enumerate(_WORDS.split())}
SERIES = 6  # colours --series-0 .. --series-5 of the report's template
NOTHING = "\u2013"
NOT_TRAPPED = "not trapped"
TIMES = "\u00d7"
LABELS = ("path", "delivery", "kind", "access")


class Column(msgspec.Struct, frozen=True):
    """A kernel and one of its protections; without `protection` the kernel as a whole."""

    kernel: str
    protection: str = ""
    baseline: bool = False

    @property
    def title(self) -> str:
        return one_line(f"{self.kernel} {self.protection.upper()}".strip())


class Cell(msgspec.Struct, frozen=True):
    """One number of the table: the median of what the run's records gave for it, or their sum if they are counts, and
    all their samples. `untrapped`: the access is not trapped, so what it costs is no cost of a fault."""

    value: float
    untrapped: bool = False
    count: int = 0
    low: float | None = None
    high: float | None = None
    histogram: list[tuple[float, int]] = []


class Row(msgspec.Struct, frozen=True):
    """One thing measured: `labels` are path, delivery, kind and access, `name` the metric and what else labels it."""

    labels: tuple[str, str, str, str]
    name: str
    cells: dict[Column, Cell]

    @property
    def title(self) -> str:
        return " ".join(label for label in self.labels if label) or self.name

    @property
    def aside(self) -> bool:
        """One of the many paths around a fault, which a terminal has no room for."""
        return self.name.startswith("path_")

    def reference(self, columns: Sequence[Column]) -> float | None:
        """The first number of the row that can be divided by: what relative figures are relative to."""
        cells = [self.cells[column] for column in columns if column in self.cells]
        return next((cell.value for cell in cells if cell.value > 0 and not cell.untrapped), None)

    def ratio(self, over: Column, under: Column) -> float | None:
        """One cell divided by another, if both are there and the division means something."""
        if over not in self.cells or under not in self.cells:
            return None
        pair = self.cells[over], self.cells[under]
        if any(cell.value <= 0 or cell.untrapped for cell in pair):
            return None
        return pair[0].value / pair[1].value


class Ratio(msgspec.Struct, frozen=True):
    """A column of ratios: `over` divided by `under`."""

    title: str
    over: Column
    under: Column


class Table(msgspec.Struct, frozen=True, dict=True):
    """Rows of one unit and one mode. `relative`: wall time under emulation, of which only ratios may be printed."""

    mode: str
    unit: str
    columns: list[Column]
    rows: list[Row]
    relative: bool = False
    short: dict[str, str] = {}  # of the kernels' names, what tells them apart

    def heading(self, column: Column) -> tuple[str, str]:
        """Two lines for the head of a column: the kernel, shortened, and the protection."""
        return one_line(self.short.get(column.kernel, column.kernel)), one_line(column.protection.upper())

    @property
    def title(self) -> str:
        if self.mode == "exact":
            return f"Exact: {self.unit} retired"
        if self.mode == "wall":
            return "Wall time, as ratios only" if self.relative else f"Wall time: {self.unit}"
        return {"1": "Counts", "ratio": "Ratios"}.get(self.unit, f"Counts: {self.unit}")

    @cached_property
    def ratios(self) -> list[Ratio]:
        """Protections against WP of the same kernel, and each kernel against the baseline."""
        if self.mode == "none":
            return []
        found = []
        baselines = {column.protection: column for column in self.columns if column.baseline}
        own_wp = {column.kernel: column for column in self.columns if column.protection == "wp"}
        several = len({column.kernel for column in self.columns if not column.baseline}) > 1
        for column in self.columns:
            who = f"{self.heading(column)[0]} " if several else ""
            old = baselines.get(column.protection)
            if old and not column.baseline:
                found.append(Ratio(f"{who}{column.protection.upper() or 'kernel'} / baseline", column, old))
            wp = own_wp.get(column.kernel)
            if wp and column != wp:
                found.append(Ratio(f"{who}{column.protection.upper()} / WP", column, wp))
        return [ratio for ratio in found if any(row.ratio(ratio.over, ratio.under) for row in self.rows)]

    def shown(self, row: Row, column: Column) -> str:
        """A cell as it is printed; a dash where nothing was measured."""
        cell = row.cells.get(column)
        if cell is None:
            return NOTHING
        if cell.untrapped:
            return NOT_TRAPPED
        if not self.relative:
            return format_number(cell.value)
        reference = row.reference(self.columns)
        return format_ratio(cell.value / reference) if reference and cell.value > 0 else NOTHING

    def percentiles(self, row: Row, column: Column) -> list[str]:
        """p50 to p99.9 of a cell's samples, as they are printed."""
        cell = row.cells.get(column)
        return format_tails(tails(cell.histogram) if cell else {})

    def scale(self, row: Row) -> float:
        """What to divide a row's numbers by before showing them: 1, or the reference of a relative table."""
        return (row.reference(self.columns) or 1.0) if self.relative else 1.0


def build(records: Sequence[Record], manifest: Manifest) -> list[Table]:
    """The tables of a run: exact first, then wall, then counts; empty if nothing was measured."""
    groups: dict[tuple[str, str, bool], dict[tuple[tuple[str, str, str, str], str], dict[Column, list[Metric]]]]
    groups = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    baselines = manifest.labels("baseline")
    for record in records:
        for metric in record.metrics:
            if metric.labels.get("path") in (OVERHEAD, KERNEL_ACCESS, WATERFALL):
                continue
            protection = metric.labels.get("protection", "")
            column = Column(record.kernel, protection, record.kernel in baselines)
            groups[metric.mode, metric.unit, bool(protection)][_row_key(metric)][column].append(metric)
    short = short_names({entry.label: None for entry in manifest.kernels} | {record.kernel: None for record in records})
    order = [entry.label for entry in sorted(manifest.kernels, key=lambda entry: entry.role != "baseline")]
    tables = []
    for (mode, unit, _), rows in sorted(groups.items(), key=lambda item: (_MODES.index(item[0][0]), item[0][1])):
        columns = sorted(set(chain.from_iterable(rows.values())), key=lambda column: _column_key(column, order))
        relative = mode == "wall" and any(is_emulated(column.kernel, manifest) for column in columns)
        members = [
            Row(
                labels,
                name,
                {
                    column: _cell(metrics, counted=mode == "none" and unit != "ratio")
                    for column, metrics in cells.items()
                },
            )
            for (labels, name), cells in sorted(rows.items(), key=_row_order)
        ]
        if relative:  # a lone figure relates to nothing
            members = [row for row in members if sum(not cell.untrapped for cell in row.cells.values()) > 1]
        if members:
            tables.append(Table(mode, one_line(unit), columns, members, relative, short))
    return tables


_MODES = ("exact", "wall", "none")
OVERHEAD = "overhead"  # the path of metrics that say what was subtracted: they compare nothing
KERNEL_ACCESS = "kernel_access"  # the path of metrics that have a table of their own, in words (accesses.py)
WATERFALL = "waterfall"  # the path of metrics that are stages of one fault (waterfall.py)


def clock_reads(records: Iterable[Record]) -> str:
    """What two clock reads around an access that is no fault cost, for the note on the method; empty without any."""
    metrics = [metric for record in records for metric in record.metrics if metric.labels.get("path") == OVERHEAD]
    found: dict[bool, set[str]] = {}
    for metric in metrics:
        if metric.mode == "exact":
            of = found.setdefault(metric.labels.get("access", "").startswith("gup"), set())
            of.add(f"{metric.value:g} {one_line(metric.unit)}")
    calls = f" ({' or '.join(sorted(found[True]))} around the system call of gup)" if True in found else ""
    return f"Two clock reads cost {' or '.join(sorted(found.get(False, ())))}{calls}, subtracted." if found else ""


def short_names(labels: Iterable[str]) -> dict[str, str]:
    """Each kernel's name up to its first + or -, where that still tells them apart: 7.3.4+deb13-amd64 is 7.3.4."""
    short = {label: re.split(r"[+-]", label)[0] for label in labels}
    taken = Counter(short.values())
    return {label: name if name and taken[name] == 1 else label for label, name in short.items()}


def is_emulated(kernel: str, manifest: Manifest) -> bool:
    """The kernel ran under TCG, where nanoseconds say nothing about hardware."""
    entry = manifest.kernel(kernel)
    return entry is not None and entry.emulated


def may_print(metric: Metric, kernel: str, manifest: Manifest) -> bool:
    """False for wall time measured under emulation: on its own, without a ratio, it must not be printed."""
    return metric.mode != "wall" or not is_emulated(kernel, manifest)


def format_number(value: float) -> str:
    """Thousands separated; three significant digits below 100."""
    if value == int(value) or abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def format_change(value: float) -> str:
    """A number with its sign; none changes by +0."""
    return f"{'+' if value >= 0 else '-'}{format_number(abs(value))}"


def format_tails(found: Mapping[str, float]) -> list[str]:
    """p50 to p99.9; a dash where there were too few samples."""
    return [format_number(found[name]) if name in found else NOTHING for name in TAILS]


def format_ratio(ratio: float | None) -> str:
    if ratio is None:
        return NOTHING
    digits = 0 if ratio >= 100 else 1 if ratio >= 10 else 2
    return f"{ratio:,.{digits}f}{TIMES}"


def _row_key(metric: Metric) -> tuple[tuple[str, str, str, str], str]:
    path, delivery, kind, access = (one_line(metric.labels.get(label, "")) for label in LABELS)
    known = {*LABELS, "protection", "trapped"}
    rest = [f"{key}={value}" for key, value in sorted(metric.labels.items()) if key not in known]
    return (path, delivery, kind, access), one_line(" ".join([metric.name, *rest]))


def place_of(label: str) -> tuple[int, str]:
    """To sort a label's values by: WP before RWP, read before write; others by the alphabet, after them."""
    return _ORDER.get(label, len(_ORDER)), label


def _row_order(item: tuple[tuple[tuple[str, str, str, str], str], object]) -> tuple[object, ...]:
    labels, name = item[0]
    return (*map(place_of, labels), name)


def _column_key(column: Column, kernels: Sequence[str]) -> tuple[int, tuple[int, str]]:
    place = kernels.index(column.kernel) if column.kernel in kernels else len(kernels)
    return place, place_of(column.protection)


def _cell(metrics: Sequence[Metric], *, counted: bool) -> Cell:
    bounds = [bound for metric in metrics if metric.spread for bound in metric.spread]
    if not bounds and len(metrics) > 1:
        bounds = [metric.value for metric in metrics]
    histogram = merge(metric.histogram for metric in metrics if metric.histogram)
    values = [metric.value for metric in metrics]
    return Cell(
        sum(values) if counted else statistics.median(values),
        all(metric.labels.get("trapped") == "no" for metric in metrics),
        sum(metric.count for metric in metrics) or samples(histogram),
        min(bounds, default=None),
        max(bounds, default=None),
        histogram,
    )
