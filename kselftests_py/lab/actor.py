"""``Actor``: a thread of the subject, or a vCPU, whose accesses return at once with a ``Ticket``."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING

from kselftests_py.lab import ops
from kselftests_py.lab.errors import ProbeError
from kselftests_py.lab.ops import Op
from kselftests_py.lab.region import Span
from kselftests_py.lab.replies import Mappings, NewActor, NewTicket, TicketState

if TYPE_CHECKING:
    from kselftests_py.lab.subject import Subject

MANY_TIMES = 1 << 32
"""Accesses that no test waits for the end of (the probe's limit)."""


class Ticket:
    """One access, or one run of accesses, on its way. No state is guessed: ``done`` and ``blocked`` ask the probe."""

    def __init__(self, subject: Subject, handle: int) -> None:
        self._subject = subject
        self.handle = handle
        self._final: TicketState | None = None

    def wait(self, want: str | None = None, timeout_ms: int | None = None) -> TicketState:
        """The state once it is *want* (``done``, ``blocked``, or None: either), or at the bound (2 s by default).

        ``running``: once two more accesses are completed, of which the second began after this call.
        """
        if self._final is None:
            state = self._subject.call(ops.ticket(self.handle, want, timeout_ms))
            if state.state != "done":
                return state
            self._final = state
        return self._final

    @property
    def done(self) -> bool:
        """True once the access has completed; waits for that, up to 2 s. Raises AssertionError if a vCPU cannot."""
        state = self.wait("done")
        assert state.exit is None, f"the vCPU left the guest: {state.exit}"
        return state.state == "done"

    @property
    def blocked(self) -> bool:
        """True if the thread sleeps in the kernel; waits until it does or the access has completed, up to 2 s."""
        return self.wait().state == "blocked"

    @property
    def value(self) -> int:
        """The 64 bits that the access loaded; waits for it. Raises AssertionError if the access does not complete."""
        state = self.wait("done")
        assert state.state == "done", f"the access did not complete: it is {state.state}"
        assert state.exit is None, f"the access did not complete: {state.exit}"
        if state.value is None:
            raise ProbeError("the probe reports an access as done without its value")
        return state.value

    @property
    def signal(self) -> int | str | None:
        """The signal that the access raised (SIGSEGV, SIGBUS), or None."""
        return self.wait("done").signal

    @property
    def exit(self) -> str | None:
        """Why the vCPU left the guest before it was done: the errno of KVM_RUN, or the number of the exit."""
        return self.wait("done").exit

    @property
    def count(self) -> int:
        """How many of the run's accesses are completed."""
        return self.wait().count or 0


class Actor:
    """A thread that accesses memory on command, one access at a time.

    It starts with its first access, in the same round trip.
    """

    def __init__(self, subject: Subject, made: NewActor | None = None) -> None:
        self._subject = subject
        self._made = made

    def _start(self) -> NewActor:
        if self._made is None:
            self._made = self._subject.call(ops.actor())
        return self._made

    @property
    def handle(self) -> int:
        """The probe's handle of it."""
        return self._start().actor

    @property
    def tid(self) -> int:
        """Its thread id."""
        return self._start().tid

    def _give(self, make: Callable[[int | None], Op[NewTicket]]) -> Ticket:
        if self._made is not None:
            return Ticket(self._subject, self._subject.call(make(self._made.actor)).ticket)
        self._made, ticket = self._subject.batch(ops.actor(), make(None))
        return Ticket(self._subject, ticket.ticket)

    def read(self, addr: int) -> Ticket:
        """Load 64 bits from *addr*."""
        return self.access("read", addr)

    def write(self, addr: int, value: int = 0) -> Ticket:
        """Store the 64-bit *value* at *addr*."""
        return self.access("write", addr, value)

    def rmw(self, addr: int, value: int = 1) -> Ticket:
        """Atomically add *value* to the 64 bits at *addr*."""
        return self.access("rmw", addr, value)

    def access(self, how: str, addr: int, value: int | None = None) -> Ticket:
        """Access *addr*; *how* is ``read``, ``write``, ``rmw``, ``exec`` or a system call (docs/probe-protocol.md)."""
        return self._give(lambda actor: ops.access(actor, how, addr, value))

    def interrupt(self) -> bool:
        """Send its thread a signal that it handles, in the middle of an access too; false: it did not within 2 s."""
        return self._subject.call(ops.interrupt(self.handle)).handled

    def repeat(self, how: str, addr: int) -> Ticket:
        """Access *addr* again and again, for as long as any test lasts."""
        return self._give(lambda actor: ops.repeat(actor, how, addr, MANY_TIMES))

    def touch(self, how: str, span: Span, pages: Iterable[int], value: int | None = None) -> Ticket:
        """Access the numbered *pages* of *span* in their order; one ticket for them all."""
        numbers = list(pages)
        return self._give(lambda actor: ops.touch(actor, how, span.addr, span.page_size, numbers, value))


class Vcpu(Actor):
    """A vCPU of a virtual machine whose memory is one region: its accesses come through nested page tables.

    The same accesses as of a thread; ``exec`` needs a return instruction (0xC3) at its address.
    """

    def log_dirty(self, *, on: bool) -> None:
        """Switch KVM's dirty logging (KVM_MEM_LOG_DIRTY_PAGES) on or off."""
        self._subject.call(ops.vcpu_log_dirty(self.handle, on=on))

    def dirty_pages(self) -> set[int]:
        """Numbers of the 4 KiB pages in the dirty log, which this empties (KVM_GET_DIRTY_LOG)."""
        return set(self._subject.call(ops.vcpu_dirty(self.handle)).pages)

    def mappings(self) -> Mappings:
        """What KVM has mapped for the guest by now, its own few pages included (KVM_GET_STATS_FD)."""
        return self._subject.call(ops.vcpu_mappings(self.handle))
