"""UFFDIO_REGISTER and UFFDIO_UNREGISTER: what they accept, what they refuse, and what they change.

Source: userfaultfd_register(), userfaultfd_unregister(), vma_can_userfault() and userfaultfd_clear_vma() in
mm/userfaultfd.c; contract.toml, R1 to R17 and U1 to U6.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import pytest

from kselftests_py.lab import MINOR, MISSING, RWP, WP, WP_SHMEM, Fault, KernelRefused, Page, Region, Subject, Term, ops
from kselftests_py.lab.cases import DISTINCT_KINDS, features, track
from kselftests_py.lab.ops import Op
from kselftests_py.lab.refusals import answers, check_refusals

pytestmark = pytest.mark.needs("rwp", "wp")

contract = pytest.mark.contract
hugetlb = pytest.mark.needs("hugetlb")
HUGE = 2 << 20
BEYOND = 1 << 62  # no address space is as large
PROT_READ, PROT_WRITE = 1, 2
# Numbers of ioctls, as bits of the mask that registration returns.
WAKE, COPY, ZEROPAGE, MOVE, WRITEPROTECT, CONTINUE, POISON, RWPROTECT = (1 << n for n in range(2, 10))
ALWAYS = WAKE | COPY | POISON
NOT_HUGETLB = ZEROPAGE | MOVE


def register(handle: int, addr: int, length: int, mode: int = RWP.mode) -> Op[Any]:
    return ops.register(handle, addr, length, mode)


@contract("R2", "R3", "R4", "R6", "R8", "R9", "R10", "R12", "R13", "R14", "I7")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_register_refusals(subject: Subject, kind: str) -> None:
    """Each bad registration gets its errno, the first broken rule decides, and the range stays as it was.

    Source: userfaultfd_register(), in the order of its checks; vma_is_accessible(); I7.
    """
    region, mine = track(subject, kind, "rwp", "sync", pages=3)
    mine.protect(region[1:2])
    other, plain = subject.uffd(RWP | WP | WP_SHMEM), subject.uffd(WP)
    at, size, page, guard = region.addr, region.length, region.page_size, region.addr - region.page_size
    gone = subject.region("anon", 1)
    gone.unmap()
    no_access = subject.region(kind, 1, prot=0)
    read_only, neither = (subject.region("shmem_read_only", 1, prot=prot) for prot in (PROT_READ, 0))
    o, m = other.handle, mine.handle
    check_refusals(
        subject,
        region,
        mine,
        {
            "never writable": (register(o, read_only.addr, read_only.length), "EPERM"),
            "mode 0": (register(m, at, size, 0), "EINVAL"),
            "an unknown mode bit": (register(m, at, size, RWP.mode | 1 << 4), "EINVAL"),
            "RWP not negotiated": (register(plain.handle, at, size), "EINVAL"),
            "WP and RWP together": (register(m, at, size, WP.mode | RWP.mode), "EINVAL"),
            "a start inside a page": (register(m, at + 8, size), "EINVAL"),
            "a length inside a page": (register(m, at, size - 8), "EINVAL"),
            "no length": (register(m, at, 0), "EINVAL"),
            "beyond the task": (register(m, BEYOND, page * 4), "EINVAL"),
            "wrapping around": (register(m, at, (1 << 63) - 4096), "EINVAL"),
            "no mapping": (register(m, gone.addr, gone.length), "EINVAL"),
            "PROT_NONE before never writable": (register(o, neither.addr, neither.length), "EINVAL"),
            "PROT_NONE": (register(o, no_access.addr, no_access.length), "EINVAL"),
            "another's range": (register(o, at, size), "EBUSY"),
            "another's page": (register(o, region[2], page), "EBUSY"),
            "PROT_NONE ahead of another's": (register(o, guard, page * 2), "EINVAL"),
            "another's ahead of PROT_NONE": (register(o, region[2], page * 2), "EBUSY"),
            "mode ahead of another's": (register(o, at, size, WP.mode | RWP.mode), "EINVAL"),
            "RWP dropped for MISSING": (register(m, at, size, MISSING.mode), "EBUSY"),
            "RWP dropped on one page": (register(m, region[2], page, MISSING.mode), "EBUSY"),
        },
    )


@contract("R14", "I7")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_mode_cannot_change_under_the_marker(subject: Subject, kind: str) -> None:
    """RWP cannot become WP, nor WP become RWP, without UFFDIO_UNREGISTER; the range stays as it was.

    Source: "Mode switches that drop VM_UFFD_WP or VM_UFFD_RWP" in userfaultfd_register(); I7.
    """
    region = subject.region(kind, 2).populate()
    uffd = subject.uffd(RWP | WP | WP_SHMEM)
    uffd.register(region[:1], RWP)
    uffd.register(region[1:], WP)
    uffd.protect(region[:1])
    rows = {
        "RWP to WP": (register(uffd.handle, region[0], region.page_size, WP.mode), "EBUSY"),
        "WP to RWP": (register(uffd.handle, region[1], region.page_size, RWP.mode), "EBUSY"),
        "WP to MISSING": (register(uffd.handle, region[1], region.page_size, MISSING.mode), "EBUSY"),
        "both to RWP": (register(uffd.handle, region[0], region.length, RWP.mode), "EBUSY"),
    }
    check_refusals(subject, region, uffd, rows)


@hugetlb
@contract("R8", "R11", "I7")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
def test_register_part_of_a_huge_page(subject: Subject) -> None:
    """A range that starts or ends inside a hugetlb page is EINVAL, although it is page aligned.

    Source: vma_kernel_pagesize() in userfaultfd_register(); I7.
    """
    region, uffd = track(subject, "hugetlb", "rwp", "sync", pages=2)
    uffd.protect(region[:1])
    fresh = subject.region("hugetlb", 2)
    h, other = uffd.handle, subject.uffd(RWP).handle
    rows = {
        "start in a registered page": (register(h, region[0] + 4096, region.page_size), "EINVAL"),
        "end in a registered page": (register(h, region[0], region.page_size + 4096), "EINVAL"),
        "start in a fresh page": (register(h, fresh[0] + 4096, fresh.page_size), "EINVAL"),
        "end in a fresh page": (register(h, fresh[0], 4096), "EINVAL"),
        "end in a page of another's": (register(other, region[0], region.page_size + 4096), "EINVAL"),
        "start in a page of another's": (register(other, region[0] + 4096, region.page_size), "EINVAL"),
        "end in a page of another's, WP and RWP": (register(other, region[0], 4096, WP.mode | RWP.mode), "EINVAL"),
    }
    check_refusals(subject, region, uffd, rows)


def special_mappings(subject: Subject) -> list[int]:
    """Addresses of the mappings the kernel made for itself: [vvar] and [vdso] are VM_SPECIAL."""
    lines = [line.split() for line in subject.proc_read("maps").splitlines()]
    return [int(line[0].split("-")[0], 16) for line in lines if line[-1] in ("[vdso]", "[vvar]")]


@contract("R9")
@pytest.mark.control("swallow_errno")
def test_memory_of_no_supported_kind(subject: Subject) -> None:
    """VM_SPECIAL mappings, and MINOR on anonymous memory, are EINVAL.

    Source: vma_can_userfault(); can_userfault of the anonymous vm_uffd_ops.
    """
    uffd = subject.uffd(RWP)
    anon = subject.region("anon", 1)
    places = special_mappings(subject)
    assert places
    calls = [register(uffd.handle, at, 4096) for at in places]
    calls.append(register(uffd.handle, anon.addr, anon.length, RWP.mode | MINOR.mode))
    assert answers(subject, calls) == ["EINVAL"] * len(calls)


@contract("R9", "I7")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
def test_memory_that_may_be_dropped(subject: Subject) -> None:
    """Memory that the kernel may drop (MAP_DROPPABLE) is EINVAL. Source: vma_can_userfault(): VM_DROPPABLE; I7."""
    try:
        droppable = subject.region("droppable", 1)
    except KernelRefused as refused:
        pytest.skip(f"mmap(2) knows no MAP_DROPPABLE: {refused}")
    region, uffd = track(subject, "anon", "rwp", "sync", pages=1)
    uffd.protect(region)
    rows = {"droppable": (register(uffd.handle, droppable.addr, droppable.length), "EINVAL")}
    check_refusals(subject, region, uffd, rows)


@contract("R22")
@pytest.mark.control("hide_flags")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_smaps_names_the_mode(subject: Subject, kind: str) -> None:
    """VmFlags of a mapping in smaps has "ur" once it is registered for RWP, "uw" for WP, and neither after that.

    Source: show_smap_vma_flags() in fs/proc/task_mmu.c; Documentation/filesystems/proc.rst.
    """
    region = subject.region(kind, 2)
    uffd = subject.uffd(RWP | WP | WP_SHMEM)
    uffd.register(region[:1], RWP)
    uffd.register(region[1:], WP)
    seen = [_modes(subject, at) for at in region]
    uffd.unregister(region)
    assert [*seen, _modes(subject, region[0])] == [{"ur"}, {"uw"}, set()]


def _modes(subject: Subject, addr: int) -> set[str]:
    """Which flags of userfaultfd smaps gives the mapping at *addr*."""
    inside = False
    for line in subject.proc_read("smaps").splitlines():
        first, _, rest = line.partition(" ")
        if "-" in first:
            start, _, end = first.partition("-")
            inside = int(start, 16) <= addr < int(end, 16)
        elif inside and first == "VmFlags:":
            return set(rest.split()) & {"um", "uw", "ui", "ur"}
    raise AssertionError(f"no mapping at {addr:#x}")


@contract("R15", "R17")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_read_only_and_holes_are_accepted(subject: Subject, kind: str) -> None:
    """A PROT_READ mapping can be registered, as can a range with a hole in it; both ends are then protected.

    Source: userfaultfd_register(): vma_is_accessible() and for_each_vma_range(); userfaultfd_rwprotect().
    """
    region = subject.region(kind, 3).populate()
    region.mprotect(PROT_READ)
    subject.call(ops.munmap(region[1], region.page_size))
    uffd = subject.uffd(RWP)
    uffd.register(region, RWP)
    uffd.protect(region)
    ends = [subject.actor().read(region[page]) for page in (0, 2)]
    assert all(end.blocked for end in ends)
    uffd.resolve(region)
    assert all(end.done for end in ends)


@contract("R18")
@pytest.mark.control("invert_marker")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_registering_arms_nothing(subject: Subject, kind: str) -> None:
    """A registered range that nobody has protected has no marker and traps nothing, present pages and holes alike.

    Source: userfaultfd_register_range() changes flags of VMAs only; I2.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=3, populated=slice(0, 2))
    assert region.marked_pages() == set()
    assert subject.actor().touch("rmw", region, range(3), value=0).done
    assert uffd.events() == []


