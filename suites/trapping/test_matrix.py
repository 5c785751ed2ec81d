"""Every operation that rewrites page tables, on every kind of memory: what was protected stays so, and nothing else.

A row is an operation on a kind: pages are protected, the operation is done and seen to have happened, and then marker,
trap and contents must agree with what was protected before (I2, I3, I4, I5), for RWP and for WP, sync and async.
Source: userfaultfd.rst ("Protection is preserved across page reclaim", "Operations that drop the PTE entirely"), and
of each operation the function that carries the marker over, named in its row.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from kselftests_py.lab import Fault, KernelRefused, Region, Subject, Uffd, ops
from kselftests_py.lab.cases import features
from kselftests_py.lab.constants import RWP, WP, WRITE, Page

READ, READ_WRITE, NONE = 1, 3, 0
HUGE = 512
"""4 KiB pages of a huge page."""
ARMED = {0, 1, 3}


@dataclass(frozen=True)
class Case:
    """The memory that an operation works on, and the children that it forked."""

    subject: Subject
    region: Region
    uffd: Uffd
    children: list[Subject] = field(default_factory=list)


def pageout(case: Case) -> None:
    """try_to_unmap_one(), swp_pte_prepare(), do_swap_page()."""
    case.subject.call(ops.settle(case.region.addr))
    case.region.madvise("PAGEOUT")
    swapped = case.region.pages_with(Page.SWAPPED)
    assert swapped == set(range(len(case.region))), f"swapped out: {sorted(swapped)[:8]}"


def swapoff(case: Case) -> None:
    """unuse_pte()."""
    pageout(case)
    case.subject.call(ops.swap_cycle())
    assert case.region.pages_with(Page.SWAPPED) == set()


def migrate(case: Case) -> None:
    """try_to_migrate_one(), remove_migration_pte(), remove_migration_pmd()."""
    here = case.region.nodes()[0]
    there = case.region.migrate(1 - here)
    assert there[0] == 1 - here, f"move_pages: the first page is on {there[0]}"


def read_only_and_back(case: Case) -> None:
    """change_pte_range(), change_huge_pmd(), hugetlb_change_protection()."""
    case.region.mprotect(READ)
    case.region.mprotect(READ_WRITE)


def inaccessible_and_back(case: Case) -> None:
    """change_pte_range(): an armed entry keeps its marker through PROT_NONE."""
    case.region.mprotect(NONE)
    case.region.mprotect(READ_WRITE)


def half_and_back(case: Case) -> None:
    """split_vma() and its merge; for a huge page __split_huge_pmd_locked()."""
    half = case.region[: len(case.region) // 2]
    case.region.mprotect(READ, half)
    case.region.mprotect(READ_WRITE, half)


def fork(case: Case) -> None:
    """copy_pte_range(), copy_huge_pmd(), copy_hugetlb_page_range(): the parent's side."""
    case.children.append(case.subject.fork()[0])


def fork_and_gone(case: Case) -> None:
    """The same, and the child has exited when the parent goes on."""
    case.subject.fork()[0].end()


def collapse(case: Case) -> None:
    """collapse_scan_pmd(), __collapse_huge_page_isolate(): SCAN_PTE_UFFD. Refused, though the like of it unprotected is
    not."""
    other = case.subject.region("anon", len(case.region)).populate()
    for region in (other, case.region):
        region.madvise("HUGEPAGE")
    try:
        other.madvise("COLLAPSE")
    except KernelRefused as refused:
        pytest.skip(f"the kernel had no huge page to collapse into: {refused}")
    try:
        case.region.madvise("COLLAPSE")
    except KernelRefused:
        return
    raise AssertionError("MADV_COLLAPSE took protected pages")


def cold(case: Case) -> None:
    """madvise_cold_or_pageout_pte_range()."""
    case.region.madvise("COLD")


def willneed(case: Case) -> None:
    """swapin_walk_pmd_entry(): swapped pages are read ahead, not mapped."""
    case.region.madvise("WILLNEED")


def mergeable(case: Case) -> None:
    """ksm_madvise(): a scanner may look at the pages, and take none that differ."""
    try:
        case.region.madvise("MERGEABLE")
    except KernelRefused:
        pytest.skip("the kernel does not know MADV_MERGEABLE (CONFIG_KSM)")
    case.region.madvise("UNMERGEABLE")


def no_fork_and_fork(case: Case) -> None:
    """MADV_DONTFORK and back: VMA flags change, entries do not."""
    case.region.madvise("DONTFORK")
    case.region.madvise("DOFORK")


