"""What a fault on a protected page does, and which pages get or lose protection by other calls.

Source: do_uffd_rwp() in mm/memory.c; handle_userfault(), mfill_atomic() and move_pages() in mm/userfaultfd.c;
Documentation/admin-guide/mm/userfaultfd.rst; contract.toml, F1 to F9, X1 to X6 and D1.
"""

from __future__ import annotations

import pytest

from kselftests_py.lab import MINOR, MISSING, RWP, RWP_ASYNC, WRITE, Fault, Feature, Page, Subject, Term, ops
from kselftests_py.lab.cases import DISTINCT_KINDS, FILE_KINDS, features, huge, track
from kselftests_py.lab.constants import PAGEMAP_UFFD_BIT
from kselftests_py.lab.refusals import answers, check_refusals
from kselftests_py.lab.region import PAGEMAP_GRAIN

pytestmark = pytest.mark.needs("rwp")

contract = pytest.mark.contract
PROT_READ_WRITE = 3
COPY_WP = CONTINUE_WP = 1 << 1


@contract("F2")
@pytest.mark.control("wrong_address", "flip_write_flag")
@pytest.mark.parametrize("exact", [False, True], ids=["aligned", "exact"])
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_address_of_the_message(subject: Subject, kind: str, exact: bool) -> None:
    """The message has the address of the page, of the huge page for hugetlb; with EXACT_ADDRESS the access's own.

    Source: userfault_msg(): UFFD_FEATURE_EXACT_ADDRESS; huge_page_mask_align() in mm/hugetlb.c.
    """
    region, uffd = track(subject, kind, "rwp", "sync", 2, extra=Feature.EXACT_ADDRESS if exact else None)
    uffd.protect(region)
    inside = region[1] + region.page_size - 0x1F8
    assert subject.actor().write(inside, 1).blocked
    assert uffd.events() == [Fault(inside if exact else region[1], RWP | WRITE)]


@contract("F3")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("asked", [False, True], ids=["plain", "thread_id"])
def test_thread_id(subject: Subject, asked: bool) -> None:
    """With THREAD_ID the message names the thread that waits; without, it names none.

    Source: userfault_msg(): task_pid_vnr(current).
    """
    region, uffd = track(subject, "anon", "rwp", "sync", 1, extra=Feature.THREAD_ID if asked else None)
    uffd.protect(region)
    actor = subject.actor()
    assert actor.read(region[0]).blocked
    assert uffd.next_fault().tid == (actor.tid if asked else 0)


@contract("F4", "F6")
@pytest.mark.needs("rwp_async")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_sigbus(subject: Subject, kind: str, access: str) -> None:
    """With UFFD_FEATURE_SIGBUS an access raises SIGBUS, sends nothing and lifts nothing; in async mode it passes.

    Source: handle_userfault(): UFFD_FEATURE_SIGBUS; do_uffd_rwp() resolves async faults before.
    """
    region, uffd = track(subject, kind, "rwp", "sync", 2, extra=Feature.SIGBUS)
    uffd.protect(region)
    assert subject.actor().access(access, region[0], value=1).signal == "SIGBUS"
    assert uffd.events() == []
    assert region.marked_pages() == {0, 1}
    uffd.set_mode(enable=RWP_ASYNC)
    passing = subject.actor().access(access, region[0], value=1)
    assert passing.done
    assert passing.signal is None
    assert region.marked_pages() == {1}


@contract("F5", "F6")
@pytest.mark.needs("rwp_async", "pagemap_scan", "page_accessed")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("how", ["user_mode_only", "sigbus"])
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_kernels_access(subject: Subject, kind: str, how: str) -> None:
    """The kernel's read of a protected page is EFAULT for a USER_MODE_ONLY or SIGBUS descriptor, and lifts nothing.

    In async mode it passes and makes the page ACCESSED. The kernel reads the argument of an ioctl, which is EINVAL
    once it is read. Source: handle_userfault(): FAULT_FLAG_USER; do_uffd_rwp(); I3.
    """
    region = subject.region(kind, 2).populate()
    wanted = RWP | Term(feature=Feature.SIGBUS if how == "sigbus" else 0)
    uffd = subject.uffd(wanted, user_mode_only=how == "user_mode_only")
    uffd.register(region, RWP)
    uffd.protect(region)
    read_by_kernel = ops.raw_ioctl("PAGEMAP_SCAN", region[1])
    assert answers(subject, [read_by_kernel]) == ["EFAULT"]
    assert region.marked_pages() == {0, 1}
    if how == "user_mode_only":
        assert subject.actor().read(region[0]).blocked
    assert len(uffd.events()) == (1 if how == "user_mode_only" else 0)
    uffd.set_mode(enable=RWP_ASYNC)
    uffd.protect(region)
    assert answers(subject, [read_by_kernel]) == ["EINVAL"]
    assert 1 in region.accessed_pages()


