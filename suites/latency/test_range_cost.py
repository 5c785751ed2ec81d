"""What it costs, a page, to protect a range, to resolve it and to scan it, for WP and RWP, anon and shmem.

Measured inside the probe (ops ``protect_cost`` and ``scan_cost``): ticks of one call over the whole range, less the
clock reads, divided by its pages. Exact mode counts instructions, wall mode nanoseconds.
Source: Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst (UFFDIO_RWPROTECT, PAGEMAP_SCAN).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kselftests_py.lab import Subject
from kselftests_py.lab.replies import Histogram
from kselftests_py.measure import percentile, samples, spread

pytestmark = pytest.mark.measures

PAGES = 256
ROUNDS = 16
HOT = 32
KINDS = ["anon", "shmem"]
PROTECTIONS: list[Any] = [
    pytest.param("wp", marks=pytest.mark.needs("wp", "wp_shmem")),
    pytest.param("rwp", marks=pytest.mark.needs("rwp")),
]
TRACKERS: list[Any] = [
    pytest.param("wp", marks=pytest.mark.needs("wp", "wp_shmem", "wp_async", "pagemap_scan")),
    pytest.param("rwp", marks=pytest.mark.needs("rwp", "rwp_async", "pagemap_scan", "page_accessed")),
]
CLOCKS = {"exact": ("tsc", "instructions"), "wall": ("mono", "ns")}


def _record(
    record_metric: Callable[..., None], calls: Histogram, overhead: Histogram, mode: str, labels: dict[str, str]
) -> float:
    """Record the cost a page of *calls*, each over PAGES pages; returns its median."""
    clock_reads = percentile(overhead.counts, 50)
    cost = [((value - clock_reads) / PAGES, count) for value, count in calls.counts]
    assert samples(cost) == ROUNDS
    record_metric(
        f"{labels['path']}_per_page",
        percentile(cost, 50),
        CLOCKS[mode][1],
        mode=mode,
        labels=labels,
        count=samples(cost),
        spread=spread(cost),
        histogram=cost,
    )
    return percentile(cost, 50)


def _measure_protect(
    subject: Subject, record_metric: Callable[..., None], protection: str, kind: str, mode: str
) -> list[float]:
    found = subject.protect_cost(mode=protection, kind=kind, pages=PAGES, rounds=ROUNDS, clock=CLOCKS[mode][0])
    labels = {"protection": protection, "kind": kind}
    return [
        _record(record_metric, calls, found.overhead, mode, {"path": path, **labels})
        for path, calls in (("protect", found.protect), ("resolve", found.resolve))
    ]


def _measure_scan(subject: Subject, record_metric: Callable[..., None], protection: str, kind: str, mode: str) -> None:
    found = subject.scan_cost(mode=protection, kind=kind, pages=PAGES, hot=HOT, rounds=ROUNDS, clock=CLOCKS[mode][0])
    labels = {"path": "scan", "protection": protection, "kind": kind}
    _record(record_metric, found.scan, found.overhead, mode, labels)
    assert found.regions == HOT


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_protect_cost_in_instructions(
    exact_subject: Subject, record_metric: Callable[..., None], kind: str, protection: str
) -> None:
    """Instructions a page to protect and to resolve a range in one call; each page's entry is visited by both."""
    assert min(_measure_protect(exact_subject, record_metric, protection, kind, "exact")) >= 1


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("protection", TRACKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_scan_cost_in_instructions(
    exact_subject: Subject, record_metric: Callable[..., None], kind: str, protection: str
) -> None:
    """Instructions a page to scan a range of which every eighth page is hot; the scan finds exactly those."""
    _measure_scan(exact_subject, record_metric, protection, kind, "exact")


@pytest.mark.wall
@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_protect_cost_in_nanoseconds(
    subject: Subject, record_metric: Callable[..., None], kind: str, protection: str
) -> None:
    """Nanoseconds a page to protect and to resolve a range in one call; under TCG only ratios mean anything.

    No control: a machine's speed decides no verdict.
    """
    _measure_protect(subject, record_metric, protection, kind, "wall")


@pytest.mark.wall
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("protection", TRACKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_scan_cost_in_nanoseconds(
    subject: Subject, record_metric: Callable[..., None], kind: str, protection: str
) -> None:
    """Nanoseconds a page to scan a range of which every eighth page is hot; under TCG only ratios mean anything."""
    _measure_scan(subject, record_metric, protection, kind, "wall")
