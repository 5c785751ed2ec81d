"""UFFDIO_WRITEPROTECT and what belongs to it, refusal by refusal: wp-only users have it on kernels without RWP, too.

The counterpart of what ``test_contract_*.py`` say of RWP. Source: userfaultfd_writeprotect(), mwriteprotect_range(),
mfill_atomic_install_pte() and handle_userfault() in mm/userfaultfd.c; UFFDIO_WRITEPROTECT in ioctl_userfaultfd(2);
Documentation/admin-guide/mm/userfaultfd.rst, "Write Protect Notifications"; invariants I1, I2 and I7.
"""

from __future__ import annotations

from typing import Any

import pytest

from kselftests_py.lab import MINOR, MISSING, RWP, WP, WP_SHMEM, WRITE, Fault, Feature, ProtectMode, Subject, ops
from kselftests_py.lab.cases import DISTINCT_KINDS, check_woken_by_wake_alone, features, track
from kselftests_py.lab.ops import Op
from kselftests_py.lab.refusals import answers, check_refusals

pytestmark = pytest.mark.needs("wp", "wp_shmem")

PROTECT, DONTWAKE = int(ProtectMode.PROTECT), int(ProtectMode.DONTWAKE)
BEYOND = 1 << 62  # no address space is as large
PROT_READ = 1
COPY_WP = CONTINUE_WP = 1 << 1
WRITABLE_REQUESTS = ["UFFDIO_REGISTER", "UFFDIO_UNREGISTER", "UFFDIO_WAKE", "UFFDIO_COPY", "UFFDIO_WRITEPROTECT"]


def wp(handle: int, addr: int, length: int, mode: int = PROTECT) -> Op[Any]:
    return ops.protect("writeprotect", handle, addr, length, mode)


