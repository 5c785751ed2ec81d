"""How many sync faults a second a process can take: by number of threads, by kind of handler, by size of batch.

Measured inside the probe (op ``fault_throughput``): threads access the pages of their own part of a protected range in
order; a handler thread that waits in poll(2) or in read(2), or the accessing thread's own SIGBUS handler, resolves each
fault, and with it the rest of its batch, with one call. Wall time only: how threads meet is not a number of
instructions. Async faults have no handler.
Source: Documentation/admin-guide/mm/userfaultfd.rst (UFFD_FEATURE_SIGBUS, Fault Handling); man 2 userfaultfd.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kselftests_py.lab import Subject
from kselftests_py.measure import percentile, samples, spread

pytestmark = [pytest.mark.measures, pytest.mark.wall]

PAGES = 64
"""Pages of each thread: one batch of the largest size."""
ROUNDS = 4
PROTECTIONS: list[Any] = [
    pytest.param("wp", marks=pytest.mark.needs("wp", "wp_shmem")),
    pytest.param("rwp", marks=pytest.mark.needs("rwp")),
]


def _measure(
    subject: Subject, record_metric: Callable[..., None], protection: str, handler: str, threads: int, batch: int
) -> None:
    """Measure and record one combination: faults a second, and what an access that faults takes."""
    pages = PAGES * threads
    found = subject.fault_throughput(
        mode=protection, kind="anon", access="write", pages=pages, rounds=ROUNDS, clock="mono", handler=handler,
        threads=threads, batch=batch,
    )  # fmt: skip
    assert found.accesses == pages * ROUNDS
    assert found.faults * batch == found.accesses
    overhead = percentile(found.overhead.counts, 50)
    cost = [(value - overhead, count) for value, count in found.histogram.counts]
    assert samples(cost) == found.faults
    labels = {"path": "throughput", "protection": protection, "delivery": "sync", "kind": "anon", "access": "write"}
    labels |= {"handler": handler, "threads": str(threads), "batch": str(batch)}
    record_metric(
        "fault_p50", percentile(cost, 50), "ns", mode="wall", labels=labels, count=samples(cost), spread=spread(cost),
        histogram=cost,
    )  # fmt: skip
    record_metric("pages_per_second", found.accesses / found.elapsed * 1e9, "pages/s", mode="wall", labels=labels)


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("handler", ["poll", "read", "sigbus"])
@pytest.mark.parametrize("threads", [1, 2, 4])
def test_fault_throughput(
    subject: Subject, record_metric: Callable[..., None], threads: int, handler: str, protection: str
) -> None:
    """Each access of each thread is trapped and handled once, whoever handles it; faults a second are told (I1, I3).

    A machine's speed decides no verdict.
    """
    _measure(subject, record_metric, protection, handler, threads, 1)


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("batch", [16, 64])
def test_batched_resolving(subject: Subject, record_metric: Callable[..., None], batch: int, protection: str) -> None:
    """A fault resolved together with the pages that follow spares these their faults: one fault a batch, exactly."""
    _measure(subject, record_metric, protection, "poll", 1, batch)
