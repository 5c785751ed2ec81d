"""Runs a sequence in the probe: what each step's checks have seen. See ``steps`` for what a step and a check are.

Steps and checks are sent in few requests: all that one process does until the next address or the next process is
needed. A process that dies or hangs takes the answers of its request with it; with ``single`` every step is a request
of its own, which tells at which step that was.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kselftests_py.explore import steps as s
from kselftests_py.explore.model import Place
from kselftests_py.lab import (
    Capabilities,
    FaultFlag,
    KernelRefused,
    Lab,
    Page,
    ProbeError,
    Subject,
    SubjectGone,
    ops,
)
from kselftests_py.lab.ops import Op, result_of
from kselftests_py.lab.replies import EventMessage, TicketState

HELPER = -1
"""The number of the thread that populates and reads the contents."""
WAIT_MS = 2000


@dataclass
class Entry:
    """A page as pagemap and PAGEMAP_SCAN show it; None: this kernel cannot tell."""

    bits: int
    accessed: bool | None = None
    written: bool | None = None

    @property
    def marked(self) -> bool:
        return bool(self.bits >> 57 & 1)

    @property
    def present(self) -> bool:
        return bool(self.bits >> 63 & 1)

    @property
    def guard(self) -> bool:
        return bool(self.bits >> 58 & 1)

    @property
    def swapped(self) -> bool:
        return bool(self.bits >> 62 & 1)


@dataclass
class Seen:
    """What the checks after one step have seen."""

    errno: str | None = None  # None: the step was not reached
    states: dict[int, str] = field(default_factory=dict)
    values: dict[int, int] = field(default_factory=dict)
    messages: dict[int, list[str]] = field(default_factory=dict)
    pages: dict[Place, Entry] = field(default_factory=dict)


@dataclass
class Observed:
    """A whole run: one ``Seen`` a step, one more for the final checks; ``lost`` if the process was, and how."""

    steps: list[Seen]
    contents: dict[Place, str] = field(default_factory=dict)
    lost: SubjectGone | None = None


class Stopped(Exception):
    """The probe refused an operation (an actor that is busy against expectation): nothing more can be seen."""


@dataclass
class Region:
    kind: str
    pages: int
    handle: int
    addr: int = 0
    page_size: int = 4096


@dataclass
class Actor:
    process: int
    handle: int
    ticket: int = 0


Sink = Callable[[Any], None]


def categories_of(caps: Capabilities) -> tuple[Page, ...]:
    """What the kernel's PAGEMAP_SCAN can be asked for."""
    found = ((Page.ACCESSED, "page_accessed"), (Page.WRITTEN, "pagemap_scan"))
    return tuple(category for category, need in found if caps.missing(need) is None)


def _state_of(ticket: int) -> Op[TicketState]:
    """Waits for a state; not to be added to what the whole request may take: most are there at once."""
    return replace(ops.ticket(ticket, None, WAIT_MS), wait_ms=0)


