"""What the run says in plain words: does trapping reads matter, is eviction safe, what does it cost.

Every sentence is made from the metrics of the records that it names, failed ones included; where they are missing, or
where the probe was told to lie (negative controls), there is no sentence.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence

import msgspec

from kselftests_py.reports import comparison
from kselftests_py.reports.comparison import Row, Table, format_number, format_ratio
from kselftests_py.results import Manifest, Metric, Record


class Answer(msgspec.Struct, frozen=True):
    """One sentence, and the records (their ids, sorted) that it comes from."""

    text: str
    sources: list[str]


def answers(records: Sequence[Record], manifest: Manifest) -> list[Answer]:
    """The sentences of a run; kernels under test come before the baseline."""
    if manifest.options.get("controls") or manifest.options.get("lie"):
        return []
    order = sorted(manifest.kernels, key=lambda entry: entry.role == "baseline")
    short = comparison.short_names(entry.label for entry in manifest.kernels)
    found: list[Answer | None] = []
    for entry in order:
        own = [record for record in records if record.kernel == entry.label]
        found += [_idle(own, short[entry.label]), *(_eviction(own, short[entry.label], mode) for mode in ("rwp", "wp"))]
    tables = [table for table in comparison.build(records, manifest) if table.mode == "exact"]
    sources = _sources(records, lambda metric: metric.mode == "exact" and metric.labels.get("path") != "overhead")
    found += [Answer(text, sources) for table in tables for text in (*_ratios(table), *_reads(table))]
    return [answer for answer in found if answer is not None]


class _Totals:
    """Sums of the metrics of one path and protection, and where they come from."""

    def __init__(self, records: Iterable[Record], path: str, protection: str) -> None:
        def wanted(metric: Metric) -> bool:
            return metric.labels.get("path") == path and metric.labels.get("protection") == protection

        records = list(records)
        self.sources = _sources(records, wanted)
        self._sums: dict[str, float] = defaultdict(float)
        for metric in (metric for record in records for metric in record.metrics if wanted(metric)):
            self._sums[metric.name] += metric.value

    def __getitem__(self, name: str) -> float:
        return self._sums[name]

    def has(self, *names: str) -> bool:
        return all(name in self._sums for name in names)


def _sources(records: Iterable[Record], wanted: Callable[[Metric], bool]) -> list[str]:
    return sorted({record.id for record in records if any(wanted(metric) for metric in record.metrics)})


def _idle(records: Sequence[Record], kernel: str) -> Answer | None:
    wp, rwp = (_Totals(records, "idle", protection) for protection in ("wp", "rwp"))
    needed = ("hot_pages", "hot_pages_evicted", "found_pages")
    parts = []
    if wp.has(*needed, "read_only_hot_pages_evicted"):
        lost = wp["hot_pages_evicted"]
        parts.append(
            f"tracking by write protection would have evicted {_of(lost, wp['hot_pages'])} hot pages"
            + (f" ({_of(wp['read_only_hot_pages_evicted'], lost)} of them only read)" if lost else "")
        )
    if rwp.has(*needed):
        hot, found = rwp["hot_pages"], rwp["found_pages"]
        right = hot - rwp["hot_pages_evicted"]
        scores = f"precision {_score(right, found)}, recall {_score(right, hot)}"
        parts.append(f"RWP found {_of(right, hot)} ({scores})")
    if not parts:
        return None
    matters = len(parts) == 2 and wp["read_only_hot_pages_evicted"] > 0 and rwp["hot_pages_evicted"] == 0
    opening = f"On {kernel} trapping reads matters" if matters else f"Idle pages on {kernel}"
    return Answer(f"{opening}: {'; '.join(parts)}.", sorted({*wp.sources, *rwp.sources}))


def _eviction(records: Sequence[Record], kernel: str, protection: str) -> Answer | None:
    sums = _Totals(records, "evict", protection)
    if not sums.has("evicted", "writes", "lost_writes", "asleep", "hot_evicted"):
        return None
    name = "The documented eviction loop (RWP)" if protection == "rwp" else "The wp-only eviction loop"
    damaged = f" {_many(sums['damaged'], 'page')} damaged," if sums.has("damaged") else ""
    return Answer(
        f"{name} on {kernel}: {_many(sums['evicted'], 'eviction')} against {_many(sums['writes'], 'racing write')}: "
        f"{_many(sums['lost_writes'], 'write')} lost,{damaged} {_many(sums['asleep'], 'thread')} left asleep, "
        f"{_many(sums['hot_evicted'], 'page')} evicted that had just been read.",
        sums.sources,
    )


_COSTS = {"fault": "a fault", "protect": "protecting", "resolve": "resolving", "scan": "scanning"}


def _ratios(table: Table) -> Iterable[str]:
    """What each column of ratios says, from the least to the most of each path."""
    for ratio in table.ratios:
        by_path: dict[str, list[float]] = defaultdict(list)
        for row in table.rows:
            if (value := row.ratio(ratio.over, ratio.under)) is not None:
                by_path[row.labels[0]].append(value)
        parts = [f"{_COSTS[path]} {_span(values, format_ratio)}" for path, values in by_path.items() if path in _COSTS]
        if parts:
            over, under = (" ".join(table.heading(column)).strip() for column in (ratio.over, ratio.under))
            yield f"{over} against {under}, in {table.unit}: {', '.join(parts)}."


def _reads(table: Table) -> Iterable[str]:
    """What a trapped read costs, where the same read under another protection is not trapped."""
    for column in table.columns:
        by_delivery: dict[str, list[float]] = defaultdict(list)
        for row in (row for row in table.rows if _only_here(row, table)):
            if column in row.cells and not row.cells[column].untrapped:
                by_delivery[row.labels[1]].append(row.cells[column].value)
        parts = [f"{_span(values, format_number)} {delivery}" for delivery, values in by_delivery.items()]
        if parts:
            who = " ".join(table.heading(column))
            yield f"A trapped read under {who} costs {', '.join(parts)} ({table.unit}); WP traps no read."


def _only_here(row: Row, table: Table) -> bool:
    return row.labels[0] == "fault" and any(
        row.cells[column].untrapped for column in table.columns if column in row.cells
    )


def _of(part: float, whole: float) -> str:
    return f"all {format_number(whole)}" if part == whole else f"{format_number(part)} of {format_number(whole)}"


def _many(number: float, noun: str) -> str:
    return f"{format_number(number)} {noun}{'' if number == 1 else 's'}"


def _score(part: float, whole: float) -> str:
    return f"{part / whole:.3g}" if whole else "1"


def _span(values: Sequence[float], show: Callable[[float], str]) -> str:
    low, high = show(min(values)), show(max(values))
    return low if low == high else f"{low} to {high}"
