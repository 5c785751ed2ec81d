"""What it costs, a page, to protect a range, to resolve it and to scan it, for WP and RWP, on each kind of memory.

Measured inside the probe (ops ``protect_cost`` and ``scan_cost``): ticks of one call over the whole range, less the
clock reads, divided by its pages. Exact mode counts instructions, wall mode nanoseconds.
Source: Documentation/admin-guide/mm/userfaultfd.rst and pagemap.rst (UFFDIO_RWPROTECT, PAGEMAP_SCAN).
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kselftests_py.lab import Subject
from kselftests_py.lab.cases import skipped_if_unavailable
from kselftests_py.lab.replies import Histogram
from kselftests_py.measure import percentile, samples, spread

pytestmark = pytest.mark.measures

PAGES = 256
HUGE_PAGES = 4  # as many of 2 MiB, of kinds whose pages are that large
ROUNDS = 16
KINDS = ["anon", "shmem"]
HUGE = {"thp": [pytest.mark.needs("thp")], "hugetlb": [pytest.mark.needs("hugetlb")]}
# What is hot of the range when it is scanned; "empty" has no page.
HOT = {"mixed": 8, "hot": 1, "cold": None, "empty": None}
PROTECTIONS: list[Any] = [
    pytest.param("wp", marks=pytest.mark.needs("wp", "wp_shmem")),
    pytest.param("rwp", marks=pytest.mark.needs("rwp")),
]
TRACKERS = {
    "wp": [pytest.mark.needs("wp", "wp_shmem", "wp_async", "pagemap_scan")],
    "rwp": [pytest.mark.needs("rwp", "rwp_async", "pagemap_scan", "page_accessed")],
}
CLOCKS = {"exact": ("tsc", "instructions"), "wall": ("mono", "ns")}


def _record(
    record_metric: Callable[..., None],
    calls: Histogram,
    overhead: Histogram,
    mode: str,
    labels: dict[str, str],
    pages: int,
) -> float:
    """Record the cost a page of *calls*, each over *pages* pages; returns its median."""
    clock_reads = percentile(overhead.counts, 50)
    cost = [((value - clock_reads) / pages, count) for value, count in calls.counts]
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
    subject: Subject,
    record_metric: Callable[..., None],
    protection: str,
    kind: str,
    mode: str,
    pages: int = PAGES,
    rounds: int = ROUNDS,
) -> list[float]:
    with skipped_if_unavailable(kind == "shmem_thp"):
        found = subject.protect_cost(mode=protection, kind=kind, pages=pages, rounds=rounds, clock=CLOCKS[mode][0])
    labels = {"protection": protection, "kind": kind} | ({"pages": str(pages)} if pages != PAGES else {})
    assert samples(found.protect.counts) == rounds
    return [
        _record(record_metric, calls, found.overhead, mode, {"path": path, **labels}, pages)
        for path, calls in (("protect", found.protect), ("resolve", found.resolve))
    ]


def _least(pages: int) -> float:
    """What each of so many pages costs at the least: together they take a system call, a hundred instructions."""
    return max(1, 100 / pages)


def _measure_scan(
    subject: Subject, record_metric: Callable[..., None], protection: str, kind: str, mode: str, state: str = "mixed"
) -> None:
    pages, rounds = (PAGES, ROUNDS) if kind in KINDS else (HUGE_PAGES, 4)
    every = HOT[state]
    hot = 0 if every is None else max(pages // every, 1)
    with skipped_if_unavailable(kind == "shmem_thp"):
        found = subject.scan_cost(
            mode=protection, kind=kind, pages=pages, hot=hot, rounds=rounds, clock=CLOCKS[mode][0],
            absent=state == "empty",
        )  # fmt: skip
    labels = {"path": "scan", "protection": protection, "kind": kind} | ({"of": state} if state != "mixed" else {})
    _record(record_metric, found.scan, found.overhead, mode, labels, pages)
    assert samples(found.scan.counts) == rounds
    if (protection, state) != ("wp", "empty"):
        assert found.accessed == hot
        assert found.regions == (min(hot, 1) if state == "hot" else hot)


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_protect_cost_in_instructions(
    exact_subject: Subject, record_metric: Callable[..., None], kind: str, protection: str
) -> None:
    """Instructions a page to protect and to resolve a range in one call; each page's entry is visited by both."""
    assert min(_measure_protect(exact_subject, record_metric, protection, kind, "exact")) >= 1


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize(("kind", "pages"), [(kind, pages) for pages in (1, 16, 512) for kind in KINDS])
def test_protect_cost_of_other_sizes_in_instructions(
    exact_subject: Subject, record_metric: Callable[..., None], kind: str, pages: int, protection: str
) -> None:
    """Instructions a page to protect and to resolve a range of 1, 16 and 512 pages in one call."""
    cost = _measure_protect(exact_subject, record_metric, protection, kind, "exact", pages, rounds=8)
    assert min(cost) >= _least(pages)


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(
    ("kind", "protection"),
    [
        *(
            pytest.param(kind, *one.values, marks=[*marks, *one.marks])
            for kind, marks in HUGE.items()
            for one in PROTECTIONS
        ),
        pytest.param("shmem_thp", *PROTECTIONS[0].values, marks=PROTECTIONS[0].marks),  # RWP: F024
    ],
)
def test_protect_cost_of_huge_pages_in_instructions(
    exact_subject: Subject, record_metric: Callable[..., None], kind: str, protection: str
) -> None:
    """Instructions a huge page to protect and to resolve a range of them in one call."""
    cost = _measure_protect(exact_subject, record_metric, protection, kind, "exact", HUGE_PAGES, rounds=8)
    assert min(cost) >= _least(HUGE_PAGES)


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("protection", PROTECTIONS)
def test_protect_cost_of_1_gib_in_instructions(
    exact_subject: Subject, record_metric: Callable[..., None], protection: str
) -> None:
    """Instructions a page to protect and to resolve 262,144 pages in one call.

    The guest has not as much memory: each is the zero page, mapped by a read.
    """
    assert min(_measure_protect(exact_subject, record_metric, protection, "zero", "exact", 262_144, rounds=1)) >= 1