class Runner:
    """One run of one sequence."""

    def __init__(
        self,
        lab: Lab,
        sequence: s.Sequence,
        categories: tuple[Page, ...],
        *,
        control: str | None,
        single: bool,
        one_cpu: bool,
    ) -> None:
        self.lab, self._sequence, self._single, self._categories = lab, sequence, single, categories
        self.observed = Observed([Seen() for _ in range(len(sequence.steps) + 1)])
        self.subjects: list[Subject | None] = [lab.new_subject(one_cpu=one_cpu)]
        self._queue: list[tuple[Op[Any], Sink]] = []
        self._process = 0
        self.regions: list[Region] = []
        self.uffds: list[bool] = []  # open
        self.actors: list[Actor] = []
        self._tables: list[dict[str, int]] = []  # of each process, how many handles of each sort it has given
        self.helpers: list[Actor] = []
        self.now = self.observed.steps[0]
        self.new_process()
        self.scratch = Region("anon", 1, self.handle(0, "region"))
        self.add(0, ops.region("anon", 1), self.mapped(self.scratch))
        if control is not None:
            self.add(0, ops.control(control))

    def end(self) -> None:
        for subject in self.subjects:
            if subject is not None:
                subject.end()

    # The queue of operations.

    def new_process(self) -> None:
        process = len(self.helpers)
        self._tables.append({"region": 0, "actor": 0, "ticket": 0})
        self.helpers.append(Actor(process, self.handle(process, "actor")))
        self.add(process, ops.actor())

    def mapped(self, region: Region) -> Sink:
        """Takes the address of *region*, which must be had."""

        def sink(result: Any) -> None:
            must_work(result)
            region.addr, region.page_size = result.addr, result.page_size

        return sink

    def handle(self, process: int, sort: str) -> int:
        """The handle that the probe will give next."""
        self._tables[process][sort] += 1
        return self._tables[process][sort]

    def add(self, process: int, op: Op[Any], sink: Sink | None = None) -> None:
        if process != self._process:
            self.flush()
            self._process = process
        self._queue.append((op, sink or must_work))

    def flush(self) -> None:
        queue, self._queue = self._queue, []
        subject = self.subjects[self._process]
        if not queue or subject is None:
            return
        items = self.lab.call_subject(subject.handle, [op for op, _ in queue], stop_on_errno=False)
        for (op, sink), item in zip(queue, items, strict=False):
            if item.error is not None and "still busy" in item.error:
                raise Stopped
            try:
                result = result_of(item, op)
            except KernelRefused as refused:
                result = refused
            sink(result)
        if len(items) != len(queue):
            raise ProbeError(f"the probe ran {len(items)} of {len(queue)} operations and does not say why")

    def address(self, region: int, page: int) -> int:
        known = self.regions[region]
        if not known.addr:
            self.flush()
        return known.addr + page * known.page_size

    def range(self, step: s._Range) -> tuple[int, int]:
        return self.address(step.region, step.first), step.count * self.regions[step.region].page_size

    # Steps.

    def all_steps(self, perform: Mapping[type, Callable[[Runner, Any], None]]) -> None:
        """Make each step as *perform* has it for its type, and look."""
        for number, step in enumerate(self._sequence.steps):
            self.now = self.observed.steps[number]
            perform[type(step)](self, step)
            self._check()
            if self._single:
                self.flush()
        self.flush()

    def errno(self, seen: Seen) -> Sink:
        def sink(result: Any) -> None:
            seen.errno = result.name if isinstance(result, KernelRefused) else "0"

        return sink

    def call(self, process: int, op: Op[Any]) -> None:
        """The operation whose errno is the step's."""
        self.add(process, op, self.errno(self.now))

    def access(self, number: int, actor: Actor, how: str, address: int, value: int) -> None:
        seen, ticket = self.now, self.handle(actor.process, "ticket")
        actor.ticket = ticket
        self.add(actor.process, ops.access(actor.handle, how, address, value), self.errno(seen))
        if number == HELPER:
            self.add(actor.process, _state_of(ticket), lambda state: _worst(seen.states, state))

    # Checks.

    def _check(self) -> None:
        """Everything that is looked at after a step; nothing of it touches a page of a region."""
        self._states()
        seen = self.now
        for number, is_open in enumerate(self.uffds):
            if is_open:
                self.add(0, ops.events(number + 1), self._messages(seen, number))
        here = [process for process, subject in enumerate(self.subjects) if subject is not None]
        for process in here:
            for number, region in enumerate(self.regions):
                self._pages(seen, process, number, region)

    def _states(self) -> None:
        # The child's first: what follows is of process 0 and joins the step that comes next.
        for process in sorted({actor.process for actor in self.actors}, reverse=True):
            for number, actor in enumerate(self.actors):
                if actor.process == process and actor.ticket and self.subjects[process] is not None:
                    self.add(process, _state_of(actor.ticket), self._state(self.now, number))

    def _state(self, seen: Seen, number: int) -> Sink:
        def sink(state: TicketState) -> None:
            seen.states[number] = _text(state)
            if state.value is not None and seen.states[number] == "done":
                seen.values[number] = state.value

        return sink

    def _messages(self, seen: Seen, number: int) -> Sink:
        def sink(result: Any) -> None:
            if isinstance(result, KernelRefused):
                seen.messages[number] = [result.name]
            else:
                seen.messages[number] = sorted(self._message(one) for one in result.events)

        return sink

    def _message(self, message: EventMessage) -> str:
        if message.event != "pagefault":
            return message.event
        flags = FaultFlag(message.flags)
        kinds = [
            bit.name.lower() for bit in (FaultFlag.RWP, FaultFlag.WP, FaultFlag.MINOR) if bit in flags and bit.name
        ]
        names = (kinds or ["missing"]) + (["write"] if FaultFlag.WRITE in flags else [])
        for number, region in enumerate(self.regions):
            offset = message.address - region.addr
            if 0 <= offset < region.pages * region.page_size and offset % region.page_size == 0:
                return f"{'+'.join(names)} {number}:{offset // region.page_size}"
        return f"{'+'.join(names)} elsewhere"

    def _pages(self, seen: Seen, process: int, number: int, region: Region) -> None:
        pages = [seen.pages.setdefault((process, number, page), Entry(0)) for page in range(region.pages)]
        address = self.address(number, 0)
        if region.page_size == 4096:
            self.add(process, ops.pagemap(address, region.pages), _entries(pages))
        else:
            for page, entry in enumerate(pages):
                self.add(process, ops.pagemap(address + page * region.page_size, 1), _entries([entry]))
        for category in self._categories:
            scan = ops.pagemap_scan(
                address, region.pages * region.page_size, category_mask=int(category), return_mask=int(category)
            )
            self.add(process, scan, _scanned(pages, address, region.page_size, accessed=category == Page.ACCESSED))

    def final(self, readable: list[Place]) -> None:
        """Close everything; who is busy then; and the contents."""
        self.now = self.observed.steps[-1]
        for number, is_open in enumerate(self.uffds):
            if is_open:
                self.add(0, ops.uffd_close(number + 1))
                self._states()  # who goes on is done before the next close lets others go on to the same page
        self._states()
        for process, region, page in sorted(readable, reverse=True):
            helper = self.helpers[process]
            helper.ticket = self.handle(process, "ticket")
            self.add(process, ops.access(helper.handle, "read", self.address(region, page), 0))
            sink = self._content((process, region, page))
            self.add(process, _state_of(helper.ticket), sink)
        self.flush()
        self.now.errno = "0"

    def _content(self, place: Place) -> Sink:
        def sink(state: TicketState) -> None:
            self.observed.contents[place] = str(state.value) if _text(state) == "done" else _text(state)

        return sink


def must_work(result: Any) -> None:
    if isinstance(result, KernelRefused):
        raise ProbeError(f"the kernel refused what no check is about: {result}")


def _text(state: TicketState) -> str:
    return str(state.signal) if state.signal else state.state


def _worst(states: dict[int, str], state: TicketState) -> None:
    if states.get(HELPER, "done") == "done":
        states[HELPER] = _text(state)


def _entries(pages: list[Entry]) -> Sink:
    def sink(result: Any) -> None:
        must_work(result)
        if len(result.entries) != len(pages):
            raise ProbeError(f"the probe gave {len(result.entries)} pagemap entries for {len(pages)}")
        for page, text in zip(pages, result.entries, strict=True):
            page.bits = int(text, 16)

    return sink


def _scanned(pages: list[Entry], start: int, size: int, *, accessed: bool) -> Sink:
    def sink(result: Any) -> None:
        must_work(result)
        found = {
            page
            for first, last, _ in result.regions
            for page in range(max(0, first - start) // size, min(len(pages), max(0, last - start + size - 1) // size))
        }
        for number, page in enumerate(pages):
            if accessed:
                page.accessed = number in found
            else:
                page.written = number in found

    return sink
