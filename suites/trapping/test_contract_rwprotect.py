"""UFFDIO_RWPROTECT and UFFDIO_SET_MODE: what they refuse without changing anything, what they do, whom they wake.

Source: userfaultfd_rwprotect(), mrwprotect_range() and userfaultfd_set_mode() in mm/userfaultfd.c; change_pte_range()
in mm/mprotect.c; contract.toml, P1 to P17 and M1 to M9.
"""

from __future__ import annotations

from typing import Any

import pytest

from kselftests_py.lab import RWP, RWP_ASYNC, WP, WP_SHMEM, Fault, Feature, ProtectMode, Subject, ops
from kselftests_py.lab.cases import DISTINCT_KINDS, check_woken_by_wake_alone, track
from kselftests_py.lab.ops import Op
from kselftests_py.lab.refusals import answers, check_refusals

pytestmark = pytest.mark.needs("rwp", "wp")

contract = pytest.mark.contract
PROTECT, DONTWAKE = int(ProtectMode.PROTECT), int(ProtectMode.DONTWAKE)
ASYNC = int(Feature.RWP_ASYNC)
BEYOND = 1 << 62  # no address space is as large
PROT_READ = 1


def rwp(handle: int, addr: int, length: int, mode: int = PROTECT) -> Op[Any]:
    return ops.protect("rwprotect", handle, addr, length, mode)