# (first mode, second mode, whether a missing page is reported at the end)
AGAIN = [
    pytest.param(RWP, RWP, False, id="RWP-RWP"),
    pytest.param(MISSING | RWP, RWP, True, id="MISSING_RWP-RWP"),
    pytest.param(RWP, MISSING | RWP, True, id="RWP-MISSING_RWP"),
]


@contract("R16", "R19")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(("first", "second", "missing"), AGAIN)
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_registering_again(subject: Subject, kind: str, first: Term, second: Term, missing: bool) -> None:
    """Registering again keeps the protection; more modes are added, fewer are no-op: MISSING is not dropped.

    Source: vma_test_all_mask() in userfaultfd_register_range().
    """
    region = subject.region(kind, 2).populate(pages=slice(0, 1))
    uffd = subject.uffd(RWP)
    uffd.register(region, first)
    uffd.protect(region)
    uffd.register(region, second)
    assert region.marked_pages() == {0}
    hole, armed = subject.actor().read(region[1]), subject.actor().read(region[0])
    assert armed.blocked
    assert hole.blocked == missing
    assert sorted(uffd.events(), key=repr) == sorted(
        [Fault(region[0], RWP)] + ([Fault(region[1], 0)] if missing else []), key=repr
    )


@contract("R20")
@pytest.mark.control("wrong_mask")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_ioctls_of_each_mode(subject: Subject, kind: str) -> None:
    """RWPROTECT comes with MODE_RWP only, WRITEPROTECT with WP, CONTINUE with MINOR; hugetlb lacks ZEROPAGE and MOVE.

    Source: the end of userfaultfd_register(); UFFD_API_RANGE_IOCTLS and UFFD_API_RANGE_IOCTLS_BASIC.
    """
    modes = {RWP: RWPROTECT, MISSING | RWP: RWPROTECT, MISSING: 0, WP: WRITEPROTECT, MISSING | WP: WRITEPROTECT}
    if kind != "anon":
        modes |= {MINOR: CONTINUE, MINOR | RWP: CONTINUE | RWPROTECT}
    expected = [own | ALWAYS | (0 if kind == "hugetlb" else NOT_HUGETLB) for own in modes.values()]
    region = subject.region(kind, 1)
    uffd = subject.uffd(RWP | WP | WP_SHMEM)
    batch: list[Op[Any]] = []
    for mode in modes:
        batch += [register(uffd.handle, region.addr, region.length, mode.mode)]
        batch += [ops.unregister(uffd.handle, region.addr, region.length)]
    assert [answer.ioctls for answer in subject.batch(*batch)[::2]] == expected


