"""Two operations that meet: what was swapped, inaccessible, shared or huge when the other came (I2, I3, I4, I6).

``test_matrix.py`` has the operations one by one. Source of each: named in the test.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import pytest

from kselftests_py.lab import Fault, KernelRefused, Region, Subject, ops
from kselftests_py.lab.cases import DISTINCT_KINDS, HUGE, huge, track
from kselftests_py.lab.constants import MISSING, RWP, RWP_ASYNC, WRITE, Feature, Page

pytestmark = pytest.mark.needs("rwp")
contract = pytest.mark.contract
NONE, READ, READ_WRITE = 0, 1, 3
MAYMOVE_FIXED = 3


def paged_out(subject: Subject, region: Region) -> None:
    """Every page of the region is on swap."""
    subject.call(ops.settle(region.addr))
    region.madvise("PAGEOUT")
    assert region.pages_with(Page.SWAPPED) == set(range(len(region)))


@contract("I3", "P24")
@pytest.mark.needs("swap")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("how", ["read", "write", "rmw"])
def test_armed_while_swapped(subject: Subject, how: str) -> None:
    """A page that is on swap when it is protected traps when it comes in. Source: change_softleaf_pte(); I3."""
    region, uffd = track(subject, "anon", "rwp", "sync", pages=2)
    paged_out(subject, region)
    uffd.protect(region[:1])
    assert region.marked_pages() == {0}
    assert subject.actor().read(region[1]).done
    access = subject.actor().access(how, region[0], 0)
    assert access.blocked
    assert uffd.next_fault() == Fault(region[0], RWP if how == "read" else RWP | WRITE)
    uffd.resolve(region[:1])
    assert access.done


@contract("U7", "U10")
@pytest.mark.needs("swap")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("end", ["unregister", "close"])
@pytest.mark.parametrize("protection", ["rwp", pytest.param("wp", marks=pytest.mark.needs("wp"))])
def test_swapped_pages_are_restored(subject: Subject, protection: str, end: str) -> None:
    """Pages that are on swap when the protection ends have no marker then, nor when they come in: nothing traps.

    Source: userfaultfd_clear_vma(): MM_CP_UFFD_RWP_RESOLVE, MM_CP_UFFD_WP_RESOLVE; change_softleaf_pte(); I2, I5.
    """
    region, uffd = track(subject, "anon", protection, "sync", pages=3)
    uffd.protect(region[:2])
    paged_out(subject, region)
    assert region.marked_pages() == {0, 1}
    if end == "close":
        uffd.close()
    else:
        uffd.unregister(region)
    assert region.marked_pages() == set()
    assert subject.actor().touch("rmw", region, range(3), value=0).done
    assert region.marked_pages() == set()
    assert region.changed_pages() == set()


@contract("I3")
@pytest.mark.needs("swap")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("how", ["read", "write"])
def test_swapped_page_shared_with_a_child(subject: Subject, how: str) -> None:
    """A protected page that a child shares on swap traps in the parent, and the child sees nothing of its write.

    Source: do_swap_page(): an RWP-restored entry is not copied on write there; I3, I6.
    """
    region, uffd = track(subject, "anon", "rwp", "sync", pages=2)
    uffd.protect(region)
    paged_out(subject, region)
    child, _ = subject.fork()
    with child:
        access = subject.actor().access(how, region[0], 7)
        assert access.blocked
        assert region.marked_pages() == {0, 1}
        uffd.resolve(region)
        assert access.done
        assert replace(region, subject=child).changed_pages() == set()
    assert region.changed_pages() == ({0} if how == "write" else set())


@contract("I6")
@pytest.mark.needs("rwp_async")
@pytest.mark.control("corrupt_protect")
@pytest.mark.parametrize("kind", ["anon", "hugetlb_private", "thp"])
@pytest.mark.parametrize("state", ["armed", "resolved"])
def test_writes_after_fork_stay_apart(subject: Subject, kind: str, state: str) -> None:
    """After fork neither side sees the other's writes to private memory, armed or resolved when it forked.

    Source: __copy_present_ptes(): "Snapshot writability before the RWP-disarm rewrite"; do_uffd_rwp() makes writable
    only what can_change_pte_writable() allows; I6.
    """
    region = huge(subject) if kind == "thp" else subject.region(kind, 2).populate()
    uffd = subject.uffd(RWP | RWP_ASYNC)
    uffd.register(region, RWP)
    uffd.protect(region)
    if state == "resolved":
        assert subject.actor().touch("rmw", region, range(2), value=0).done
    child, _ = subject.fork()
    with child:
        theirs = replace(region, subject=child)
        assert subject.actor().write(region[0], 7).done
        assert child.actor().write(theirs[1], 9).done
        assert theirs.changed_pages() == {1}
        assert region.changed_pages() == {0}


@contract("I6", "K2")
@pytest.mark.needs("event_fork")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", ["anon", pytest.param("hugetlb_private", marks=pytest.mark.needs("hugetlb"))])
def test_writes_of_three_generations_stay_apart(subject: Subject, kind: str) -> None:
    """Of a process, its child and its grandchild, all protected by EVENT_FORK, none sees what the others write then.

    Source: copy_present_page(), hugetlb_wp(): a page that is shared after fork is copied for who writes; I6.
    """
    region, uffd = track(subject, kind, "rwp", "sync", 3, extra=Feature.EVENT_FORK)
    uffd.protect(region)
    child, first = subject.fork(uffd)
    assert first is not None
    with child:
        grandchild, new = subject.fork_of(child)
        with grandchild:
            sides = [(subject, uffd), (child, first), (grandchild, new[first.handle])]
            for page, (side, descriptor) in enumerate(sides):
                access = side.actor().write(region[page], 7)
                assert access.blocked
                descriptor.rwprotect(region, 0)
                assert access.done
            for page, (side, _) in enumerate(sides):
                assert replace(region, subject=side).changed_pages() == {page}


@contract("I3", "P18")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_armed_while_inaccessible(subject: Subject, kind: str) -> None:
    """Pages protected while mprotect had them inaccessible trap when they are accessible again.

    Source: change_pte_range(): "plain PROT_NONE from mprotect() still needs to be promoted"; I8.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=2)
    region.mprotect(NONE)
    uffd.protect(region[:1])
    region.mprotect(READ_WRITE)
    assert region.marked_pages() == {0}
    assert subject.actor().read(region[1]).done
    access = subject.actor().read(region[0])
    assert access.blocked
    uffd.resolve(region[:1])
    assert access.done


