"""Where a sync fault spends what it costs: WP beside RWP, stage by stage.

Measured inside the probe (op ``fault_waterfall``, which says where the clock is read) with one clock in both threads; a
clock reading is taken off each stage. Source: Documentation/admin-guide/mm/userfaultfd.rst, Fault Handling.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kselftests_py.lab import Subject
from kselftests_py.measure import percentile, samples, spread

pytestmark = pytest.mark.measures

PAGES = 64
ROUNDS = {"exact": 4, "wall": 1}
NEEDS = {"wp": ("wp", "wp_shmem"), "rwp": ("rwp",)}
CLOCKS = {"exact": ("tsc", "instructions"), "wall": ("mono", "ns")}
ROWS: list[Any] = [
    pytest.param(
        protection, kind, access, marks=pytest.mark.needs(*NEEDS[protection]), id=f"{protection}-{kind}-{access}"
    )
    for protection, access in (("wp", "write"), ("rwp", "read"), ("rwp", "write"))
    for kind in ("anon", "shmem")
]


def _measure(
    subject: Subject, record_metric: Callable[..., None], protection: str, kind: str, access: str, mode: str
) -> None:
    clock, unit = CLOCKS[mode]
    found = subject.fault_waterfall(
        mode=protection, kind=kind, access=access, pages=PAGES, rounds=ROUNDS[mode], clock=clock
    )
    assert found.faults == 2 * PAGES * ROUNDS[mode]  # half of them are resolved and woken by two calls
    reading = percentile(found.overhead.counts, 50)
    labels = {"path": "waterfall", "protection": protection, "delivery": "sync", "kind": kind, "access": access}
    medians = {}
    for stage in ("trap", "read", "ioctl", "resolve", "back"):
        cost = [(value - reading, count) for value, count in getattr(found, stage).counts]
        assert samples(cost) == PAGES * ROUNDS[mode]
        medians[stage] = percentile(cost, 50)
        if stage != "ioctl":
            record_metric(
                "stage_p50", medians[stage], unit, mode=mode, labels={**labels, "stage": stage}, count=samples(cost),
                spread=spread(cost),
            )  # fmt: skip
    # What of the ioctl is the wake: a difference of two medians, which no single fault shows.
    record_metric(
        "stage_p50", medians["ioctl"] - medians["resolve"], unit, mode=mode, labels={**labels, "stage": "wake"}
    )


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(("protection", "kind", "access"), ROWS)
def test_waterfall_in_instructions(
    exact_subject: Subject, record_metric: Callable[..., None], protection: str, kind: str, access: str
) -> None:
    """Each access to a protected page is told to the handler once, and goes through every stage (I3)."""
    _measure(exact_subject, record_metric, protection, kind, access, "exact")


@pytest.mark.wall
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(("protection", "kind", "access"), ROWS)
def test_waterfall_in_nanoseconds(
    subject: Subject, record_metric: Callable[..., None], protection: str, kind: str, access: str
) -> None:
    """The same in nanoseconds, where the two threads may run on two CPUs; under TCG only ratios mean anything."""
    _measure(subject, record_metric, protection, kind, access, "wall")
