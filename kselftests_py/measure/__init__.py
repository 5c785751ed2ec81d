"""Histograms and what is said of them. A histogram is ``[(value, count), ...]``, as the probe sends it."""

from __future__ import annotations

from kselftests_py.measure.histogram import TAILS, Histogram, mean, merge, percentile, rebin, samples, spread, tails

__all__ = ["TAILS", "Histogram", "mean", "merge", "percentile", "rebin", "samples", "spread", "tails"]
