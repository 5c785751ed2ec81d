"""Every operation that changes mappings, on every kind of memory: what was protected stays so, and nothing else.

A row is an operation: pages of each kind are protected, the operation is done, and then marker, trap and contents must
agree with what was protected before (I2, I3, I4, I5), for RWP and for WP, sync and async, whether the page is read,
written, both at once, or executed. ``test_matrix_paging.py`` has what the kernel does to pages by itself.
Source: userfaultfd.rst ("Scope of protection"), and of each operation the function that carries the marker over, named
in its row.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kselftests_py.lab import ops
from kselftests_py.lab.kinds import HUGETLB, NONE, READ, READ_WRITE
from kselftests_py.lab.matrix import Case, Cell
from kselftests_py.lab.operations import Operation, Row, only, rows
from kselftests_py.lab.ops import Op
from kselftests_py.lab.replies import Empty


def _mprotect(cell: Cell, prot: int, part: slice = slice(None)) -> Op[Empty]:
    span = cell.region[part]
    return ops.mprotect(span.addr, span.length, prot)


def permissions_changed(case: Case) -> None:
    """change_pte_range(), change_huge_pmd(), hugetlb_change_protection(): every way from one to another, and back."""
    way = (READ, READ_WRITE, NONE, READ_WRITE, READ, NONE, READ)
    case.each(lambda cell: [_mprotect(cell, prot) for prot in (*way, cell.kind.prot)])


def inaccessible_and_back(case: Case) -> None:
    """change_pte_range(): an armed entry keeps its marker through PROT_NONE."""
    case.each(lambda cell: [_mprotect(cell, prot) for prot in (NONE, cell.kind.prot)])


def half_and_back(case: Case) -> None:
    """split_vma() and its merge; for a huge page __split_huge_pmd_locked()."""
    case.each(lambda cell: [_mprotect(cell, prot, slice(0, len(cell.region) // 2)) for prot in (READ, cell.kind.prot)])


def middle_and_back(case: Case) -> None:
    """__split_huge_pmd_locked(): pages inside of a huge page; two splits of the VMA."""
    case.each(lambda cell: [_mprotect(cell, prot, slice(1, 3)) for prot in (NONE, cell.kind.prot)])


def neighbour_unmapped(case: Case) -> None:
    """munmap() of the last pages: the VMA is split, what is left is as it was."""
    _unmap(case, lambda cell: range(len(cell.region) // 2, len(cell.region)))


def middle_unmapped(case: Case) -> None:
    """munmap() inside of the range, or of a huge page: unmap_region(), __split_huge_pmd_locked()."""
    _unmap(case, lambda _: range(1, 3))


def _unmap(case: Case, gone: Callable[[Cell], range]) -> None:
    for cell in case.cells:
        cell.gone = gone(cell)
    case.each(
        lambda cell: ops.munmap(
            cell.region[cell.gone.start], (cell.gone.stop - cell.gone.start) * cell.region.page_size
        )
    )


def _advise(*advices: str) -> Callable[[Case], None]:
    """Advice that changes flags of the VMA and no page: madvise_vma_behavior()."""

    def advised(case: Case) -> None:
        case.each(lambda cell: [ops.madvise(cell.region.addr, cell.region.length, advice) for advice in advices])

    advised.__name__ = "_".join(advices).lower()
    return advised


def locked_on_fault_and_unlocked(case: Case) -> None:
    """mlock2(MLOCK_ONFAULT): VM_LOCKED without a look at any page; munlock()."""
    case.each(
        lambda cell: [
            ops.mlock(cell.region.addr, cell.region.length, onfault=True),
            ops.munlock(cell.region.addr, cell.region.length),
        ]
    )


OPERATIONS = [
    Operation(permissions_changed),
    Operation(inaccessible_and_back),
    Operation(half_and_back),
    Operation(middle_and_back, absent=dict.fromkeys(HUGETLB, "mprotect refuses pages inside of a huge page")),
    Operation(neighbour_unmapped),
    Operation(middle_unmapped, absent=dict.fromkeys(HUGETLB, "munmap refuses pages inside of a huge page")),
    Operation(_advise("RANDOM", "SEQUENTIAL", "NORMAL")),
    Operation(_advise("DONTDUMP", "DODUMP")),
    Operation(_advise("DONTFORK", "DOFORK"), absent=dict.fromkeys(HUGETLB, "MADV_DOFORK refuses hugetlb")),
    Operation(
        _advise("WIPEONFORK", "KEEPONFORK"),
        absent=only(
            ("anon", "thp", "mthp", "zero", "huge_zero", "read_only"), "MADV_WIPEONFORK takes private anonymous memory"
        ),
    ),
    Operation(
        _advise("HUGEPAGE", "NOHUGEPAGE"),
        ("thp",),
        absent=dict.fromkeys(HUGETLB, "MADV_HUGEPAGE refuses hugetlb"),
    ),
    Operation(
        locked_on_fault_and_unlocked,
        absent=dict.fromkeys(HUGETLB, "mlock2(MLOCK_ONFAULT) touches hugetlb pages as mlock(2) does"),
    ),
]


@pytest.mark.contract("G1", "I2", "I3")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize(("operation", "protection", "kinds"), rows(OPERATIONS))
def test_protection_survives(survives: Row, operation: Operation, protection: str, kinds: tuple[str, ...]) -> None:
    """Pages that were protected before the operation have the marker and trap; the others neither; no byte changed."""
    survives(operation, protection, kinds)