@contract("U2", "U3", "U4", "U5", "I7")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_unregister_refusals(subject: Subject, kind: str) -> None:
    """Each bad UFFDIO_UNREGISTER gets its errno and the range stays protected.

    Source: userfaultfd_unregister(), in the order of its checks; I7.
    """
    region, mine = track(subject, kind, "rwp", "sync", pages=3)
    mine.protect(region[1:2])
    other = subject.uffd(RWP)
    theirs = subject.region(kind, 1)
    other.register(theirs, RWP)
    gone = subject.region("anon", 1)
    gone.unmap()
    m, at, size = mine.handle, region.addr, region.length
    rows: dict[str, tuple[Op[Any], str]] = {
        "a start inside a page": (ops.unregister(m, at + 8, size), "EINVAL"),
        "a length inside a page": (ops.unregister(m, at, size - 8), "EINVAL"),
        "no length": (ops.unregister(m, at, 0), "EINVAL"),
        "beyond the task": (ops.unregister(m, BEYOND, size), "EINVAL"),
        "no mapping": (ops.unregister(m, gone.addr, gone.length), "EINVAL"),
        "another's range": (ops.unregister(m, theirs.addr, theirs.length), "EINVAL"),
        "mine, through another": (ops.unregister(other.handle, at, size), "EINVAL"),
    }
    rows |= {
        f"special mapping {n}": (ops.unregister(m, a, 4096), "EINVAL") for n, a in enumerate(special_mappings(subject))
    }
    if kind == "hugetlb":
        rows["a start inside a huge page"] = (ops.unregister(m, at + 4096, region.page_size), "EINVAL")
    check_refusals(subject, region, mine, rows)


