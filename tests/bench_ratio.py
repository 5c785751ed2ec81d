"""How exact figures relate to wall ones: ``python tests/bench_ratio.py EXACT_RUN WALL_RUN [KERNEL KERNEL]``.

Both are run folders: one with exact figures (``kst run --suite latency --mode exact``), one with figures in blocks of
wall time (``kst compare host host --mode wall``); the kernels are their labels, by default the first that has any. Of
each path that both have it tells the instructions, the nanoseconds, and how many nanoseconds an instruction takes, with
a 95 % interval of the median over blocks. Were instructions time, that would be one number. The last lines say how far
it is from that: Spearman's rank correlation, and by which factor a ratio of two paths in nanoseconds differs from the
same ratio in instructions. No verdict: it depends on the machine.
"""

from __future__ import annotations

import itertools
import statistics
import sys
from collections import defaultdict
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from scipy import stats

from kselftests_py.measure import percentile
from kselftests_py.results import Metric, Record, RunFolder
from kselftests_py.results.regression import title

Key = tuple[str, ...]
_FACTORS = (1.25, 1.5, 2.0)


def figures(records: Iterable[Record], mode: str, kernel: str) -> dict[Key, list[Metric]]:
    """The figures of *mode*, by path; of one kernel: *kernel*, or the first with any. Not what is not trapped."""
    found: dict[Key, list[Metric]] = defaultdict(list)
    for record in records:
        for metric in record.metrics:
            labels = metric.labels
            wanted = metric.mode == mode and labels.get("path") != "overhead" and labels.get("trapped") != "no"
            if wanted and metric.unit in ("instructions", "ns") and metric.value > 0:
                kernel = kernel or record.kernel
                if record.kernel == kernel:
                    found[metric.name, *(f"{key}={value}" for key, value in sorted(labels.items()))].append(metric)
    return found


def interval(values: list[float]) -> tuple[float, float]:
    """Of the median, by the bootstrap; of fewer than four values their extent."""
    if len(values) < 4:
        return min(values), max(values)
    found = stats.bootstrap((values,), np.median, method="percentile", rng=np.random.default_rng(1)).confidence_interval
    return float(found.low), float(found.high)


def apart(exact: list[float], wall: list[float]) -> list[float]:
    """Of each two paths, the factor (at least 1) between their ratio in nanoseconds and that in instructions."""
    each = [ns / instructions for instructions, ns in zip(exact, wall, strict=True)]
    return [max(one / other, other / one) for one, other in itertools.combinations(each, 2)]


def main(exact_run: str, wall_run: str, exact_kernel: str = "", wall_kernel: str = "") -> int:
    exact = figures(RunFolder.open(Path(exact_run)).records(), "exact", exact_kernel)
    wall = figures(RunFolder.open(Path(wall_run)).records(), "wall", wall_kernel)
    both = [key for key in exact if key in wall]
    if len(both) < 2:
        print("fewer than two paths were measured in both ways")
        return 1
    rows = []
    for key in both:
        count, blocks = exact[key][0].value, [metric.value for metric in wall[key]]
        low, high = interval(blocks)
        rows.append((statistics.median(blocks) / count, count, statistics.median(blocks), low, high, key))
    print("   ns each | instructions |         ns (interval)        | path")
    for each, count, middle, low, high, key in sorted(rows):
        name = title(key[0], dict(part.partition("=")[::2] for part in key[1:]))
        print(f"{each:10.3f} | {count:12,.4g} | {middle:10,.4g} ({low:,.4g} to {high:,.4g}) | {key[0]} {name}")
    counts, times = [row[1] for row in rows], [row[2] for row in rows]
    factors = sorted(apart(counts, times))
    shares = ", ".join(f"{sum(one <= most for one in factors) / len(factors):.0%} within {most:g}" for most in _FACTORS)
    middle = percentile([(one, 1) for one in factors], 50)
    print(f"{len(rows)} paths, {len(wall[both[0]])} blocks; Spearman {stats.spearmanr(counts, times).statistic:.3f}")
    print(f"ratios of two paths: apart by a factor of {middle:.2f} (median), {factors[-1]:.2f} (most); {shares}")
    return 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
