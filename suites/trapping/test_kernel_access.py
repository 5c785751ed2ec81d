"""Accesses that the kernel makes on behalf of somebody: system calls, other processes, rings, exit, exec, core dump.

An access that is seen is trapped in sync mode (a message comes, the accessor sleeps until its page is resolved, and
then gets the right bytes), and in async mode makes its page ACCESSED or WRITTEN. Source: I3, I4 and I5 of the UAPI
contract; gup_can_follow_protnone() in include/linux/mm.h; handle_userfault() in mm/userfaultfd.c; native_probes/
kernel_access.c and access_*.c.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import pytest

from kselftests_py.lab import RWP, WP, WRITE, KernelRefused, Subject, ops, replies
from kselftests_py.lab.constants import fault_bits

KINDS = ["anon", "shmem"]
BOUND_MS = 8_000


@dataclass(frozen=True)
class Accessor:
    """One way in: the probe's name, what the kernel does to the page, the finding that spoils it in sync mode."""

    name: str
    access: str
    finding: pytest.MarkDecorator | None = None

    @property
    def pinned(self) -> bool:
        """The page is pinned before it is protected, so the access is unseen: "accessed by DMA unseen"."""
        return "pinned" in self.name


NO_CORE = pytest.mark.finding("F020")
REFUSED = pytest.mark.finding("F021")
EXITING = pytest.mark.finding("F022")
ACCESSORS = [
    Accessor("write", "read"),
    Accessor("read", "write"),
    Accessor("uffdio_copy", "read"),
    Accessor("futex_wait", "read"),
    Accessor("futex_wait_shared", "write"),  # the key of a shared futex is taken from a page that could be written
    Accessor("futex_wake_op", "write", REFUSED),
    Accessor("vmsplice", "read"),
    Accessor("direct_write", "read"),
    Accessor("direct_read", "write"),
    Accessor("io_uring_write", "read"),
    Accessor("io_uring_read", "write"),
    Accessor("io_uring_worker_write", "read"),
    Accessor("io_uring_worker_read", "write"),
    Accessor("io_uring_fixed_write", "write"),  # a buffer is registered for writing, whatever is done with it
    Accessor("io_uring_fixed_read", "write"),
    Accessor("io_uring_pinned_write", "read"),
    Accessor("io_uring_pinned_read", "write"),
    Accessor("aio_write", "read"),
    Accessor("aio_read", "write"),
    Accessor("process_vm_readv", "read"),
    Accessor("process_vm_writev", "write"),
    Accessor("proc_mem_read", "read", REFUSED),
    Accessor("proc_mem_write", "write", REFUSED),
    Accessor("ptrace_peek", "read", REFUSED),
    Accessor("ptrace_poke", "write", REFUSED),
    Accessor("execve", "read"),
    Accessor("clear_child_tid", "write", EXITING),
    Accessor("robust_list", "write", EXITING),
    Accessor("core_dump", "read", NO_CORE),
]
RWP_NEEDS = pytest.mark.needs("rwp", "rwp_async", "pagemap_scan", "page_accessed")
WP_NEEDS = pytest.mark.needs("wp", "wp_shmem", "wp_async", "pagemap_scan")


def _traps(accessor: Accessor, protection: str) -> bool:
    return not accessor.pinned and (protection == "rwp" or accessor.access == "write")


def _cases() -> list[object]:
    """Every accessor with every protection and delivery; where a finding spoils the sync one, it stands alone."""
    cases = []
    for accessor in ACCESSORS:
        for protection, needs in (("rwp", RWP_NEEDS), ("wp", WP_NEEDS)):
            name = f"{accessor.name}-{protection}"
            if accessor.finding is None or not _traps(accessor, protection):
                cases.append(pytest.param(accessor, protection, ("sync", "async"), marks=needs, id=name))
                continue
            spoilt = [needs, accessor.finding]
            cases.append(pytest.param(accessor, protection, ("sync",), marks=spoilt, id=f"{name}-sync"))
            cases.append(pytest.param(accessor, protection, ("async",), marks=needs, id=f"{name}-async"))
    return cases