@hugetlb
@contract("I7", "U8")
@pytest.mark.finding("F002")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("protection", ["rwp", pytest.param("wp", marks=pytest.mark.needs("wp_shmem"))])
def test_unregister_up_to_the_middle_of_a_huge_page(subject: Subject, protection: str) -> None:
    """UFFDIO_UNREGISTER that ends inside a hugetlb page is EINVAL and leaves that page protected.

    Source: userfaultfd_clear_vma() disarms before vma_modify_flags_uffd() refuses to split the huge page; I7.
    """
    region, uffd = track(subject, "hugetlb", protection, "sync", pages=2)
    uffd.protect(region)
    rows = {"an end inside a huge page": (ops.unregister(uffd.handle, region.addr, 4096), "EINVAL")}
    check_refusals(subject, region, uffd, rows)


@contract("U6", "U7")
@pytest.mark.control("invert_marker")
@pytest.mark.parametrize("prot", [0, PROT_READ], ids=["none", "read"])
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_unregister_restores(subject: Subject, kind: str, prot: int) -> None:
    """A range is restored whatever its protection has become, holes and unregistered parts in it notwithstanding.

    Source: userfaultfd_clear_vma(): MM_CP_UFFD_RWP_RESOLVE; "works when the VMA has become PROT_NONE"; I2, I5.
    """
    region = subject.region(kind, 4).populate()
    uffd = subject.uffd(RWP)
    uffd.register(region[:2], RWP)
    uffd.register(region[3:], RWP)
    uffd.protect(region[:2])
    uffd.protect(region[3:])
    region.mprotect(prot)
    assert answers(subject, [ops.unregister(uffd.handle, region.addr, region.length)]) == ["success"]
    assert region.marked_pages() == set()
    if prot:
        assert subject.actor().touch("read", region, range(4)).done
    region.mprotect(PROT_READ | PROT_WRITE)
    assert subject.actor().touch("rmw", region, range(4), value=0).done
    assert region.changed_pages() == set()


@contract("R21", "I2")
@pytest.mark.needs("hugetlb", "wp_shmem", "pagemap_scan")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("protection", ["rwp", "wp"])
def test_shared_page_tables_are_unshared(subject: Subject, protection: str) -> None:
    """Once a process has registered hugetlb memory, its page table is its own: what it maps or protects, no other has.

    Before, a child that has touched one page has its parent's table: it has each page that its parent touches. That
    takes a mapping of 1 GiB, but only the pages that are touched. Source: hugetlb_unshare_all_pmds(),
    uffd_disable_huge_pmd_share(), huge_pmd_share().
    """
    pages = (1 << 30) // HUGE
    whole = Region.of(subject, "hugetlb", subject.call(ops.region("hugetlb", pages, align=1 << 30, reserve=False)))
    region = replace(whole, length=3 * HUGE)
    subject.poke(region[0], 1)
    child, _ = subject.fork()
    with child:
        theirs = replace(region, subject=child)
        assert child.peek(theirs[0]) == 1
        subject.poke(region[1], 2)
        if theirs.pages_with(Page.PRESENT) != {0, 1}:
            pytest.skip("no page tables of hugetlb memory are shared (CONFIG_HUGETLB_PMD_PAGE_TABLE_SHARING)")
        uffd = subject.uffd(features(protection, "sync", "hugetlb"))
        uffd.register(whole, RWP if protection == "rwp" else WP)
        assert [subject.peek(region[page]) for page in range(3)] == [1, 2, 0]
        assert theirs.pages_with(Page.PRESENT) == {0, 1}
        uffd.protect(region[:2])
        assert region.marked_pages() == {0, 1}
        assert theirs.marked_pages() == set()
        assert child.actor().touch("rmw", theirs, range(3), value=0).done
        assert subject.actor().access("rmw", region[0], 0).blocked
