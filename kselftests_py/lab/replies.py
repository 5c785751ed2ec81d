"""The shape of every reply of the probe (docs/probe-protocol.md), checked when it is decoded.

The guest is not trusted: all is bounded, and another shape is a ``ProbeError``, never a Python error deep in a test.
"""

from __future__ import annotations

from typing import Annotated

import msgspec
from msgspec import Meta, Struct

Handle = Annotated[int, Meta(ge=1, le=1 << 31)]
Address = Annotated[int, Meta(ge=0, lt=1 << 48)]
Count = Annotated[int, Meta(ge=0, le=(1 << 63) - 1)]
Text = Annotated[str, Meta(max_length=1 << 16)]
Hex = Annotated[str, Meta(pattern=r"^(0x)?[0-9a-fA-F]{1,64}$")]
MANY = 1 << 18


class Item(Struct):
    """One answer: the result still raw, or why there is none."""

    result: msgspec.Raw = msgspec.Raw()
    errno: Annotated[str, Meta(max_length=40)] | None = None
    message: Text = ""
    error: Text | None = None
    features: Count | None = None
    ioctls: Count | None = None
    copied: int | None = None


class Reply(Item):
    """A reply line: one answer, or those of a batch, or the end of the subject."""

    id: int | None = None
    results: Annotated[list[Item], Meta(max_length=MANY)] | None = None
    died: Text | None = None
    hang: Text | None = None


class Empty(Struct):
    """The operation has nothing to say."""


class Hello(Struct):
    """The probe's greeting: version of the protocol, and the agent's process id."""

    protocol: int
    pid: Count


class Caps(Struct):
    """Raw answer of ``caps``; ``Capabilities`` gives it meaning."""

    uffd_features: Count
    uffd_ioctls: Count
    register_modes: dict[str, dict[str, int | str]]
    pagemap_scan: bool
    page_accessed: bool
    page_idle: bool | int | str = False
    lru_gen: bool | int | str = False
    damon: bool | int | str = False
    soft_dirty: bool | int | str = False
    swap: bool | int | str = False
    thp: bool | int | str = False
    hugetlb_free: Count = 0
    cpus: Count = 1
    nodes: Count = 1
    clocksource: Text = ""
    kvm: Text = "the probe did not say"
    guest: bool = False
    mthp: bool = False
    shmem_thp: bool = False
    hwpoison: bool = False
    page_flags: bool = False
    io_uring: bool = False
    guard: bool = False
    knobs: Annotated[list[Annotated[str, Meta(max_length=40)]], Meta(max_length=100)] = []


class KernelLog(Struct):
    """Kernel log records since the last look, how many are missing, and /proc/sys/kernel/tainted (-1: unreadable)."""

    lines: Annotated[list[Text], Meta(max_length=2000)]
    lost: Count
    taint: Annotated[int, Meta(ge=-1)]


class NewSubject(Struct):
    """A subject made by ``subject_new`` or ``fork``; ``uffd`` is set where EVENT_FORK brought a new descriptor.
    ``uffds``: handle of a descriptor, and of what its fork event brought, of each one that had such an event."""

    subject: Handle
    pid: Count
    uffd: Handle | None = None
    uffds: Annotated[list[tuple[Handle, Handle]], Meta(max_length=MANY)] = []


class NewRegion(Struct):
    """A mapping: address and length in bytes."""

    region: Handle
    addr: Address
    len: Count
    page_size: Annotated[int, Meta(ge=4096, le=1 << 30)]


class Verified(Struct):
    """Pages whose bytes are not those of the stamp: the first numbers, and how many in all."""

    bad: Annotated[list[Count], Meta(max_length=64)]
    bad_count: Count


class Sums(Struct):
    """Checksum of each page."""

    sums: Annotated[list[Hex], Meta(max_length=MANY)]


class Value(Struct):
    """A 64-bit value that was loaded."""

    value: int


class NewUffd(Struct):
    """A userfaultfd."""

    uffd: Handle


class Api(Struct):
    """What UFFDIO_API returned."""

    features: Count
    ioctls: Count


class Ioctls(Struct):
    """The ioctls a registered range takes, as a mask of their numbers."""

    ioctls: Count


class Moved(Struct):
    """Bytes that COPY, ZEROPAGE, CONTINUE, POISON or MOVE dealt with."""

    copied: int | None = None
    zeropage: int | None = None
    mapped: int | None = None
    updated: int | None = None
    moved: int | None = None


class EventMessage(Struct):
    """One ``struct uffd_msg``."""

    event: Annotated[str, Meta(max_length=16)]
    flags: Count = 0
    address: Count = 0
    tid: Count | None = None


class Events(Struct):
    """Messages read from a userfaultfd, in order."""

    events: Annotated[list[EventMessage], Meta(max_length=1 << 16)]


class Polled(Struct):
    """``revents`` of poll(2)."""

    revents: Count


class NewActor(Struct):
    """A thread of the subject."""

    actor: Handle
    tid: Count


class NewTicket(Struct):
    """A promise of an access."""

    ticket: Handle