@contract("F7", "G1")
@pytest.mark.control("invert_marker", "skip_protect")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_inaccessible_mapping(subject: Subject, kind: str) -> None:
    """Under PROT_NONE an access to an armed page is SIGSEGV, without a message; made accessible, it still traps.

    Source: access_error() before any RWP fault; change_pte_range() keeps the marker across mprotect().
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=2)
    uffd.protect(region[:1])
    region.mprotect(0)
    assert subject.actor().read(region[0]).signal == "SIGSEGV"
    assert uffd.events() == []
    assert region.marked_pages() == {0}
    region.mprotect(PROT_READ_WRITE)
    assert region.marked_pages() == {0}
    assert subject.actor().read(region[0]).blocked
    assert subject.actor().rmw(region[1], 0).done


# Permissions that the mapping goes through, one after the other: every way from one to another, there and back.
READ, READ_WRITE = 1, 3
WAY = [READ, READ_WRITE, 0, READ_WRITE, READ, 0, READ, READ_WRITE]


@contract("G1")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("part", [slice(0, 4), slice(2, 3)], ids=["whole", "one-page"])
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_mprotect_keeps_the_trap(subject: Subject, kind: str, part: slice) -> None:
    """However the permissions go, of the whole mapping or of one page, an armed page is armed, and no other is.

    Looked at after each step; at the end the armed page traps, the others do not, and no byte has changed.
    Source: change_pte_range() and hugetlb_change_protection(): "mprotect any way: armed stays armed"; I2, I5.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=4)
    uffd.protect(region[1:3])
    changed, grains = region[part], region.page_size // PAGEMAP_GRAIN
    look = ops.pagemap(region.addr, len(region) * grains)
    steps = [op for prot in WAY for op in (ops.mprotect(changed.addr, changed.length, prot), look)]
    seen = [
        [bool(int(entry, 16) & PAGEMAP_UFFD_BIT) for entry in answer.entries[::grains]]
        for answer in subject.batch(*steps)[1::2]
    ]
    assert seen == [[False, True, True, False]] * len(WAY)
    assert subject.actor().touch("read", region, [0, 3]).done
    assert subject.actor().read(region[2]).blocked
    assert uffd.events() == [Fault(region[2], RWP)]
    uffd.resolve(region)
    assert region.changed_pages() == set()


@contract("G1")
@pytest.mark.needs("thp")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("way", [[READ], [READ, READ_WRITE], [0, READ_WRITE]], ids=["read", "read-back", "none-back"])
def test_mprotect_keeps_the_trap_of_a_huge_page(subject: Subject, way: list[int]) -> None:
    """An armed huge page that mprotect leaves whole traps an access; its marker alone does not say so.

    Source: change_huge_pmd(): "preserve RWP protection across mprotect()"; I2, I3.
    """
    region = huge(subject)
    uffd = subject.uffd(RWP)
    uffd.register(region, RWP)
    uffd.protect(region)
    for prot in way:
        region.mprotect(prot)
    assert [(start, end) for start, end, _ in subject.pagemap_scan(region, Page.HUGE)] == [(region.addr, region.end)]
    assert subject.actor().read(region[7]).blocked
    assert uffd.events() == [Fault(region[7], RWP)]


