"""Accesses by a vCPU: a real guest's reads, writes and fetches reach RWP through KVM's nested page tables.

KVM maps a page of the process for its guest once and then asks no more: a call that protects the page must take it
out of these tables too. Each test lets the vCPU touch its pages first, so that they are in the tables.
Source: userfaultfd.rst, "VMM Working Set Tracking Workflow"; hva_to_pfn() in virt/kvm/kvm_main.c, which faults the
page in for the guest; the mmu notifiers that change_protection() calls; Documentation/virt/kvm/api.rst.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import pytest

from kselftests_py.lab import (
    RWP,
    RWP_ASYNC,
    WP,
    WP_SHMEM,
    WRITE,
    Fault,
    Feature,
    Region,
    Subject,
    Term,
    Uffd,
    Vcpu,
    ops,
)
from kselftests_py.lab.constants import Page, ProtectMode
from kselftests_py.lab.ops import Op

pytestmark = [pytest.mark.needs("kvm"), pytest.mark.contract("I3")]

HUGETLB = pytest.param("hugetlb", marks=pytest.mark.needs("hugetlb"))
THP = pytest.param("thp", marks=pytest.mark.needs("thp"))
SMALL_KINDS = ["anon", "shmem"]
KINDS: list[Any] = [*SMALL_KINDS, THP, HUGETLB]
ACCESSES = [("read", RWP), ("write", RWP | WRITE), ("exec", RWP)]
PAGES = 4
THP_PAGES = 512  # of 4 KiB in a huge page
RETURN = 0xC3  # what a fetch executes
ROUNDS = 12
PROGRESS_MS = 10_000  # two accesses take no millisecond where the machine is idle


def guest(subject: Subject, kind: str) -> tuple[Region, Vcpu]:
    """Memory of *kind* whose first pages hold RETURN, and a vCPU that has them in its tables, as huge pages if so."""
    region = subject.region("anon", 2 * THP_PAGES, thp="always") if kind == "thp" else subject.region(kind, PAGES)
    *_, made, _, touched = subject.batch(
        ops.stamp(region.addr, len(region), region.page_size, 1),
        *[ops.poke(region[page], RETURN) for page in range(PAGES)],
        ops.actor(region.handle),
        ops.touch(None, "rmw", region.addr, region.page_size, list(range(PAGES)), 0),
        ops.ticket(None, "done"),
    )
    vcpu = Vcpu(subject, made)
    assert (touched.state, touched.exit) == ("done", None)
    assert bool(vcpu.mappings().huge) == (kind in ("thp", "hugetlb")), f"set-up: {kind} is mapped as {vcpu.mappings()}"
    return region, vcpu


def track(subject: Subject, region: Region, extra: Term | int = 0, user_mode_only: bool | None = None) -> Uffd:
    """A userfaultfd that *region* is registered with for RWP; nothing is protected yet."""
    wanted = RWP | (extra if isinstance(extra, Term) else Term(feature=extra))
    uffd = subject.uffd(wanted, user_mode_only=user_mode_only)
    uffd.register(region, RWP)
    return uffd


def protect(uffd: Uffd, region: Region, mode: int) -> Op[Any]:
    """UFFDIO_RWPROTECT of page 1."""
    return ops.protect("rwprotect", uffd.handle, region[1], region.page_size, mode)


def all_but(region: Region, *pages: int) -> set[int]:
    return set(range(len(region))) - set(pages)


@pytest.mark.contract("F1", "I2")
@pytest.mark.needs("rwp")
@pytest.mark.control(
    "skip_protect",
    "stale_tables",
    "flip_write_flag",
    "wrong_address",
    "duplicate_event",
    "touch_neighbour",
    "lose_wake",
)
@pytest.mark.parametrize(("access", "flags"), ACCESSES, ids=[name for name, _ in ACCESSES])
@pytest.mark.parametrize("kind", KINDS)
def test_access_is_trapped_exactly_once(subject: Subject, kind: str, access: str, flags: Term) -> None:
    """A vCPU's access to a protected page sends one message, RWP and WRITE only if it writes; resolved, it goes on.

    A fetch is told as a read. Its neighbours in a huge page stay protected. Source: as above; I2, I3.
    """
    region, vcpu = guest(subject, kind)
    uffd = track(subject, region)
    uffd.protect(region)
    first = vcpu.access(access, region[1], value=RETURN)
    assert first.blocked
    assert uffd.events() == [Fault(region[1], flags)]
    uffd.resolve(region[1])
    assert first.done
    assert vcpu.access(access, region[1], value=RETURN).done
    assert uffd.events() == []
    assert region.marked_pages() == all_but(region, 1)


@pytest.mark.contract("I5")
@pytest.mark.needs("rwp")
@pytest.mark.control("skip_protect", "stale_tables", "corrupt", "corrupt_protect")
@pytest.mark.parametrize("kind", KINDS)
def test_guest_memory_keeps_its_contents(subject: Subject, kind: str) -> None:
    """The vCPU finds what the process wrote, the process what the vCPU wrote, and every other byte is as it was.

    Source: "Pages stay resident and their physical frames are preserved" (userfaultfd.rst, Protecting); I5.
    """
    region, vcpu = guest(subject, kind)
    look = ops.checksum(region.addr, len(region), region.page_size)
    before = subject.call(look).sums
    uffd = track(subject, region)
    uffd.protect(region)
    added = vcpu.rmw(region[1], 1)
    assert added.blocked
    uffd.resolve(region)
    assert added.value & 0xFF == RETURN
    assert subject.peek(region[1]) == added.value + 1
    subject.poke(region[1], added.value)
    assert subject.call(look).sums == before


@pytest.mark.needs("wp", "wp_shmem")
@pytest.mark.control("skip_protect", "stale_tables")
@pytest.mark.parametrize("kind", SMALL_KINDS)
def test_wp_traps_the_vcpus_writes_only(subject: Subject, kind: str) -> None:
    """Under WP the vCPU reads a protected page freely, and its write then is trapped all the same: WP and WRITE.

    Reading maps the page for the guest, but not for writing. Source: hva_to_pfn_slow(), "map read fault as writable if
    possible".
    """
    region, vcpu = guest(subject, kind)
    uffd = subject.uffd(WP if kind == "anon" else WP | WP_SHMEM)
    uffd.register(region, WP)
    uffd.protect(region)
    assert vcpu.read(region[1]).done
    assert vcpu.access("exec", region[1]).done
    write = vcpu.write(region[1], RETURN)
    assert write.blocked
    assert uffd.events() == [Fault(region[1], WP | WRITE)]
    uffd.resolve(region[1])
    assert write.done


@pytest.mark.contract("F6", "I4")
@pytest.mark.needs("rwp_async", "pagemap_scan", "page_accessed")
@pytest.mark.control("skip_protect", "stale_tables", "hide_accessed")
@pytest.mark.parametrize("access", ["read", "write", "exec"])
@pytest.mark.parametrize("kind", KINDS)
def test_async_access_is_reported(subject: Subject, kind: str, access: str) -> None:
    """In async mode the vCPU runs on, and exactly the page that it touched is PAGE_IS_ACCESSED, without a message.

    A huge page is one page. Source: do_uffd_rwp() resolves async faults itself; I3, I4.
    """
    region, vcpu = guest(subject, kind)
    uffd = track(subject, region, RWP_ASYNC)
    uffd.protect(region)
    assert region.accessed_pages() == set()
    assert vcpu.access(access, region[1], value=RETURN).done
    assert region.accessed_pages() == (set(range(THP_PAGES)) if kind == "thp" else {1})
    assert uffd.events() == []


def resolve(uffd: Uffd, region: Region) -> None:
    uffd.resolve(region)


def set_mode_async(uffd: Uffd, region: Region) -> None:
    uffd.set_mode(enable=RWP_ASYNC)


def close(uffd: Uffd, region: Region) -> None:
    uffd.close()


def unregister(uffd: Uffd, region: Region) -> None:
    uffd.unregister(region)


ENDS = [
    *product(SMALL_KINDS, [resolve, set_mode_async, close]),
    pytest.param("anon", unregister, marks=pytest.mark.finding("F001")),
]


@pytest.mark.contract("I1")
@pytest.mark.needs("rwp_async")
@pytest.mark.control("skip_protect", "stale_tables")
@pytest.mark.parametrize(("kind", "end"), ENDS)
def test_blocked_vcpu_runs_again(subject: Subject, kind: str, end: Callable[[Uffd, Region], None]) -> None:
    """A vCPU and a thread blocked on one page send a message each, and both go on however the protection ends.

    Source: I1; test_wakes.py has the same of threads.
    """
    region, vcpu = guest(subject, kind)
    uffd = track(subject, region)
    uffd.protect(region)
    tickets = [vcpu.write(region[1], RETURN), subject.actor().read(region[1])]
    assert [one.blocked for one in tickets] == [True, True]
    assert set(uffd.events()) == {Fault(region[1], RWP | WRITE), Fault(region[1], RWP)}
    end(uffd, region)
    assert not any(one.blocked for one in tickets)  # a wake is made before the call returns
    assert all(one.done for one in tickets)


@pytest.mark.needs("rwp_async")
@pytest.mark.control("skip_protect", "stale_tables")
@pytest.mark.parametrize(
    ("access", "release"), [("read", "resolve"), ("write", "resolve"), ("exec", "resolve"), ("write", "set_mode")]
)
@pytest.mark.parametrize("kind", KINDS)
def test_protecting_under_a_running_vcpu(subject: Subject, kind: str, access: str, release: str) -> None:
    """Once UFFDIO_RWPROTECT has returned, a vCPU that was running on the page completes no access to it.

    The one that it had made but not yet counted excepted. Each round protects the page while the vCPU runs, sees it
    blocked with one message, and lets it go on: resolved, or by a turn to async mode and back. Source: I3, I8;
    kvm_mmu_notifier_invalidate_range_start() takes the page out of the guest's tables. That it flushes their TLB as
    well is not seen under TCG, which does so at each exit from a guest.
    """
    region, vcpu = guest(subject, kind)
    uffd = track(subject, region)
    fault = Fault(region[1], RWP | WRITE if access == "write" else RWP)
    run = vcpu.repeat(access, region[1]).handle
    goes_on, arm = ops.ticket(run, "running", PROGRESS_MS), protect(uffd, region, ProtectMode.PROTECT)
    if release == "resolve":
        let_go = [protect(uffd, region, 0)]
    else:
        let_go = [
            ops.set_mode(uffd.handle, RWP_ASYNC.feature, 0),
            goes_on,
            ops.set_mode(uffd.handle, 0, RWP_ASYNC.feature),
        ]
    a_round = [goes_on, arm, ops.ticket(run, timeout_ms=0), ops.ticket(run), ops.events(uffd.handle), *let_go]
    for number in range(ROUNDS):
        _, _, protected, blocked, events, *_ = subject.batch(*a_round)
        assert blocked.state == "blocked", f"round {number}: the vCPU is {blocked.state}"
        assert blocked.count <= protected.count + 1, f"round {number}: accesses went by the protection"
        assert [(one.address, one.flags) for one in events.events] == [(fault.address, fault.flags)], f"round {number}"


@pytest.mark.contract("I4")
@pytest.mark.needs("rwp_async", "pagemap_scan", "page_accessed")
@pytest.mark.control("skip_protect", "stale_tables", "hide_accessed")
@pytest.mark.parametrize("kind", KINDS)
def test_running_vcpu_is_reported(subject: Subject, kind: str) -> None:
    """In async mode a page protected while a vCPU runs on it is PAGE_IS_ACCESSED as soon as it has run on, alone.

    Source: as above; I3, I4.
    """
    region, vcpu = guest(subject, kind)
    uffd = track(subject, region, RWP_ASYNC)
    run = vcpu.repeat("read", region[1]).handle
    arm = ops.protect("rwprotect", uffd.handle, region.addr, region.length, ProtectMode.PROTECT)
    look = ops.pagemap_scan(region.addr, region.length, category_mask=Page.ACCESSED, return_mask=Page.ACCESSED)
    page = region[:THP_PAGES] if kind == "thp" else region[1:2]
    for number in range(ROUNDS):
        *_, scan = subject.batch(arm, ops.ticket(run, "running", PROGRESS_MS), look)
        assert scan.regions == [(page.addr, page.end, Page.ACCESSED)], f"round {number}"


@pytest.mark.contract("M8")
@pytest.mark.needs("rwp_async", "pagemap_scan", "page_accessed")
@pytest.mark.control("skip_protect", "stale_tables")
@pytest.mark.parametrize("kind", SMALL_KINDS)
def test_set_mode_and_the_vcpu(subject: Subject, kind: str) -> None:
    """Back in sync mode the vCPU is trapped at the pages that are still protected, and at those it had touched is not.

    Source: userfaultfd_set_mode(): it waits for faults under way; I3.
    """
    region, vcpu = guest(subject, kind)
    uffd = track(subject, region, RWP_ASYNC)
    uffd.protect(region)
    assert vcpu.read(region[0]).done
    uffd.set_mode(disable=RWP_ASYNC)
    assert vcpu.read(region[0]).done
    ticket = vcpu.read(region[1])
    assert ticket.blocked
    assert uffd.events() == [Fault(region[1], RWP)]
    uffd.set_mode(enable=RWP_ASYNC)
    assert ticket.done
    assert region.accessed_pages() == {0, 1}


@pytest.mark.needs("rwp")
@pytest.mark.control("skip_protect", "stale_tables")
@pytest.mark.parametrize("first", ["protect", "log"])
@pytest.mark.parametrize("kind", KINDS)
def test_dirty_logging_at_the_same_time(subject: Subject, kind: str, first: str) -> None:
    """With KVM's dirty log on, a write is trapped, and logged once it has happened; protecting and resolving log
    nothing.

    What the log write-protects in the guest's tables neither traps nor hides a trap. Source: KVM_GET_DIRTY_LOG
    (Documentation/virt/kvm/api.rst); live migration goes on while a VMM looks for cold pages.
    """
    region, vcpu = guest(subject, kind)
    uffd = track(subject, region)
    if first == "log":
        vcpu.log_dirty(on=True)
    uffd.protect(region)
    if first == "protect":
        vcpu.log_dirty(on=True)
    vcpu.dirty_pages()
    grain = (region[1] - region[0]) // 4096
    for _ in range(2):
        write = vcpu.write(region[1], RETURN)
        assert write.blocked
        assert uffd.events() == [Fault(region[1], RWP | WRITE)]
        assert vcpu.dirty_pages() == set()
        uffd.resolve(region[1])
        assert write.done
        assert vcpu.dirty_pages() == {grain}
        assert vcpu.write(region[1], RETURN).done
        assert vcpu.dirty_pages() == {grain}
        uffd.protect(region)
    assert uffd.events() == []
    assert vcpu.dirty_pages() == set()


@pytest.mark.contract("F4", "F5", "F6")
@pytest.mark.needs("rwp_async")
@pytest.mark.control("skip_protect", "stale_tables")
@pytest.mark.parametrize("how", ["user_mode_only", "sigbus"])
@pytest.mark.parametrize("kind", SMALL_KINDS)
def test_descriptor_that_cannot_wait(subject: Subject, kind: str, how: str) -> None:
    """KVM_RUN is EFAULT, lifting nothing, where the descriptor is USER_MODE_ONLY or has SIGBUS: the kernel faults for
    the vCPU. In async mode it passes. Source: handle_userfault(): FAULT_FLAG_USER, UFFD_FEATURE_SIGBUS.
    """
    region, vcpu = guest(subject, kind)
    uffd = track(subject, region, Feature.SIGBUS if how == "sigbus" else 0, user_mode_only=how == "user_mode_only")
    uffd.protect(region)
    assert vcpu.read(region[1]).exit == "EFAULT"
    assert region.marked_pages() == set(range(PAGES))
    assert uffd.events() == []
    uffd.set_mode(enable=RWP_ASYNC)
    assert vcpu.read(region[1]).done
    assert region.marked_pages() == all_but(region, 1)