@contract("P3", "P4", "P5", "P7", "P8", "P9", "P12", "W1", "I7")
@pytest.mark.control("swallow_errno", "partial", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_refusals(subject: Subject, kind: str) -> None:
    """Each bad call gets its errno before any page is changed: pages 0 to 3 are RWP, 4 is WP, 5 is not registered.

    Source: userfaultfd_rwprotect() in the order of its checks; the pre-scan of mrwprotect_range(); I7.
    """
    region = subject.region(kind, 6).populate()
    uffd = subject.uffd(RWP | WP | WP_SHMEM)
    uffd.register(region[:4], RWP)
    uffd.register(region[4:5], WP)
    uffd.protect(region[1:2])
    gone = subject.region("anon", 1)
    gone.unmap()
    u, at, page, size = uffd.handle, region.addr, region.page_size, region.page_size * 4
    check_refusals(
        subject,
        region,
        uffd,
        {
            "a start inside a page": (rwp(u, at + 8, size), "EINVAL"),
            "a length inside a page": (rwp(u, at, size - 8), "EINVAL"),
            "no length": (rwp(u, at, 0), "EINVAL"),
            "beyond the task": (rwp(u, BEYOND, size), "EINVAL"),
            "an unknown bit": (rwp(u, at, size, 1 << 2), "EINVAL"),
            "an unknown bit beside RWP": (rwp(u, at, size, PROTECT | 1 << 2), "EINVAL"),
            "RWP with DONTWAKE": (rwp(u, at, size, PROTECT | DONTWAKE), "EINVAL"),
            "RWP with DONTWAKE where nothing is": (rwp(u, gone.addr, gone.length, PROTECT | DONTWAKE), "EINVAL"),
            "a WP page at the end": (rwp(u, at, page * 5), "ENOENT"),
            "WP and unregistered pages": (rwp(u, at, page * 6), "ENOENT"),
            "the WP page alone": (rwp(u, region[4], page), "ENOENT"),
            "the unregistered page alone": (rwp(u, region[5], page), "ENOENT"),
            "an unregistered mapping ahead": (rwp(u, at - page, page * 2), "ENOENT"),
            "no mapping": (rwp(u, gone.addr, gone.length), "ENOENT"),
            "resolving with a WP page": (rwp(u, at, page * 5, 0), "ENOENT"),
            "resolving, DONTWAKE, with a WP page": (rwp(u, at, page * 5, DONTWAKE), "ENOENT"),
            "write-protecting RWP pages": (ops.protect("writeprotect", u, at, size, PROTECT), "ENOENT"),
            "write-unprotecting RWP pages": (ops.protect("writeprotect", u, at, size, 0), "ENOENT"),
        },
    )


@pytest.mark.needs("hugetlb")
@contract("P10", "P11", "P12", "I7")
@pytest.mark.control("swallow_errno", "partial", "spoil_contents", "spoil_trap")
def test_part_of_a_huge_page(subject: Subject) -> None:
    """A range of hugetlb memory that starts or ends inside a page is EINVAL; the first VMA at fault decides the errno.

    The guards around the region are mappings that are not registered. Source: mrwprotect_range(); I7.
    """
    region, uffd = track(subject, "hugetlb", "rwp", "sync", pages=3)
    uffd.protect(region[2:])
    u, at, page = uffd.handle, region.addr, region.page_size
    rows = {
        "start inside": (rwp(u, at + 4096, page), "EINVAL"),
        "end inside": (rwp(u, at, page + 4096), "EINVAL"),
        "end inside, ahead of an unregistered mapping": (rwp(u, at, page * 3 + 4096), "EINVAL"),
        "unregistered mapping ahead of half a page": (rwp(u, at - 4096, page), "ENOENT"),
        "resolving half a page": (rwp(u, region[2], 4096, 0), "EINVAL"),
    }
    check_refusals(subject, region, uffd, rows)


@contract("P6", "M5", "R7", "U9")
@pytest.mark.control("swallow_errno")
def test_process_is_gone(subject: Subject) -> None:
    """On the descriptor of a process that is gone: RWPROTECT and SET_MODE are ESRCH, (UN)REGISTER ENOMEM.

    A forked child holds the descriptor; bad arguments are still decided first.
    Source: mmget_not_zero() in each of them.
    """
    region, uffd = track(subject, "anon", "rwp", "sync", pages=1)
    child, _ = subject.fork()
    subject.end()
    u, at, size = uffd.handle, region.addr, region.length
    calls = {
        "RWPROTECT": (rwp(u, at, size), "ESRCH"),
        "RWPROTECT, RWP with DONTWAKE": (rwp(u, at, size, PROTECT | DONTWAKE), "EINVAL"),
        "RWPROTECT, an unknown bit": (rwp(u, at, size, 1 << 2), "EINVAL"),
        "SET_MODE, nothing": (ops.set_mode(u, 0, 0), "ESRCH"),
        "SET_MODE, disable": (ops.set_mode(u, 0, ASYNC), "ESRCH"),
        "SET_MODE, both": (ops.set_mode(u, ASYNC, ASYNC), "EINVAL"),
        "SET_MODE, another bit": (ops.set_mode(u, int(Feature.RWP), 0), "EINVAL"),
        "REGISTER": (ops.register(u, at, size, RWP.mode), "ENOMEM"),
        "REGISTER, no length": (ops.register(u, at, 0, RWP.mode), "EINVAL"),
        "REGISTER, mode 0": (ops.register(u, at, size, 0), "EINVAL"),
        "UNREGISTER": (ops.unregister(u, at, size), "ENOMEM"),
        "UNREGISTER, no length": (ops.unregister(u, at, 0), "EINVAL"),
    }
    with child:
        told = dict(zip(calls, answers(child, [op for op, _ in calls.values()]), strict=True))
    assert told == {name: errno for name, (_, errno) in calls.items()}


@contract("P23")
@pytest.mark.control("invert_marker")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_nothing_is_written_back(subject: Subject, kind: str) -> None:
    """UFFDIO_RWPROTECT protects by a struct that lies in memory which cannot be written, and leaves it as it was.

    Source: userfaultfd_rwprotect() has no copy_to_user().
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=2)
    struct = subject.region("anon", 1)
    words = [region.addr, region.page_size, PROTECT]
    subject.batch(*[ops.poke(struct[0] + 8 * n, word) for n, word in enumerate(words)])
    struct.mprotect(PROT_READ)
    assert answers(subject, [ops.raw_ioctl("UFFDIO_RWPROTECT", struct[0], uffd.handle)]) == ["success"]
    assert [subject.peek(struct[0] + 8 * n) for n in range(len(words))] == words
    assert region.marked_pages() == {0}


@contract("P25")
@pytest.mark.needs("clear_refs")
@pytest.mark.control("corrupt", "corrupt_protect")
@pytest.mark.parametrize("kind", ["anon", "shmem"])  # smaps calls no hugetlb page referenced
def test_protecting_and_resolving_are_no_accesses(subject: Subject, kind: str) -> None:
    """Neither makes a page young: what reclaim goes by, and smaps calls "Referenced", is an access and nothing else.

    Source: change_pte_range(): pte_modify() keeps the accessed bit; smaps and clear_refs in filesystems/proc.rst.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=2)
    seen = []
    for mode in (PROTECT, 0):
        subject.call(ops.knob_set("clear_refs", "1"))
        uffd.protect(region, mode)
        seen.append(_referenced(subject, region.addr))
    assert subject.actor().read(region[0]).done
    assert [*seen, _referenced(subject, region.addr)] == [0, 0, region.page_size // 1024]


def _referenced(subject: Subject, addr: int) -> int:
    """KiB that smaps calls referenced in the mapping that begins at *addr*."""
    _, _, mapping = subject.proc_read("smaps").partition(f"{addr:x}-")
    return int(mapping.partition("Referenced:")[2].split()[0])


@contract("P13", "P14")
@pytest.mark.control("skip_protect", "protect_one_more")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_arming_again_changes_nothing(subject: Subject, kind: str) -> None:
    """A second call on armed pages, and on holes, is a success that leaves armed pages armed and holes holes.

    A waiter is not woken by it. Source: change_pte_range(): already armed, none; "No wake on arm"; I8.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=4, populated=slice(0, 2))
    region.populate(pages=slice(3, 4))
    uffd.protect(region[0:2])
    waiter = subject.actor().read(region[0])
    assert waiter.blocked
    assert uffd.events() == [Fault(region[0], RWP)]
    uffd.protect(region[0:3])
    assert waiter.blocked
    assert uffd.events() == []
    assert region.marked_pages() == {0, 1}
    assert subject.actor().touch("write", region, [2, 3], value=1).done


@contract("P15")
@pytest.mark.control("skip_protect", "protect_one_more")
@pytest.mark.needs("thp")
def test_part_of_a_transparent_huge_page(subject: Subject) -> None:
    """Protecting three pages of a huge page arms these three, and traps at them and not beside them.

    Source: change_huge_pmd() splits what is covered in part; I8.
    """
    region = subject.region("anon", 512, thp="always").populate()
    uffd = subject.uffd(RWP)
    uffd.register(region, RWP)
    uffd.protect(region[7:10])
    assert region.marked_pages() == {7, 8, 9}
    assert subject.actor().touch("rmw", region, [6, 10], value=0).done
    inside = subject.actor().read(region[9])
    assert inside.blocked
    assert uffd.events() == [Fault(region[9], RWP)]


@contract("P16", "P17")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_dontwake_leaves_the_waiter_asleep(subject: Subject, kind: str) -> None:
    """Resolving with DONTWAKE restores the page and wakes nobody; UFFDIO_WAKE does.

    Source: the end of userfaultfd_rwprotect(). The page is free meanwhile: another thread reads it.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=2)
    uffd.protect(region)
    waiter = subject.actor().read(region[0])
    assert waiter.blocked
    check_woken_by_wake_alone(subject, region, uffd, waiter)


