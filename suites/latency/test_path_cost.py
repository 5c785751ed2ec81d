"""What the paths around userfaultfd cost: those who use none of it (bystanders), and the same paths under protection.

Measured inside the probe (op ``path_cost``): one pass over the whole range between two clock readings, less the clock
readings; one thread, but for fork-event and mremap-event, which a second thread is told of. A bystander's figure is
what a series costs everyone; it is compared between kernels, and between protections in one. Exact mode only:
instructions, no caches, TLB or IPIs. A protected range is in async mode: what touches it goes on by itself; none of
these calls looks at the mode otherwise.
Source of the paths: mm/memory.c, mm/mprotect.c, mm/mremap.c, mm/gup.c, fs/proc/task_mmu.c, mm/userfaultfd.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import pytest

from kselftests_py.lab import Subject
from kselftests_py.lab.cases import skipped_if_unavailable
from kselftests_py.measure import percentile, samples, spread

pytestmark = pytest.mark.measures

SMALL = ("anon", "shmem")
HUGE = ("thp", "hugetlb", "shmem_thp")
KINDS = (*SMALL, "thp", "hugetlb")
ALL = (*SMALL, *HUGE)
PAGES = dict.fromkeys(SMALL, 64) | dict.fromkeys(HUGE, 2)
FORKED = 256  # small pages: of a fork most of the cost is the process, which is less steady than its pages
FORKS = ("fork", "fork-event")
ROUNDS = dict.fromkeys(SMALL, 8) | dict.fromkeys(HUGE, 4)
# Samples differ: the median leaves some out.
UNEVEN = dict.fromkeys(FORKS, 16) | {"exit": 12, "mremap": 8, "mremap-event": 8}
NEEDS = {"": (), "wp": ("wp", "wp_shmem", "wp_async"), "rwp": ("rwp", "rwp_async")}

# Each path, and the kinds of memory that have it. Shared memory is not copied on write, hugetlb has no swap.
EVERYWHERE = ["fork", "mprotect", "mremap", "munmap", "exit", "dontneed", "pagemap", "smaps", "gup", "gup-write"]
CALLS = dict.fromkeys(EVERYWHERE, ALL) | {
    "cow": ("anon", "thp"),
    "swap-read": (*SMALL, "thp"),
    "swap-write": (*SMALL, "thp"),
    "move": ("anon", "thp"),
}
BYSTANDERS = (
    CALLS
    | dict.fromkeys(["read", "absent-read", "absent-write"], ALL)
    | {
        "empty-call": ("anon",),
        "child-read": ("anon", "shmem", "thp", "shmem_thp"),
        "numa-hint": (*SMALL, "thp", "shmem_thp"),
        "numa-hint-write": (*SMALL, "thp", "shmem_thp"),
    }
)
FILLS = {"copy": (*SMALL, "hugetlb"), "zeropage": SMALL, "continue": ("shmem", "hugetlb")}
PROTECTED = CALLS | dict.fromkeys(["register", "unregister", "unregister-armed", "close-armed"], ALL)
PROTECTED |= dict.fromkeys(["fork-event", "mremap-event"], KINDS)
NOT_PROTECTED = {("rwp", "shmem_thp")}  # a huge page of shared memory, in the kernels of docs/findings/F024.md
CAPABILITIES = {
    "thp": ("thp",), "hugetlb": ("hugetlb",), "move": ("uffd", "move"), "copy": ("uffd", "missing_shmem"),
    "zeropage": ("uffd", "missing_shmem"), "continue": ("uffd", "minor_shmem", "minor_hugetlb"),
    "fork-event": ("event_fork",), "mremap-event": ("event_remap",),
}  # fmt: skip


class Row(NamedTuple):
    """One path on one kind of memory, under a protection or none; ``vmas``: cut into so many mappings."""

    protection: str
    path: str
    kind: str
    vmas: int = 1


def _row(row: Row) -> Any:
    needs = [*NEEDS[row.protection], *CAPABILITIES.get(row.path, ()), *CAPABILITIES.get(row.kind, ())]
    name = "-".join([row.path, row.kind, *[row.protection] * bool(row.protection), *[str(row.vmas)] * (row.vmas > 1)])
    return pytest.param(row, marks=pytest.mark.needs(*needs), id=name)


def _rows(protection: str, paths: dict[str, tuple[str, ...]]) -> Iterable[Any]:
    return (
        _row(Row(protection, path, kind))
        for path, kinds in paths.items()
        for kind in kinds
        if (protection, kind) not in NOT_PROTECTED
    )


def _measure(subject: Subject, record_metric: Callable[..., None], row: Row) -> list[tuple[float, int]]:
    protection, path, kind, vmas = row
    pages = max(PAGES[kind], vmas, FORKED if path in FORKS and kind in SMALL else 0)
    rounds = UNEVEN.get(path, ROUNDS[kind])
    mode = protection or None
    with skipped_if_unavailable(path.startswith(("swap", "numa")) or kind == "shmem_thp"):
        found = subject.path_cost(path, kind=kind, pages=pages, rounds=rounds, clock="tsc", mode=mode, vmas=vmas)
    overhead = percentile(found.overhead.counts, 50)
    cost = [(value - overhead, count) for value, count in found.histogram.counts]
    assert samples(cost) == rounds
    labels = {"path": path, "kind": kind}
    labels |= {key: text for key, text in (("protection", protection), ("vmas", str(vmas) * (vmas > 1))) if text}
    record_metric(
        "path_p50", percentile(cost, 50), "instructions", mode="exact", labels=labels, count=rounds,
        spread=spread(cost), histogram=cost,
    )  # fmt: skip
    return cost


SET_MODE = [Row("rwp", "set-mode", kind) for kind in KINDS]
SET_MODE += [Row("rwp", "set-mode", kind, vmas) for vmas in (64, 1024) for kind in SMALL]
SET_MODE += [Row("rwp", "set-mode", kind, 64) for kind in ("thp", "hugetlb")]  # 1,024 would be 2 GiB


@pytest.mark.parametrize(
    "row",
    [
        *_rows("", BYSTANDERS | FILLS), *_rows("wp", PROTECTED), *_rows("rwp", PROTECTED),
        *(_row(row) for row in SET_MODE),
    ],
)  # fmt: skip
def test_path_cost_in_instructions(exact_subject: Subject, record_metric: Callable[..., None], row: Row) -> None:
    """Instructions of one pass of a path over 64 pages (fork: 256), or 2 huge ones; no verdict on one kernel alone.

    No control: the figure is compared, with another kernel's; ``kst compare --max-regression`` is the verdict.
    """
    assert percentile(_measure(exact_subject, record_metric, row), 50) > 0


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(
    "row",
    [_row(Row(*one, kind)) for one in (("rwp", "read"), ("rwp", "write"), ("wp", "write")) for kind in SMALL],
)
def test_protected_pages_cost_more(exact_subject: Subject, record_metric: Callable[..., None], row: Row) -> None:
    """A pass over protected pages costs at least a trap a page more than over the same pages unprotected (I3)."""
    cost = percentile(_measure(exact_subject, record_metric, row), 50)
    free = exact_subject.path_cost(row.path, kind=row.kind, pages=PAGES[row.kind], rounds=1, clock="tsc")
    assert cost > percentile(free.histogram.counts, 50) + 100 * PAGES[row.kind]


@pytest.mark.control("drop_in_child")
@pytest.mark.parametrize(
    "row", [_row(Row(mode, "child-read", kind)) for mode in ("wp", "rwp") for kind in ("anon", "thp")]
)
def test_a_child_pays_nothing(exact_subject: Subject, record_metric: Callable[..., None], row: Row) -> None:
    """A child without the userfaultfd reads what was protected in its parent at not one instruction more (I6)."""
    cost = percentile(_measure(exact_subject, record_metric, row), 50)
    args: dict[str, Any] = {"kind": row.kind, "pages": PAGES[row.kind], "rounds": ROUNDS[row.kind], "clock": "tsc"}
    plain = exact_subject.path_cost("child-read", **args)
    assert cost == percentile(plain.histogram.counts, 50) - percentile(plain.overhead.counts, 50)
