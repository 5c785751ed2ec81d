"""Write protection, the counterpart of RWP that older kernels have: writes are trapped, reads are not.

Source: Documentation/admin-guide/mm/userfaultfd.rst, "Write Protect Notifications", and
Documentation/admin-guide/mm/pagemap.rst (PAGE_IS_WRITTEN); handle_userfault() and userfaultfd_writeprotect().
"""

from __future__ import annotations

import pytest

from kselftests_py.lab import WP, WRITE, Fault, Subject
from kselftests_py.lab.cases import FILE_KINDS, KINDS, track

pytestmark = pytest.mark.needs("wp", "wp_shmem")

on_scan = pytest.mark.needs("wp_async", "pagemap_scan")


@pytest.mark.control("skip_protect", "flip_write_flag", "wrong_address", "duplicate_event", "lose_wake")
@pytest.mark.parametrize("access", ["write", "rmw"])
@pytest.mark.parametrize("kind", KINDS)
def test_write_is_trapped_exactly_once(subject: Subject, kind: str, access: str) -> None:
    """A write to a protected page blocks and sends one message, WP|WRITE at this page; resolving wakes the writer.

    Source: userfaultfd.rst ("pagefault.flags within the uffd_msg UFFD_PAGEFAULT_FLAG_WP"); userfault_msg().
    """
    region, uffd = track(subject, kind, "wp", "sync", pages=4)
    uffd.protect(region)
    actor = subject.actor()
    first = actor.access(access, region[1], value=1)
    assert first.blocked
    assert uffd.events() == [Fault(region[1], WP | WRITE)]
    uffd.resolve(region[2])
    assert first.blocked
    uffd.resolve(region[1])
    assert first.done
    assert actor.access(access, region[1], value=1).done
    assert uffd.events() == []
    assert region.marked_pages() == {0, 3}


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", KINDS)
def test_read_is_not_trapped(subject: Subject, kind: str) -> None:
    """Reads of protected pages neither block nor send a message nor lift the protection: wp-only cannot see them.

    This is the measured difference to RWP. Source: userfaultfd.rst, Write Protect Notifications; do_wp_page().
    """
    region, uffd = track(subject, kind, "wp", "sync", pages=4)
    there = [subject.peek(address) for address in region]
    uffd.protect(region)
    reader = subject.actor()
    assert [reader.read(address).value for address in region] == there
    assert uffd.events() == []
    assert region.marked_pages() == {0, 1, 2, 3}
    assert subject.actor().write(region[3], 1).blocked


@pytest.mark.control("skip_protect", "corrupt", "corrupt_protect")
@pytest.mark.parametrize("kind", KINDS)
def test_protecting_and_resolving_keep_every_byte(subject: Subject, kind: str) -> None:
    """Protecting, trapping an addition of 0, and resolving change no byte of any page.

    Source: I5 of the UAPI contract; userfaultfd_writeprotect().
    """
    region, uffd = track(subject, kind, "wp", "sync", pages=4)
    uffd.protect(region)
    ticket = subject.actor().rmw(region[1], 0)
    assert ticket.blocked
    uffd.resolve(region[1])
    uffd.resolve(region)
    assert ticket.done
    assert region.changed_pages() == set()


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(("kind", "trapped"), [("anon", False), ("shmem", True), ("tmpfs", True)])
def test_unpopulated_page_is_trapped_on_files_only(subject: Subject, kind: str, trapped: bool) -> None:
    """Protecting arms holes of file-backed memory and, without UFFD_FEATURE_WP_UNPOPULATED, ignores anonymous ones.

    Source: "none ptes will be write protected just like a present pte" (userfaultfd.rst); uffd_wp markers.
    """
    region, uffd = track(subject, kind, "wp", "sync", pages=3, populated=slice(0, 1))
    uffd.protect(region)
    assert subject.actor().write(region[1], 1).blocked == trapped
    assert subject.actor().write(region[0], 1).blocked


@on_scan
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("access", ["write", "rmw"])
@pytest.mark.parametrize("kind", KINDS)
def test_async_marks_exactly_the_written_pages(subject: Subject, kind: str, access: str) -> None:
    """With WP_ASYNC the written pages, and no others, are PAGE_IS_WRITTEN; reads leave no trace; nothing blocks.

    Source: pagemap.rst ("written to since it was write-protected"); pagemap_page_category() in fs/proc/task_mmu.c.
    """
    region, uffd = track(subject, kind, "wp", "async", pages=8)
    uffd.protect(region)
    assert region.written_pages() == set()
    actor = subject.actor()
    assert actor.touch("read", region, [0, 1, 6]).done
    assert region.written_pages() == set()
    assert actor.touch(access, region, [1, 4, 5], value=1).done
    assert region.written_pages() == {1, 4, 5}
    assert region.marked_pages() == {0, 2, 3, 6, 7}
    assert uffd.events() == []


@on_scan
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", KINDS)
def test_async_holes_are_written_only_once_written(subject: Subject, kind: str) -> None:
    """WP_ASYNC arms holes as well (it implies WP_UNPOPULATED): they are PAGE_IS_WRITTEN once written, not before.

    Source: pagemap.rst, dirty tracking, steps 2 to 5; "WP_ASYNC relies on WP_UNPOPULATED" in userfaultfd_api().
    """
    region, uffd = track(subject, kind, "wp", "async", pages=4, populated=slice(0, 1))
    uffd.protect(region)
    assert region.written_pages() == set()
    assert subject.actor().write(region[2], 1).done
    assert region.written_pages() == {2}


@on_scan
@pytest.mark.control("skip_protect", "corrupt_protect")
@pytest.mark.parametrize("kind", KINDS)
def test_async_tracking_keeps_every_byte(subject: Subject, kind: str) -> None:
    """What is written to a protected page is there afterwards, and everything else is as it was.

    Source: I5 of the UAPI contract.
    """
    region, uffd = track(subject, kind, "wp", "async", pages=4)
    uffd.protect(region)
    assert region.marked_pages() == {0, 1, 2, 3}
    actor = subject.actor()
    assert actor.write(region[1], 0x5EED).done
    assert actor.read(region[1]).value == 0x5EED
    assert actor.rmw(region[2], 0).done
    assert region.changed_pages() == {1}


@on_scan
@pytest.mark.finding("F028")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", FILE_KINDS)
def test_removed_page_is_written(subject: Subject, kind: str) -> None:
    """MADV_REMOVE changes a protected page, so PAGEMAP_SCAN calls it written; the others are as they were.

    Source: userfaultfd.rst ("MADV_REMOVE on a file mapping" is "dirtying of memory by dropping the uffd bit").
    """
    region, uffd = track(subject, kind, "wp", "async", pages=3)
    uffd.protect(region)
    assert region.written_pages() == set(), "set-up: nothing is protected"
    region.madvise("REMOVE", region[1:2])
    assert subject.peek(region[1]) == 0, "set-up: the page was not removed"
    assert region.written_pages() == {1}
    assert region.marked_pages() == {0, 2}