@contract("I8")
@pytest.mark.control("skip_protect")
def test_read_only_pages_are_armed(subject: Subject) -> None:
    """Pages that are mapped read-only, by mprotect or as the zero page, are protected like the others. Source: I8."""
    region, uffd = track(subject, "anon", "rwp", "sync", 3, populated=slice(0, 2))
    assert subject.actor().read(region[2]).done  # the zero page
    region.mprotect(READ)
    uffd.protect(region)
    assert region.marked_pages() == {0, 1, 2}
    for page in range(3):
        access = subject.actor().read(region[page])
        assert access.blocked
        uffd.resolve(region[page : page + 1])
        assert access.done


@contract("P1")
@pytest.mark.needs("event_fork")
@pytest.mark.control("swallow_errno")
def test_protecting_while_a_fork_waits(subject: Subject) -> None:
    """While a fork waits for its event to be read, UFFDIO_RWPROTECT is EAGAIN and changes nothing; then it works.

    Even with a pointer that would be EFAULT.

    Source: userfaultfd_rwprotect(), mrwprotect_range(): mmap_changing; UFFDIO_RWPROTECT of the UAPI contract.
    """
    region, uffd = track(subject, "anon", "rwp", "sync", 2, extra=Feature.EVENT_FORK)
    forker = subject.actor().access("fork", region[0], 0)
    assert uffd_waits(subject, uffd.handle)
    assert refusal(lambda: uffd.protect(region)) == "EAGAIN"
    assert refusal(lambda: subject.call(ops.raw_ioctl("UFFDIO_RWPROTECT", 0, uffd.handle))) == "EAGAIN"
    assert [event.name for event in uffd.events() if not isinstance(event, Fault)] == ["fork"]
    assert forker.done
    assert region.marked_pages() == set()
    uffd.protect(region)
    assert region.marked_pages() == {0, 1}


def refusal(call: Callable[[], object]) -> str:
    """The errno that the kernel refuses *call* with; empty if it does not."""
    try:
        call()
    except KernelRefused as refused:
        return refused.name
    return ""


def uffd_waits(subject: Subject, handle: int) -> bool:
    """A message is there to be read."""
    return bool(subject.call(ops.poll(handle, 2000)).revents & 1)


@contract("K2", "M10")
@pytest.mark.needs("event_fork", "rwp_async")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_child_of_an_async_descriptor(subject: Subject, kind: str) -> None:
    """With EVENT_FORK the child of an async descriptor is async too: protected, tracked, and never blocked.

    Source: dup_userfaultfd(): the child's context has the features of its parent's; VM_COPY_ON_FORK; I1, I3.
    """
    region, uffd = track(subject, kind, "rwp", "async", 2, extra=Feature.EVENT_FORK)
    uffd.protect(region)
    child, inherited = subject.fork(uffd)
    assert inherited is not None
    with child:
        theirs = replace(region, subject=child)
        assert theirs.accessed_pages() == set()
        assert child.actor().read(theirs[1]).done
        assert theirs.accessed_pages() == {1}
        assert theirs.marked_pages() == {0}


