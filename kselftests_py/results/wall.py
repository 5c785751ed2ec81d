"""What wall time says of two kernels, or of two protections of one: each path's shift between replicates.

The replicate is the block of an interleaved comparison (``Record.block``): one boot of a guest; on a machine that is
not booted, one pass over all paths by a fresh process. The figure of a block is its median sample, in nanoseconds.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from kselftests_py.measure import merge, tails
from kselftests_py.measure.shift import CANNOT_TELL, SLOWER, Shift, adjusted, shift
from kselftests_py.results.manifest import KernelEntry, Manifest
from kselftests_py.results.record import Metric, Record
from kselftests_py.results.regression import of_kernel, pair, title

_RATES = {"pages/s": "page"}
"""Units of rates, and what one of them is: compared as nanoseconds each, so that more is always dearer."""

Key = tuple[str, ...]


class WallChange(msgspec.Struct, frozen=True):
    """One path on both sides, in nanoseconds; the percentiles are those of all blocks' samples together.

    ``p`` is the shift's, corrected for the number of paths compared together. ``found`` is what the figures say by
    themselves; ``verdict`` is ``cannot tell`` wherever a machine was unfit.
    """

    name: str
    labels: dict[str, str]
    shift: Shift
    p: float
    found: str
    verdict: str
    base_percentiles: dict[str, float] = {}
    head_percentiles: dict[str, float] = {}
    unit: str = "ns"

    @property
    def title(self) -> str:
        """The path as reports name it."""
        return title(self.name, self.labels)

    def beyond(self, margin: float, allowed: float) -> bool:
        """Whether it is slower by more than *margin* and by more than *allowed* nanoseconds, with confidence."""
        return self.verdict == SLOWER and self.shift.low > max(allowed, margin * abs(self.shift.base))


class Wall(msgspec.Struct, frozen=True):
    """The comparison of a run: the kernels path by path, RWP beside WP on each, and why it decides nothing, if so."""

    base: str
    head: str
    changes: list[WallChange]
    protections: dict[str, list[WallChange]]
    missing: list[str]
    unfit: list[str]
    margin: float
    replicate: str


def of_run(records: Sequence[Record], manifest: Manifest) -> Wall | None:
    """The comparison in wall time of a run that made one, else None."""
    both = pair(manifest)
    if both is None or not manifest.options.get("blocks"):
        return None
    margin = float(manifest.options.get("margin") or 0.0)
    base, head = (_replicates(of_kernel(records, entry)) for entry in both)
    unfit = [f"{entry.label}: {why}" for entry in both for why in dict.fromkeys(entry.unfit)]
    protections = {
        entry.label: found
        for entry, side in zip(both, (base, head), strict=True)
        if (found := _changes(_of(side, "wp"), _of(side, "rwp"), margin, bool(entry.unfit)))
    }
    return Wall(
        both[0].label,
        both[1].label,
        _changes(base, head, margin, bool(unfit)),
        protections,
        [_name(key) for key in base if key not in head],
        unfit,
        margin,
        _replicate(both),
    )


def _replicate(both: Iterable[KernelEntry]) -> str:
    return "boot" if all(entry.digest for entry in both) else "block"


def _replicates(records: Iterable[Record]) -> dict[Key, dict[int, Metric]]:
    """By path and block; what is not trapped has no cost to compare."""
    found: dict[Key, dict[int, Metric]] = defaultdict(dict)
    for record in records:
        for metric in record.metrics:
            labels = metric.labels
            wanted = metric.mode == "wall" and labels.get("path") != "overhead" and labels.get("trapped") != "no"
            if record.block and wanted and (metric.unit == "ns" or (metric.unit in _RATES and metric.value > 0)):
                found[metric.name, *(f"{key}={value}" for key, value in sorted(labels.items()))][record.block] = metric
    return found


def _of(side: dict[Key, dict[int, Metric]], protection: str) -> dict[Key, dict[int, Metric]]:
    """The paths of one protection, without its name, so that they can be set beside another's."""
    label = f"protection={protection}"
    return {tuple(one for one in key if one != label): blocks for key, blocks in side.items() if label in key}


def _name(key: Key) -> str:
    return title(key[0], dict(part.partition("=")[::2] for part in key[1:]))


def _nanoseconds(metric: Metric) -> float:
    return 1e9 / metric.value if metric.unit in _RATES else metric.value


def _changes(
    base: dict[Key, dict[int, Metric]], head: dict[Key, dict[int, Metric]], margin: float, unfit: bool
) -> list[WallChange]:
    """Each path that both sides have, in the order of *head*."""
    both = [(key, base[key], after) for key, after in head.items() if key in base]
    shifts = [shift(*([_nanoseconds(one) for one in side.values()] for side in sides)) for _, *sides in both]
    return [
        _change(key, before, after, apart, p, apart.verdict(margin, p), unfit)
        for (key, before, after), apart, p in zip(both, shifts, adjusted(shifts), strict=True)
    ]


def _change(
    key: Key, before: dict[int, Metric], after: dict[int, Metric], apart: Shift, p: float, found: str, unfit: bool
) -> WallChange:
    one = next(iter(after.values()))
    return WallChange(
        f"ns_per_{_RATES[one.unit]}" if one.unit in _RATES else one.name,
        {name: value for name, value in one.labels.items() if f"{name}={value}" in key},
        apart,
        p,
        found,
        CANNOT_TELL if unfit else found,
        base_percentiles=_percentiles(before),
        head_percentiles=_percentiles(after),
    )


def _percentiles(blocks: dict[int, Metric]) -> dict[str, float]:
    return tails(merge(metric.histogram for metric in blocks.values() if metric.histogram))