@pytest.mark.contract("W3", "W4", "W5", "I7")
@pytest.mark.control("swallow_errno", "partial", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_refusals(subject: Subject, kind: str) -> None:
    """Each bad call gets its errno and changes nothing: pages 0 to 2 are registered, 3 is not, nor the guard ahead.

    Source: userfaultfd_writeprotect(), userfaultfd_register(), userfaultfd_unregister(), in the order of their checks.
    """
    region = subject.region(kind, 4).populate()
    uffd = subject.uffd(WP | WP_SHMEM)
    uffd.register(region[:3], WP)
    uffd.protect(region[1:2])
    other, gone = subject.uffd(WP | WP_SHMEM).handle, subject.region("anon", 1)
    gone.unmap()
    never_writable = subject.region("shmem_read_only", 1, prot=PROT_READ)
    u, at, page, size = uffd.handle, region.addr, region.page_size, region.page_size * 3
    rows = {
        "a start inside a page": (wp(u, at + 8, size), "EINVAL"),
        "a length inside a page": (wp(u, at, size - 8), "EINVAL"),
        "no length": (wp(u, at, 0), "EINVAL"),
        "beyond the task": (wp(u, BEYOND, size), "EINVAL"),
        "an unknown bit": (wp(u, at, size, 1 << 2), "EINVAL"),
        "WP with DONTWAKE": (wp(u, at, size, PROTECT | DONTWAKE), "EINVAL"),
        "WP with DONTWAKE where nothing is": (wp(u, gone.addr, gone.length, PROTECT | DONTWAKE), "EINVAL"),
        "the unregistered page": (wp(u, region[3], page), "ENOENT"),
        "an unregistered mapping ahead": (wp(u, at - page, page * 2), "ENOENT"),
        "resolving the unregistered page": (wp(u, region[3], page, 0), "ENOENT"),
        "no mapping": (wp(u, gone.addr, gone.length), "ENOENT"),
        "RWP not negotiated": (ops.register(u, at, size, RWP.mode), "EINVAL"),
        "mode 0": (ops.register(u, at, size, 0), "EINVAL"),
        "never writable": (ops.register(u, never_writable.addr, never_writable.length, WP.mode), "EPERM"),
        "another's range": (ops.register(other, at, size, WP.mode), "EBUSY"),
        "mine, through another": (ops.unregister(other, at, size), "EINVAL"),
        "unregistering no length": (ops.unregister(u, at, 0), "EINVAL"),
    }
    rows |= {f"{name}, no struct": (ops.raw_ioctl(name, 0, u), "EFAULT") for name in WRITABLE_REQUESTS}
    if kind == "hugetlb":
        rows["half a huge page"] = (wp(u, at, 4096), "EINVAL")
        rows["from inside a huge page"] = (wp(u, at + 4096, page), "EINVAL")
        rows["resolving half a huge page"] = (wp(u, at, 4096, 0), "EINVAL")
    check_refusals(subject, region, uffd, rows)


@pytest.mark.contract("W2", "I7")
@pytest.mark.finding("F003")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_writeprotect_across_its_end(subject: Subject, kind: str) -> None:
    """UFFDIO_WRITEPROTECT that runs into memory without WP is ENOENT and has changed nothing.

    Source: mwriteprotect_range() protects VMA by VMA and has no pre-scan, unlike mrwprotect_range(); I7.
    """
    region = subject.region(kind, 3).populate()
    uffd = subject.uffd(WP | WP_SHMEM)
    uffd.register(region[:2], WP)
    uffd.protect(region[1:2])
    check_refusals(
        subject, region, uffd, {"into an unregistered page": (wp(uffd.handle, region.addr, region.length), "ENOENT")}
    )


@pytest.mark.contract("W6")
@pytest.mark.control("swallow_errno")
def test_process_is_gone(subject: Subject) -> None:
    """UFFDIO_WRITEPROTECT on the descriptor of a process that is gone is ESRCH, after its arguments were checked."""
    region, uffd = track(subject, "anon", "wp", "sync", pages=1)
    child, _ = subject.fork()
    subject.end()
    with child:
        calls = [wp(uffd.handle, region.addr, region.length, mode) for mode in (PROTECT, PROTECT | DONTWAKE)]
        assert answers(child, calls) == ["ESRCH", "EINVAL"]


@pytest.mark.contract("W7")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_who_is_woken(subject: Subject, kind: str) -> None:
    """Protecting again, and resolving with DONTWAKE, leave a waiter asleep; UFFDIO_WAKE wakes it.

    Source: the end of userfaultfd_writeprotect(). The page is free meanwhile: another thread writes to it.
    """
    region, uffd = track(subject, kind, "wp", "sync", pages=2)
    uffd.protect(region)
    waiter = subject.actor().write(region[0], 1)
    assert waiter.blocked
    assert uffd.events() == [Fault(region[0], WP | WRITE)]
    uffd.protect(region)
    assert waiter.blocked
    assert uffd.events() == []
    check_woken_by_wake_alone(subject, region, uffd, waiter)


@pytest.mark.contract("W8")
@pytest.mark.needs("exact_address", "thread_id")
@pytest.mark.control("wrong_address", "flip_write_flag")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_message_with_exact_address_and_thread(subject: Subject, kind: str) -> None:
    """With EXACT_ADDRESS and THREAD_ID a write's message has its own address and thread. Source: userfault_msg()."""
    region, uffd = track(subject, kind, "wp", "sync", 2, extra=Feature.EXACT_ADDRESS | Feature.THREAD_ID)
    uffd.protect(region)
    actor, inside = subject.actor(), region[1] + region.page_size - 0x1F8
    assert actor.write(inside, 1).blocked
    fault = uffd.next_fault()
    assert (fault, fault.tid) == (Fault(inside, WP | WRITE), actor.tid)


@pytest.mark.contract("W9")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_sigbus(subject: Subject, kind: str) -> None:
    """With UFFD_FEATURE_SIGBUS a write raises SIGBUS, sends nothing and lifts nothing; a read passes.

    Source: handle_userfault(): UFFD_FEATURE_SIGBUS.
    """
    region, uffd = track(subject, kind, "wp", "sync", 2, extra=Feature.SIGBUS)
    uffd.protect(region)
    assert subject.actor().write(region[0], 1).signal == "SIGBUS"
    assert subject.actor().read(region[0]).signal is None
    assert uffd.events() == []
    assert region.marked_pages() == {0, 1}


@pytest.mark.contract("W10")
@pytest.mark.needs("minor_shmem", "minor_hugetlb")
@pytest.mark.control("invert_marker")
@pytest.mark.parametrize("delivery", ["sync", pytest.param("async", marks=pytest.mark.needs("wp_async"))])
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_filled_pages_are_protected_if_asked(subject: Subject, kind: str, delivery: str) -> None:
    """COPY and CONTINUE with their MODE_WP install protected pages, without it, and ZEROPAGE, unprotected ones.

    Source: mfill_atomic_install_pte(): MFILL_ATOMIC_WP; "the caller can also specify UFFDIO_COPY_MODE_WP".
    """
    region = subject.region(kind, 3)
    uffd = subject.uffd(features("wp", delivery, kind))
    uffd.register(region, WP | MISSING)
    u, size = uffd.handle, region.page_size
    batch: list[Op[Any]] = [
        ops.copy(u, region[0], size, COPY_WP, seed=7),
        ops.copy(u, region[1], size, seed=7),
    ]
    if kind != "hugetlb":
        batch.append(ops.fill("zeropage", u, region[2], size))
    subject.batch(*batch)
    assert region.marked_pages() == {0}
    assert region.changed_pages(7, slice(0, 1)) == set()
    writer = subject.actor()
    assert writer.rmw(region[1], 0).done
    assert writer.rmw(region[0], 0).blocked == (delivery == "sync")
    if kind != "anon":
        there = subject.region(kind, 2)
        there.alias().populate()
        uffd.register(there, WP | MINOR)
        modes = [ops.fill("continue", u, at, size, mode) for at, mode in zip(there, (CONTINUE_WP, 0), strict=True)]
        subject.batch(*modes)
        assert there.marked_pages() == {0}
