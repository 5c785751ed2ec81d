"""mremap of every kind of memory, with EVENT_REMAP and without; and filling where something protected is.

Source: mremap_userfaultfd_prep() in mm/userfaultfd.c; move_ptes() in mm/mremap.c; move_huge_pmd(), move_huge_pte();
userfaultfd.rst; invariants I2, I3, I5. ``test_matrix.py`` says what is judged of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from kselftests_py.lab import MINOR, MISSING, RWP, Feature, Region, Subject, ops
from kselftests_py.lab.bystanders import beside
from kselftests_py.lab.cases import DISTINCT_KINDS
from kselftests_py.lab.judgement import check_cells, judge, unprotected
from kselftests_py.lab.kinds import HUGETLB, KINDS, NEVER
from kselftests_py.lab.matrix import Case, prepared
from kselftests_py.lab.operations import BY, finish
from kselftests_py.lab.refusals import answers, check_refusals

Here = Callable[[str, Iterable[str]], list[str]]
MAYMOVE, MAYMOVE_FIXED, DONTUNMAP = 1, 3, 5
ONE_SIZE = dict.fromkeys(HUGETLB, "mremap does not resize hugetlb memory")
CANNOT = {
    "move": {},
    "grow": ONE_SIZE,
    "shrink": ONE_SIZE,
    "dontunmap": dict.fromkeys(HUGETLB, "MREMAP_DONTUNMAP refuses hugetlb memory (VM_DONTEXPAND)"),
}
"""Of each way the kinds that cannot go it, and why."""


def _kinds(protection: str, way: str) -> list[str]:
    return [name for name in KINDS if name not in CANNOT[way] and (name, protection) not in NEVER]


def _remap(case: Case, way: str) -> dict[str, Region]:
    """mremap(2) of each cell; where it is then. A region lies between guards: it cannot grow where it is."""
    if way == "shrink":
        for cell in case.cells:
            cell.gone = range(len(cell.region) // 2, len(cell.region))
    if way == "move":
        places = case.each(lambda cell: ops.region("anon", cell.region.length // 4096))  # gives way to what comes
    else:
        places = [[None] for _ in case.cells]
    flags = {"move": MAYMOVE_FIXED, "grow": MAYMOVE, "shrink": 0, "dontunmap": DONTUNMAP}[way]
    at = {str(cell): place.addr if place else 0 for cell, (place,) in zip(case.cells, places, strict=True)}
    factor = {"grow": 2.0, "shrink": 0.5}.get(way, 1.0)
    moved = case.each(
        lambda cell: ops.mremap(
            cell.region.addr, cell.region.length, int(cell.region.length * factor), flags, at[str(cell)]
        )
    )  # fmt: skip
    case.each(lambda cell: ops.events(cell.uffd.handle))  # what it told of the remap
    return {str(cell): replace(cell.region, addr=new.addr) for cell, (new,) in zip(case.cells, moved, strict=True)}


@pytest.mark.contract("V1", "I2", "I3", "I5")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("way", CANNOT)
@pytest.mark.parametrize("protection", BY)
def test_markers_go_along(subject: Subject, here: Here, kst_control: str | None, protection: str, way: str) -> None:
    """With EVENT_REMAP what was protected is protected where it is now, by the same descriptor, and nothing else is."""
    kinds = here(f"{way}-{protection}", _kinds(protection, way))
    case = prepared(subject, kinds, protection, Feature.EVENT_REMAP)
    left = beside(subject, kinds, protection, Feature.EVENT_REMAP)
    everything = Case(subject, [*case.cells, *left])
    there = _remap(everything, way)
    for cell in everything.cells:
        cell.region = there[str(cell)]
    finish(case, left, judge(case), kst_control)


@pytest.mark.contract("V2", "I2", "I5")
@pytest.mark.control("invert_marker")
@pytest.mark.parametrize("way", CANNOT)
@pytest.mark.parametrize("protection", BY)
def test_markers_stay_behind(subject: Subject, here: Here, kst_control: str | None, protection: str, way: str) -> None:
    """Without it nothing is marked or traps where the memory is now, and no byte has changed; shrunk in place, it is
    as protected as before.
    """
    case = prepared(subject, here(f"{way}-{protection}", _kinds(protection, way)), protection)
    there = _remap(case, way)
    wrong = judge(case) if way == "shrink" else unprotected(case, there, subject)
    check_cells(wrong, case.cells, kst_control)


@pytest.mark.contract("I7", "X5")
@pytest.mark.needs("rwp", "move", "poison")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_nothing_is_put_over_a_protected_page(subject: Subject, kind: str) -> None:
    """COPY, ZEROPAGE, CONTINUE, POISON and MOVE onto a page that is there are EEXIST, and leave protection and bytes.

    MOVE from or into memory that is not anonymous is EINVAL. Source: mfill_atomic_install_pte(),
    mfill_atomic_pte_poison(), move_pages_ptes(): "Page already exists"; validate_move_areas(); I7.
    """
    region = subject.region(kind, 2).populate()
    uffd = subject.uffd(RWP)
    uffd.register(region, RWP | MISSING | (MINOR if kind != "anon" else MISSING))
    uffd.protect(region[:1])
    u, size = uffd.handle, region.page_size
    rows = {
        "COPY": (ops.copy(u, region[0], size, seed=7), "EEXIST"),
        "POISON": (ops.fill("poison", u, region[0], size), "EEXIST"),
    }
    if kind != "hugetlb":
        rows["ZEROPAGE"] = (ops.fill("zeropage", u, region[0], size), "EEXIST")
    if kind == "anon":
        source = subject.region(kind, 1).populate()
        rows["MOVE"] = (ops.move(u, region[0], source[0], size), "EEXIST")
    else:
        rows["CONTINUE"] = (ops.fill("continue", u, region[0], size), "EEXIST")
        source = subject.region(kind, 1).populate()
        rows["MOVE"] = (ops.move(u, region[0], source[0], size), "EINVAL")  # of anonymous memory alone
    check_refusals(subject, region, uffd, rows)


@pytest.mark.contract("I7")
@pytest.mark.needs("rwp", "guard", "poison")
@pytest.mark.control("swallow_errno")
@pytest.mark.parametrize("kind", ["anon", "shmem"])
def test_guard_page_is_not_filled(subject: Subject, kind: str) -> None:
    """COPY, ZEROPAGE, CONTINUE and POISON onto a guard page are EEXIST, and it stays one. F031 (6.18).

    Source: madvise(2): "removed when unmapped, on process teardown, or when the MADV_GUARD_REMOVE operation is applied
    to them".
    """
    region = subject.region(kind, 2).populate()
    uffd = subject.uffd(RWP)
    uffd.register(region, RWP | MISSING | (MINOR if kind != "anon" else MISSING))
    uffd.protect(region[:1])
    region.madvise("GUARD_INSTALL", region[1:2])
    u, at, size = uffd.handle, region[1], region.page_size
    batch = [ops.copy(u, at, size, seed=7), ops.fill("zeropage", u, at, size), ops.fill("poison", u, at, size)]
    batch += [ops.fill("continue", u, at, size)] if kind != "anon" else []
    assert answers(subject, batch) == ["EEXIST"] * len(batch)
    assert [subject.actor().access(how, at, 0).signal for how in ("read", "write")] == ["SIGSEGV"] * 2
    assert region.marked_pages() == {0}
