"""Operations of the probe as values: each function makes one request and knows the shape of its reply.

They mirror the table of docs/probe-protocol.md and do nothing by themselves:
``subject.call(op)`` runs one, ``subject.batch(op, op, ...)`` runs many in one
round trip. Addresses and lengths are in bytes, bounds in milliseconds.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar

import msgspec

from kselftests_py.lab import replies
from kselftests_py.lab.errors import KernelRefused, ProbeError, printable

T_co = TypeVar("T_co", covariant=True)
LOAD_MS = 10_000
"""Bound of ``load_kvm``."""
HELD_MS = 20_000
"""Bound of ``held``, which migrates until it has caught the kernel at it."""


@dataclass(frozen=True)
class Op(Generic[T_co]):
    """One operation: its name, the type of its result, its arguments, and the longest it may wait by itself (ms)."""

    name: str
    reply: type[T_co]
    args: dict[str, Any] = field(default_factory=dict)
    wait_ms: int = 0


def _op(name: str, reply: type[T_co], /, **args: Any) -> Op[T_co]:
    """An operation without the arguments that are None (the probe's defaults)."""
    given = {key: value for key, value in args.items() if value is not None}
    return Op(name, reply, given, int(given.get("timeout_ms", 0)))


def result_of(item: replies.Item, op: Op[T_co]) -> T_co:
    """The typed result in *item*; raises KernelRefused or ProbeError."""
    if item.errno is not None:
        fields = {name: getattr(item, name) for name in ("features", "ioctls", "copied")}
        raise KernelRefused(item.errno, op.name, item.message, {k: v for k, v in fields.items() if v is not None})
    if item.error is not None:
        raise ProbeError(f"the probe refused {op.name}: {printable(item.error)}")
    if not bytes(item.result):
        raise ProbeError(f"the probe's answer to {op.name} has neither result nor error")
    try:
        return msgspec.json.decode(item.result, type=op.reply)
    except msgspec.ValidationError as error:
        raise ProbeError(f"the probe's result of {op.name} has another shape: {error}") from error


def hello() -> Op[replies.Hello]:
    return _op("hello", replies.Hello)


def caps() -> Op[replies.Caps]:
    return _op("caps", replies.Caps)


def load_kvm() -> Op[replies.Empty]:
    return Op("load_kvm", replies.Empty, {}, LOAD_MS)


def keep_vm() -> Op[replies.Empty]:
    return _op("keep_vm", replies.Empty)


def kernel_log() -> Op[replies.KernelLog]:
    return _op("kernel_log", replies.KernelLog)


def subject_new(one_cpu: bool = False) -> Op[replies.NewSubject]:
    return _op("subject_new", replies.NewSubject, one_cpu=one_cpu)


def subject_end(subject: int) -> Op[replies.Empty]:
    return _op("subject_end", replies.Empty, subject=subject)


# Memory.


def region(
    kind: str, pages: int, thp: str | None = None, prot: int | None = None, *, align: int | None = None,
    reserve: bool | None = None,
) -> Op[replies.NewRegion]:  # fmt: skip
    return _op("region", replies.NewRegion, kind=kind, pages=pages, thp=thp, prot=prot, align=align, reserve=reserve)


def alias(region: int) -> Op[replies.NewRegion]:
    return _op("alias", replies.NewRegion, region=region)


def unmap(region: int) -> Op[replies.Empty]:
    return _op("unmap", replies.Empty, region=region)


def stamp(addr: int, pages: int, page_size: int, seed: int) -> Op[replies.Empty]:
    return _op("stamp", replies.Empty, addr=addr, pages=pages, page_size=page_size, seed=seed)


def verify(addr: int, pages: int, page_size: int, seed: int) -> Op[replies.Verified]:
    return _op("verify", replies.Verified, addr=addr, pages=pages, page_size=page_size, seed=seed)


def checksum(addr: int, pages: int, page_size: int) -> Op[replies.Sums]:
    return _op("checksum", replies.Sums, addr=addr, pages=pages, page_size=page_size)


def contents(addr: int, pages: int, stride: int) -> Op[replies.Sums]:
    """Checksums of the 4 KiB at *addr* and every *stride* bytes further, read without an access; none if that cannot be
    had.
    """
    return _op("contents", replies.Sums, addr=addr, pages=pages, stride=stride)


def peek(addr: int) -> Op[replies.Value]:
    return _op("peek", replies.Value, addr=addr)


def poke(addr: int, value: int) -> Op[replies.Empty]:
    return _op("poke", replies.Empty, addr=addr, value=value)


def madvise(addr: int, length: int, advice: str) -> Op[replies.Empty]:
    return _op("madvise", replies.Empty, addr=addr, len=length, advice=advice)


def mprotect(addr: int, length: int, prot: int) -> Op[replies.Empty]:
    return _op("mprotect", replies.Empty, addr=addr, len=length, prot=prot)


def mlock(addr: int, length: int, *, onfault: bool = False) -> Op[replies.Empty]:
    return _op("mlock", replies.Empty, addr=addr, len=length, onfault=onfault)


def munlock(addr: int, length: int) -> Op[replies.Empty]:
    return _op("munlock", replies.Empty, addr=addr, len=length)


def munmap(addr: int, length: int) -> Op[replies.Empty]:
    return _op("munmap", replies.Empty, addr=addr, len=length)


def mremap(addr: int, length: int, new_len: int, flags: int, new_addr: int = 0) -> Op[replies.NewAddress]:
    return _op("mremap", replies.NewAddress, addr=addr, len=length, new_len=new_len, flags=flags, new_addr=new_addr)


def punch_hole(region: int, offset: int, length: int) -> Op[replies.Empty]:
    return _op("punch_hole", replies.Empty, region=region, offset=offset, len=length)


def settle(addr: int) -> Op[replies.Empty]:
    return _op("settle", replies.Empty, addr=addr)


def move_pages(addr: int, length: int, page_size: int, node: int | None = None) -> Op[replies.Nodes]:
    return _op("move_pages", replies.Nodes, addr=addr, len=length, page_size=page_size, node=node)


def held(addr: int, count: int, page_size: int, calls: Iterable[Op[Any]]) -> Op[replies.Held]:
    """Make *calls* while *count* pages, *page_size* bytes apart, are migration entries of a move to another node."""
    made = [{"op": call.name, **call.args} for call in calls]
    return loop("held", replies.Held, HELD_MS, addr=addr, count=count, page_size=page_size, calls=made)


def swap_cycle() -> Op[replies.Empty]:
    return _op("swap_cycle", replies.Empty)


def pin(addr: int, length: int) -> Op[replies.Empty]:
    """Pin the pages for input and output, until ``unpin`` (FOLL_PIN, FOLL_LONGTERM)."""
    return _op("pin", replies.Empty, addr=addr, len=length)


def unpin() -> Op[replies.Empty]:
    return _op("unpin", replies.Empty)


def knob(name: str, key: str | None = None, at_least: int | None = None, timeout_ms: int = 0) -> Op[replies.Number]:
    """A counter or setting of the machine, once it is *at_least* that, or what it is after *timeout_ms*.

    *key* is the name of a counter of ``vmstat``.
    """
    return _op("knob", replies.Number, name=name, key=key, at_least=at_least, timeout_ms=timeout_ms)


def knob_set(name: str, value: str) -> Op[replies.Empty]:
    return _op("knob_set", replies.Empty, name=name, value=value)


def numa_hints(timeout_ms: int = 2000) -> Op[replies.Number]:
    """Have pages of this process taken away for NUMA hints: how many entries.

    ETIMEDOUT if none were: where the process started less than ``numa_scan_delay`` ago.
    """
    return _op("numa_hints", replies.Number, timeout_ms=timeout_ms)


# userfaultfd.


def uffd_open(flags: int = 0, user_mode_only: bool | None = None) -> Op[replies.NewUffd]:
    return _op("uffd_open", replies.NewUffd, flags=flags, user_mode_only=user_mode_only)


def uffd_api(uffd: int | None, features: int, api: int | None = None) -> Op[replies.Api]:
    """*uffd* None, here and below: the one opened last."""
    return _op("uffd_api", replies.Api, uffd=uffd, features=features, api=api)


def uffd_close(uffd: int) -> Op[replies.Empty]:
    return _op("uffd_close", replies.Empty, uffd=uffd)


def register(uffd: int | None, addr: int, length: int, mode: int) -> Op[replies.Ioctls]:
    return _op("register", replies.Ioctls, uffd=uffd, addr=addr, len=length, mode=mode)


def unregister(uffd: int, addr: int, length: int) -> Op[replies.Empty]:
    return _op("unregister", replies.Empty, uffd=uffd, addr=addr, len=length)


def wake(uffd: int, addr: int, length: int) -> Op[replies.Empty]:
    return _op("wake", replies.Empty, uffd=uffd, addr=addr, len=length)


def protect(ioctl: str, uffd: int, addr: int, length: int, mode: int) -> Op[replies.Empty]:
    """*ioctl* is ``writeprotect`` or ``rwprotect``."""
    return _op(ioctl, replies.Empty, uffd=uffd, addr=addr, len=length, mode=mode)


def set_mode(uffd: int, enable: int, disable: int) -> Op[replies.Empty]:
    return _op("set_mode", replies.Empty, uffd=uffd, enable=enable, disable=disable)


def copy(
    uffd: int, dst: int, length: int, mode: int = 0, src: int | None = None, seed: int | None = None
) -> Op[replies.Moved]:
    return _op("copy", replies.Moved, uffd=uffd, dst=dst, len=length, mode=mode, src=src, seed=seed)


def fill(ioctl: str, uffd: int, addr: int, length: int, mode: int = 0) -> Op[replies.Moved]:
    """*ioctl* is ``zeropage``, ``continue`` or ``poison``."""
    return _op(ioctl, replies.Moved, uffd=uffd, addr=addr, len=length, mode=mode)


def move(uffd: int, dst: int, src: int, length: int, mode: int = 0) -> Op[replies.Moved]:
    return _op("move", replies.Moved, uffd=uffd, dst=dst, src=src, len=length, mode=mode)


def events(uffd: int, maximum: int | None = None, timeout_ms: int = 0) -> Op[replies.Events]:
    return _op("events", replies.Events, uffd=uffd, max=maximum, timeout_ms=timeout_ms)


def poll(uffd: int, timeout_ms: int = 0) -> Op[replies.Polled]:
    return _op("poll", replies.Polled, uffd=uffd, timeout_ms=timeout_ms)


# Actors.


def actor(vcpu: int | None = None) -> Op[replies.NewActor]:
    """A thread; with *vcpu*, the handle of a region, its accesses are those of a vCPU whose memory that region is."""
    return _op("actor", replies.NewActor, vcpu=vcpu)


def access(actor: int | None, how: str, addr: int, value: int | None = None) -> Op[replies.NewTicket]:
    """*actor* None: the one made last."""
    return _op("access", replies.NewTicket, actor=actor, how=how, addr=addr, value=value)


def touch(
    actor: int | None, how: str, addr: int, stride: int, pages: list[int], value: int | None = None
) -> Op[replies.NewTicket]:
    return _op("touch", replies.NewTicket, actor=actor, how=how, addr=addr, stride=stride, pages=pages, value=value)


def repeat(actor: int | None, how: str, addr: int, count: int) -> Op[replies.NewTicket]:
    return _op("touch", replies.NewTicket, actor=actor, how=how, addr=addr, stride=0, count=count)


def vcpu_log_dirty(actor: int, *, on: bool) -> Op[replies.Empty]:
    return _op("vcpu_log_dirty", replies.Empty, actor=actor, on=on)


def vcpu_dirty(actor: int) -> Op[replies.DirtyPages]:
    return _op("vcpu_dirty", replies.DirtyPages, actor=actor)


def vcpu_mappings(actor: int) -> Op[replies.Mappings]:
    return _op("vcpu_mappings", replies.Mappings, actor=actor)


def interrupt(actor: int, timeout_ms: int = 2000) -> Op[replies.Interrupted]:
    """A signal for the actor's thread, which handles it and goes on."""
    return _op("interrupt", replies.Interrupted, actor=actor, timeout_ms=timeout_ms)


def ticket(ticket: int | None, want: str | None = None, timeout_ms: int | None = None) -> Op[replies.TicketState]:
    return _op("ticket", replies.TicketState, ticket=ticket, want=want, timeout_ms=timeout_ms)


def latest_ticket(actor: int, want: str | None = None, timeout_ms: int | None = None) -> Op[replies.TicketState]:
    """The same of the latest ticket of an actor."""
    return _op("ticket", replies.TicketState, actor=actor, want=want, timeout_ms=timeout_ms)


# What the kernel tells of pages and processes.


def pagemap(addr: int, pages: int) -> Op[replies.Entries]:
    return _op("pagemap", replies.Entries, addr=addr, pages=pages)


def markers(addr: int, pages: int) -> Op[replies.Markers]:
    """Which pagemap entries have bit 57, and nothing else of them."""
    return _op("markers", replies.Markers, addr=addr, pages=pages)


def page_flags(addr: int, pages: int) -> Op[replies.PageFlags]:
    return _op("page_flags", replies.PageFlags, addr=addr, pages=pages)


def frames(addr: int, pages: int) -> Op[replies.Frames]:
    return _op("frames", replies.Frames, addr=addr, pages=pages)


def pagemap_scan(addr: int, length: int, **args: int) -> Op[replies.Scan]:
    """*args*: ``flags``, ``category_inverted``, ``category_mask``, ``category_anyof_mask``, ``return_mask``,
    ``max_pages``, ``vec_len``.
    """
    return _op("pagemap_scan", replies.Scan, addr=addr, len=length, **args)


def fork(uffd: int | None = None, *, each: bool | None = None) -> Op[replies.NewSubject]:
    """*uffd*, or *each* of them, has EVENT_FORK: its event is read meanwhile."""
    return _op("fork", replies.NewSubject, uffd=uffd, each=each)


def drain(*, on: bool) -> Op[replies.Drained]:
    """Read events, while another process forks, until this is called again with *on* false."""
    return _op("drain", replies.Drained, on=on)


def proc_read(name: str, maximum: int | None = None) -> Op[replies.ProcText]:
    return _op("proc_read", replies.ProcText, name=name, max=maximum)


def raw_ioctl(request: str, addr: int, uffd: int | None = None) -> Op[replies.Empty]:
    """An ioctl on the struct that lies at *addr*, if one does; *request* is ``UFFDIO_...`` or ``PAGEMAP_SCAN``."""
    return _op("raw_ioctl", replies.Empty, request=request, addr=addr, uffd=uffd)


def drop_capabilities() -> Op[replies.Empty]:
    return _op("drop_capabilities", replies.Empty)


def control(name: str) -> Op[replies.Empty]:
    return _op("control", replies.Empty, name=name)


# Native loops.


def loop(name: str, reply: type[T_co], wait_ms: int, /, **args: Any) -> Op[T_co]:
    """A native loop that may work for *wait_ms* before the probe must answer."""
    given = _op(name, reply, **args)
    return Op(given.name, given.reply, given.args, wait_ms)