@contract("D1")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(
    ("kind", "how"),
    [
        ("anon", "DONTNEED"),  # and no punch_hole: it has no file
        ("shmem", "DONTNEED"),
        ("shmem", "punch_hole"),
        pytest.param("hugetlb", "DONTNEED", marks=pytest.mark.needs("hugetlb")),
        pytest.param("hugetlb", "punch_hole", marks=pytest.mark.needs("hugetlb")),
    ],
)
def test_dropped_page_loses_its_marker(subject: Subject, kind: str, how: str) -> None:
    """A page dropped by user space has no marker and its next access does not trap; the page beside it keeps its own.

    Source: userfaultfd.rst, "RWP protection is a property of present PTEs"; zap_pte_range() leaves no RWP marker.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=2)
    uffd.protect(region)
    assert region.marked_pages() == {0, 1}
    if how == "punch_hole":
        region.punch_hole(region[:1])
    else:
        region.madvise(how, region[:1])
    assert region.marked_pages() == {1}
    assert subject.actor().write(region[0], 1).done
    assert uffd.events() == []
    assert subject.actor().read(region[1]).blocked


@contract("X1", "X2", "I7")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_fill_with_mode_wp(subject: Subject, kind: str) -> None:
    """COPY and CONTINUE with their MODE_WP are EINVAL in an RWP range, and leave the hole empty.

    Source: mfill_get_vma(): "don't allow a wrprotect copy if the userfaultfd didn't register as WP"; I7.
    """
    region = subject.region(kind, 2)
    region.populate(pages=slice(0, 2))
    uffd = subject.uffd(RWP)
    uffd.register(region, RWP | MISSING)
    uffd.protect(region[1:])
    u, size = uffd.handle, region.page_size
    hole = subject.region(kind, 1)
    uffd.register(hole, RWP | MISSING)
    rows = {
        "COPY": (ops.copy(u, hole[0], size, COPY_WP, seed=1), "EINVAL"),
        "COPY onto a page": (ops.copy(u, region[0], size, COPY_WP, seed=1), "EINVAL"),
    }
    if kind != "anon":
        second = subject.region(kind, 1)
        second.alias().populate()
        uffd.register(second, RWP | MINOR)
        rows["CONTINUE"] = (ops.fill("continue", u, second[0], size, CONTINUE_WP), "EINVAL")
    check_refusals(subject, region, uffd, rows)


@contract("X3")
@pytest.mark.control("invert_marker", "hide_accessed")
@pytest.mark.needs("rwp_async", "pagemap_scan", "page_accessed")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_filled_pages_are_unarmed(subject: Subject, kind: str) -> None:
    """COPY and ZEROPAGE into a hole of a protected range install a page without marker, which is ACCESSED.

    Source: mfill_atomic_install_pte() knows UFFDIO_COPY_MODE_WP only.
    """
    region = subject.region(kind, 3).populate(pages=slice(0, 1))
    uffd = subject.uffd(features("rwp", "async", kind))
    uffd.register(region, RWP | MISSING)
    uffd.protect(region)
    uffd.copy(region[1:2], seed=7)
    if kind != "hugetlb":
        subject.call(ops.fill("zeropage", uffd.handle, region[2], region.page_size))
    filled = {1} if kind == "hugetlb" else {1, 2}
    assert region.marked_pages() == {0}
    assert region.accessed_pages() == filled
    assert region.changed_pages(7, slice(1, 2)) == set()


@contract("X4")
@pytest.mark.control("invert_marker", "hide_accessed")
@pytest.mark.needs("rwp_async", "minor_shmem", "minor_hugetlb", "pagemap_scan", "page_accessed")
@pytest.mark.parametrize("kind", FILE_KINDS)
def test_continued_pages_are_unarmed(subject: Subject, kind: str) -> None:
    """CONTINUE maps the page that another mapping filled, without marker and ACCESSED.

    Source: mfill_atomic_install_pte(); hugetlb_mfill_atomic_pte().
    """
    region = subject.region(kind, 2)
    region.alias().populate()
    uffd = subject.uffd(RWP | RWP_ASYNC)
    uffd.register(region, RWP | MINOR)
    uffd.protect(region)
    subject.call(ops.fill("continue", uffd.handle, region[1], region.page_size))
    assert region.marked_pages() == set()
    assert region.accessed_pages() == {1}


@contract("X6")
@pytest.mark.needs("poison")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_poisoned_page_raises_sigbus(subject: Subject, kind: str) -> None:
    """POISON into a hole of a protected range: an access there raises SIGBUS and sends nothing; the rest traps still.

    Source: "this just simulates hardware memory failures" (UFFDIO_POISON in ioctl_userfaultfd(2)); PTE_MARKER_POISONED.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=2, populated=slice(0, 1))
    uffd.protect(region)
    subject.call(ops.fill("poison", uffd.handle, region[1], region.page_size))
    uffd.protect(region)
    assert region.marked_pages() == {0}
    assert [subject.actor().access(how, region[1], 0).signal for how in ("read", "write")] == ["SIGBUS"] * 2
    assert uffd.events() == []
    assert subject.actor().read(region[0]).blocked


@contract("X5")
@pytest.mark.needs("move")
@pytest.mark.control("invert_marker")
@pytest.mark.parametrize("armed", [False, True], ids=["source_free", "source_armed"])
def test_moved_page_is_armed(subject: Subject, armed: bool) -> None:
    """MOVE into an RWP range arms the page that comes, whether it was armed where it came from, and keeps its bytes.

    Source: move_present_ptes(): re-arm where the destination is registered for RWP; I5.
    """
    source, target = subject.region("anon", 1).populate(), subject.region("anon", 2)
    uffd = subject.uffd(RWP)
    uffd.register(target, RWP | MISSING)
    if armed:
        uffd.register(source, RWP)
        uffd.protect(source)
    subject.call(ops.move(uffd.handle, target[1], source[0], source.length))
    assert target.marked_pages() == {1}
    assert source.marked_pages() == set()
    reader = subject.actor().read(target[1])
    assert reader.blocked
    uffd.resolve(target)
    assert reader.done
    assert target.changed_pages(1, slice(1, 2)) == set()
