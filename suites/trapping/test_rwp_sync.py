"""RWP with UFFD_FEATURE_RWP alone: every access to a protected page blocks its thread and sends one message.

Source: Documentation/admin-guide/mm/userfaultfd.rst, "Read-Write Protection"; do_uffd_rwp() and
userfaultfd_rwprotect() of the kernel; invariants I1 to I5 of the UAPI contract.
"""

from __future__ import annotations

import pytest

from kselftests_py.lab import RWP, WRITE, Fault, Subject, Term
from kselftests_py.lab.cases import FILE_KINDS, KINDS, track

pytestmark = pytest.mark.needs("rwp")

ACCESSES = [("read", RWP), ("write", RWP | WRITE), ("rmw", RWP | WRITE)]


@pytest.mark.contract("F1", "I2", "I3")
@pytest.mark.control("skip_protect", "flip_write_flag", "wrong_address", "duplicate_event", "touch_neighbour")
@pytest.mark.parametrize(("access", "flags"), ACCESSES, ids=[name for name, _ in ACCESSES])
@pytest.mark.parametrize("kind", KINDS)
def test_access_is_trapped_exactly_once(subject: Subject, kind: str, access: str, flags: Term) -> None:
    """An access to a protected page sends one message: this page's address, RWP, and WRITE only if it writes.

    Nothing else is trapped by it, and the page traps no more once it is resolved.
    Source: userfault_msg() and handle_userfault() in mm/userfaultfd.c; I2, I3.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=4)
    uffd.protect(region)
    actor = subject.actor()
    first = actor.access(access, region[1], value=1)
    assert first.blocked
    assert uffd.events() == [Fault(region[1], flags)]
    uffd.resolve(region[1])
    assert first.done
    again = actor.access(access, region[1], value=1)
    assert not again.blocked
    assert again.done
    assert uffd.events() == []
    assert region.marked_pages() == {0, 2, 3}


@pytest.mark.control("skip_protect", "lose_wake")
@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("kind", KINDS)
def test_thread_sleeps_until_its_page_is_resolved(subject: Subject, kind: str, access: str) -> None:
    """The thread stays blocked while another page is resolved, and runs again once its own is; the access then counts.

    Source: "which restores the PTE permissions and wakes the faulting thread" (userfaultfd.rst, Fault Handling); I1.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=3)
    before = subject.peek(region[1])
    uffd.protect(region)
    ticket = subject.actor().access(access, region[1], value=0x5EED)
    assert ticket.blocked
    uffd.resolve(region[2])
    assert ticket.blocked
    uffd.resolve(region[1])
    assert ticket.done
    if access == "read":
        assert ticket.value == before
    assert subject.actor().read(region[1]).value == (0x5EED if access == "write" else before)


@pytest.mark.contract("I5")
@pytest.mark.control("skip_protect", "corrupt", "corrupt_protect")
@pytest.mark.parametrize("access", ["read", "rmw"])
@pytest.mark.parametrize("kind", KINDS)
def test_protecting_and_resolving_keep_every_byte(subject: Subject, kind: str, access: str) -> None:
    """Protecting, trapping and resolving change no byte of any page; an addition of 0 changes nothing either.

    Source: "Pages stay resident and their physical frames are preserved" (userfaultfd.rst, Protecting); I5.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=4)
    uffd.protect(region)
    ticket = subject.actor().access(access, region[1], value=0)
    assert ticket.blocked
    uffd.resolve(region[1])
    uffd.resolve(region)
    assert ticket.done
    assert region.changed_pages() == set()


@pytest.mark.contract("P14")
@pytest.mark.control("skip_protect", "touch_neighbour")
@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("kind", KINDS)
def test_unpopulated_page_is_not_trapped(subject: Subject, kind: str, access: str) -> None:
    """Protecting does not touch a page that is not there: its first access populates it, untrapped.

    Source: "RWP protection is a property of *present* PTEs" (userfaultfd.rst, Scope of protection); I2.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=4, populated=slice(0, 1))
    region.populate(pages=slice(2, 3))
    uffd.protect(region)
    assert region.marked_pages() == {0, 2}
    hole = subject.actor().access(access, region[1], value=1)
    assert not hole.blocked
    assert hole.done
    assert uffd.events() == []
    assert subject.actor().access(access, region[2], value=1).blocked
    assert region.marked_pages() == {0, 2}


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("access", ["read", "write"])
@pytest.mark.parametrize("kind", FILE_KINDS)
def test_second_mapping_of_the_memory_is_not_trapped(subject: Subject, kind: str, access: str) -> None:
    """Protection is one mapping's: the VMM reads and writes the same page through another while vCPUs would block.

    Source: userfaultfd.rst, VMM Working Set Tracking Workflow ("Reading io_mem does not go through the RWP-protected
    PTEs"); pagemap of the second mapping has no marker outside every uffd range (I2).
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=2)
    io_mem = region.alias()
    uffd.protect(region)
    through_io_mem = subject.actor().access(access, io_mem[1], value=1)
    assert not through_io_mem.blocked
    assert through_io_mem.done
    assert uffd.events() == []
    assert io_mem.marked_pages() == set()
    assert subject.actor().access(access, region[1], value=1).blocked
