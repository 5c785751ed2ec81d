"""UAPI bits of userfaultfd and PAGEMAP_SCAN, under the kernel's own names.

Source: ``include/uapi/linux/userfaultfd.h`` and ``include/uapi/linux/fs.h``.
The kernel uses one word for bits that differ from place to place: RWP is bit
17 among the features, bit 3 among the modes and among the fault flags. A
``Term`` is that word: every call takes from it the bit that fits its place,
so that a test can say ``uffd(RWP)``, ``register(region, mode=RWP)`` and
``Fault(region[0], RWP | WRITE)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import IntFlag


class Feature(IntFlag):
    """``UFFD_FEATURE_*``: what UFFDIO_API negotiates."""

    PAGEFAULT_FLAG_WP = 1 << 0
    EVENT_FORK = 1 << 1
    EVENT_REMAP = 1 << 2
    EVENT_REMOVE = 1 << 3
    MISSING_HUGETLBFS = 1 << 4
    MISSING_SHMEM = 1 << 5
    EVENT_UNMAP = 1 << 6
    SIGBUS = 1 << 7
    THREAD_ID = 1 << 8
    MINOR_HUGETLBFS = 1 << 9
    MINOR_SHMEM = 1 << 10
    EXACT_ADDRESS = 1 << 11
    WP_HUGETLBFS_SHMEM = 1 << 12
    WP_UNPOPULATED = 1 << 13
    POISON = 1 << 14
    WP_ASYNC = 1 << 15
    MOVE = 1 << 16
    RWP = 1 << 17
    RWP_ASYNC = 1 << 18


class RegisterMode(IntFlag):
    """``UFFDIO_REGISTER_MODE_*``."""

    MISSING = 1 << 0
    WP = 1 << 1
    MINOR = 1 << 2
    RWP = 1 << 3


class FaultFlag(IntFlag):
    """``UFFD_PAGEFAULT_FLAG_*``: why the access was trapped; none for a missing page that was read."""

    WRITE = 1 << 0
    WP = 1 << 1
    MINOR = 1 << 2
    RWP = 1 << 3


class ProtectMode(IntFlag):
    """Modes of UFFDIO_RWPROTECT and UFFDIO_WRITEPROTECT; both ioctls give them the same bits."""

    PROTECT = 1 << 0  # UFFDIO_RWPROTECT_MODE_RWP, UFFDIO_WRITEPROTECT_MODE_WP
    DONTWAKE = 1 << 1


class Page(IntFlag):
    """``PAGE_IS_*``: categories of PAGEMAP_SCAN."""

    WPALLOWED = 1 << 0
    WRITTEN = 1 << 1
    FILE = 1 << 2
    PRESENT = 1 << 3
    SWAPPED = 1 << 4
    PFNZERO = 1 << 5
    HUGE = 1 << 6
    SOFT_DIRTY = 1 << 7
    GUARD = 1 << 8
    ACCESSED = 1 << 9


class ScanFlag(IntFlag):
    """``PM_SCAN_*``."""

    WP_MATCHING = 1 << 0
    CHECK_WPASYNC = 1 << 1


PAGEMAP_UFFD_BIT = 1 << 57
"""Marker of userfaultfd protection in a pagemap entry; WP and RWP share it."""


@dataclass(frozen=True)
class Term:
    """One word of the kernel's and the bit it stands for as a feature, as a mode and as a fault flag (0: none)."""

    feature: int = 0
    mode: int = 0
    fault: int = 0

    def __or__(self, other: Term) -> Term:
        return Term(self.feature | other.feature, self.mode | other.mode, self.fault | other.fault)


RWP = Term(Feature.RWP, RegisterMode.RWP, FaultFlag.RWP)
RWP_ASYNC = Term(feature=Feature.RWP_ASYNC)
WP = Term(Feature.PAGEFAULT_FLAG_WP, RegisterMode.WP, FaultFlag.WP)
WP_ASYNC = Term(feature=Feature.WP_ASYNC)
WP_SHMEM = Term(feature=Feature.WP_HUGETLBFS_SHMEM)
MISSING = Term(mode=RegisterMode.MISSING)
MINOR = Term(mode=RegisterMode.MINOR, fault=FaultFlag.MINOR)
WRITE = Term(fault=FaultFlag.WRITE)


def feature_bits(value: Term | int) -> int:
    """The bits of *value* among the features; an ``int`` is taken as it is, so that a test can ask for nonsense."""
    return value.feature if isinstance(value, Term) else int(value)


def mode_bits(value: Term | int) -> int:
    """The bits of *value* among the register modes; an ``int`` is taken as it is."""
    return value.mode if isinstance(value, Term) else int(value)


def fault_bits(value: Term | int) -> FaultFlag:
    """The bits of *value* among the fault flags."""
    return FaultFlag(value.fault if isinstance(value, Term) else int(value))
