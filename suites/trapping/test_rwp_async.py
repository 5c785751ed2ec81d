"""RWP with UFFD_FEATURE_RWP_ASYNC: accesses go on by themselves and leave PAGE_IS_ACCESSED behind.

Source: Documentation/admin-guide/mm/userfaultfd.rst, "Fault Handling" and "Working-set detection with PAGEMAP_SCAN";
pagemap_page_category() in fs/proc/task_mmu.c; invariants I2 to I5 of the UAPI contract.
"""

from __future__ import annotations

import pytest

from kselftests_py.lab import RWP_ASYNC, Subject
from kselftests_py.lab.cases import KINDS, track

pytestmark = pytest.mark.needs("rwp", "rwp_async", "pagemap_scan", "page_accessed")

TOUCHED = [1, 4, 5]


@pytest.mark.contract("F8", "I3", "I4", "S3")
@pytest.mark.control("skip_protect", "touch_neighbour", "hide_accessed")
@pytest.mark.parametrize("access", ["read", "write", "rmw"])
@pytest.mark.parametrize("kind", KINDS)
def test_exactly_the_touched_pages_become_accessed(subject: Subject, kind: str, access: str) -> None:
    """Touched pages, and no others, are PAGE_IS_ACCESSED and lose their marker; no thread blocks, no message is sent.

    Source: "the kernel automatically restores PTE permissions and the thread continues without blocking. No message
    is delivered" (userfaultfd.rst); I2, I3, I4.
    """
    region, uffd = track(subject, kind, "rwp", "async", pages=8)
    uffd.protect(region)
    assert region.accessed_pages() == set()
    ticket = subject.actor().touch(access, region, TOUCHED, value=1)
    assert not ticket.blocked
    assert ticket.done
    assert region.accessed_pages() == set(TOUCHED)
    assert region.marked_pages() == set(range(8)) - set(TOUCHED)
    assert uffd.events() == []


@pytest.mark.contract("I5")
@pytest.mark.control("skip_protect", "corrupt_protect")
@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("kind", KINDS)
def test_tracking_keeps_every_byte(subject: Subject, kind: str, access: str) -> None:
    """Protected pages that are read hold what they held; what is written while protected is there afterwards.

    Source: I5 of the UAPI contract; do_uffd_rwp() in mm/memory.c.
    """
    region, uffd = track(subject, kind, "rwp", "async", pages=4)
    there = [subject.peek(address) for address in region]
    uffd.protect(region)
    assert region.marked_pages() == {0, 1, 2, 3}
    actor = subject.actor()
    if access == "write":
        assert actor.write(region[1], 0x5EED).done
        assert actor.read(region[1]).value == 0x5EED
        assert actor.rmw(region[2], 0).done
    else:
        assert [actor.read(address).value for address in region] == there
    assert region.changed_pages() == ({1} if access == "write" else set())


@pytest.mark.contract("I4", "S5")
@pytest.mark.control("skip_protect", "touch_neighbour", "hide_accessed")
@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("kind", KINDS)
def test_holes_are_not_accessed_until_they_are_touched(subject: Subject, kind: str, access: str) -> None:
    """An unpopulated page is not PAGE_IS_ACCESSED; touched, it is, and its neighbours still are not.

    Source: "unpopulated holes carry neither bit and are excluded on their own" (userfaultfd.rst); pte_none() in
    pagemap_page_category(); I4.
    """
    region, uffd = track(subject, kind, "rwp", "async", pages=6, populated=slice(0, 2))
    region.populate(pages=slice(4, 5))
    uffd.protect(region)
    assert region.accessed_pages() == set()
    assert subject.actor().access(access, region[3], value=1).done
    assert region.accessed_pages() == {3}


@pytest.mark.control("skip_protect", "hide_accessed")
@pytest.mark.parametrize("kind", KINDS)
def test_protecting_again_starts_a_new_interval(subject: Subject, kind: str) -> None:
    """UFFDIO_RWPROTECT makes accessed pages untouched again: the next scan reports the next interval's accesses only.

    Source: the tracking loop of userfaultfd.rst; I3, I4, I8.
    """
    region, uffd = track(subject, kind, "rwp", "async", pages=4)
    actor = subject.actor()
    for touched in ([0, 1], [1, 3]):
        uffd.protect(region)
        assert actor.touch("read", region, touched).done
        assert region.accessed_pages() == set(touched)


@pytest.mark.contract("F1", "I3")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("kind", KINDS)
def test_set_mode_switches_between_passing_and_blocking(subject: Subject, kind: str, access: str) -> None:
    """After SET_MODE disables RWP_ASYNC an access blocks; what was accessed before stays accessed and does not block.

    Source: userfaultfd.rst, Runtime Mode Switching; userfaultfd_set_mode() in mm/userfaultfd.c; I3.
    """
    region, uffd = track(subject, kind, "rwp", "async", pages=3)
    uffd.protect(region)
    actor = subject.actor()
    assert actor.access(access, region[0], value=1).done
    uffd.set_mode(disable=RWP_ASYNC)
    assert region.accessed_pages() == {0}
    assert actor.access(access, region[0], value=1).done
    assert actor.access(access, region[2], value=1).blocked
    assert region.accessed_pages() == {0}
