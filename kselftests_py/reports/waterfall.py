"""Where a sync fault spends what it costs: a row for each kernel, protection and access (metrics ``stage_p50``)."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from kselftests_py.reports.comparison import WATERFALL, may_print, short_names
from kselftests_py.reports.text import one_line
from kselftests_py.results import Manifest, Record

STAGES = {
    "trap": "trap, message, wake of the handler",
    "read": "read of the message",
    "resolve": "the ioctl",
    "wake": "wake of the thread",
    "back": "the thread runs again, retry",
}
"""Stages in their order, and what happens in each (docs/latency.md)."""


class Fall(msgspec.Struct, frozen=True):
    """One kind of fault: the median of each stage, in the order of ``STAGES``; of several blocks their median."""

    title: str
    stages: list[float]

    @property
    def total(self) -> float:
        """All stages together."""
        return sum(self.stages)


class Falls(msgspec.Struct, frozen=True):
    """Faults that were measured with one clock."""

    title: str
    rows: list[Fall]


def build(records: Iterable[Record], manifest: Manifest) -> list[Falls]:
    """Exact figures, then wall ones where they mean something; nothing for a run with negative controls."""
    found: dict[tuple[str, str], dict[str, dict[str, list[float]]]]
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    short = short_names(entry.label for entry in manifest.kernels)
    for record in records if not manifest.options.get("controls") else ():
        for metric in (one for one in record.metrics if one.labels.get("path") == WATERFALL):
            if not may_print(metric, record.kernel, manifest):
                continue
            labels = metric.labels
            who = [short.get(record.kernel, record.kernel), labels.get("protection", "").upper()]
            title = one_line(" ".join([*who, labels.get("kind", ""), labels.get("access", "")]))
            found[metric.mode, metric.unit][title][labels.get("stage", "")].append(metric.value)
    return [
        Falls(f"{'Exact' if mode == 'exact' else 'Wall time'}: {one_line(unit)}", rows)
        for (mode, unit), falls in sorted(found.items())
        if (
            rows := [
                Fall(title, [statistics.median(stages[stage]) for stage in STAGES])
                for title, stages in falls.items()
                if stages.keys() >= STAGES.keys()
            ]
        )
    ]
