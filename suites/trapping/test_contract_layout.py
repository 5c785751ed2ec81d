"""fork and mremap: who keeps the protection, and who is left alone.

Source: dup_userfaultfd(), mremap_userfaultfd_prep() in mm/userfaultfd.c; __copy_present_ptes() in mm/memory.c;
move_ptes() in mm/mremap.c; contract.toml, K1 to K4 and V1 to V2.
"""

from __future__ import annotations

from dataclasses import replace

import pytest

from kselftests_py.lab import RWP, WRITE, Fault, Feature, Page, Region, Subject, Uffd, ops
from kselftests_py.lab.cases import DISTINCT_KINDS, track

pytestmark = pytest.mark.needs("rwp")

contract = pytest.mark.contract
MAYMOVE_FIXED = 3


@contract("K1", "I6")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_fork_without_event(subject: Subject, kind: str) -> None:
    """The child's pages have no marker, trap nothing and hold what they held; the parent's stay armed.

    Source: dup_userfaultfd() resets the child's VMAs; __copy_present_ptes(): "Child is not RWP-armed"; I2, I5, I6.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=3)
    uffd.protect(region[:2])
    child, _ = subject.fork()
    with child:
        theirs = replace(region, subject=child)
        assert theirs.marked_pages() == set()
        assert child.actor().touch("rmw", theirs, range(3), value=0).done
        assert theirs.changed_pages() == set()
    assert uffd.events() == []
    assert region.marked_pages() == {0, 1}
    assert subject.actor().read(region[1]).blocked


@contract("K2", "K3")
@pytest.mark.needs("event_fork")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_fork_with_event(subject: Subject, kind: str) -> None:
    """With EVENT_FORK the child's pages have the markers and trap, to a descriptor of their own; both sides resolve.

    Source: dup_userfaultfd() and dup_fctx(); __copy_present_ptes(): "Restore PAGE_NONE so the RWP marker keeps
    trapping"; VM_COPY_ON_FORK; I2, I5.
    """
    region, uffd = track(subject, kind, "rwp", "sync", 3, extra=Feature.EVENT_FORK)
    uffd.protect(region[:2])
    child, inherited = subject.fork(uffd)
    assert inherited is not None
    with child:
        theirs = replace(region, subject=child)
        assert theirs.marked_pages() == {0, 1}
        access = child.actor().write(theirs[1], 5)
        assert access.blocked
        assert inherited.events() == [Fault(theirs[1], RWP | WRITE)]
        assert uffd.events() == []
        inherited.rwprotect(theirs, 0)
        assert access.done
        assert theirs.marked_pages() == set()
        assert theirs.changed_pages() == {1}
    assert region.marked_pages() == {0, 1}
    reader = subject.actor().read(region[1])
    assert reader.blocked
    uffd.resolve(region)
    assert reader.done
    assert region.changed_pages() == (set() if kind == "anon" else {1})


@contract("M10")
@pytest.mark.needs("event_fork", "rwp_async")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("side", ["parent", "child"])
def test_set_mode_after_fork(subject: Subject, side: str) -> None:
    """A forked descriptor has a copy of the features: switching one side to async leaves the other in sync mode.

    Source: dup_userfaultfd(): ctx->features = octx->features.
    """
    region, uffd = track(subject, "anon", "rwp", "sync", 1, extra=Feature.EVENT_FORK)
    uffd.protect(region)
    child, inherited = subject.fork(uffd)
    assert inherited is not None
    with child:
        (uffd if side == "parent" else inherited).set_mode(enable=Feature.RWP_ASYNC)
        blocked = {"parent": subject.actor().read(region[0]).blocked, "child": child.actor().read(region[0]).blocked}
        assert blocked == {"parent": side == "child", "child": side == "parent"}


def moved(subject: Subject, region: Region, uffd: Uffd) -> Region:
    """*region* after mremap(2) to where another mapping was."""
    place = subject.region(region.kind, len(region))
    subject.call(ops.mremap(region.addr, region.length, region.length, MAYMOVE_FIXED, place.addr))
    return replace(region, addr=place.addr, handle=place.handle)


@contract("V1")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_mremap_with_event(subject: Subject, kind: str) -> None:
    """With EVENT_REMAP the markers move with the pages, and they trap at their new address, to the same descriptor.

    Source: mremap_userfaultfd_prep(); move_ptes(); I2, I5.
    """
    region, uffd = track(subject, kind, "rwp", "sync", 3, extra=Feature.EVENT_REMAP)
    uffd.protect(region[1:])
    there = moved(subject, region, uffd)
    uffd.events()
    assert there.marked_pages() == {1, 2}
    access = subject.actor().write(there[1], 5)
    assert access.blocked
    assert uffd.events() == [Fault(there[1], RWP | WRITE)]
    uffd.rwprotect(there, 0)
    assert access.done
    assert there.changed_pages() == {1}


@contract("V2")
@pytest.mark.control("invert_marker")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_mremap_without_event(subject: Subject, kind: str) -> None:
    """Without EVENT_REMAP the destination is not registered: no marker, no trap, every byte as it was.

    Source: move_ptes(): "RWP PTEs so the destination starts" accessible; userfaultfd.rst; I2, I5.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=3)
    uffd.protect(region[1:])
    there = moved(subject, region, uffd)
    assert there.marked_pages() == set()
    assert subject.actor().touch("rmw", there, range(3), value=0).done
    assert uffd.events() == []
    assert there.changed_pages() == set()


@contract("K1", "V3")
@pytest.mark.needs("swap")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("how", ["fork", "mremap"])
def test_swapped_pages_are_disarmed(subject: Subject, how: str) -> None:
    """Without the event, armed pages that are swapped out lose their marker on the other side, and come in untrapped.

    Source: copy_nonpresent_pte() in mm/memory.c; move_ptes() in mm/mremap.c; pte_swp_clear_uffd(); I2, I5.
    """
    region, uffd = track(subject, "anon", "rwp", "sync", pages=3)
    uffd.protect(region[1:])
    subject.call(ops.settle(region.addr))
    region.madvise("PAGEOUT")
    assert region.pages_with(Page.SWAPPED) == {0, 1, 2}
    assert region.marked_pages() == {1, 2}
    owner = subject.fork()[0] if how == "fork" else subject
    there = replace(region, subject=owner) if how == "fork" else moved(subject, region, uffd)
    assert there.marked_pages() == set()
    assert owner.actor().touch("rmw", there, range(3), value=0).done
    assert there.changed_pages() == set()
    assert uffd.events() == []
    if how == "fork":
        owner.end()
        assert region.marked_pages() == {1, 2}
        assert subject.actor().read(region[1]).blocked
