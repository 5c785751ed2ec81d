"""What became dearer: the exact figures of one kernel against those of another, path by path.

An exact figure (instructions retired, docs/latency.md) is the same in each boot of the same kernel, so one instruction
more is a change of the kernel. But two kernels do not boot in the same way, and a few kinds of paths remember that
(``NOISE``): a change within their noise is not told from none.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import msgspec

from kselftests_py.results.manifest import KernelEntry, Manifest
from kselftests_py.results.record import Metric, Record

NOISE: list[tuple[dict[str, tuple[str, ...]], float]] = [
    # Two threads take turns: a switch may be one of another kind (docs/latency.md has what was seen, here and below).
    ({"delivery": ("sync",)}, 16),
    ({"path": ("mremap-event",)}, 32),
    # ... and what a fault maps around it depends on how far the other is: the median lies between such classes.
    ({"path": ("missing",)}, 160),
    # A process is made: memcpy() copies forwards or backwards by where the two lie, and its number is hashed.
    ({"path": ("fork", "fork-event")}, 32),
    # What a process had is freed in batches, and who fills one pays: more or fewer than half of the samples.
    ({"path": ("exit",)}, 80),
    # Huge pages, which come from the free lists: the kernel looks through those.
    ({"path": ("gup", "gup-write", "absent-write"), "kind": ("thp", "hugetlb", "shmem_thp")}, 32),
    # Some 100 million instructions: timer ticks are among them, and not all of those do the same. This is of a page.
    ({"pages": ("262144",)}, 0.02),
]
"""Labels of a path, and by how much its figure may differ where one kernel booted otherwise, in the figure's unit."""

_OVERHEAD = "overhead"  # the path of what was subtracted from the others


def title(name: str, labels: dict[str, str]) -> str:
    """A path as reports name it, the protection first; *name* is its metric's."""
    words = ("protection", "path", "delivery", "kind", "access")
    rest = [f"{key}={value}" for key, value in sorted(labels.items()) if key not in words]
    return " ".join([*(labels[word] for word in words if labels.get(word)), *rest]) or name


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
        """The path as reports name it."""
        return title(self.name, self.labels)

    @property
    def more(self) -> float:
        """How much dearer, in ``unit``; negative: cheaper."""
        return self.head - self.base

    @property
    def noise(self) -> float:
        """What it may differ by where one kernel booted otherwise, in ``unit``; 0: each instruction counts."""
        allowed = [
            most for wanted, most in NOISE if all(self.labels.get(label) in values for label, values in wanted.items())
        ]
        return max(allowed, default=0.0)

    @property
    def verdict(self) -> str:
        """``same``, ``dearer`` or ``cheaper``."""
        if abs(self.more) <= self.noise:
            return "same"
        return "dearer" if self.more > 0 else "cheaper"


def figures(records: Iterable[Record]) -> dict[tuple[str, ...], Metric]:
    """The exact figures of *records*, by name and labels."""
    return {
        (metric.name, *(f"{key}={value}" for key, value in sorted(metric.labels.items()))): metric
        for record in records
        for metric in record.metrics
        if metric.mode == "exact" and metric.labels.get("path") != _OVERHEAD
    }


def changes(base: Sequence[Record], head: Sequence[Record]) -> list[Change]:
    """Every exact figure that both kernels have, in the order of *head*; *base* and *head* are one kernel's records."""
    before = figures(base)
    return [
        Change(old.name, new.labels, new.unit, old.value, new.value, old.spread, new.spread)
        for key, new in figures(head).items()
        if (old := before.get(key)) is not None
    ]


def missing(base: Sequence[Record], head: Sequence[Record]) -> list[str]:
    """The paths that only *base* has figures of: nothing may be said of them, and a gate must not be silent."""
    after = figures(head)
    return [" ".join(key) for key in figures(base) if key not in after]


def regressions(found: Iterable[Change], allowed: float) -> list[Change]:
    """The changes that are dearer by more than *allowed* instructions an operation."""
    return [change for change in found if change.verdict == "dearer" and change.more > allowed]


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