@contract("P18")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_resolving_gives_no_more_than_the_mapping_has(subject: Subject, kind: str) -> None:
    """A page of a PROT_READ mapping that is resolved can be read, and a write to it is SIGSEGV, not a message.

    Source: newprot = vm_page_prot; vma_wants_manual_pte_write_upgrade().
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=1)
    region.mprotect(PROT_READ)
    uffd.protect(region)
    reader = subject.actor().read(region[0])
    assert reader.blocked
    uffd.resolve(region)
    assert reader.done
    assert subject.actor().write(region[0], 1).signal == "SIGSEGV"


@contract("P19", "P20")
@pytest.mark.control("skip_protect", "hide_accessed")
@pytest.mark.needs("rwp_async", "pagemap_scan", "page_accessed")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_resolved_page_counts_as_accessed(subject: Subject, kind: str) -> None:
    """A page that was resolved is ACCESSED though nobody touched it; a hole that was resolved is not there, and not.

    Source: pagemap_page_category(): present without the marker; change_pte_range() populates nothing.
    """
    region, uffd = track(subject, kind, "rwp", "async", pages=3, populated=slice(0, 2))
    uffd.protect(region)
    uffd.resolve(region[1:])
    assert region.accessed_pages() == {1}
    assert region.marked_pages() == {0}


@contract("M2", "M3", "M4", "I7")
@pytest.mark.needs("rwp_async")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_set_mode_refusals(subject: Subject, kind: str) -> None:
    """Overlapping or other bits are EINVAL and the range stays in sync mode; so is RWP_ASYNC without RWP negotiated.

    Source: userfaultfd_set_mode(), in the order of its checks; I7.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=2)
    uffd.protect(region[:1])
    plain, u = subject.uffd(WP).handle, uffd.handle
    rows = {
        "enabled and disabled": (ops.set_mode(u, ASYNC, ASYNC), "EINVAL"),
        "RWP itself enabled": (ops.set_mode(u, int(Feature.RWP), 0), "EINVAL"),
        "RWP itself disabled": (ops.set_mode(u, 0, int(Feature.RWP)), "EINVAL"),
        "WP_ASYNC": (ops.set_mode(u, int(Feature.WP_ASYNC), 0), "EINVAL"),
        "RWP_ASYNC and another": (ops.set_mode(u, ASYNC | int(Feature.SIGBUS), 0), "EINVAL"),
        "an unknown bit": (ops.set_mode(u, 1 << 40, 0), "EINVAL"),
        "an unknown bit disabled": (ops.set_mode(u, 0, 1 << 40), "EINVAL"),
        "RWP not negotiated": (ops.set_mode(plain, ASYNC, 0), "EINVAL"),
    }
    check_refusals(subject, region, uffd, rows)