@contract("V2", "K1", "I2")
@pytest.mark.needs("thp")
@pytest.mark.control("invert_marker")
@pytest.mark.parametrize("how", ["fork", "mremap"])
def test_huge_page_leaves_the_range(subject: Subject, how: str) -> None:
    """A protected huge page has no marker and no trap where no userfaultfd is: in a child, or moved by mremap.

    Source: copy_huge_pmd(), move_huge_pmd(): clear_uffd_wp_pmd(); I2, I5.
    """
    region = huge(subject)
    uffd = subject.uffd(RWP)
    uffd.register(region, RWP)
    uffd.protect(region)
    assert len(region.marked_pages()) == HUGE
    if how == "fork":
        there = replace(region, subject=subject.fork()[0])
    else:
        place = subject.region("anon", HUGE)
        subject.call(ops.mremap(region.addr, region.length, region.length, MAYMOVE_FIXED, place.addr))
        there = replace(region, addr=place.addr, handle=place.handle)
    assert there.marked_pages() == set()
    assert there.subject.actor().touch("rmw", there, [0, 100, HUGE - 1], value=0).done
    assert uffd.events() == []
    assert there.changed_pages() == set()
    if how == "fork":
        there.subject.end()


@contract("I3")
@pytest.mark.needs("thp")
@pytest.mark.control("skip_protect", "invert_marker")
def test_huge_zero_page_is_split(subject: Subject) -> None:
    """The pages of a protected huge zero page stay protected when it is split. Source: __split_huge_zero_page_pmd()."""
    region = huge(subject, populate=False)
    uffd = subject.uffd(RWP)
    uffd.register(region, RWP)
    uffd.protect(region)
    region.mprotect(READ, region[:8])
    region.mprotect(READ_WRITE, region[:8])
    assert region.marked_pages() == set(range(HUGE))
    for page in (0, HUGE - 1):
        access = subject.actor().read(region[page])
        assert access.blocked
        uffd.resolve(region[page : page + 1])
        assert access.done


@contract("X5")
@pytest.mark.needs("move")
@pytest.mark.control("invert_marker")
@pytest.mark.parametrize(
    "what",
    [
        "zero",
        pytest.param("swapped", marks=pytest.mark.needs("swap")),
        pytest.param("huge", marks=pytest.mark.needs("thp")),
    ],
)
def test_moved_page_of_each_kind_is_armed(subject: Subject, what: str) -> None:
    """UFFDIO_MOVE into an RWP range arms the zero page, a page on swap and a huge page alike.

    Source: move_zeropage_pte(), move_swap_pte(), move_pages_huge_pmd(): "Re-arm RWP on the moved".
    """
    source = huge(subject) if what == "huge" else subject.region("anon", 1)
    target = subject.region("anon", len(source), thp="always" if what == "huge" else None)
    if what == "zero":
        assert subject.actor().read(source[0]).done
    elif what == "swapped":
        source.populate()
        paged_out(subject, source)
    uffd = subject.uffd(RWP)
    uffd.register(target, RWP | MISSING)
    subject.call(ops.move(uffd.handle, target[0], source[0], source.length))
    assert target.marked_pages() == set(range(len(target)))
    reader = subject.actor().read(target[0])
    assert reader.blocked
    uffd.resolve(target)
    assert reader.done
    assert target.changed_pages() == ({0} if what == "zero" else set())


@contract("I4")
@pytest.mark.needs("rwp_async")
@pytest.mark.control("hide_accessed")
@pytest.mark.parametrize("kind", ["shmem", "tmpfs"])
def test_cached_neighbours_stay_cold(subject: Subject, kind: str) -> None:
    """Reading one page of a file makes that page accessed, not its neighbours that are in the page cache already.

    Source: uffd_disable_fault_around() in include/linux/userfaultfd_k.h; I4.
    """
    written = subject.region(kind, 32).populate()
    region = written.alias()
    uffd = subject.uffd(RWP | RWP_ASYNC)
    uffd.register(region, RWP)
    assert subject.actor().read(region[9]).done
    assert region.accessed_pages() == {9}


@contract("I2", "I3")
@pytest.mark.control("skip_protect", "invert_marker")
def test_neighbour_of_what_is_moved_stays_registered(subject: Subject) -> None:
    """What mremap, without EVENT_REMAP, puts beside memory of the same descriptor does not take its registration away.

    Source: vma_merge_copied_range(): "If not registered for remap, uffd context will be cleared"; F027 (6.18); I2, I3.
    """
    region, uffd = track(subject, "anon", "rwp", "sync", 2, populated=slice(0, 1))
    moved = subject.region("anon", 1)  # not touched: only such a mapping merges wherever it is put
    uffd.register(moved, RWP)
    uffd.protect(region[:1])
    subject.call(ops.mremap(moved.addr, moved.length, moved.length, MAYMOVE_FIXED, region[1]))
    assert region.marked_pages() == {0}
    access = subject.actor().read(region[0])
    assert access.blocked
    assert uffd.next_fault() == Fault(region[0], RWP)
    uffd.resolve(region[:1])
    assert access.done
