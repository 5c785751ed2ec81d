"""The matrix of operations: its tables, and what its judge makes of an answer."""

from __future__ import annotations

from dataclasses import replace
from types import SimpleNamespace
from typing import Any, cast

import pytest

from kselftests_py.lab import ProbeError, Region, Subject, Uffd
from kselftests_py.lab.judgement import accesses, check_cells
from kselftests_py.lab.kinds import KINDS, NEVER
from kselftests_py.lab.matrix import Case, Cell, found, marks, runs
from kselftests_py.lab.operations import Operation, only, rows
from kselftests_py.lab.replies import Markers

ADDR = 1 << 30


def cell(name: str, protection: str = "rwp", delivery: str = "sync") -> Cell:
    kind = KINDS[name]
    nobody = cast(Subject, SimpleNamespace())
    size = 2 << 20 if name.startswith("hugetlb") else 4096
    region = Region(ADDR, kind.pages * size, size, nobody, kind.kind, 1)
    return Cell(kind, protection, delivery, region, cast(Uffd, SimpleNamespace(handle=1)), nobody, nobody)


def nothing(case: Case) -> None:
    """Does nothing."""


def test_runs_are_of_consecutive_pages() -> None:
    assert runs([]) == []
    assert runs([6, 0, 1, 3]) == [(0, 2), (3, 4), (6, 7)]


def test_each_kind_accesses_what_it_protects() -> None:
    for kind in KINDS.values():
        assert {page for page, _ in kind.accessed} <= kind.armed
        assert max(kind.armed) < kind.pages
        assert len(kind.accessed) <= 4, "each may sleep in a thread of its own"


def test_pages_that_are_gone_are_not_judged() -> None:
    some = cell("anon")
    some.gone = range(1, 3)
    assert some.armed == {0, 3, 5, 6}
    assert some.left == [0, 3, 4, 5, 6, 7]
    assert [page for page, _ in accesses(some)] == [4, 7, 0, 3, 6]
    assert marks(some, Markers(8, [(0, 2), (3, 4)])) == {0, 3}
    seen: Any = SimpleNamespace(regions=[(ADDR, ADDR + 4 * 4096, 0)])
    assert found(some, seen) == {0, 3}


def test_a_huge_page_has_the_marker_of_any_part_of_it() -> None:
    assert marks(cell("hugetlb"), Markers(1024, [(0, 512)])) == {0}
    assert marks(cell("hugetlb"), Markers(1024, [(511, 513)])) == {0, 1}


@pytest.mark.parametrize("wrong", [Markers(7, []), Markers(8, [(0, 9)]), Markers(8, [(3, 3)])])
def test_markers_of_something_else(wrong: Markers) -> None:
    with pytest.raises(ProbeError, match="pagemap entries"):
        marks(cell("anon"), wrong)


def test_bystanders_are_told_from_the_cells_of_the_case() -> None:
    """A bystander has a name of its own, and of a huge page only parts are compared."""
    one = replace(cell("thp"), whole=False, end="closed")
    assert (str(one), one.sampled) == ("thp-rwp-closed", True)
    assert not cell("thp").sampled


def test_kind_that_is_absent_has_a_reason() -> None:
    absent = only(("anon", "shmem"), "why not")
    assert set(absent.values()) == {"why not"}
    assert Operation(nothing, absent=absent).kinds("rwp") == ["anon", "shmem"]
    assert all(reason for reason in NEVER.values())
    with pytest.raises(AssertionError, match="no kind is called"):
        Operation(nothing, absent={"nylon": "a typing error"})


def test_finding_gets_a_row_of_its_own() -> None:
    operation = Operation(
        nothing, ("swap",), only(("anon", "shmem", "tmpfs"), "-"), {(kind, "rwp"): "F9" for kind in ("shmem", "tmpfs")}
    )
    made = {row.id: (row.values[2], [mark.name for mark in row.marks]) for row in rows([operation])}
    assert made == {
        "nothing-rwp": (("anon",), ["needs"]),
        "nothing-rwp-F9": (("shmem", "tmpfs"), ["needs", "finding"]),
        "nothing-wp": (("anon", "shmem", "tmpfs"), ["needs"]),
    }


def test_one_cell_that_does_not_notice_a_control_lets_it_go_unnoticed() -> None:
    cells = [cell("anon"), cell("anon", delivery="async")]
    one, both = {"anon-rwp-sync": "broken"}, {"anon-rwp-sync": "broken", "anon-rwp-async": "broken"}
    check_cells({}, cells, None)
    check_cells(one, cells, "skip_protect")
    for wrong, control in ((one, None), (both, "skip_protect")):
        with pytest.raises(AssertionError, match="anon-rwp-sync: broken"):
            check_cells(wrong, cells, control)
