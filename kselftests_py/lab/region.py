"""``Region``: memory of a subject; ``Span``: any run of pages in it."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, overload

from kselftests_py.lab import ops
from kselftests_py.lab.constants import PAGEMAP_UFFD_BIT, Page
from kselftests_py.lab.errors import ProbeError
from kselftests_py.lab.replies import NewRegion

if TYPE_CHECKING:
    from kselftests_py.lab.subject import Subject


PAGEMAP_GRAIN = 4096
"""Bytes that one pagemap entry speaks of."""


@dataclass(frozen=True)
class Span:
    """Whole pages: ``addr`` and ``length`` in bytes. ``span[i]`` is the address of page i, ``span[a:b]`` a Span."""

    addr: int
    length: int
    page_size: int

    @property
    def end(self) -> int:
        """First address behind the span."""
        return self.addr + self.length

    def __len__(self) -> int:
        return self.length // self.page_size

    def __contains__(self, address: object) -> bool:
        return isinstance(address, int) and self.addr <= address < self.end

    def __iter__(self) -> Iterator[int]:
        return iter(range(self.addr, self.end, self.page_size))

    @overload
    def __getitem__(self, index: int) -> int: ...
    @overload
    def __getitem__(self, index: slice) -> Span: ...
    def __getitem__(self, index: int | slice) -> int | Span:
        if isinstance(index, int):
            return range(self.addr, self.end, self.page_size)[index]
        first, last, step = index.indices(len(self))
        if step != 1:
            raise ValueError("a span is a run of pages: slices have no step")
        return Span(self.addr + first * self.page_size, max(0, last - first) * self.page_size, self.page_size)

    def page_of(self, address: int) -> int:
        """Number of the page that *address* is in; raises ValueError outside the span."""
        if address not in self:
            raise ValueError(f"address {address:#x} is not in {self.addr:#x}-{self.end:#x}")
        return (address - self.addr) // self.page_size


@dataclass(frozen=True)
class Region(Span):
    """Memory that a subject has mapped; page numbers count from its start.

    ``kind`` is ``anon``, ``anon_shared``, ``shmem``, ``shmem_private``, ``shmem_read_only``, ``tmpfs``, ``droppable``,
    ``hugetlb`` or ``hugetlb_private``.
    """

    subject: Subject
    kind: str
    handle: int

    @classmethod
    def of(cls, subject: Subject, kind: str, new: NewRegion) -> Region:
        """The region that the probe has just made."""
        return cls(new.addr, new.len, new.page_size, subject, kind, new.region)

    def populate(self, seed: int = 1, pages: slice = slice(None)) -> Region:
        """Write the pattern of *seed* into every byte of *pages* (all by default), which makes them present."""
        span = self[pages]
        self.subject.call(ops.stamp(span.addr, len(span), span.page_size, seed))
        return self

    def changed_pages(self, seed: int = 1, pages: slice = slice(None)) -> set[int]:
        """Numbers of those of *pages* whose bytes are not exactly the pattern of *seed*; reads them all.

        The pattern of a page depends on its place in *pages*: ask for the slice that was populated. Up to 64 are named.
        """
        span = self[pages]
        found = self.subject.call(ops.verify(span.addr, len(span), span.page_size, seed))
        if bool(found.bad_count) != bool(found.bad):
            raise ProbeError(f"the probe counts {found.bad_count} bad pages and names {len(found.bad)}")
        first = self.page_of(span.addr)
        return {first + page for page in found.bad}

    def alias(self) -> Region:
        """A second mapping of the same memory (not for ``anon``)."""
        return Region.of(self.subject, self.kind, self.subject.call(ops.alias(self.handle)))

    def pages_with(self, mask: Page) -> set[int]:
        """Numbers of the pages for which PAGEMAP_SCAN reports every category of *mask*."""
        ranges = self.subject.pagemap_scan(self, mask=mask)
        return {page for start, end, _ in ranges for page in range(self.page_of(start), self.page_of(end - 1) + 1)}

    def accessed_pages(self) -> set[int]:
        """Pages accessed since UFFDIO_RWPROTECT, as PAGEMAP_SCAN reports them (PAGE_IS_ACCESSED)."""
        return self.pages_with(Page.ACCESSED)

    def written_pages(self) -> set[int]:
        """Pages written since UFFDIO_WRITEPROTECT, as PAGEMAP_SCAN reports them (PAGE_IS_WRITTEN)."""
        return self.pages_with(Page.WRITTEN)

    def marked_pages(self) -> set[int]:
        """Pages whose pagemap entry has bit 57: userfaultfd protection is armed there."""
        # A pagemap entry speaks of 4 KiB, whatever the size of the page that holds it.
        step = self.page_size // PAGEMAP_GRAIN
        entries = self.subject.call(ops.pagemap(self.addr, len(self) * step)).entries
        if len(entries) != len(self) * step:
            raise ProbeError(f"the probe gave {len(entries)} pagemap entries for {len(self) * step}")
        return {number // step for number, entry in enumerate(entries) if int(entry, 16) & PAGEMAP_UFFD_BIT}

    def punch_hole(self, span: Span) -> None:
        """Drop the pages of *span* from the file behind the region (FALLOC_FL_PUNCH_HOLE)."""
        self.subject.call(ops.punch_hole(self.handle, span.addr - self.addr, span.length))

    def madvise(self, advice: str, span: Span | None = None) -> None:
        """madvise(2) on *span* (the whole region by default); *advice* without ``MADV_``."""
        where = span or self
        self.subject.call(ops.madvise(where.addr, where.length, advice))

    def mprotect(self, prot: int, span: Span | None = None) -> None:
        """mprotect(2) on *span* (the whole region by default)."""
        where = span or self
        self.subject.call(ops.mprotect(where.addr, where.length, prot))

    def nodes(self) -> list[int]:
        """The NUMA node of each page, or a negative errno where there is none."""
        return self.subject.call(ops.move_pages(self.addr, self.length, self.page_size)).nodes

    def migrate(self, node: int, span: Span | None = None) -> list[int]:
        """move_pages(2) of *span* (the whole region by default) to *node*; where its pages are then."""
        where = span or self
        return self.subject.call(ops.move_pages(where.addr, where.length, self.page_size, node)).nodes

    def unmap(self) -> None:
        """munmap(2) the whole region."""
        self.subject.call(ops.unmap(self.handle))
