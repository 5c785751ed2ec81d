"""Operations that drop a page on purpose, on every kind of memory: its protection goes with it, that of others stays.

Source: userfaultfd.rst, "Operations that drop the PTE entirely ... also drop the RWP marker: the next access
re-populates the range without protection. Unlike WP (which persists via PTE_MARKER_UFFD_WP)"; zap_pte_range(),
zap_huge_pmd(), __unmap_hugepage_range(); invariants I2, I3.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field

import pytest

from kselftests_py.lab import WP, WP_SHMEM, Feature, Subject, ops
from kselftests_py.lab.bystanders import beside
from kselftests_py.lab.judgement import judge
from kselftests_py.lab.kinds import HUGETLB, KINDS, NEVER
from kselftests_py.lab.matrix import Case, Cell, marks, pagemap, prepared, runs
from kselftests_py.lab.operations import NEEDS, Operation, Row, finish, only, rows
from kselftests_py.lab.ops import Op

Here = Callable[[str, Iterable[str]], list[str]]
PRIVATE = ("anon", "thp", "mthp", "zero", "huge_zero", "read_only")
HAVE_FILE = ("shmem", "tmpfs", "hugetlb")


def _advise(*advices: str) -> Callable[[Cell, int], list[Op[object]]]:
    return lambda cell, page: [ops.madvise(cell.region[page], cell.region.page_size, advice) for advice in advices]


def _punch(cell: Cell, page: int) -> list[Op[object]]:
    return [ops.punch_hole(cell.region.handle, page * cell.region.page_size, cell.region.page_size)]


def _map_over(cell: Cell, page: int) -> list[Op[object]]:
    at, size = cell.region[page], cell.region.page_size
    return [ops.munmap(at, size)]


@dataclass(frozen=True)
class Drop:
    """How one page is dropped, and the kinds that it cannot be dropped from, each with its reason."""

    how: Callable[[Cell, int], list[Op[object]]]
    absent: Mapping[str, str] = field(default_factory=dict)
    reachable: bool = True


DROPS = {
    "dontneed": Drop(_advise("DONTNEED")),
    "remove": Drop(_advise("REMOVE"), only(("anon_shared", *HAVE_FILE), "MADV_REMOVE takes shared writable files")),
    "punch_hole": Drop(_punch, only(HAVE_FILE, "has no file of its own to punch a hole into")),
    "guard": Drop(
        _advise("GUARD_INSTALL", "GUARD_REMOVE"),
        dict.fromkeys(HUGETLB, "MADV_GUARD_INSTALL refuses hugetlb"),
    ),
    "guarded": Drop(
        _advise("GUARD_INSTALL"), dict.fromkeys(HUGETLB, "MADV_GUARD_INSTALL refuses hugetlb"), reachable=False
    ),
    "unmapped": Drop(_map_over, dict.fromkeys(HUGETLB, "leaves nothing of its two pages to look at"), reachable=False),
}


def _dropped(cell: Cell) -> int:
    """The page that is dropped: a protected one."""
    return 1 if 1 in cell.kind.armed else min(cell.kind.armed)


def _kinds(protection: str, how: str) -> list[str]:
    """Write protection of what a file keeps outlives its page: see the test after this one."""
    kinds = KINDS if protection == "rwp" else PRIVATE
    return [name for name in kinds if name not in DROPS[how].absent and (name, protection) not in NEVER]


WAYS = [("rwp", "quiet"), ("rwp", "event_remove"), ("wp", "quiet")]
ROWS = [
    pytest.param(how, protection, event, marks=pytest.mark.needs(*NEEDS[protection]), id=f"{protection}-{event}-{how}")
    for protection, event in WAYS
    for how in DROPS
    if _kinds(protection, how)
]


@pytest.mark.contract("D1", "I2")
@pytest.mark.control("invert_marker")
@pytest.mark.parametrize(("how", "protection", "event"), ROWS)
def test_dropped_page_is_free(
    subject: Subject, here: Here, kst_control: str | None, how: str, protection: str, event: str
) -> None:
    """The dropped page has no marker and does not trap (a guard raises SIGSEGV); all others are as protected as before.

    With EVENT_REMOVE and EVENT_UNMAP the same, once the events are read.
    """
    drop, kinds = DROPS[how], here(f"{how}-{protection}-{event}", _kinds(protection, how))
    extra = Feature.EVENT_REMOVE | Feature.EVENT_UNMAP if event == "event_remove" else Feature(0)
    case = prepared(subject, kinds, protection, extra)
    left = beside(subject, kinds, protection, extra)
    everything = Case(subject, [*case.cells, *left])
    everything.each(lambda cell: drop.how(cell, _dropped(cell)))
    everything.each(lambda cell: ops.events(cell.uffd.handle))
    wrong = _check_dropped(case, drop)
    for cell in everything.cells:
        cell.gone = range(_dropped(cell), _dropped(cell) + 1)
    finish(case, left, judge(case) | wrong, kst_control)


def _check_dropped(case: Case, drop: Drop) -> dict[str, str]:
    """What is wrong with the dropped page of each cell."""
    wrong = {}
    actor = case.subject.call(ops.actor()).actor
    seen = case.each(lambda cell: _look(cell, actor))
    for cell, (entries, _, state, told) in zip(case.cells, seen, strict=True):
        if marks(cell, entries) & {_dropped(cell)}:
            wrong[str(cell)] = "the dropped page has a marker"
        elif state.state != "done" or told.events:
            wrong[str(cell)] = f"the access to the dropped page is {state.state}, messages {len(told.events)}"
        elif state.signal != (None if drop.reachable else "SIGSEGV"):
            wrong[str(cell)] = f"the access to the dropped page raised {state.signal}"
    return wrong


def _look(cell: Cell, actor: int) -> list[Op[object]]:
    how = "rmw" if cell.kind.prot & 2 else "read"
    return [
        pagemap(cell),
        ops.access(actor, how, cell.region[_dropped(cell)], 0),
        ops.latest_ticket(actor, None, 2000),
        ops.events(cell.uffd.handle),
    ]


def dropped_and_marked(case: Case) -> None:
    """zap_pte_range(), zap_install_uffd_wp_if_needed(): PTE_MARKER_UFFD_WP stands where the page was."""
    case.each(
        lambda cell: [
            ops.madvise(cell.region[first], (behind - first) * cell.region.page_size, "DONTNEED")
            for first, behind in runs(cell.armed)
        ]
    )


SURVIVORS = [
    Operation(
        dropped_and_marked,
        absent=only(("anon_shared", "shmem", "tmpfs", "hugetlb"), "has no file that keeps what is dropped"),
        protections=("wp",),
    )
]


@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize(("operation", "protection", "kinds"), rows(SURVIVORS))
def test_write_protection_outlives_the_page(
    check_row: Row, operation: Operation, protection: str, kinds: tuple[str, ...]
) -> None:
    """MADV_DONTNEED of shared memory drops pages; write protection and its markers stay. Source: userfaultfd.rst."""
    check_row(operation, protection, kinds)


@pytest.mark.needs("wp_shmem", "guard")
@pytest.mark.finding("F030")
@pytest.mark.loses_machine
@pytest.mark.control("skip_protect")
def test_guard_of_write_protected_shared_memory(subject: Subject) -> None:
    """MADV_GUARD_INSTALL ends, as it does for every other page. Source: madvise(2); madvise_guard_install()."""
    region = subject.region("shmem", 2).populate()
    uffd = subject.uffd(WP | WP_SHMEM)
    uffd.register(region, WP)
    uffd.protect(region)
    assert region.marked_pages() == {0, 1}
    actor = subject.call(ops.actor()).actor
    subject.call(ops.access(actor, "guard_install", region[0], 0))
    done = subject.call(ops.latest_ticket(actor, "done", 1000))
    assert (done.state, done.value) == ("done", 0)
    assert region.marked_pages() == {1}
