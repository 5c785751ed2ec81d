"""Calls that bring pages in or put them together, where some are protected: an access is seen, and nothing is lost.

Source: I2, I3 and I4 of the UAPI contract; faultin_page() in mm/gup.c; collapse_scan_pmd() and collapse_file() in
mm/khugepaged.c; vma_merge() in mm/vma.c.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import product

import pytest

from kselftests_py.lab import RWP, WP, WRITE, Fault, KernelRefused, Page, Region, Subject, ops
from kselftests_py.lab.cases import track
from kselftests_py.lab.constants import fault_bits
from kselftests_py.lab.judgement import check_cells
from kselftests_py.lab.kinds import HUGE, HUGETLB, KINDS, NEVER
from kselftests_py.lab.matrix import Case, Cell, found, marks, pagemap, prepared, scan, touched
from kselftests_py.lab.operations import BY, NEEDS

Here = Callable[[str, Iterable[str]], list[str]]
KPF_COMPOUND = 1 << 15 | 1 << 16
"""Of /proc/kpageflags: head and tail of a large folio."""
PRIVATE = ("anon", "thp", "mthp", "zero", "huge_zero", "shmem_private", "hugetlb_private")
"""Private writable memory: mlock(2) writes to it, "to break COW" (populate_vma_page_range())."""


def _writes(cell: Cell, how: str) -> bool:
    return how == "populate_write" or (how == "mlock" and cell.kind.name in PRIVATE)


@pytest.mark.contract("I3", "F1", "F8", "F11")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("how", ["populate_read", "populate_write", "mlock"])
@pytest.mark.parametrize("protection", BY)
def test_bringing_in_is_an_access(
    subject: Subject, here: Here, kst_control: str | None, protection: str, how: str
) -> None:
    """MADV_POPULATE_READ and _WRITE and mlock of a protected page wait in sync mode, and are reported in async.

    Write protection stops those that write. A PROT_READ mapping cannot be populated for writing.
    """
    kinds = [
        name for name in KINDS if (name, protection) not in NEVER and (how, name) != ("populate_write", "read_only")
    ]
    case = prepared(subject, here(f"{how}-{protection}", kinds), protection)
    actors = [new.actor for new in subject.batch(*[ops.actor() for _ in case.cells])]
    crew = dict(zip(map(str, case.cells), actors, strict=True))
    page = {str(cell): min(cell.kind.armed) for cell in case.cells}
    before = case.each(
        lambda cell: [scan(cell, touched(cell)), ops.access(crew[str(cell)], how, cell.region[page[str(cell)]])]
    )
    seen = case.each(
        lambda cell: [
            ops.latest_ticket(crew[str(cell)], None, 2000),
            ops.events(cell.uffd.handle),
            scan(cell, touched(cell)),
            ops.uffd_close(cell.uffd.handle),
            ops.latest_ticket(crew[str(cell)], "done", 2000),
        ]
    )
    wrong = {}
    for cell, (was, _), (state, told, after, _, end) in zip(case.cells, before, seen, strict=True):
        flags = fault_bits(RWP if protection == "rwp" else WP) | (fault_bits(WRITE) if _writes(cell, how) else 0)
        hit = protection == "rwp" or _writes(cell, how)
        stopped = hit and cell.delivery == "sync"
        messages = [(event.address, event.flags) for event in told.events]
        expected = [(cell.region[page[str(cell)]], int(flags))] if stopped else []
        reported = page[str(cell)] in found(cell, after)
        if (state.state, messages) != ("blocked" if stopped else "done", expected):
            wrong[str(cell)] = f"{how} is {state.state}, messages {messages} instead of {expected}"
        elif cell.delivery == "async" and (page[str(cell)] in found(cell, was) or reported != hit):
            wrong[str(cell)] = f"{how} is {'' if reported else 'not '}reported as an access, or some was before"
        elif (end.state, end.value) != ("done", 0):
            wrong[str(cell)] = f"{how} at the end is {end.state}, errno {end.value}"
    # Where write protection stops nothing, there is nothing that a control could spoil.
    check_cells(wrong, [cell for cell in case.cells if protection == "rwp" or _writes(cell, how)], kst_control)


def _collapses() -> list[object]:
    """Who collapses what, under which protection; where a finding spoils it, a row says so.

    Of the other kinds those that are files go the way of shmem (collapse_file()), those that are private and anonymous
    the way of anon; hugetlb is no target of either.
    """
    made = []
    for kind, by, protection in product(("anon", "shmem"), ("MADV_COLLAPSE", "khugepaged"), ("rwp", "wp")):
        marks = [pytest.mark.needs(*NEEDS[protection], *(["khugepaged"] if by == "khugepaged" else []))]
        if kind == "shmem":
            marks.append(pytest.mark.needs("shmem_thp", "page_flags"))
            marks += [pytest.mark.finding("F025")] if protection == "rwp" else []
        made.append(pytest.param(kind, protection, by, marks=marks, id=f"{kind}-{protection}-{by}"))
    return made


@pytest.mark.contract("I3")
@pytest.mark.needs("thp")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize(("kind", "protection", "by"), _collapses())
def test_no_huge_page_of_protected_ones(subject: Subject, kind: str, protection: str, by: str) -> None:
    """Pages of which some are protected keep protection and markers where others become a huge page, until the
    userfaultfd is closed while a thread waits.

    Source: __collapse_huge_page_isolate(), collapse_scan_pmd(): SCAN_PTE_UFFD; retract_page_tables(): "we cannot
    recycle the page table"; I3.
    """
    other = subject.region(kind, HUGE).populate()
    region, uffd = track(subject, kind, protection, "sync", HUGE)
    uffd.protect(region[:4])
    for one in (other, region):
        one.madvise("HUGEPAGE")
    if by == "khugepaged":
        _scan_all(subject)
    else:
        for one in (other, region):
            try:
                one.madvise("COLLAPSE")
            except KernelRefused as refused:
                if one is other:
                    pytest.skip(f"the kernel had no huge page to collapse into: {refused}")
    assert _is_huge(subject, other), f"{by} made no huge page of what nobody protects"
    assert region.marked_pages() == {0, 1, 2, 3}
    flags = (RWP if protection == "rwp" else WP) | WRITE
    for page in (0, 3):
        access = subject.actor().rmw(region[page], 0)
        assert access.blocked
        assert uffd.events() == [Fault(region[page], flags)]
        uffd.protect(region[page : page + 1], 0)
        assert access.done
    assert subject.actor().rmw(region[4], 0).done
    waiting = subject.actor().rmw(region[1], 0)
    assert waiting.blocked
    uffd.close()
    assert waiting.done
    assert region.marked_pages() == set()
    assert region.changed_pages() == set()


def _is_huge(subject: Subject, region: Region) -> bool:
    """Anonymous memory is mapped by a huge page then; a file's huge page is mapped when somebody looks."""
    if region.kind == "anon":
        return region.pages_with(Page.HUGE) == set(range(HUGE))
    assert subject.actor().read(region[1]).done
    return bool(subject.call(ops.page_flags(region[1], 1)).flags[0] & KPF_COMPOUND)