class TicketState(Struct):
    """``done``, ``blocked`` (the thread sleeps in the kernel) or ``running`` (neither within the bound).
    ``count`` accesses are completed; ``exit`` says why a vCPU left its guest before it was done."""

    state: Annotated[str, Meta(pattern="^(done|blocked|running)$")]
    value: int | None = None
    ticks: Count | None = None
    signal: int | str | None = None
    count: Count | None = None
    wchan: Text | None = None
    exit: Annotated[str, Meta(max_length=40)] | None = None


class DirtyPages(Struct):
    """Numbers of the 4 KiB pages in KVM's dirty log."""

    pages: Annotated[list[Count], Meta(max_length=MANY)]


class Mappings(Struct):
    """How many pages of each size KVM has mapped for the guest; -1: it does not tell."""

    small: int
    huge: int


class NewAddress(Struct):
    """Where a mapping went."""

    addr: Address


class Nodes(Struct):
    """The node that each page is on now, or a negative errno."""

    nodes: Annotated[list[Annotated[int, Meta(ge=-4096, le=1023)]], Meta(max_length=1 << 16)]


class PageFlags(Struct):
    """Words of /proc/kpageflags, one a page of 4 KiB; 0 where no frame is mapped."""

    flags: Annotated[list[Count], Meta(max_length=MANY)]


class Frames(Struct):
    """The number of the frame behind each page of 4 KiB; 0 where none is mapped."""

    frames: Annotated[list[Count], Meta(max_length=MANY)]


class Held(Struct):
    """Answers to the calls that were made while pages were migration entries."""

    results: Annotated[list[Item], Meta(max_length=MANY)]


class Drained(Struct):
    """``uffds``: handle of a descriptor, and of what its fork event brought."""

    uffds: Annotated[list[tuple[Handle, Handle]], Meta(max_length=MANY)] = []


class Interrupted(Struct):
    """Whether the thread has handled its signal within the bound."""

    handled: bool


class Number(Struct):
    """A counter or setting of the machine."""

    value: Count


class Markers(Struct):
    """Of how many pagemap entries, and the ranges of those that have bit 57: first, and the one behind the last."""

    pages: Count
    ranges: Annotated[list[tuple[Count, Count]], Meta(max_length=MANY)]


class Entries(Struct):
    """Pagemap entries, in hexadecimal, frame numbers cleared."""

    entries: Annotated[list[Hex], Meta(max_length=MANY)]


class Scan(Struct):
    """Answer of PAGEMAP_SCAN: where the walk ended, and [start, end, categories]."""

    walk_end: Address
    regions: Annotated[list[tuple[Address, Address, Count]], Meta(max_length=1 << 16)]


class ProcText(Struct):
    """Text of a file of /proc/self."""

    text: Annotated[str, Meta(max_length=1 << 20)]


class Histogram(Struct):
    """How often each value came; *unit* ``ticks`` is instructions in exact mode, nanoseconds with ``mono``."""

    unit: Annotated[str, Meta(max_length=16)]
    counts: Annotated[list[tuple[Count, Count]], Meta(max_length=1 << 16)]


class FaultLatency(Struct):
    """One access to a protected page; ``overhead`` is the same clock reads around an access that is not trapped."""

    histogram: Histogram
    overhead: Histogram
    faults: Count


class FaultWaterfall(Struct):
    """The stages of a sync fault, in ticks; ``resolve`` is the ``ioctl`` without its wake, of other faults."""

    trap: Histogram
    read: Histogram
    ioctl: Histogram
    resolve: Histogram
    back: Histogram
    total: Histogram
    overhead: Histogram
    faults: Count


class ProtectCost(Struct):
    """Ticks per call over the whole range."""

    protect: Histogram
    resolve: Histogram
    overhead: Histogram


class ScanCost(Struct):
    """Ticks per PAGEMAP_SCAN of the whole range; regions and pages that the last one found."""

    scan: Histogram
    regions: Count
    overhead: Histogram
    accessed: Count | None = None


class PathCost(Struct):
    """Ticks of one pass of a path over the whole range."""

    histogram: Histogram
    overhead: Histogram


class Throughput(Struct):
    """Sync faults by several threads (op ``fault_throughput``): ``histogram`` has one sample an access that faulted,
    ``elapsed`` is the ticks from the first thread's begin to the last one's end, over all rounds."""

    histogram: Histogram
    overhead: Histogram
    faults: Count
    accesses: Count
    elapsed: Count


class Evicted(Struct):
    """Counters of the eviction loop (op ``evict``)."""

    rounds: Count
    writes: Count
    reads: Count
    evicted: Count
    fetched: Count
    faults: Count
    lost_writes: Count
    asleep: Count
    hot_evicted: Count
    damaged: Count
    ambushes_trapped: Count
    first_lost: Text | None = None


class KernelAccess(Struct):
    """What became of one access by the kernel to a protected page (op ``kernel_access``)."""

    armed: bool
    messages: Count
    flags: Count
    waited: bool
    early: bool
    finished: bool
    marked: bool
    reported: bool
    neighbours: bool
    page: bool
    got: bool
    error: Text


class Race(Struct):
    """Counters of racers against protection that comes and goes (op ``race``)."""

    rounds: Count
    accesses: Count
    disturbances: Count
    messages: Count
    unarmed: Count
    asleep: Count
    escaped: Count
    again: Count
    damaged: Count
    first: Text