def _scans(*states: str) -> list[Any]:
    """Rows of kind, protection and state. Not a huge page written under WP: that splits it, and a small one is hot."""
    return [
        pytest.param(
            kind,
            protection,
            state,
            marks=[*TRACKERS[protection], *HUGE.get(kind, ())],
            id="-".join([kind, protection, *[state] * (state != "mixed")]),
        )
        for state in states
        for kind in (*KINDS, *HUGE)
        for protection in TRACKERS
        if (protection, kind) != ("wp", "thp") or state in ("cold", "empty")
    ]


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(
    ("kind", "protection", "state"),
    [*_scans("mixed", "cold"), pytest.param("shmem_thp", "wp", "cold", marks=TRACKERS["wp"], id="shmem_thp-wp-cold")],
)
def test_scan_cost_in_instructions(
    exact_subject: Subject, record_metric: Callable[..., None], kind: str, protection: str, state: str
) -> None:
    """Instructions a page to scan a range of which every eighth page is hot, or none; the scan finds exactly those."""
    _measure_scan(exact_subject, record_metric, protection, kind, "exact", state)


@pytest.mark.parametrize(("kind", "protection", "state"), _scans("hot", "empty"))
def test_scan_cost_of_ends_in_instructions(
    exact_subject: Subject, record_metric: Callable[..., None], kind: str, protection: str, state: str
) -> None:
    """Instructions a page to scan a range all of which is hot, which the scan finds; or empty, where it finds nothing.

    What WP calls written where there is no page is not claimed. No control: neither depends on what was protected.
    """
    _measure_scan(exact_subject, record_metric, protection, kind, "exact", state)


@pytest.mark.wall
@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("kind", [*KINDS, pytest.param("thp", marks=HUGE["thp"])])
def test_protect_cost_in_nanoseconds(
    subject: Subject, record_metric: Callable[..., None], kind: str, protection: str
) -> None:
    """Nanoseconds a page to protect and to resolve a range in one call; under TCG only ratios mean anything.

    No control: a machine's speed decides no verdict.
    """
    _measure_protect(subject, record_metric, protection, kind, "wall", PAGES if kind in KINDS else HUGE_PAGES)


@pytest.mark.wall
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("protection", [pytest.param(name, marks=marks) for name, marks in TRACKERS.items()])
@pytest.mark.parametrize("kind", KINDS)
def test_scan_cost_in_nanoseconds(
    subject: Subject, record_metric: Callable[..., None], kind: str, protection: str
) -> None:
    """Nanoseconds a page to scan a range of which every eighth page is hot; under TCG only ratios mean anything."""
    _measure_scan(subject, record_metric, protection, kind, "wall")
