"""Exact arithmetic on value/count histograms.

The probe's histograms already hold every value exactly (or within 1/2048, see ``docs/probe-protocol.md``), so
nothing here may round: a percentile is always a value that was measured.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import numpy as np
import numpy.typing as npt

Histogram = Sequence[tuple[float, int]]


def samples(histogram: Histogram) -> int:
    """How many samples the histogram holds."""
    return sum(count for _, count in histogram)


def merge(histograms: Iterable[Histogram]) -> list[tuple[float, int]]:
    """The histogram of all samples together, sorted by value."""
    total: Counter[float] = Counter()
    for histogram in histograms:
        for value, count in histogram:
            total[value] += count
    return sorted(total.items())


def percentile(histogram: Histogram, percent: float) -> float:
    """The smallest measured value with at least `percent` % of the samples at or below it.

    This is the nearest rank, the inverse of the empirical distribution function (Hyndman and Fan's definition 1);
    nothing is interpolated, since an instruction count between two measured ones was never seen.

    Raises:
        ValueError: no samples, or `percent` outside 0..100.
    """
    if not 0 <= percent <= 100:
        raise ValueError(f"percent {percent} is not within 0..100")
    kept = sorted((value, count) for value, count in histogram if count)
    if not kept:
        raise ValueError("a histogram without samples has no percentile")
    cumulated = np.cumsum([count for _, count in kept])
    rank = percent * int(cumulated[-1]) / 100  # this order is exact for whole percents
    return kept[int(np.searchsorted(cumulated, rank))][0]


def spread(histogram: Histogram) -> tuple[float, float]:
    """The 10th and the 90th percentile."""
    return percentile(histogram, 10), percentile(histogram, 90)


TAILS = {"p50": 50, "p90": 90, "p99": 99, "p99.9": 99.9}


def tails(histogram: Histogram) -> dict[str, float]:
    """``p50`` to ``p99.9``, each only where at least one sample lies above it: else it would be the maximum."""
    total = samples(histogram)
    return {name: percentile(histogram, at) for name, at in TAILS.items() if total * (1000 - 10 * at) >= 1000}


def mean(histogram: Histogram) -> float:
    """The arithmetic mean; :raises ValueError: no samples."""
    total = samples(histogram)
    if not total:
        raise ValueError("a histogram without samples has no mean")
    return float(sum(value * count for value, count in histogram) / total)


def rebin(histogram: Histogram, edges: Sequence[float]) -> npt.NDArray[np.float64]:
    """The share (0..1) of the samples in each bin ``[edges[i], edges[i + 1])``, the last one closed; for drawing.

    Samples outside the edges belong to no bin but count in the whole.
    """
    values = [value for value, _ in histogram]
    shares, _ = np.histogram(values, bins=edges, weights=[count for _, count in histogram])
    return np.asarray(shares / max(samples(histogram), 1), dtype=np.float64)
