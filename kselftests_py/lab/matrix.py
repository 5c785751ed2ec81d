"""The matrix of operations and kinds of memory: one operation on every kind at once, and each kind judged by itself.

A cell is memory of one kind with one protection and delivery. All cells of an operation are made in one process and
looked at in a few batches, so that hundreds of cells cost little more than their operations. Expected is what was
protected before (I2, I3, I4, I5 of the UAPI contract), never what a kernel did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from itertools import groupby
from typing import Any

from kselftests_py.lab import ops
from kselftests_py.lab.cases import features
from kselftests_py.lab.constants import PAGEMAP_UFFD_BIT, RWP, WP, WRITE, Page, ProtectMode, fault_bits
from kselftests_py.lab.errors import KernelRefused
from kselftests_py.lab.kinds import ALL_ACCESS, CODE, KINDS, READ_EXEC, READ_WRITE, RETURNS, Kind
from kselftests_py.lab.ops import Op
from kselftests_py.lab.region import PAGEMAP_GRAIN, Region
from kselftests_py.lab.subject import Subject
from kselftests_py.lab.uffd import Uffd

DELIVERIES = ("sync", "async")
WAIT_MS = 2000
ACTORS = 5
"""One for the accesses that pass, four for those that may sleep at the same time."""


@dataclass
class Cell:
    """Memory of one kind, protected in one way, in the process ``subject``; ``owner`` is the one that has ``uffd``."""

    kind: Kind
    protection: str
    delivery: str
    region: Region
    uffd: Uffd
    subject: Subject
    owner: Subject
    values: dict[int, int] = field(default_factory=dict)
    sums: list[str] = field(default_factory=list)
    gone: range = range(0)
    """Pages that the operation has taken away on purpose."""

    def __str__(self) -> str:
        return f"{self.kind.name}-{self.protection}-{self.delivery}"

    @property
    def armed(self) -> set[int]:
        return {page for page in self.kind.armed if page not in self.gone}

    @property
    def left(self) -> list[int]:
        """Numbers of the pages that are still there."""
        return [page for page in range(len(self.region)) if page not in self.gone]

    @property
    def free(self) -> set[int]:
        return set(self.left) - self.armed


@dataclass(frozen=True)
class Case:
    """All cells of one operation, and the children that it forked."""

    subject: Subject
    cells: list[Cell]
    children: list[Subject] = field(default_factory=list)

    def each(self, make: Callable[[Cell], Op[Any] | Iterable[Op[Any]]]) -> list[list[Any]]:
        """Run the operations that *make* names for each cell, all in one round trip; the answers for each cell."""
        made = [make(cell) for cell in self.cells]
        batches = [[one] if isinstance(one, Op) else list(one) for one in made]
        answers = iter(self.subject.batch(*[op for batch in batches for op in batch]))
        return [[next(answers) for _ in batch] for batch in batches]


def prepared(subject: Subject, kinds: Iterable[str], protection: str, extra: int = 0, *, pinned: bool = False) -> Case:
    """Populated memory of each kind, twice: protected in sync and in async mode; *extra* features are negotiated.

    *pinned*: all of it is pinned for input and output before it is protected.
    """
    wanted = [(KINDS[name], delivery) for name in kinds for delivery in DELIVERIES]
    mapped = subject.batch(
        *[
            op
            for kind, delivery in wanted
            for op in (
                ops.region(kind.kind, kind.pages, kind.thp, ALL_ACCESS if kind.prot & 4 else READ_WRITE),
                ops.uffd_open(),
                ops.uffd_api(None, features(protection, delivery, kind.kind).feature | extra),
            )
        ]
    )
    cells = []
    for (kind, delivery), new, opened, api in zip(wanted, mapped[::3], mapped[1::3], mapped[2::3], strict=True):
        uffd = Uffd(subject, opened.uffd, api)
        region = Region.of(subject, kind.kind, new)
        cells.append(Cell(kind, protection, delivery, region, uffd, subject, subject))
    case = Case(subject, cells)
    for cell, answers in zip(cells, case.each(_fill), strict=True):
        words = [page for page, how in cell.kind.accessed if how == "write"]
        cell.sums = answers[-1].sums
        cell.values = dict(zip(words, (answer.value for answer in answers[-1 - len(words) : -1]), strict=True))
    if pinned:
        case.each(lambda cell: ops.pin(cell.region.addr, cell.region.length))
    case.each(_protect)
    return case


def _fill(cell: Cell) -> list[Op[Any]]:
    region, kind = cell.region, cell.kind
    written = {"written": len(region), "both": len(region) // 2, "read": 0}[kind.filled]
    batch: list[Op[Any]] = [ops.stamp(region.addr, written, region.page_size, 1)] if written else []
    batch += [ops.poke(region[page] + CODE, RETURNS) for page, how in kind.accessed if how == "exec"]
    if kind.prot == READ_EXEC:
        batch.append(ops.mprotect(region.addr, region.length, kind.prot))
    batch += [ops.peek(region[page]) for page, how in kind.accessed if how == "write"]
    return [*batch, ops.checksum(region.addr, len(region), region.page_size)]


def _protect(cell: Cell) -> list[Op[Any]]:
    region, ioctl = cell.region, "rwprotect" if cell.protection == "rwp" else "writeprotect"
    mode = (RWP if cell.protection == "rwp" else WP).mode
    batch: list[Op[Any]] = [ops.register(cell.uffd.handle, region.addr, region.length, mode)]
    return batch + [
        ops.protect(ioctl, cell.uffd.handle, region[first], (behind - first) * region.page_size, ProtectMode.PROTECT)
        for first, behind in runs(cell.kind.armed)
    ]


def resolve(cell: Cell, first: int, behind: int) -> Op[Any]:
    """Take the protection of these pages back."""
    ioctl, size = "rwprotect" if cell.protection == "rwp" else "writeprotect", cell.region.page_size
    return ops.protect(ioctl, cell.uffd.handle, cell.region[first], (behind - first) * size, 0)


def _pagemap(cell: Cell) -> Op[Any]:
    return ops.pagemap(cell.region.addr, cell.region.length // PAGEMAP_GRAIN)


def marks(cell: Cell, entries: list[str]) -> set[int]:
    """Pages with the marker, without those that are gone."""
    step = cell.region.page_size // PAGEMAP_GRAIN
    marked = {number // step for number, entry in enumerate(entries) if int(entry, 16) & PAGEMAP_UFFD_BIT}
    return marked - set(cell.gone)


def scan(cell: Cell, mask: Page) -> Op[Any]:
    """PAGEMAP_SCAN of the region for *mask*."""
    region, length = cell.region, cell.region.length
    return ops.pagemap_scan(region.addr, length, category_mask=int(mask), return_mask=int(mask), vec_len=len(region))


def found(cell: Cell, answer: Any) -> set[int]:
    """Pages that a scan reported, without those that are gone."""
    ranges = ((cell.region.page_of(start), cell.region.page_of(end - 1)) for start, end, _ in answer.regions)
    return {page for first, last in ranges for page in range(first, last + 1) if page not in cell.gone}


def touched(cell: Cell) -> Page:
    """What PAGEMAP_SCAN calls a page that was accessed (RWP) or written (WP) since it was protected."""
    return Page.ACCESSED if cell.protection == "rwp" else Page.WRITTEN


def accesses(cell: Cell) -> list[tuple[int, str]]:
    """The accesses that the judgement makes: to the first and last free page, and to the protected ones."""
    free = sorted(cell.free)
    how = "rmw" if cell.kind.prot & 2 else "read"
    return [(page, how) for page in sorted({*free[:1], *free[-1:]})] + [
        (page, how) for page, how in cell.kind.accessed if page not in cell.gone
    ]


def judge(case: Case, *, close: bool = True) -> dict[str, str]:
    """Whether marker, trap and contents of each cell are what they were before the operation; what is wrong, by cell.

    Pages that were protected have the marker, and each access to them traps (RWP) or those that write do (WP); the
    others neither; in async mode just what is accessed is reported; no byte has changed. At the end a sync cell is
    resolved, and the descriptor of an async one closed (without *close*, as where a child has it too, its range is
    unregistered): nothing is left then.
    """
    wrong: dict[str, str] = {}
    actors: list[int] = []
    for cell in case.cells:
        if not actors:
            actors = [new.actor for new in case.subject.batch(*[ops.actor() for _ in range(ACTORS)])]
        try:
            _judge(cell, actors, close)
        except AssertionError as error:
            wrong[str(cell)] = str(error).splitlines()[0]
            actors = []  # one of them may sleep for ever
    return wrong


def _judge(cell: Cell, actors: list[int], close: bool) -> None:
    """All that is seen of a cell, in one round trip, and then what it should have been."""
    tried = accesses(cell)
    waiting = [access for access in tried if not _passes(cell, access)]
    crew = dict(zip(waiting, actors[1:], strict=False))  # who passes needs no actor of its own
    steps = {
        "marks": [_pagemap(cell)],
        "before": [scan(cell, touched(cell)), scan(cell, Page.HUGE)],
        "accesses": [
            op
            for access in tried
            for op in _access(cell, access, crew.get(access, actors[0]), None if access in crew else "done")
        ],
        "after": [scan(cell, touched(cell))],
        "events": [ops.events(cell.uffd.handle)],
        "end": _finish(cell, close),
        "woken": [ops.latest_ticket(crew[access], "done", WAIT_MS) for access in waiting],
        "left": [_pagemap(cell)],
        "sums": [ops.checksum(cell.region[a], (b - a), cell.region.page_size) for a, b in runs(cell.left)],
    }
    seen = _run(cell, steps)
    _check_before(cell, seen["marks"][0].entries, found(cell, seen["before"][0]))
    states = [state.state for state in seen["accesses"][1::2]]
    for access, state in zip(tried, states, strict=True):
        wanted = "blocked" if access in crew else "done"
        assert state == wanted, f"{access[1]} of page {access[0]} is {state} instead of {wanted}"
    _check_messages(cell, waiting, seen["events"][0].events)
    if cell.delivery == "async":
        units = found(cell, seen["before"][1]) if cell.region.page_size == PAGEMAP_GRAIN else set()
        _check_tracked(cell, units, found(cell, seen["after"][0]))
    asleep = [access for access, state in zip(waiting, seen["woken"], strict=True) if state.state != "done"]
    assert not asleep, f"asleep though nothing is protected any more: {brief(asleep)}"
    left = marks(cell, seen["left"][0].entries)
    assert not left, f"markers that stay: {brief(left)}"
    sums = [text for answer in seen["sums"] for text in answer.sums]
    changed = [page for page, text in zip(cell.left, sums, strict=True) if text != cell.sums[page]]
    assert not changed, f"pages with other bytes than before: {brief(changed)}"


def _run(cell: Cell, steps: Mapping[str, list[Op[Any]]]) -> dict[str, list[Any]]:
    """The answers of all steps; one round trip for each run of steps that one process takes."""
    seen: dict[str, list[Any]] = {}
    for subject, names in groupby(steps, lambda name: cell.owner if name in ("events", "end") else cell.subject):
        listed = list(names)
        answers = iter(subject.batch(*[op for name in listed for op in steps[name]]))
        seen |= {name: [next(answers) for _ in steps[name]] for name in listed}
    return seen


def _access(cell: Cell, access: tuple[int, str], actor: int, wanted: str | None) -> list[Op[Any]]:
    page, how = access
    at = cell.region[page] + (CODE if how == "exec" else 0)
    value = cell.values.get(page, 0) if how == "write" else 0  # no byte is to change
    return [ops.access(actor, how, at, value), ops.latest_ticket(actor, wanted, WAIT_MS)]


def _finish(cell: Cell, close: bool) -> list[Op[Any]]:
    if cell.delivery == "async":
        uffd, region = cell.uffd.handle, cell.region
        return [ops.uffd_close(uffd) if close else ops.unregister(uffd, region.addr, region.length)]
    return [resolve(cell, first, behind) for first, behind in runs(cell.left)]


def _traps(cell: Cell, access: tuple[int, str]) -> bool:
    """Whether the protection stops or records this access."""
    page, how = access
    return page in cell.armed and (cell.protection == "rwp" or how in ("write", "rmw"))


def _passes(cell: Cell, access: tuple[int, str]) -> bool:
    return cell.delivery == "async" or not _traps(cell, access)


def _check_before(cell: Cell, entries: list[str], before: set[int]) -> None:
    markers = marks(cell, entries)
    assert markers == cell.armed, f"markers {brief(markers)} instead of {brief(cell.armed)}"
    if cell.delivery == "async":
        assert before == cell.free, f"touched before any access {brief(before)}, not {brief(cell.free)}"


def _check_messages(cell: Cell, waiting: list[tuple[int, str]], events: list[Any]) -> None:
    seen = sorted((cell.region.page_of(event.address), int(event.flags)) for event in events)
    bits = fault_bits(RWP if cell.protection == "rwp" else WP)
    expected = sorted(
        (page, int(bits | (fault_bits(WRITE) if how in ("write", "rmw") else 0))) for page, how in waiting
    )
    assert seen == expected, f"messages {brief(seen)} instead of {brief(expected)}"


def _check_tracked(cell: Cell, units: set[int], after: set[int]) -> None:
    """Just the pages accessed, but that a huge page (*units*) is tracked as a whole, and may be split by a write."""
    hit = {access[0] for access in accesses(cell) if _traps(cell, access)}
    least = cell.free | hit
    most = least | (cell.armed & units if hit & units else set())
    assert least <= after <= most, f"touched after the accesses {brief(after)}, not {brief(least)}"
    # Write protection splits a huge page that is written (wp_huge_pmd()); RWP resolves it as a whole.
    assert cell.protection == "wp" or after == most, f"touched after the accesses {brief(after)}, not {brief(most)}"


def inherited(case: Case, child: Subject, descriptors: Mapping[int, Uffd]) -> Case:
    """The same memory in a forked *child*, which has a userfaultfd of its own of each of *descriptors*."""
    cells = [
        replace(cell, subject=child, uffd=descriptors[cell.uffd.handle], region=replace(cell.region, subject=child))
        for cell in case.cells
    ]
    return Case(child, cells)


def unprotected(case: Case, there: Mapping[str, Region], owner: Subject) -> dict[str, str]:
    """What is wrong with memory that no userfaultfd has any more: the cells' regions as they are *there*, in *owner*.

    Nothing is marked, nothing traps, and no byte has changed.
    """
    wrong: dict[str, str] = {}
    actors: list[int] = []
    for cell in case.cells:
        actors = actors or [new.actor for new in owner.batch(*[ops.actor() for _ in range(ACTORS)])]
        now = replace(cell, region=there[str(cell)])
        tried = [access for access in cell.kind.accessed if access[0] not in cell.gone]
        answers = owner.batch(
            _pagemap(now),
            *[op for access, actor in zip(tried, actors, strict=False) for op in _access(now, access, actor, "done")],
            *[ops.checksum(now.region[a], b - a, now.region.page_size) for a, b in runs(cell.left)],
        )
        states = [answer.state for answer in answers[2 : 1 + 2 * len(tried) : 2]]
        sums = [text for answer in answers[1 + 2 * len(tried) :] for text in answer.sums]
        if marked := marks(now, answers[0].entries):
            wrong[str(cell)] = f"markers where no userfaultfd is: {brief(marked)}"
        elif set(states) - {"done"}:
            wrong[str(cell)], actors = f"accesses that do not pass: {states}", []
        elif sums != [cell.sums[page] for page in cell.left]:
            wrong[str(cell)] = "other bytes than before"
    return wrong


def runs(pages: Iterable[int]) -> list[tuple[int, int]]:
    """The runs of consecutive page numbers: (first, the one behind the last)."""
    listed = sorted(pages)
    present = set(listed)
    starts = [page for page in listed if page - 1 not in present]
    return list(zip(starts, [page + 1 for page in listed if page + 1 not in present], strict=True))


def brief(items: Iterable[Any]) -> str:
    """The first few, for a message."""
    listed = sorted(items)
    return f"{listed[:6]}{' and more' if len(listed) > 6 else ''}"


def verdict(wrong: dict[str, str], cells: Iterable[Any], control: str | None) -> None:
    """:raises AssertionError: something is wrong with a cell. Under a negative *control* every cell must notice it:
    one that does not makes the test pass, and the control count as unnoticed.
    """
    unnoticed = [str(cell) for cell in cells if str(cell) not in wrong]
    if control is not None and unnoticed:
        return
    assert not wrong, "; ".join(f"{cell}: {what}" for cell, what in wrong.items())


def refused(call: Callable[[], Any]) -> str:
    """The errno that the kernel refuses *call* with; empty if it does not."""
    try:
        call()
    except KernelRefused as error:
        return error.name
    return ""