def _try(
    subject: Subject, accessor: Accessor, protection: str, deliveries: tuple[str, ...], **more: bool
) -> dict[tuple[str, str], replies.KernelAccess]:
    """The access on each kind of memory; skips, with the kernel's own words, what cannot be tried here."""
    args = {"accessor": accessor.name, "mode": protection, "timeout_ms": BOUND_MS, **more}
    cells = [(kind, delivery) for kind in KINDS for delivery in deliveries]
    trials = [
        ops.loop(
            "kernel_access", replies.KernelAccess, BOUND_MS * 2, kind=kind, **args, **{"async": delivery == "async"}
        )
        for kind, delivery in cells
    ]
    try:
        return dict(zip(cells, subject.batch(*trials), strict=True))
    except KernelRefused as refusal:
        if refusal.errno != "EOPNOTSUPP":
            raise
        pytest.skip(f"{accessor.name}: {refusal}")


def _how(seen: replies.KernelAccess) -> str:
    if seen.error:
        return "refused"
    if not seen.got or not seen.page:
        return "lost"
    return "trapped" if seen.messages else "reported" if seen.reported else "unseen"


@pytest.mark.contract("I3", "I4", "I5", "F8", "F11")
@pytest.mark.control("skip_protect", "corrupt")
@pytest.mark.parametrize(("accessor", "protection", "deliveries"), _cases())
def test_access_by_the_kernel(
    subject: Subject,
    record_metric: Callable[..., None],
    accessor: Accessor,
    protection: str,
    deliveries: tuple[str, ...],
) -> None:
    """An access by the kernel is seen like any other, waits like any other, and gets and leaves the right bytes.

    Write protection sees no read. Source: I3, I4, I5; see the head of this file.
    """
    found = _try(subject, accessor, protection, deliveries)
    for (kind, delivery), seen in found.items():
        labels = {"path": "kernel_access", "protection": protection, "delivery": delivery, "kind": kind}
        labels |= {"access": accessor.access, "by": accessor.name, "how": _how(seen)}
        record_metric("seen", float(_how(seen) in ("trapped", "reported")), "1", labels=labels)
    traps = _traps(accessor, protection)
    flags = fault_bits(RWP if protection == "rwp" else WP) | (fault_bits(WRITE) if accessor.access == "write" else 0)
    for cell, seen in found.items():
        assert seen.armed, cell
        assert seen.finished, cell
        assert seen.error == "", cell
        assert bool(seen.messages) == (traps and cell[1] == "sync"), cell
        if seen.messages:
            assert seen.flags == flags, cell
            assert seen.waited, cell
            assert not seen.early, cell
        assert (seen.marked, seen.reported) == (not traps, traps), cell
        assert seen.neighbours or accessor.name == "core_dump", cell  # which reads all pages
        assert (seen.got, seen.page) == (True, True), cell


FORCED = [one for one in ACCESSORS if one.name.startswith(("proc_mem", "ptrace", "process_vm"))]


@RWP_NEEDS
@pytest.mark.contract("F7")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("accessor", FORCED, ids=[accessor.name for accessor in FORCED])
def test_access_to_an_inaccessible_mapping_ends(subject: Subject, accessor: Accessor) -> None:
    """Of an armed page under PROT_NONE another process gets the right bytes, or is refused; it neither waits nor loops.

    Source: gup_can_follow_protnone(): "forcing a fault there would loop"; ptrace(2) reads what is not readable.
    """
    for cell, seen in _try(subject, accessor, "rwp", ("sync", "async"), inaccessible=True).items():
        assert seen.armed, cell
        assert seen.finished, cell
        assert seen.error in ("", "EFAULT", "EIO"), cell
        assert seen.messages == 0, cell
        assert (seen.got, seen.page) == (True, True), cell


# By copying, by pinning, in a worker thread, in a system call of another process.
KILLED = [
    one
    for one in ACCESSORS
    if one.name in ("read", "vmsplice", "futex_wait_shared", "io_uring_worker_read", "process_vm_readv", "execve")
]


@RWP_NEEDS
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("accessor", KILLED, ids=[accessor.name for accessor in KILLED])
def test_killed_while_the_kernel_waits(subject: Subject, accessor: Accessor) -> None:
    """A process killed while the kernel waits for its page, in a system call or for another process, can be reaped.

    Source: userfaultfd_get_blocking_state(): TASK_KILLABLE for a fault that no user instruction made.
    """
    for cell, seen in _try(subject, accessor, "rwp", ("sync",), abandon=True).items():
        assert (seen.messages, seen.waited) == (1, True), cell
    subject.end()  # kills it and waits for its end; one that cannot be killed is a HANG
