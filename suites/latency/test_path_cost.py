"""What the paths around userfaultfd cost: those who use none of it (bystanders), and the same paths under protection.

Measured inside the probe (op ``path_cost``): one pass over the whole range between two clock readings, less the clock
readings; one thread, so exact figures are the same in each boot. A bystander's figure is what a series costs everyone;
it is compared between kernels, and between protections in one. Exact mode only: instructions, no caches, TLB or IPIs.
Source of the paths: mm/memory.c, mm/mprotect.c, mm/mremap.c, mm/gup.c, fs/proc/task_mmu.c, mm/userfaultfd.c.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

from kselftests_py.lab import Subject
from kselftests_py.measure import percentile, samples, spread

pytestmark = pytest.mark.measures

PAGES = 256
ROUNDS = 8
KINDS = ("anon", "shmem")
NEEDS = {"": (), "wp": ("wp", "wp_shmem", "wp_async"), "rwp": ("rwp", "rwp_async")}
SHARED = ["fork", "mprotect", "mremap", "munmap", "dontneed", "pagemap", "smaps", "gup"]
BYSTANDERS = ["read", "absent-read", "absent-write", "cow", *SHARED]
PROTECTED = [*SHARED, "register", "unregister", "unregister-armed"]


def _rows(protection: str, paths: list[str]) -> list[Any]:
    return [
        pytest.param(protection, path, kind, marks=pytest.mark.needs(*NEEDS[protection]), id=f"{path}-{kind}{suffix}")
        for suffix in [f"-{protection}" if protection else ""]
        for path in paths
        for kind in KINDS
    ]


def _measure(
    subject: Subject, record_metric: Callable[..., None], protection: str, path: str, kind: str
) -> list[tuple[float, int]]:
    found = subject.path_cost(path, kind=kind, pages=PAGES, rounds=ROUNDS, clock="tsc", mode=protection or None)
    overhead = percentile(found.overhead.counts, 50)
    cost = [(value - overhead, count) for value, count in found.histogram.counts]
    assert samples(cost) == ROUNDS
    labels = {"path": path, "kind": kind} | ({"protection": protection} if protection else {})
    record_metric(
        "path_p50", percentile(cost, 50), "instructions", mode="exact", labels=labels, count=ROUNDS,
        spread=spread(cost), histogram=cost,
    )  # fmt: skip
    return cost


@pytest.mark.parametrize(
    ("protection", "path", "kind"),
    [*_rows("", BYSTANDERS), *_rows("wp", PROTECTED), *_rows("rwp", [*PROTECTED, "set-mode"])],
)
def test_path_cost_in_instructions(
    exact_subject: Subject, record_metric: Callable[..., None], protection: str, path: str, kind: str
) -> None:
    """Instructions of one pass of a path over 256 pages; no verdict on one kernel alone.

    No control: the figure is compared, with another kernel's; ``kst compare --max-regression`` is the verdict.
    """
    assert percentile(_measure(exact_subject, record_metric, protection, path, kind), 50) > 0


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(("protection", "path", "kind"), _rows("rwp", ["read", "write"]) + _rows("wp", ["write"]))
def test_protected_pages_cost_more(
    exact_subject: Subject, record_metric: Callable[..., None], protection: str, path: str, kind: str
) -> None:
    """A pass over protected pages costs at least a trap a page more than over the same pages unprotected (I3)."""
    cost = percentile(_measure(exact_subject, record_metric, protection, path, kind), 50)
    free = exact_subject.path_cost(path, kind=kind, pages=PAGES, rounds=1, clock="tsc")
    assert cost > percentile(free.histogram.counts, 50) + 100 * PAGES