def _scan_all(subject: Subject) -> None:
    """khugepaged looks at all memory of everybody, twice."""
    was = {name: subject.call(ops.knob(name)).value for name in ("khugepaged_sleep", "khugepaged_pages_to_scan")}
    try:
        subject.batch(ops.knob_set("khugepaged_pages_to_scan", "100000"), ops.knob_set("khugepaged_sleep", "0"))
        passed = subject.call(ops.knob("khugepaged_full_scans")).value
        now = subject.call(ops.knob("khugepaged_full_scans", at_least=passed + 2, timeout_ms=20_000)).value
        assert now >= passed + 2, f"khugepaged made {now - passed} passes in 20 s"
    finally:
        subject.batch(*[ops.knob_set(name, str(value)) for name, value in was.items()])


def _mappings(subject: Subject, case: Case) -> dict[str, int]:
    """How many VMAs each region is made of."""
    lines = subject.proc_read("maps").splitlines()
    starts = [int(line.partition("-")[0], 16) for line in lines]
    return {str(cell): sum(start in cell.region for start in starts) for cell in case.cells}


@pytest.mark.contract("U10", "U6")
@pytest.mark.control("invert_marker")
@pytest.mark.parametrize("protection", BY)
def test_mappings_merge_again(subject: Subject, here: Here, kst_control: str | None, protection: str) -> None:
    """A mapping whose middle was unregistered is three; when the rest is unregistered, or closed, it is one again.

    No marker is left in any part. Source: userfaultfd_clear_vma(), vma_modify_flags_uffd(); __VMA_UFFD_FLAGS.
    """
    # Memory of one or two hugetlb pages has no middle.
    kinds = [name for name in KINDS if (name, protection) not in NEVER and name not in HUGETLB]
    case = prepared(subject, here(f"merge-{protection}", kinds), protection)
    before = _mappings(subject, case)
    case.each(lambda cell: ops.unregister(cell.uffd.handle, cell.region[1], 4 * cell.region.page_size))
    split = _mappings(subject, case)
    case.each(
        lambda cell: (
            ops.uffd_close(cell.uffd.handle)
            if cell.delivery == "async"
            else ops.unregister(cell.uffd.handle, cell.region.addr, cell.region.length)
        )
    )
    after = _mappings(subject, case)
    left = case.each(pagemap)
    wrong = {}
    for cell, (entries,) in zip(case.cells, left, strict=True):
        name = str(cell)
        if (before[name], split[name], after[name]) != (1, 3, 1):
            wrong[name] = f"VMAs before, with a hole, after: {before[name]}, {split[name]}, {after[name]}"
        elif marks(cell, entries):
            wrong[name] = "markers where no userfaultfd is"
    check_cells(wrong, case.cells, kst_control)


@pytest.mark.contract("G1", "I4")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("delivery", ["sync", pytest.param("async", marks=pytest.mark.finding("F032"))])
@pytest.mark.parametrize("protection", BY)
def test_locked_pages_that_become_writable_stay_protected(subject: Subject, protection: str, delivery: str) -> None:
    """mprotect that makes locked private memory writable is nobody's access: what was protected is so still.

    Source: mprotect_fixup(): "Private VMA_LOCKED_BIT VMA becoming writable: trigger COW"; userfaultfd.rst; I4.
    """
    region, uffd = track(subject, "anon", protection, delivery, pages=2)
    region.mprotect(1)
    subject.call(ops.mlock(region.addr, region.length))
    uffd.protect(region[:1])
    assert region.marked_pages() == {0}, "set-up: nothing is protected"
    region.mprotect(3)
    assert region.marked_pages() == {0}
    assert region.pages_with(Page.ACCESSED if protection == "rwp" else Page.WRITTEN) == {1}
