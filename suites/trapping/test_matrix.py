"""Every operation that changes mappings, on every kind of memory: what was protected stays so, and nothing else.

Pages of each kind are protected, the operation is done, and then marker, trap and contents must agree with what was
protected before (I2, I3, I4, I5), for RWP and for WP, sync and async, whether the page is read, written, both, or
executed. ``test_matrix_paging.py`` has what the kernel does to pages by itself. Source: userfaultfd.rst ("Scope of
protection"), and of each operation the function that carries the marker over, named in its row.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

import pytest

from kselftests_py.lab import Capabilities, Subject, ops
from kselftests_py.lab.bystanders import beside
from kselftests_py.lab.judgement import judge
from kselftests_py.lab.kinds import HUGETLB, KINDS, NEVER, NONE, READ, READ_WRITE
from kselftests_py.lab.matrix import Case, Cell, brief, marks, pagemap, prepared
from kselftests_py.lab.operations import BY, Operation, Row, finish, only, rows
from kselftests_py.lab.ops import Op
from kselftests_py.results import Outcome

Here = Callable[[str, Iterable[str]], list[str]]

Do = Callable[[Cell], list[Op[Any]]]


def _mprotect(*prots: int | None, part: Callable[[int], slice] = lambda _: slice(None)) -> Do:
    """mprotect(2) of a part of the region, once for each of *prots*; None is what it had at first."""

    def change(cell: Cell) -> list[Op[Any]]:
        span = cell.region[part(len(cell.region))]
        return [
            ops.mprotect(span.addr, span.length, cell.kind.prot if prot is None else prot) for prot in prots
        ]  # fmt: skip

    return change


def _advise(*advices: str) -> Do:
    return lambda cell: [ops.madvise(cell.region.addr, cell.region.length, advice) for advice in advices]


def _lock(cell: Cell) -> list[Op[Any]]:
    region = cell.region
    return [ops.mlock(region.addr, region.length, onfault=True), ops.munlock(region.addr, region.length)]


@dataclass(frozen=True)
class Step:
    """An operation that is undone at once; ``absent`` says of each kind that cannot do it why."""

    do: Do
    absent: Mapping[str, str] = field(default_factory=dict)
    needs: str = "uffd"


INSIDE = dict.fromkeys(HUGETLB, "mprotect refuses pages inside of a huge page")
PRIVATE = ("anon", "thp", "mthp", "zero", "huge_zero", "read_only")
STEPS = {
    # change_pte_range(), change_huge_pmd(), hugetlb_change_protection(): every way from one to another, and back.
    "all permissions": Step(_mprotect(READ, READ_WRITE, NONE, READ_WRITE, READ, NONE, READ, None)),
    "PROT_NONE and back": Step(_mprotect(NONE, None)),
    # Flags of the VMA change, entries do not: madvise_vma_behavior().
    "RANDOM, SEQUENTIAL": Step(_advise("RANDOM", "SEQUENTIAL", "NORMAL")),
    "DONTDUMP": Step(_advise("DONTDUMP", "DODUMP")),
    "DONTFORK": Step(_advise("DONTFORK", "DOFORK"), dict.fromkeys(HUGETLB, "MADV_DOFORK refuses hugetlb")),
    "WIPEONFORK": Step(
        _advise("WIPEONFORK", "KEEPONFORK"), only(PRIVATE, "MADV_WIPEONFORK takes private anonymous memory")
    ),
    "HUGEPAGE": Step(_advise("HUGEPAGE", "NOHUGEPAGE"), dict.fromkeys(HUGETLB, "MADV_HUGEPAGE refuses hugetlb"), "thp"),
    "MERGEABLE": Step(_advise("MERGEABLE", "UNMERGEABLE"), dict.fromkeys(HUGETLB, "KSM leaves hugetlb alone"), "ksm"),
    # VM_LOCKED without a look at any page.
    "locked on fault": Step(
        _lock, dict.fromkeys(HUGETLB, "mlock2(MLOCK_ONFAULT) touches hugetlb pages as mlock(2) does")
    ),
    # madvise_cold_or_pageout_pte_range(): pages become old, and a huge page may be split.
    "COLD": Step(_advise("COLD"), dict.fromkeys(HUGETLB, "MADV_COLD refuses hugetlb")),
    # split_vma() and its merge; of a huge page __split_huge_pmd_locked().
    "half read-only": Step(_mprotect(READ, None, part=lambda pages: slice(0, pages // 2))),
    "middle inaccessible": Step(_mprotect(NONE, None, part=lambda _: slice(1, 3)), INSIDE),
}


@pytest.mark.contract("G1", "I2", "I3", "I5")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("protection", BY)
def test_protection_survives_each_step(
    subject: Subject,
    caps: Capabilities,
    here: Here,
    record_part: Callable[[str, Outcome, str], None],
    kst_control: str | None,
    protection: str,
) -> None:
    """After each change of a mapping that is taken back, just the pages that were protected have the marker.

    At the end each traps, the others do not, and no byte has changed. What is wrong is told with its step.
    """
    kinds = here(f"steps-{protection}", [name for name in KINDS if (name, protection) not in NEVER])
    case = prepared(subject, kinds, protection)
    left = beside(subject, kinds, protection)
    wrong: dict[str, str] = {}
    for name, step in STEPS.items():
        if missing := caps.missing(step.needs):
            record_part(f"trapping/test_matrix.py::steps-{protection}-{name}", Outcome.SKIP, missing)
            continue
        some = Case(subject, [cell for cell in [*case.cells, *left] if cell.kind.name not in step.absent])
        some.each(step.do)
        for cell, (entries,) in zip(some.cells, some.each(pagemap), strict=True):
            markers = marks(cell, entries)
            if markers != cell.armed:
                wrong.setdefault(str(cell), f"markers after {name}: {brief(markers)} instead of {brief(cell.armed)}")
    finish(case, left, judge(case) | wrong, kst_control)


def neighbour_unmapped(case: Case) -> None:
    """munmap() of the last pages: the VMA is split, what is left is as it was."""
    _unmap(case, lambda cell: range(len(cell.region) // 2, len(cell.region)))


def middle_unmapped(case: Case) -> None:
    """munmap() inside of the range, or of a huge page: unmap_region(), __split_huge_pmd_locked()."""
    _unmap(case, lambda _: range(1, 3))


def _unmap(case: Case, gone: Callable[[Cell], range]) -> None:
    for cell in case.cells:
        cell.gone = gone(cell)
    case.each(lambda cell: ops.munmap(cell.region[cell.gone.start], len(cell.gone) * cell.region.page_size))


OPERATIONS = [
    Operation(neighbour_unmapped),
    Operation(middle_unmapped, absent=dict.fromkeys(HUGETLB, "munmap refuses pages inside of a huge page")),
]


@pytest.mark.contract("I2", "I3")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize(("operation", "protection", "kinds"), rows(OPERATIONS))
def test_protection_survives(check_row: Row, operation: Operation, protection: str, kinds: tuple[str, ...]) -> None:
    """Pages that were protected before the operation have the marker and trap; the others neither; no byte changed."""
    check_row(operation, protection, kinds)
