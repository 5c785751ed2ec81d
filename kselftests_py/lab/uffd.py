"""``Uffd``: a userfaultfd of the subject; ``Fault``: what it reports of a trapped access."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from kselftests_py.lab import ops
from kselftests_py.lab.constants import FaultFlag, ProtectMode, RegisterMode, Term, fault_bits, feature_bits, mode_bits
from kselftests_py.lab.errors import NoFault, printable
from kselftests_py.lab.region import Span
from kselftests_py.lab.replies import Api, EventMessage

if TYPE_CHECKING:
    from kselftests_py.lab.subject import Subject

WAIT_MS = 2000
"""How long ``next_fault`` waits for an event."""


@dataclass(frozen=True)
class Fault:
    """A trapped access: ``Fault(region[0], RWP | WRITE)``. Compared by address and flags; ``tid`` needs THREAD_ID."""

    address: int
    flags: Term | int
    tid: int | None = field(default=None, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "flags", fault_bits(self.flags))

    def __repr__(self) -> str:
        flags = FaultFlag(int(self.flags)) if isinstance(self.flags, int) else self.flags
        return f"Fault({self.address:#x}, {flags!r})"


@dataclass(frozen=True)
class Event:
    """An event that is not a page fault: ``fork``, ``remap``, ``remove`` or ``unmap``."""

    name: str
    address: int


class Uffd:
    """A userfaultfd after UFFDIO_API. Every method raises KernelRefused with the kernel's errno."""

    def __init__(self, subject: Subject, handle: int, api: Api) -> None:
        self._subject = subject
        self.handle = handle
        self.api = api
        self._registered: list[tuple[Span, int]] = []

    def register(self, span: Span, mode: Term | int) -> int:
        """UFFDIO_REGISTER; returns the mask of ioctls that the range takes."""
        bits = mode_bits(mode)
        ioctls = self._subject.call(ops.register(self.handle, span.addr, span.length, bits)).ioctls
        self._registered.append((span, bits))
        return ioctls

    def registered(self, span: Span, mode: Term | int) -> None:
        """Take note of an UFFDIO_REGISTER that was made in a batch."""
        self._registered.append((span, mode_bits(mode)))

    def unregister(self, span: Span) -> None:
        """UFFDIO_UNREGISTER."""
        self._subject.call(ops.unregister(self.handle, span.addr, span.length))

    def rwprotect(self, span: Span, mode: int = ProtectMode.PROTECT) -> None:
        """UFFDIO_RWPROTECT; *mode* 0 resolves."""
        self._subject.call(ops.protect("rwprotect", self.handle, span.addr, span.length, mode))

    def writeprotect(self, span: Span, mode: int = ProtectMode.PROTECT) -> None:
        """UFFDIO_WRITEPROTECT; *mode* 0 resolves."""
        self._subject.call(ops.protect("writeprotect", self.handle, span.addr, span.length, mode))

    def protect(self, span: Span, mode: int = ProtectMode.PROTECT) -> None:
        """The protecting ioctl of the mode that *span* is registered with."""
        if self._mode_at(span.addr) & RegisterMode.RWP:
            self.rwprotect(span, mode)
        else:
            self.writeprotect(span, mode)

    def resolve(self, where: int | Span) -> None:
        """Take the protection off (one page, if *where* is an address) and wake who waits there."""
        self.protect(where if isinstance(where, Span) else self._page_at(where), 0)

    def set_mode(self, enable: Term | int = 0, disable: Term | int = 0) -> None:
        """UFFDIO_SET_MODE: switch features (RWP_ASYNC) on and off."""
        self._subject.call(ops.set_mode(self.handle, feature_bits(enable), feature_bits(disable)))

    def wake(self, span: Span) -> None:
        """UFFDIO_WAKE."""
        self._subject.call(ops.wake(self.handle, span.addr, span.length))

    def copy(self, span: Span, seed: int, mode: int = 0) -> int:
        """UFFDIO_COPY of pages with the pattern of *seed*; returns the bytes copied."""
        return self._subject.call(ops.copy(self.handle, span.addr, span.length, mode, seed=seed)).copied or 0

    def close(self) -> None:
        """close(2)."""
        self._subject.call(ops.uffd_close(self.handle))

    def events(self, timeout_ms: int = 0) -> list[Fault | Event]:
        """Every event that is there; waits up to *timeout_ms* for the first."""
        return [_event(e) for e in self._subject.call(ops.events(self.handle, timeout_ms=timeout_ms)).events]

    def next_fault(self, timeout_ms: int = WAIT_MS) -> Fault:
        """The next event, which must be a page fault; waits for it. Raises NoFault, an AssertionError."""
        events = self._subject.call(ops.events(self.handle, 1, timeout_ms)).events
        event = _event(events[0]) if events else None
        if not isinstance(event, Fault):
            raise NoFault(f"awaited a page fault on the userfaultfd for {timeout_ms} ms, got {event}")
        return event

    def _mode_at(self, address: int) -> int:
        # The latest registration is the one that counts; without any, the kernel shall answer.
        return next((mode for span, mode in reversed(self._registered) if address in span), 0)

    def _page_at(self, address: int) -> Span:
        size = next((span.page_size for span, _ in reversed(self._registered) if address in span), 4096)
        return Span(address - address % size, size, size)


def _event(message: EventMessage) -> Fault | Event:
    if message.event == "pagefault":
        return Fault(message.address, message.flags, message.tid)
    return Event(printable(message.event), message.address)
