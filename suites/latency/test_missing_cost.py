"""What a missing and a minor fault cost that a handler resolves: UFFDIO_COPY, UFFDIO_ZEROPAGE, UFFDIO_CONTINUE.

Measured inside the probe (op ``fault_latency``) as in test_fault_cost.py; the pages are dropped, or only unmapped,
before each round. Not on anonymous huge pages: UFFDIO_COPY fills small pages, so there a missing fault is one on anon.
ZEROPAGE is for anon and shmem, CONTINUE for what is in the page cache.
Source: Documentation/admin-guide/mm/userfaultfd.rst, Resolving Userfaults.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kselftests_py.lab import Subject
from kselftests_py.measure import percentile, samples, spread

pytestmark = pytest.mark.measures

ROUNDS = {"anon": 8, "shmem": 8, "hugetlb": 3}
PAGES = {"anon": 64, "shmem": 64, "hugetlb": 4}
NEEDS = {
    ("missing", "anon"): (),
    ("missing", "shmem"): ("missing_shmem",),
    ("missing", "hugetlb"): ("hugetlb",),
    ("minor", "shmem"): ("minor_shmem",),
    ("minor", "hugetlb"): ("hugetlb", "minor_hugetlb"),
}
WAYS = {
    "missing": ("missing", "copy", ("anon", "shmem", "hugetlb")),
    "missing-zeropage": ("missing", "zeropage", ("anon", "shmem")),
    "minor": ("minor", "continue", ("shmem", "hugetlb")),
}
ROWS: list[Any] = [
    pytest.param(mode, kind, access, marks=pytest.mark.needs("uffd", *NEEDS[path, kind]), id=f"{mode}-{kind}-{access}")
    for mode, (path, _, kinds) in WAYS.items()
    for kind in kinds
    for access in ("read", "write")
]


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(("mode", "kind", "access"), ROWS)
def test_missing_and_minor_fault_cost_in_instructions(
    exact_subject: Subject, record_metric: Callable[..., None], mode: str, kind: str, access: str
) -> None:
    """Each page that is not there, or not mapped, is told once when it is accessed, and costs more than one that is.

    The control leaves the pages where they are.
    """
    found = exact_subject.fault_latency(
        mode=mode, delivery="sync", kind=kind, access=access, pages=PAGES[kind], rounds=ROUNDS[kind], clock="tsc"
    )
    overhead = percentile(found.overhead.counts, 50)
    cost = [(value - overhead, count) for value, count in found.histogram.counts]
    path, resolved, _ = WAYS[mode]
    labels = {"path": path, "delivery": "sync", "kind": kind, "access": access, "with": resolved}
    record_metric(
        "fault_p50", percentile(cost, 50), "instructions", mode="exact", labels=labels, count=samples(cost),
        spread=spread(cost), histogram=cost,
    )  # fmt: skip
    assert found.faults == PAGES[kind] * ROUNDS[kind] == samples(cost)
    assert percentile(cost, 50) > 0
