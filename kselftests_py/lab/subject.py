"""``Subject``: a process of the probe, fresh for one test."""

from __future__ import annotations

from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from kselftests_py.lab import ops, replies
from kselftests_py.lab.actor import Actor, Vcpu
from kselftests_py.lab.channel import ChannelError
from kselftests_py.lab.constants import Page, Term, feature_bits
from kselftests_py.lab.errors import KernelRefused, ProbeError
from kselftests_py.lab.ops import Op, result_of
from kselftests_py.lab.region import Region, Span
from kselftests_py.lab.uffd import Uffd

if TYPE_CHECKING:
    from kselftests_py.lab.lab import Lab

_T = TypeVar("_T")
SCAN_VECTOR = 65536
"""Most regions that one PAGEMAP_SCAN reports (the probe's limit)."""
LOOP_MS = 60_000
"""Bound of a native loop, unless its caller knows better."""


class Subject:
    """A process that maps memory, opens userfaultfds and runs actors; ``pid`` is its process id in the guest.

    Every method raises KernelRefused when the kernel answers with an errno,
    SubjectDied or SubjectHung when the process is lost.
    """

    def __init__(self, lab: Lab, handle: int, pid: int) -> None:
        self._lab = lab
        self.handle = handle
        self.pid = pid

    def __enter__(self) -> Subject:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.end()

    def end(self) -> None:
        """Kill and reap the process. It is no error if it, or the channel to it, is gone already.

        :raises SubjectHung: it does not end.
        """
        try:
            self._lab.call(ops.subject_end(self.handle))
        except (ChannelError, ProbeError):
            # Whatever broke it has been raised where it broke; a second error here would hide that one.
            return

    def call(self, op: Op[_T]) -> _T:
        """Run one operation and return its result."""
        (item,) = self._items((op,), stop_on_errno=False)
        return result_of(item, op)

    def batch(self, *batch: Op[Any], stop_on_errno: bool = True) -> list[Any]:
        """Run operations in order in one round trip; returns their results.

        With *stop_on_errno* the first refusal ends the batch and is raised;
        without, a refused operation has its ``KernelRefused`` as its result.
        """
        results: list[Any] = []
        for op, item in zip(batch, self._items(batch, stop_on_errno=stop_on_errno), strict=False):
            try:
                results.append(result_of(item, op))
            except KernelRefused as refusal:
                if stop_on_errno:
                    raise
                results.append(refusal)
        if len(results) != len(batch):
            raise ProbeError(f"the probe ran {len(results)} of {len(batch)} operations and does not say why")
        return results

    def _items(self, batch: tuple[Op[Any], ...], *, stop_on_errno: bool) -> list[replies.Item]:
        items = self._lab.call_subject(self.handle, batch, stop_on_errno=stop_on_errno)
        if batch and not items:
            raise ProbeError(f"the probe answered {batch[0].name} with an empty batch")
        return items

    def control(self, name: str) -> None:
        """Switch on a negative control of docs/probe-protocol.md: from here on the probe lies in that one way."""
        self.call(ops.control(name))

    # Memory, descriptors, threads.

    def region(self, kind: str, pages: int, thp: str | None = None, prot: int | None = None) -> Region:
        """Map *pages* pages of *kind* (see ``Region``), none of them populated."""
        return Region.of(self, kind, self.call(ops.region(kind, pages, thp, prot)))

    def uffd(self, features: Term | int = 0, user_mode_only: bool | None = None) -> Uffd:
        """Open a userfaultfd and negotiate *features* (UFFDIO_API)."""
        opened, api = self.batch(
            ops.uffd_open(user_mode_only=user_mode_only), ops.uffd_api(None, feature_bits(features))
        )
        return Uffd(self, opened.uffd, api)

    def actor(self) -> Actor:
        """A thread, which starts with its first access."""
        return Actor(self)

    def vcpu(self, region: Region) -> Vcpu:
        """Start a virtual machine of one vCPU whose memory is *region*, at most 1022 MiB."""
        return Vcpu(self, self.call(ops.actor(region.handle)))

    def peek(self, addr: int) -> int:
        """The 64 bits at *addr*, loaded by the subject's own thread: it hangs if the page is protected in sync mode."""
        return self.call(ops.peek(addr)).value

    def poke(self, addr: int, value: int) -> None:
        """Store 64 bits at *addr* by the subject's own thread."""
        self.call(ops.poke(addr, value))

    def fork(self, uffd: Uffd | None = None) -> tuple[Subject, Uffd | None]:
        """Fork the process: the child as a Subject, and its userfaultfd if *uffd* has EVENT_FORK."""
        new = self.call(ops.fork(uffd.handle if uffd else None))
        inherited = Uffd(self, new.uffd, uffd.api) if uffd and new.uffd else None
        return Subject(self._lab, new.subject, new.pid), inherited

    def fork_each(self) -> tuple[Subject, dict[int, Uffd]]:
        """Fork with EVENT_FORK on several descriptors: the child, and its descriptor of each handle of ours."""
        new = self.call(ops.fork(each=True))
        api = replies.Api(0, 0)
        return Subject(self._lab, new.subject, new.pid), {old: Uffd(self, handle, api) for old, handle in new.uffds}

    def fork_of(self, child: Subject) -> tuple[Subject, dict[int, Uffd]]:
        """Fork *child*, whose descriptors with EVENT_FORK are ours: its child, and a new descriptor of ours for each.

        They are found by the handle of the one that forked.
        """
        self.call(ops.drain(on=True))
        try:
            grandchild, _ = child.fork()
        finally:
            new = self.call(ops.drain(on=False)).uffds
        return grandchild, {old: Uffd(self, handle, replies.Api(0, 0)) for old, handle in new}

    def pagemap_scan(
        self, span: Span, mask: Page | int, returns: Page | int | None = None, **args: int
    ) -> list[tuple[int, int, int]]:
        """PAGEMAP_SCAN of *span*: list of (start, end, categories), in order of address.

        *mask* is ``category_mask``, *returns* ``return_mask`` (*mask* by default), *args* go to the probe as they
        are. Raises ProbeError if the answer leaves the span or stops short of its end.
        """
        returned = int(mask if returns is None else returns)
        given = {"vec_len": min(max(len(span), 1), SCAN_VECTOR), **args}
        scan = self.call(
            ops.pagemap_scan(span.addr, span.length, category_mask=int(mask), return_mask=returned, **given)
        )
        at = span.addr
        for start, end, _ in scan.regions:
            if not (at <= start < end <= span.end) or start % 4096 or end % 4096:
                raise ProbeError(f"PAGEMAP_SCAN reports {start:#x}-{end:#x} in a walk of {at:#x}-{span.end:#x}")
            at = end
        if "max_pages" not in args and scan.walk_end != span.end:
            raise ProbeError(f"PAGEMAP_SCAN ended at {scan.walk_end:#x}, not at {span.end:#x}")
        return scan.regions

    def proc_read(self, name: str) -> str:
        """Text of /proc/self/*name*, as the guest wrote it: escape it before showing it."""
        return self.call(ops.proc_read(name)).text

    # Native loops (docs/probe-protocol.md). ``clock``: ``tsc`` for exact mode, ``mono`` for nanoseconds.

    def fault_latency(
        self, *, mode: str, delivery: str, kind: str, access: str, pages: int, rounds: int, clock: str
    ) -> replies.FaultLatency:
        """One access that is a fault: *mode* is ``wp``, ``rwp``, ``missing``, ``missing-zeropage`` or ``minor``,
        *delivery* ``sync`` or, for the first two, ``async``, *access* ``read``, ``write``, ``gup`` or
        ``gup-write``."""
        args: dict[str, Any] = {"async": delivery == "async", "mode": mode, "kind": kind, "access": access}
        args |= {"pages": pages, "rounds": rounds, "clock": clock}
        return self.call(ops.loop("fault_latency", replies.FaultLatency, LOOP_MS, **args))

    def fault_waterfall(
        self, *, mode: str, kind: str, access: str, pages: int, rounds: int, clock: str
    ) -> replies.FaultWaterfall:
        """Where a sync fault spends what it costs; arguments as for :meth:`fault_latency`."""
        args: dict[str, Any] = {"mode": mode, "kind": kind, "access": access, "pages": pages, "rounds": rounds}
        return self.call(ops.loop("fault_waterfall", replies.FaultWaterfall, LOOP_MS, **args, clock=clock))

    def protect_cost(self, *, mode: str, kind: str, pages: int, rounds: int, clock: str) -> replies.ProtectCost:
        """Histograms of ticks to protect, and to resolve, *pages* pages in one call."""
        args: dict[str, Any] = {"mode": mode, "kind": kind, "pages": pages, "rounds": rounds, "clock": clock}
        return self.call(ops.loop("protect_cost", replies.ProtectCost, LOOP_MS, **args))

    def scan_cost(
        self, *, mode: str, kind: str, pages: int, hot: int, rounds: int, clock: str, absent: bool = False
    ) -> replies.ScanCost:
        """Histogram of ticks to scan *pages* pages of which *hot* are hot; *absent*: none is there."""
        args: dict[str, Any] = {"mode": mode, "kind": kind, "pages": pages, "hot": hot, "rounds": rounds}
        return self.call(ops.loop("scan_cost", replies.ScanCost, LOOP_MS, **args, clock=clock, absent=absent))

    def path_cost(
        self, path: str, *, kind: str, pages: int, rounds: int, clock: str, mode: str | None = None, vmas: int = 1
    ) -> replies.PathCost:
        """Histogram of ticks of *path* (docs/probe-protocol.md) over *pages* pages, protected by *mode* if given;
        *vmas* is for ``set-mode``: how many mappings the range is."""
        args: dict[str, Any] = {"path": path, "kind": kind, "pages": pages, "rounds": rounds, "clock": clock}
        args |= {"vmas": vmas} | ({"mode": mode} if mode else {})
        return self.call(ops.loop("path_cost", replies.PathCost, LOOP_MS, **args))

    def fault_throughput(
        self, *, mode: str, kind: str, access: str, pages: int, rounds: int, clock: str, handler: str, threads: int = 1,
        batch: int = 1,
    ) -> replies.Throughput:  # fmt: skip
        """Sync faults by *threads* threads at once; *handler* is ``poll``, ``read`` or ``sigbus``, and resolves *batch*
        pages with one call."""
        args: dict[str, Any] = {"mode": mode, "kind": kind, "access": access, "pages": pages, "rounds": rounds}
        args |= {"clock": clock, "handler": handler, "threads": threads, "batch": batch}
        return self.call(ops.loop("fault_throughput", replies.Throughput, LOOP_MS, **args))

    def evict(
        self, *, mode: str, pages: int, writers: int, rounds: int, seed: int, variant: str = "documented"
    ) -> replies.Evicted:
        """Counters of the eviction loop of a VMM against racing writers."""
        args: dict[str, Any] = {"mode": mode, "pages": pages, "writers": writers, "rounds": rounds, "seed": seed}
        return self.call(ops.loop("evict", replies.Evicted, LOOP_MS, **args, variant=variant))
