"""What became dearer: the exact figures of one kernel against those of another, path by path.

An exact figure (instructions retired, docs/latency.md) of a path with one thread is the same in each boot of the same
kernel, so one instruction more is a change of the kernel. Two kinds of paths are not that steady (``NOISE``): a change
within their noise is not told from none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from kselftests_py.results.record import Metric, Record

NOISE: list[tuple[dict[str, tuple[str, ...]], float]] = [
    # Two threads take turns: five boots differed by 0.0016 at most (docs/latency.md).
    ({"delivery": ("sync",)}, 0.005),
    # Pages are taken from the free lists or given back, in batches whose place depends on all that ran since boot.
    ({"path": ("absent-write", "cow", "dontneed", "munmap")}, 0.01),
]
"""Labels of a path, and the share of its figure by which boots of one kernel may differ."""

_OVERHEAD = "overhead"  # the path of what was subtracted from the others


class Change(msgspec.Struct, frozen=True):
    """One path on both kernels: medians in ``unit``, and each side's 10th and 90th percentile where it was sampled."""

    name: str
    labels: dict[str, str]
    unit: str
    base: float
    head: float
    base_spread: tuple[float, float] | None = None
    head_spread: tuple[float, float] | None = None

    @property
    def title(self) -> str:
        """The path as reports name it, the protection first."""
        words = ("protection", "path", "delivery", "kind", "access")
        rest = [f"{key}={value}" for key, value in sorted(self.labels.items()) if key not in words]
        return " ".join([*(self.labels[word] for word in words if self.labels.get(word)), *rest]) or self.name

    @property
    def more(self) -> float:
        """How much dearer, in ``unit``; negative: cheaper."""
        return self.head - self.base

    @property
    def noise(self) -> float:
        """What boots of one kernel may differ by, in ``unit``; 0: each instruction counts."""
        shares = [
            share
            for wanted, share in NOISE
            if all(self.labels.get(label) in values for label, values in wanted.items())
        ]
        return max(shares, default=0.0) * abs(self.base)

    @property
    def verdict(self) -> str:
        """``same``, ``dearer`` or ``cheaper``."""
        if abs(self.more) <= self.noise:
            return "same"
        return "dearer" if self.more > 0 else "cheaper"


def _figures(records: Iterable[Record]) -> dict[tuple[str, ...], Metric]:
    return {
        (metric.name, *(f"{key}={value}" for key, value in sorted(metric.labels.items()))): metric
        for record in records
        for metric in record.metrics
        if metric.mode == "exact" and metric.labels.get("path") != _OVERHEAD
    }


def changes(base: Sequence[Record], head: Sequence[Record]) -> list[Change]:
    """Every exact figure that both kernels have, in the order of *head*; *base* and *head* are one kernel's records."""
    before = _figures(base)
    return [
        Change(old.name, new.labels, new.unit, old.value, new.value, old.spread, new.spread)
        for key, new in _figures(head).items()
        if (old := before.get(key)) is not None
    ]


def missing(base: Sequence[Record], head: Sequence[Record]) -> list[str]:
    """The paths that only *base* has figures of: nothing may be said of them, and a gate must not be silent."""
    after = _figures(head)
    return [" ".join(key) for key in _figures(base) if key not in after]


def regressions(found: Iterable[Change], allowed: float) -> list[Change]:
    """The changes that are dearer by more than *allowed* instructions an operation."""
    return [change for change in found if change.verdict == "dearer" and change.more > allowed]
