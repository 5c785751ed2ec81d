"""What one access to a protected page costs, for WP and RWP, sync and async, read and write, on each kind of memory.

Measured inside the probe (op ``fault_latency``): clock, access, clock, once for each page of a range protected before.
The same two clock reads around an access that is not trapped are measured as ``overhead``; the figure reported is the
median of the accesses less the median of the overhead. Exact mode counts instructions retired (no caches, no TLB, no
IPIs); wall mode counts nanoseconds. Source: Documentation/admin-guide/mm/userfaultfd.rst, Fault Handling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import pytest

from kselftests_py.lab import Subject
from kselftests_py.lab.cases import skipped_if_unavailable
from kselftests_py.lab.replies import FaultLatency
from kselftests_py.measure import percentile, samples, spread

pytestmark = pytest.mark.measures

NEEDS = {
    ("wp", "sync"): ("wp", "wp_shmem"),
    ("wp", "async"): ("wp", "wp_shmem", "wp_async"),
    ("rwp", "sync"): ("rwp",),
    ("rwp", "async"): ("rwp", "rwp_async"),
}


class Cell(NamedTuple):
    """One cell of the matrix."""

    protection: str
    delivery: str
    kind: str
    access: str


HUGE = ("thp", "hugetlb")
KINDS = ("anon", "shmem", *HUGE)
SMALL = KINDS[:2]


def _cells(kinds: tuple[str, ...], *trapped: tuple[str, str]) -> list[Any]:
    """Every delivery and each of *kinds* of the (protection, access) pairs in *trapped*."""
    return [
        pytest.param(
            Cell(protection, delivery, kind, access),
            marks=pytest.mark.needs(*NEEDS[protection, delivery], *({kind} & {*HUGE})),
            id=f"{protection}-{delivery}-{kind}-{access}",
        )
        for protection, access in trapped
        for delivery in ("sync", "async")
        for kind in kinds
    ]


WRITES_AND_READS = ("wp", "write"), ("rwp", "read"), ("rwp", "write")
# gup, gup-write: the kernel reads or writes the page for the thread (process_vm_readv, process_vm_writev); what that
# costs beside the trap is subtracted.
# shmem_thp: protecting a huge page of shared memory unmaps it (by RWP: F024), so the fault maps a small one.
BY_KERNEL = ("rwp", "gup"), ("wp", "gup-write"), ("rwp", "gup-write")
TRAPPED = [*_cells(KINDS, *WRITES_AND_READS), *_cells(SMALL, *BY_KERNEL), *_cells(("shmem_thp",), ("wp", "write"))]
FREE = _cells(KINDS, ("wp", "read"))
# A sync fault is two context switches, an async one a visit to the kernel: fewer of the former say as much.
# Huge pages are made anew for each round, which takes longer than all else.
ROUNDS = {(kind, "sync"): 8 for kind in SMALL} | {(kind, "async"): 16 for kind in SMALL}
ROUNDS |= {(kind, delivery): 4 for kind in (*HUGE, "shmem_thp") for delivery in ("sync", "async")}
PAGES = dict.fromkeys(SMALL, 64) | dict.fromkeys((*HUGE, "shmem_thp"), 4)


def _measure(
    subject: Subject,
    record_metric: Callable[..., None],
    cell: Cell,
    mode: str,
) -> tuple[float, FaultLatency]:
    """Measure and record one cell of the matrix; returns its median cost, and what the probe said."""
    protection, delivery, kind, access = cell
    clock, unit = ("tsc", "instructions") if mode == "exact" else ("mono", "ns")
    with skipped_if_unavailable(kind == "shmem_thp"):
        found = subject.fault_latency(
            mode=protection,
            delivery=delivery,
            kind=kind,
            access=access,
            pages=PAGES[kind],
            rounds=ROUNDS[kind, delivery],
            clock=clock,
        )
    overhead = percentile(found.overhead.counts, 50)
    cost = [(value - overhead, count) for value, count in found.histogram.counts]
    assert samples(cost) == PAGES[kind] * ROUNDS[kind, delivery]
    labels = {"path": "fault", "protection": protection, "delivery": delivery, "kind": kind, "access": access}
    median = percentile(cost, 50)
    if (protection, access) == ("wp", "read"):  # no fault: reports say "not trapped" and not its cost
        labels["trapped"] = "no"
    record_metric(
        "fault_p50", median, unit, mode=mode, labels=labels, count=samples(cost), spread=spread(cost), histogram=cost
    )
    record_metric("overhead_p50", overhead, unit, mode=mode, labels={"path": "overhead", "access": access})
    return median, found


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("cell", TRAPPED)
def test_fault_cost_in_instructions(
    exact_subject: Subject,
    record_metric: Callable[..., None],
    cell: Cell,
) -> None:
    """Instructions of one access to a protected page, under QEMU icount: the same number on any machine.

    Every such access is trapped, so it costs more than an access to a page that is not protected (I3).
    """
    cost, found = _measure(exact_subject, record_metric, cell, "exact")
    assert cost > 0
    assert found.faults == (PAGES[cell.kind] * ROUNDS[cell.kind, "sync"] if cell.delivery == "sync" else 0)


@pytest.mark.wall
@pytest.mark.parametrize("cell", _cells((*SMALL, "thp"), *WRITES_AND_READS))
def test_fault_cost_in_nanoseconds(
    subject: Subject,
    record_metric: Callable[..., None],
    cell: Cell,
) -> None:
    """Nanoseconds (CLOCK_MONOTONIC_RAW) of one access to a protected page; under TCG only ratios mean anything.

    No control: a machine's speed decides no verdict. That each access is trapped is asserted in exact mode.
    """
    _, found = _measure(subject, record_metric, cell, "wall")
    assert found.faults == (PAGES[cell.kind] * ROUNDS[cell.kind, "sync"] if cell.delivery == "sync" else 0)


@pytest.mark.parametrize("cell", FREE)
def test_read_cost_under_wp_in_instructions(
    exact_subject: Subject,
    record_metric: Callable[..., None],
    cell: Cell,
) -> None:
    """A read of a write-protected page costs not one instruction more than one of a page that is not: no trap.

    This is what RWP's reads are compared with. No control: none of them makes a loop of the probe trap more.
    """
    cost, found = _measure(exact_subject, record_metric, cell, "exact")
    assert cost == 0
    assert found.faults == 0


@pytest.mark.wall
@pytest.mark.parametrize("cell", _cells(SMALL, ("wp", "read")))
def test_read_cost_under_wp_in_nanoseconds(
    subject: Subject,
    record_metric: Callable[..., None],
    cell: Cell,
) -> None:
    """Nanoseconds of a read of a write-protected page, which is not trapped; under TCG only ratios mean anything."""
    _, found = _measure(subject, record_metric, cell, "wall")
    assert found.faults == 0
