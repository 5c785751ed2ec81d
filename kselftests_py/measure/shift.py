"""By how much one side's replicates lie above the other's, with what confidence, and what may be said of it.

A replicate is one figure of one boot, or of one block where nothing is booted: samples within it are not independent,
so they do not count as replicates. The shift is the Hodges-Lehmann estimate (the median of all differences between a
replicate of one side and one of the other), its interval a bootstrap over replicates, the test Mann and Whitney's rank
test by permutation. All random numbers have a fixed seed: the same figures give the same answer.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from typing import Any

import msgspec
import numpy as np
import numpy.typing as npt

CONFIDENCE = 0.95
LEAST = 4
"""Replicates a side below which nothing is told: of 3 and 3 even the rarest order has a p of 0.1."""
_SEED = 20261124
_RESAMPLES = 1999
_ORDERS = 9999
"""Permutations: all there are up to 7 and 7 replicates; the least p of more is 0.0002, small enough for many paths."""
_BATCH = 4_000_000  # differences held at once while resampling

SAME, SLOWER, FASTER, CANNOT_TELL = "same", "slower", "faster", "cannot tell"


class Shift(msgspec.Struct, frozen=True):
    """How much more *head* is than *base*, in their unit: estimate, interval and p of the rank test."""

    base: float
    head: float
    more: float
    low: float
    high: float
    p: float
    replicates: tuple[int, int]

    def verdict(self, margin: float, p: float) -> str:
        """``slower`` or ``faster`` if the whole interval lies beyond *margin*, a share of the base, and *p* agrees;
        ``same`` if the whole interval lies within it; else ``cannot tell``. *p* is as :func:`adjusted` has it."""
        allowed = margin * abs(self.base)
        if min(self.replicates) < LEAST:
            return CANNOT_TELL
        if -allowed <= self.low and self.high <= allowed:
            return SAME
        if p < 1 - CONFIDENCE:
            if self.low > allowed:
                return SLOWER
            if self.high < -allowed:
                return FASTER
        return CANNOT_TELL


def _hodges_lehmann(base: Any, head: Any, axis: int = -1) -> npt.NDArray[np.float64]:
    """The median of all differences; *base* and *head* have their replicates along the last axis."""
    apart = np.asarray(head)[..., :, None] - np.asarray(base)[..., None, :]
    return np.asarray(np.median(apart.reshape(*apart.shape[:-2], -1), axis=axis), dtype=np.float64)


def shift(base: Sequence[float], head: Sequence[float]) -> Shift:
    """The shift between two sides' replicates.

    :raises ValueError: a side has none.
    """
    if not base or not head:
        raise ValueError("a side without replicates has no shift")
    return _shift(tuple(base), tuple(head))


@functools.cache  # terminal, page, JUnit and verdict ask for the same ones
def _shift(base: tuple[float, ...], head: tuple[float, ...]) -> Shift:
    middle = float(np.median(base)), float(np.median(head))
    more = float(_hodges_lehmann(base, head))
    counts = len(base), len(head)
    if min(counts) < LEAST:
        return Shift(*middle, more, more, more, 1.0, counts)
    # Here and not above: scipy takes a second to import, and few runs need it.
    from scipy import stats

    found = stats.bootstrap(
        (np.asarray(base), np.asarray(head)),
        _hodges_lehmann,
        n_resamples=_RESAMPLES,
        batch=max(1, _BATCH // (counts[0] * counts[1])),
        vectorized=True,
        confidence_level=CONFIDENCE,
        method="percentile",
        rng=np.random.default_rng(_SEED),
    ).confidence_interval
    permutation = stats.PermutationMethod(n_resamples=_ORDERS, rng=np.random.default_rng(_SEED))
    p = stats.mannwhitneyu(head, base, alternative="two-sided", method=permutation).pvalue
    return Shift(*middle, more, float(found.low), float(found.high), float(p), counts)


def adjusted(shifts: Sequence[Shift]) -> list[float]:
    """The p of each, corrected for how many are looked at together (Benjamini and Hochberg): of many paths that did not
    change, some have a small p of their own."""
    if not shifts:
        return []
    from scipy import stats

    found: list[float] = stats.false_discovery_control([one.p for one in shifts]).tolist()
    return found
