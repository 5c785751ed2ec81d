"""Where a sync fault spends what it costs: a row for each kernel, protection and access (metrics ``stage_p50``)."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable

import msgspec

from kselftests_py.reports.comparison import WATERFALL, may_print, place_of, short_names
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
    found: dict[tuple[str, str], dict[tuple[str, ...], dict[str, list[float]]]]
    found = defaultdict(lambda: defaultdict(lambda: defaultdict(list)))
    labels = [entry.label for entry in manifest.kernels]
    short = short_names(labels)
    for record in records if not manifest.options.get("controls") else ():
        for metric in (one for one in record.metrics if one.labels.get("path") == WATERFALL):
            if not may_print(metric, record.kernel, manifest):
                continue
            of = (record.kernel, *(metric.labels.get(label, "") for label in ("protection", "access", "kind")))
            found[metric.mode, metric.unit][of][metric.labels.get("stage", "")].append(metric.value)

    def place(row: tuple[tuple[str, ...], object]) -> tuple[object, ...]:
        kernel, *rest = row[0]
        return (labels.index(kernel) if kernel in labels else len(labels), *map(place_of, rest))

    def title(kernel: str, protection: str, access: str, kind: str) -> str:
        return one_line(f"{short.get(kernel, kernel)} {protection.upper()} {kind} {access}")

    return [
        Falls(f"{'Exact' if mode == 'exact' else 'Wall time'}: {one_line(unit)}", rows)
        for (mode, unit), falls in sorted(found.items())
        if (
            rows := [
                Fall(title(*of), [statistics.median(stages[stage]) for stage in STAGES])
                for of, stages in sorted(falls.items(), key=place)
                if stages.keys() >= STAGES.keys()
            ]
        )
    ]