def neighbour_unmapped(case: Case) -> None:
    """munmap() of the last pages: the VMA is split, what is left is as it was."""
    last = case.region[len(case.region) // 2 :]
    case.subject.call(ops.munmap(last.addr, last.length))


@dataclass(frozen=True)
class Operation:
    """What is done, on which kinds; ``needs`` are capabilities; ``left`` is the share of the region that is left."""

    do: Callable[[Case], None]
    kinds: tuple[str, ...]
    needs: tuple[str, ...] = ()
    left: float = 1.0


ALL = ("anon", "thp", "shmem", "tmpfs", "hugetlb", "hugetlb_private")
SMALL = ("anon", "thp", "shmem", "tmpfs")
OPERATIONS = [
    Operation(pageout, ("anon",), ("swap",)),
    Operation(swapoff, ("anon",), ("swap",)),
    Operation(migrate, ALL, ("nodes",)),
    Operation(read_only_and_back, ALL),
    Operation(inaccessible_and_back, ALL),
    Operation(half_and_back, ALL),
    Operation(fork, ALL),
    Operation(fork_and_gone, ALL),
    Operation(collapse, ("anon",), ("thp",)),
    Operation(cold, SMALL),
    Operation(willneed, ("anon", "shmem", "tmpfs")),
    Operation(mergeable, ("anon",)),
    Operation(no_fork_and_fork, SMALL),  # MADV_DOFORK refuses hugetlb
    Operation(neighbour_unmapped, ALL, left=0.5),
]
MODES = {
    ("rwp", "sync"): ("rwp",),
    ("rwp", "async"): ("rwp", "rwp_async"),
    ("wp", "sync"): ("wp", "wp_shmem"),
    ("wp", "async"): ("wp", "wp_shmem", "wp_async"),
}


def _rows() -> list[Any]:
    return [
        pytest.param(
            operation, kind, protection, delivery,
            marks=pytest.mark.needs(*needs, *operation.needs, *_kind_needs(kind)),
            id=f"{operation.do.__name__}-{kind}-{protection}-{delivery}",
        )
        for operation in OPERATIONS
        for kind in operation.kinds
        for (protection, delivery), needs in MODES.items()
    ]  # fmt: skip


def _kind_needs(kind: str) -> tuple[str, ...]:
    return ("hugetlb",) if kind.startswith("hugetlb") else ("thp",) if kind == "thp" else ()


def prepared(
    subject: Subject, operation: Operation, kind: str, protection: str, delivery: str
) -> tuple[Case, set[int]]:
    """Memory that holds its stamp, of which the pages of the set are protected: whole huge pages where it has them."""
    pages = HUGE * 2 if kind == "thp" else HUGE if operation.do is collapse else 2 if kind.startswith("hugetlb") else 8
    region = subject.region("anon" if kind == "thp" else kind, pages, thp="always" if kind == "thp" else None)
    region.populate()
    if kind == "thp" and Page.HUGE & _first(region) == 0:
        pytest.skip("the kernel had no huge page to give")
    uffd = subject.uffd(features(protection, delivery, "anon" if kind == "thp" else kind))
    uffd.register(region, RWP if protection == "rwp" else WP)
    if kind in ("thp", "hugetlb", "hugetlb_private"):
        uffd.protect(region[: pages // 2])
        return Case(subject, region, uffd), set(range(pages // 2))
    for page in ARMED:
        uffd.protect(region[page : page + 1])
    return Case(subject, region, uffd), set(ARMED)


def _first(region: Region) -> Page:
    found = region.subject.pagemap_scan(region[:1], Page.PRESENT, Page.PRESENT | Page.HUGE)
    return Page(found[0][2]) if found else Page(0)


@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize(("operation", "kind", "protection", "delivery"), _rows())
def test_protection_survives(subject: Subject, operation: Operation, kind: str, protection: str, delivery: str) -> None:
    """Pages that were protected before the operation have the marker and trap; the others neither; no byte changed."""
    case, armed = prepared(subject, operation, kind, protection, delivery)
    operation.do(case)
    try:
        _check(case, operation, armed, protection, delivery)
    finally:
        for child in case.children:
            child.end()


def _check(case: Case, operation: Operation, armed: set[int], protection: str, delivery: str) -> None:
    region = case.region
    if operation.left < 1:
        region = _shortened(region, operation.left)
        armed = {page for page in armed if page < len(region)}
    free = set(range(len(region))) - armed
    assert region.marked_pages() == armed
    if delivery == "async":
        _tracked(case, region, armed, free, protection)
    else:
        _trapped(case, region, armed, free, protection)
    case.uffd.protect(region, 0)
    assert region.marked_pages() == set()
    assert region.changed_pages() == set()


def _shortened(region: Region, left: float) -> Region:
    pages = int(len(region) * left)
    return Region(region.addr, pages * region.page_size, region.page_size, region.subject, region.kind, region.handle)


def _some(pages: set[int]) -> list[int]:
    """The first and the last: a huge page has hundreds."""
    return sorted({min(pages), max(pages)}) if pages else []


def _tracked(case: Case, region: Region, armed: set[int], free: set[int], protection: str) -> None:
    seen = region.accessed_pages if protection == "rwp" else region.written_pages
    assert seen() == free
    page = min(armed)
    tracked = _unit(region, page)  # before the access, which may split a huge page to copy one of its own
    assert case.subject.actor().rmw(region[page], 0).done
    found = seen()
    # Write protection splits a huge page that is written (wp_huge_pmd()); RWP resolves it as a whole.
    assert free | {page} <= found <= free | (armed & tracked)
    assert protection == "wp" or found == free | (armed & tracked)
    assert case.uffd.events() == []


def _unit(region: Region, page: int) -> set[int]:
    """The pages that *page* is tracked with: those of its huge page, if it is in one."""
    found = region.subject.pagemap_scan(region[page : page + 1], Page.PRESENT, Page.PRESENT | Page.HUGE)
    if region.page_size == 4096 and found and found[0][2] & Page.HUGE:
        first = page - page % HUGE
        return set(range(first, first + HUGE))
    return {page}


def _trapped(case: Case, region: Region, armed: set[int], free: set[int], protection: str) -> None:
    if free:
        assert case.subject.actor().touch("rmw", region, _some(free), value=0).done
    assert case.uffd.events() == []
    for page in _some(armed):
        if protection == "wp":
            assert case.subject.actor().read(region[page]).done
        access = case.subject.actor().rmw(region[page], 0)
        assert access.blocked
        flags = (RWP if protection == "rwp" else WP) | WRITE
        assert case.uffd.events() == [Fault(region[page], flags)]
        case.uffd.protect(region[page : page + 1], 0)
        assert access.done
