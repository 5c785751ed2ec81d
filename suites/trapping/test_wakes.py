"""Nobody sleeps for nothing: a thread blocked on a protected page runs again however the protection ends (I1).

Source: invariant I1 of the UAPI contract; userfaultfd_unregister(), userfaultfd_release() and userfaultfd_set_mode()
in mm/userfaultfd.c; userfaultfd.rst, "Cleanup".
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kselftests_py.lab import RWP_ASYNC, Region, Subject, Uffd
from kselftests_py.lab.cases import KINDS, track

End = Callable[[Uffd, Region], None]


def unregister(uffd: Uffd, region: Region) -> None:
    uffd.unregister(region)


def close(uffd: Uffd, region: Region) -> None:
    uffd.close()


def resolve_range(uffd: Uffd, region: Region) -> None:
    uffd.resolve(region)


def set_mode_async(uffd: Uffd, region: Region) -> None:
    uffd.set_mode(enable=RWP_ASYNC)


RWP_NEEDS = pytest.mark.needs("rwp")
ASYNC_NEEDS = pytest.mark.needs("rwp", "rwp_async")
WP_NEEDS = pytest.mark.needs("wp", "wp_shmem")
# UFFDIO_UNREGISTER wakes nobody unless the range was registered for missing pages as well.
ASLEEP = pytest.mark.finding("F001")
ENDS_THAT_WAKE = [
    pytest.param("rwp", resolve_range, marks=RWP_NEEDS, id="rwp-resolve"),
    pytest.param("rwp", close, marks=RWP_NEEDS, id="rwp-close"),
    pytest.param("wp", resolve_range, marks=WP_NEEDS, id="wp-resolve"),
    pytest.param("wp", close, marks=WP_NEEDS, id="wp-close"),
]
ENDS_FOR_GOOD = [
    *ENDS_THAT_WAKE,
    pytest.param("rwp", unregister, marks=RWP_NEEDS, id="rwp-unregister"),
    pytest.param("wp", unregister, marks=WP_NEEDS, id="wp-unregister"),
]
ENDS = [
    *ENDS_THAT_WAKE,
    # In async mode the pages stay protected, but nobody waits for them any more.
    pytest.param("rwp", set_mode_async, marks=ASYNC_NEEDS, id="rwp-set_mode"),
    pytest.param("rwp", unregister, marks=[RWP_NEEDS, ASLEEP], id="rwp-unregister"),
    pytest.param("wp", unregister, marks=[WP_NEEDS, ASLEEP], id="wp-unregister"),
]


@pytest.mark.contract("I1", "M8", "P16", "U10")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(("protection", "end"), ENDS)
@pytest.mark.parametrize("kind", KINDS)
def test_blocked_threads_run_again(subject: Subject, kind: str, protection: str, end: End) -> None:
    """Two threads blocked on two pages, one message read and one not, both complete once the protection ends.

    Source: I1; handle_userfault() waits on two queues, for messages unread and read.
    """
    region, uffd = track(subject, kind, protection, "sync", pages=3)
    uffd.protect(region)
    seen = subject.actor().write(region[0], 1)
    assert seen.blocked
    uffd.next_fault()
    unseen = subject.actor().write(region[2], 2)
    assert unseen.blocked
    end(uffd, region)
    # Whoever is woken is awake when the call returns: one that still sleeps in its fault will not wake.
    assert not seen.blocked
    assert not unseen.blocked
    assert seen.done
    assert unseen.done
    reader = subject.actor()
    assert [reader.read(region[0]).value, reader.read(region[2]).value] == [1, 2]


@pytest.mark.contract("I2", "U10")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(("protection", "end"), ENDS_FOR_GOOD)
@pytest.mark.parametrize("kind", KINDS)
def test_no_marker_is_left_behind(subject: Subject, kind: str, protection: str, end: End) -> None:
    """Once the protection has ended, no page has the marker and every page is accessible, with its bytes unchanged.

    Source: "all PROT_NONE PTEs are automatically restored" (userfaultfd.rst, Cleanup); I2, I5.
    """
    region, uffd = track(subject, kind, protection, "sync", pages=3)
    uffd.protect(region)
    assert region.marked_pages() == {0, 1, 2}
    end(uffd, region)
    assert region.marked_pages() == set()
    assert region.changed_pages() == set()
    assert subject.actor().touch("rmw", region, [0, 1, 2], value=0).done
