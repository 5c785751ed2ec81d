"""The matrix of operations and kinds of memory: one operation on every kind at once, and each kind judged by itself.

A cell is memory of one kind with one protection and delivery. All cells of an operation are made in one process and
looked at in a few batches, so that hundreds of cells cost little more than their operations. Expected is what was
protected before (I2, I3, I4, I5 of the UAPI contract), never what a kernel did.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

from kselftests_py.lab import ops
from kselftests_py.lab.cases import features
from kselftests_py.lab.constants import RWP, WP, Page, ProtectMode
from kselftests_py.lab.errors import ProbeError
from kselftests_py.lab.kinds import ALL_ACCESS, CODE, KINDS, READ_EXEC, READ_WRITE, RETURNS, Kind
from kselftests_py.lab.ops import Op
from kselftests_py.lab.region import PAGEMAP_GRAIN, Region
from kselftests_py.lab.subject import Subject
from kselftests_py.lab.uffd import Uffd

DELIVERIES = ("sync", "async")


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
    sums: dict[int, str] = field(default_factory=dict)
    gone: range = range(0)
    """Pages that the operation has taken away on purpose."""
    whole: bool = True
    """All bytes of huge pages are compared, if it is a sync cell: they cost most of the time."""
    end: str = ""
    """Of a cell that is not judged: how its protection ends (``bystanders.py``)."""

    def __str__(self) -> str:
        return f"{self.kind.name}-{self.protection}-{self.end or self.delivery}"

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

    @property
    def unit(self) -> int:
        """Bytes of what is filled and compared as one."""
        return PAGEMAP_GRAIN if self.sampled else self.region.page_size

    @property
    def sampled(self) -> bool:
        """Of huge pages the sync cell compares all bytes, the async one parts."""
        few = self.delivery == "async" or not self.whole
        return few and (self.kind.huge or self.region.page_size > PAGEMAP_GRAIN)

    @property
    def watched(self) -> list[int]:
        """Numbers, in units, of what is filled and compared, and is still there."""
        step = self.region.page_size // self.unit
        units = set(range(len(self.region) * step))
        if self.sampled:
            each = range(0, len(units), step if step > 1 else len(units))  # each huge page is to be there
            ends = {*range(8), *range(len(units) - 8, len(units))}
            units = ends | set(each) | {page * step for page, _ in self.kind.accessed}
        return sorted(unit for unit in units if unit // step not in self.gone)

    def sums_of(self, region: Region) -> list[Op[Any]]:
        """Checksums of what is watched, in *region*, which may lie elsewhere by now."""
        return [ops.checksum(region.addr + a * self.unit, b - a, self.unit) for a, b in runs(self.watched)]

    def changed(self, answers: Iterable[Any]) -> list[int]:
        """Units with another checksum than at first, given the answers to ``sums_of``."""
        now = [text for answer in answers for text in answer.sums]
        return [unit for unit, text in zip(self.watched, now, strict=True) if text != self.sums[unit]]


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


def prepared(
    subject: Subject,
    kinds: Iterable[str],
    protection: str,
    extra: int = 0,
    *,
    pinned: bool = False,
    deliveries: tuple[str, ...] = DELIVERIES,
    whole: bool = True,
) -> Case:
    """Populated memory of each kind, twice: protected in sync and in async mode; *extra* features are negotiated.

    *pinned*: all of it is pinned for input and output before it is protected. *whole*: see ``Cell``.
    """
    wanted = [(KINDS[name], delivery) for name in kinds for delivery in deliveries]
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
        cells.append(Cell(kind, protection, delivery, region, uffd, subject, subject, whole=whole))
    case = Case(subject, cells)
    fill(case)
    if pinned:
        case.each(lambda cell: ops.pin(cell.region.addr, cell.region.length))
    case.each(_register)
    case.each(protect)
    return case


def fill(case: Case) -> None:
    """Populate the memory of each cell, as its kind says, and remember its bytes."""
    for cell, answers in zip(case.cells, case.each(_fill), strict=True):
        words, spans = [page for page, how in cell.kind.accessed if how == "write"], len(runs(cell.watched))
        values, sums = answers[:-spans], answers[-spans:]
        cell.sums = dict(zip(cell.watched, (text for answer in sums for text in answer.sums), strict=True))
        cell.values = dict(zip(words, (answer.value for answer in values[len(values) - len(words) :]), strict=True))


def _fill(cell: Cell) -> list[Op[Any]]:
    region, kind = cell.region, cell.kind
    written = {"written": len(region), "both": len(region) // 2, "read": 0}[kind.filled] * region.page_size
    batch: list[Op[Any]] = [
        ops.stamp(region.addr + first * cell.unit, behind - first, cell.unit, 1)
        for first, behind in runs(unit for unit in cell.watched if unit * cell.unit < written)
    ]
    batch += [ops.poke(region[page] + CODE, RETURNS) for page, how in kind.accessed if how == "exec"]
    if kind.prot == READ_EXEC:
        batch.append(ops.mprotect(region.addr, region.length, kind.prot))
    batch += [ops.peek(region[page]) for page, how in kind.accessed if how == "write"]
    return [*batch, *cell.sums_of(region)]


def _register(cell: Cell) -> Op[Any]:
    mode = (RWP if cell.protection == "rwp" else WP).mode
    return ops.register(cell.uffd.handle, cell.region.addr, cell.region.length, mode)


def protect(cell: Cell) -> list[Op[Any]]:
    """Protect the pages that the kind says."""
    return [_ioctl(cell, first, behind, ProtectMode.PROTECT) for first, behind in runs(cell.kind.armed)]


def resolve(cell: Cell, first: int, behind: int) -> Op[Any]:
    """Take the protection of these pages back."""
    return _ioctl(cell, first, behind, 0)


def protect_all(cell: Cell) -> Op[Any]:
    """Protect every page."""
    return _ioctl(cell, 0, len(cell.region), ProtectMode.PROTECT)


def _ioctl(cell: Cell, first: int, behind: int, mode: int) -> Op[Any]:
    ioctl, size = "rwprotect" if cell.protection == "rwp" else "writeprotect", cell.region.page_size
    return ops.protect(ioctl, cell.uffd.handle, cell.region[first], (behind - first) * size, mode)


def pagemap(cell: Cell) -> Op[Any]:
    """The markers in the pagemap entries of the region."""
    return ops.markers(cell.region.addr, cell.region.length // PAGEMAP_GRAIN)


def marks(cell: Cell, answer: Any) -> set[int]:
    """Pages with the marker, without those that are gone.

    :raises ProbeError: the answer is not about all of the region.
    """
    step = cell.region.page_size // PAGEMAP_GRAIN
    if answer.pages != len(cell.region) * step or any(not a < b <= answer.pages for a, b in answer.ranges):
        raise ProbeError(f"the probe tells of {answer.pages} pagemap entries and markers in {answer.ranges[:4]}")
    marked = {page for a, b in answer.ranges for page in range(a // step, (b - 1) // step + 1)}
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


def swap_out(case: Case) -> None:
    """MADV_PAGEOUT of all cells. :raises AssertionError: some page is still resident."""
    case.subject.call(ops.settle(0))
    case.each(lambda cell: ops.madvise(cell.region.addr, cell.region.length, "PAGEOUT"))
    there = case.each(lambda cell: scan(cell, Page.PRESENT))
    resident = {
        str(cell): brief(left) for cell, (seen,) in zip(case.cells, there, strict=True) if (left := found(cell, seen))
    }
    assert not resident, f"still resident after MADV_PAGEOUT: {resident}"


def inherited(case: Case, child: Subject, descriptors: Mapping[int, Uffd]) -> Case:
    """The same memory in a forked *child*, which has a userfaultfd of its own of each of *descriptors*.

    Their owner is the same as before.
    """
    cells = [
        replace(cell, subject=child, uffd=descriptors[cell.uffd.handle], region=replace(cell.region, subject=child))
        for cell in case.cells
    ]
    return Case(child, cells)


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