@contract("M6", "M7", "M8")
@pytest.mark.needs("rwp_async")
@pytest.mark.control("skip_protect")
def test_set_mode_accepts(subject: Subject) -> None:
    """Nothing at all, and disabling what is not on (without RWP too), succeed silently: the page still traps.

    RWP_ASYNC may be enabled, and again, without having been negotiated: then the page no longer traps.
    Source: userfaultfd_set_mode().
    """
    region, uffd = track(subject, "anon", "rwp", "sync", pages=2)
    uffd.protect(region)
    u, plain = uffd.handle, subject.uffd().handle
    quiet = [ops.set_mode(u, 0, 0), ops.set_mode(u, 0, ASYNC), ops.set_mode(plain, 0, ASYNC), ops.set_mode(plain, 0, 0)]
    assert answers(subject, quiet) == ["success"] * 4
    waiter = subject.actor().read(region[0])
    assert waiter.blocked
    assert answers(subject, [ops.set_mode(u, ASYNC, 0), ops.set_mode(u, ASYNC, 0)]) == ["success"] * 2
    assert waiter.done
    assert subject.actor().read(region[1]).done


@contract("M9")
@pytest.mark.needs("rwp_async")
@pytest.mark.control("skip_protect")
def test_set_mode_is_one_descriptors(subject: Subject) -> None:
    """RWP_ASYNC on one descriptor does not change another of the process: its pages trap, its waiter sleeps on.

    Source: ctx->features; userfaultfd_set_mode() wakes the queues of its own context.
    """
    (mine, first), (theirs, second) = (track(subject, "anon", "rwp", "sync", pages=1) for _ in range(2))
    first.protect(mine)
    second.protect(theirs)
    waiting = subject.actor().read(theirs[0])
    assert waiting.blocked
    first.set_mode(enable=RWP_ASYNC)
    assert subject.actor().read(mine[0]).done
    assert waiting.blocked
    assert theirs.marked_pages() == {0}
