"""What became dearer: the exact figures of one kernel against those of another, path by path.

An exact figure (instructions retired, docs/latency.md) is the same in each boot of the same kernel, so one instruction
more is a change of the kernel. But two kernels do not boot in the same way, and a few kinds of paths remember that: a
change within their noise is not told from none, but where it is known in which functions it is (noise.py).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from kselftests_py.results.manifest import KernelEntry, Manifest
from kselftests_py.results.noise import of_path
from kselftests_py.results.record import Metric, Record, Where

_OVERHEAD = "overhead"  # the path of what was subtracted from the others
_HISTOGRAM = "histogram"  # the probe's name for the samples of a path


def title(name: str, labels: dict[str, str]) -> str:
    """A path as reports name it, the protection first; *name* is its metric's."""
    words = ("protection", "path", "delivery", "kind", "access")
    rest = [f"{key}={value}" for key, value in sorted(labels.items()) if key not in words]
    return " ".join([*(labels[word] for word in words if labels.get(word)), *rest]) or name


class Change(msgspec.Struct, frozen=True):
    """One path on both kernels: medians in ``unit``, and each side's 10th and 90th percentile where it was sampled.

    ``apart``: what of ``more`` is not in functions that remember how the kernel booted, as far as they do; None: that
    is not known, or the path has no such functions.
    """

    name: str
    labels: dict[str, str]
    unit: str
    base: float
    head: float
    base_spread: tuple[float, float] | None = None
    head_spread: tuple[float, float] | None = None
    apart: float | None = None

    @property
    def title(self) -> str:
        """The path as reports name it."""
        return title(self.name, self.labels)

    @property
    def more(self) -> float:
        """How much dearer, in ``unit``; negative: cheaper."""
        return self.head - self.base

    @property
    def noise(self) -> float:
        """What it may differ by where one kernel booted otherwise, in ``unit``; 0: each instruction counts."""
        return of_path(self.labels).most

    @property
    def counts(self) -> float:
        """What of ``more`` is no noise: by function where that is known, else all or nothing."""
        if self.apart is not None:
            return self.apart
        return self.more if abs(self.more) > self.noise else 0.0

    @property
    def untold(self) -> bool:
        """It is within the path's noise, and not told by function: whether it is noise is not known."""
        return self.apart is None and 0 < abs(self.more) <= self.noise

    @property
    def verdict(self) -> str:
        """``same``, ``dearer`` or ``cheaper``."""
        if not self.counts:
            return "same"
        return "dearer" if self.counts > 0 else "cheaper"


def figures(records: Iterable[Record]) -> dict[tuple[str, ...], Metric]:
    """The exact figures of *records*, by name and labels."""
    return {key: metric for key, (metric, _) in _with_records(records).items()}


def _with_records(records: Iterable[Record]) -> dict[tuple[str, ...], tuple[Metric, Record]]:
    return {
        (metric.name, *(f"{key}={value}" for key, value in sorted(metric.labels.items()))): (metric, record)
        for record in records
        for metric in record.metrics
        if metric.mode == "exact" and metric.labels.get("path") != _OVERHEAD
    }


def changes(base: Sequence[Record], head: Sequence[Record]) -> list[Change]:
    """Every exact figure that both kernels have, in the order of *head*; *base* and *head* are one kernel's records."""
    before = _with_records(base)
    return [
        Change(old.name, new.labels, new.unit, old.value, new.value, old.spread, new.spread, _apart(was, now, old, new))
        for key, (new, now) in _with_records(head).items()
        if key in before
        for old, was in [before[key]]
    ]


def _apart(was: Record, now: Record, old: Metric, new: Metric) -> float | None:
    """``Change.apart`` of a figure that is *old* in *was* and *new* in *now*."""
    noise = of_path(new.labels)
    base, head = (record.where.get(_HISTOGRAM, Where(ticks=0)) for record in (was, now))
    more = new.value - old.value
    sampled = head.ticks - _overhead(now) - (base.ticks - _overhead(was))
    if not noise.functions or not base.by or base.by != head.by or sampled != more:  # or: not of this figure
        return None
    changed = {name: head.functions.get(name, 0) - base.functions.get(name, 0) for name in noise.functions}
    excused = sum(change for name, change in changed.items() if abs(change) <= noise.functions[name])
    return more - max(-noise.most, min(noise.most, excused))


def _overhead(record: Record) -> float:
    """What was subtracted from the record's figures, where it says."""
    exact = [one.value for one in record.metrics if one.mode == "exact" and one.labels.get("path") == _OVERHEAD]
    return exact[0] if exact else 0.0


def missing(base: Sequence[Record], head: Sequence[Record]) -> list[str]:
    """The paths that only *base* has figures of: nothing may be said of them, and a gate must not be silent."""
    after = figures(head)
    return [" ".join(key) for key in figures(base) if key not in after]


def regressions(found: Iterable[Change], allowed: float) -> list[Change]:
    """The changes that are dearer by more than *allowed* instructions an operation."""
    return [change for change in found if change.counts > allowed]


def pair(manifest: Manifest) -> tuple[KernelEntry, KernelEntry] | None:
    """The baseline and the kernel of a run that has one of each, else None."""
    by_role = {entry.role: entry for entry in manifest.kernels}
    if len(manifest.kernels) != 2 or len(by_role) != 2:
        return None
    return by_role["baseline"], by_role["kernel"]


def of_kernel(records: Iterable[Record], kernel: KernelEntry) -> list[Record]:
    """The records of that kernel."""
    return [record for record in records if record.kernel == kernel.label]


def changes_of_run(records: Sequence[Record], manifest: Manifest) -> list[Change]:
    """The changes of a run of one kernel and one baseline; none if it is no such run."""
    both = pair(manifest)
    return changes(*(of_kernel(records, entry) for entry in both)) if both else []
