"""fork of every kind of memory: a child without a userfaultfd is left alone, one with EVENT_FORK is protected too.

Source: dup_userfaultfd() in mm/userfaultfd.c; __copy_present_ptes(), copy_present_page() and copy_nonpresent_pte() in
mm/memory.c; copy_huge_pmd(); copy_hugetlb_page_range() and hugetlb_install_folio(); invariants I2 to I6. A row is a way
to fork; ``test_matrix.py`` says what is judged of each kind.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from typing import Any

import pytest

from kselftests_py.lab import MISSING, RWP, WP, Feature, Region, Subject, ops
from kselftests_py.lab.bystanders import beside, end
from kselftests_py.lab.judgement import accesses, check_cells, judge, unprotected
from kselftests_py.lab.kinds import ALL_ACCESS, HUGETLB, KINDS, NEVER
from kselftests_py.lab.matrix import (
    Case,
    Cell,
    brief,
    fill,
    found,
    inherited,
    marks,
    pagemap,
    prepared,
    protect,
    scan,
    swap_out,
    touched,
)
from kselftests_py.lab.operations import BY, finish
from kselftests_py.lab.ops import Op

Here = Callable[[str, Iterable[str]], list[str]]
PRIVATE = ("anon", "thp", "mthp", "zero", "huge_zero", "read_only")
"""Private anonymous memory, which alone can be wiped on fork."""
SWAPPED = ("anon", "mthp", "read_only", "thp")
"""Whose marker is in the swap entry; what becomes of shared memory is in ``test_matrix_paging.py``."""
FILLABLE = ("anon", "thp", "mthp", "anon_shared", "shmem", "tmpfs", "hugetlb", "hugetlb_private")
"""What can be dropped page by page, and has pages beside the protected ones."""
COPIED = ("anon", "thp", "mthp", "shmem", "hugetlb_private")
"""One of each kind of entry that fork copies."""
PINNABLE = [name for name, kind in KINDS.items() if kind.filled == "written" and name not in ("read_only", "shmem_thp")]
"""A pin for reading in needs a writable page: it copies zero pages and refuses memory that is read-only."""


def _kinds(protection: str, wanted: Iterable[str] = tuple(KINDS)) -> list[str]:
    return [name for name in wanted if (name, protection) not in NEVER]


def _beside(subject: Subject, kinds: Iterable[str], protection: str, extra: int = 0, *, pinned: bool) -> list[Cell]:
    """Bystanders; none of hugetlb, whose pages would be too few for a child that copies them."""
    return beside(subject, {*kinds} - {*HUGETLB}, protection, extra, pinned=pinned)


def _there(case: Case, child: Subject) -> dict[str, Region]:
    return {str(cell): replace(cell.region, subject=child) for cell in case.cells}


SWAP, PIN = (
    pytest.param(way, marks=pytest.mark.needs(need)) for way, need in (("swapped", "swap"), ("pinned", "io_uring"))
)
WAYS = ["parent_first", "nested", "not_inherited", SWAP, PIN]


@pytest.mark.contract("K1", "I2", "I5")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("protection", BY)
def test_child_is_left_alone(subject: Subject, here: Here, kst_control: str | None, protection: str, way: str) -> None:
    """Without EVENT_FORK nothing is marked or traps in the child, nor in its own child; the parent's is as it was.

    Neither sees other bytes than before; whoever looks first, if the memory is not inherited at all, and if its pages
    were on swap, or pinned, so that fork copies them at once.
    """
    inheritable = [name for name in KINDS if way != "not_inherited" or name not in HUGETLB]
    wanted = {"swapped": SWAPPED, "pinned": PINNABLE}.get(way, inheritable)
    kinds = here(f"{way}-{protection}", _kinds(protection, wanted))
    case = prepared(subject, kinds, protection, pinned=way == "pinned")
    left = _beside(subject, kinds, protection, pinned=way == "pinned")
    everything = Case(subject, [*case.cells, *left])
    if way == "swapped":
        swap_out(everything)
    if way == "not_inherited":  # MADV_DOFORK refuses hugetlb
        everything.each(lambda cell: ops.madvise(cell.region.addr, cell.region.length, "DONTFORK"))
    child, _ = subject.fork()
    with child:
        wrong = judge(case, close=False) if way == "parent_first" else {}
        if way == "nested":
            grandchild, _ = child.fork()
            with grandchild:
                wrong |= unprotected(case, _there(case, grandchild), grandchild)
        if way != "not_inherited":
            wrong |= unprotected(case, _there(case, child), child)
    if way != "parent_first":
        wrong |= judge(case)
    finish(case, left, wrong, kst_control)


EVENT_WAYS = ["child_first", "parent_first", "child_gone", SWAP, PIN]


@pytest.mark.contract("K2", "K3", "F11", "I2", "I5")
@pytest.mark.needs("event_fork")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("way", EVENT_WAYS)
@pytest.mark.parametrize("protection", BY)
def test_child_is_protected_too(
    subject: Subject, here: Here, kst_control: str | None, protection: str, way: str
) -> None:
    """With EVENT_FORK the child has the markers and traps, to a descriptor of its own, and so has the parent still.

    Whoever looks first; when the child has ended; when its pages were on swap; and when they were pinned, so that fork
    copies them at once.
    """
    wanted = {"swapped": SWAPPED, "pinned": PINNABLE}.get(way, tuple(KINDS))
    kinds = here(f"{way}-{protection}", _kinds(protection, wanted))
    case = prepared(subject, kinds, protection, Feature.EVENT_FORK, pinned=way == "pinned")
    left = _beside(subject, kinds, protection, Feature.EVENT_FORK, pinned=way == "pinned")
    everything = Case(subject, [*case.cells, *left])
    if way == "swapped":
        swap_out(everything)
    child, descriptors = subject.fork_each()
    with child:
        assert set(descriptors) == {cell.uffd.handle for cell in everything.cells}
        wrong = judge(case, close=False) if way == "parent_first" else {}
        if way != "child_gone":
            wrong |= judge(inherited(case, child, descriptors))
            killed = Case(subject, [cell for cell in left if cell.end == "killed"])
            wrong |= end(child, inherited(killed, child, descriptors).cells)
    if way != "parent_first":
        wrong |= judge(case)
    finish(case, left, wrong, kst_control)


@pytest.mark.contract("K2", "K3", "M10", "I2", "I5")
@pytest.mark.needs("event_fork")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("gone", [False, True], ids=["child_stays", "child_gone"])
@pytest.mark.parametrize("protection", BY)
def test_grandchild_is_protected_too(
    subject: Subject, here: Here, kst_control: str | None, protection: str, gone: bool
) -> None:
    """A child with an inherited EVENT_FORK that forks again: its fork event brings a third descriptor for each, and all
    three processes keep their markers, traps and bytes, whether the one between them ends first or not.

    Source: dup_userfaultfd(): the new context has the features of its parent's, EVENT_FORK among them; I2, I5.
    """
    kinds = here(f"grandchild-{protection}", _kinds(protection, COPIED))
    case = prepared(subject, kinds, protection, Feature.EVENT_FORK)
    left = _beside(subject, kinds, protection, Feature.EVENT_FORK, pinned=False)
    killed = Case(subject, [cell for cell in left if cell.end == "killed"])
    child, descriptors = subject.fork_each()
    with child:
        theirs, beside_theirs = (inherited(one, child, descriptors) for one in (case, killed))
        grandchild, new = subject.fork_of(child)
        with grandchild:
            assert set(new) == {uffd.handle for uffd in descriptors.values()}
            if gone:
                child.end()
            wrong = judge(inherited(theirs, grandchild, new))
            wrong |= end(grandchild, inherited(beside_theirs, grandchild, new).cells)
        if not gone:
            wrong |= judge(theirs)
            wrong |= end(child, beside_theirs.cells)
    wrong |= judge(case)
    finish(case, left, wrong, kst_control)


EVENTS = [False, pytest.param(True, marks=pytest.mark.needs("event_fork"))]


@pytest.mark.contract("K1", "K2", "P14", "I2", "I4")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("event", EVENTS, ids=["quiet", "event_fork"])
@pytest.mark.parametrize("protection", BY)
def test_child_finds_its_memory_wiped(
    subject: Subject, here: Here, kst_control: str | None, protection: str, event: bool
) -> None:
    """After MADV_WIPEONFORK the child has no page there: no marker, nothing is reported or traps, every byte is zero.

    With EVENT_FORK its range is registered all the same, and what it populates can be protected like any other. The
    parent's is as it was. Source: madvise(2), "Present the child process with zero-filled memory"; dup_mmap(); I2, I4.
    """
    kinds = here(f"wiped-{protection}", _kinds(protection, PRIVATE))
    case = prepared(subject, kinds, protection, Feature.EVENT_FORK if event else Feature(0))
    left = _beside(subject, kinds, protection, Feature.EVENT_FORK if event else Feature(0), pinned=False)
    everything = Case(subject, [*case.cells, *left])
    everything.each(lambda cell: ops.madvise(cell.region.addr, cell.region.length, "WIPEONFORK"))
    child, descriptors = subject.fork_each()
    with child:
        assert set(descriptors) == ({cell.uffd.handle for cell in everything.cells} if event else set())
        there = _there(case, child)
        cells = [
            replace(cell, subject=child, region=there[str(cell)], uffd=descriptors.get(cell.uffd.handle, cell.uffd))
            for cell in case.cells
        ]
        theirs = Case(child, cells)
        wrong = _wiped(theirs)
        if event:
            theirs.each(lambda cell: ops.mprotect(cell.region.addr, cell.region.length, ALL_ACCESS))
            fill(theirs)
            Case(subject, cells).each(protect)
            wrong |= judge(theirs)
    wrong |= judge(case)
    finish(case, left, wrong, kst_control)


def _wiped(case: Case) -> dict[str, str]:
    """What is wrong with memory that a child is to find empty."""
    wrong = {}
    actor = case.subject.call(ops.actor()).actor
    blank = case.subject.region("anon", 1)
    zero = case.subject.call(ops.checksum(blank.addr, 1, blank.page_size)).sums[0]
    before = case.each(lambda cell: [pagemap(cell), scan(cell, touched(cell))])
    done = case.each(
        lambda cell: [
            op
            for page, how in accesses(cell)
            for op in (
                ops.access(actor, "read" if how == "exec" else how, cell.region[page], 0),
                ops.latest_ticket(actor, "done", 2000),
            )
        ]
    )
    sums = case.each(lambda cell: cell.sums_of(cell.region))
    for cell, (entries, seen), answers, bytes_ in zip(case.cells, before, done, sums, strict=True):
        if marked := marks(cell, entries):
            wrong[str(cell)] = f"markers where no page is: {brief(marked)}"
        elif cell.protection == "rwp" and (hot := found(cell, seen)):
            wrong[str(cell)] = f"accessed where no page is: {brief(hot)}"
        elif {(answer.state, answer.signal) for answer in answers[1::2]} != {("done", None)}:
            wrong[str(cell)] = "an access to a page that was not there does not pass"
        elif any(text != zero for answer in bytes_ for text in answer.sums):
            wrong[str(cell)] = "bytes of the parent"
    return wrong


@pytest.mark.contract("K2", "I2", "I5")
@pytest.mark.needs("event_fork")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("protection", BY)
def test_child_does_not_inherit_the_memory(
    subject: Subject, here: Here, kst_control: str | None, protection: str
) -> None:
    """After MADV_DONTFORK the child has no such mapping, and no EVENT_FORK tells of it; the parent's is as it was.

    Source: madvise(2), "Do not make the pages in this range available to the child after a fork(2)"; dup_mmap().
    """
    kinds = here(f"not_inherited-{protection}", _kinds(protection))
    case = prepared(subject, kinds, protection, Feature.EVENT_FORK)
    left = _beside(subject, kinds, protection, Feature.EVENT_FORK, pinned=False)
    everything = Case(subject, [*case.cells, *left])
    everything.each(lambda cell: ops.madvise(cell.region.addr, cell.region.length, "DONTFORK"))
    child, descriptors = subject.fork_each()
    with child:
        assert descriptors == {}
        actor = child.call(ops.actor()).actor
        told = Case(child, case.cells).each(
            lambda cell: [ops.access(actor, "read", cell.region[0]), ops.latest_ticket(actor, "done", 2000)]
        )
        wrong = {
            str(cell): f"the child's access: {done.signal or done.state}"
            for cell, (_, done) in zip(case.cells, told, strict=True)
            if done.signal != "SIGSEGV"
        }
    wrong |= judge(case)
    finish(case, left, wrong, kst_control)


def _first_read_only(case: Case) -> None:
    case.each(lambda cell: ops.mprotect(cell.region.addr, cell.region.page_size, 1))


def _forked(case: Case) -> None:
    case.children.append(case.subject.fork()[0])


def _registered_again(case: Case) -> None:
    """A page beside protected ones is unregistered, and all of the range registered again, for missing pages too."""
    case.each(
        lambda cell: [
            *[
                ops.unregister(cell.uffd.handle, cell.region[page], cell.region.page_size)
                for page in sorted(cell.free)[:1]
            ],
            _for_missing_too(cell),
        ]
    )


def _for_missing_too(cell: Cell) -> Op[Any]:
    mode = (RWP if cell.protection == "rwp" else WP).mode | MISSING.mode
    return ops.register(cell.uffd.handle, cell.region.addr, cell.region.length, mode)


def _filled(case: Case) -> None:
    """UFFDIO_COPY, POISON and ZEROPAGE, or MOVE where memory is anonymous, into pages that were dropped."""
    anon = [str(cell) for cell in case.cells if cell.kind.kind == "anon"]  # MOVE wants memory of the same permissions
    sources = {name: case.subject.region("anon", 1, prot=ALL_ACCESS).populate() for name in anon}
    case.each(lambda cell: _fills(cell, sources.get(str(cell))))


def _fills(cell: Cell, source: Region | None) -> list[Op[Any]]:
    u, region, size, free = cell.uffd.handle, cell.region, cell.region.page_size, sorted(cell.free)
    drop = "DONTNEED" if cell.kind.kind in ("anon", "hugetlb_private") else "REMOVE"
    fills: list[Callable[[int], Op[Any]]] = [lambda at: ops.copy(u, at, size, seed=7)]
    if cell.kind.name not in HUGETLB:
        fills += [lambda at: ops.fill("poison", u, at, size), lambda at: ops.fill("zeropage", u, at, size)]
    if source is not None:
        fills[-1] = lambda at: ops.move(u, at, source.addr, size)
    pages = free[: len(fills)]
    return [
        _for_missing_too(cell),
        *[ops.madvise(region[page], size, drop) for page in pages],
        *[fill(region[page]) for page, fill in zip(pages, fills, strict=True)],
    ]


STATES = [
    pytest.param(None, id="protected"),
    pytest.param(_first_read_only, id="split"),
    pytest.param(_forked, id="forked"),
    pytest.param(_registered_again, id="registered_again"),
    pytest.param(_filled, id="filled", marks=pytest.mark.needs("move", "poison")),
    pytest.param(swap_out, id="swapped", marks=pytest.mark.needs("swap")),
]


@pytest.mark.contract("U10", "I1", "I2", "I5")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("protection", BY)
def test_closed_while_threads_wait_for_huge_pages(
    subject: Subject, here: Here, kst_control: str | None, protection: str
) -> None:
    """Descriptors closed while threads wait in huge pages: all go on, no marker is left, and no byte has changed.

    Every judgement closes descriptors while threads wait, but resolves a huge page first. Source: userfaultfd.rst,
    Cleanup: "all PROT_NONE PTEs are automatically restored"; userfaultfd_release_all(); change_huge_pmd().
    """
    huge = [name for name, kind in KINDS.items() if kind.huge or name in HUGETLB]
    case = prepared(subject, here(f"closed-{protection}", _kinds(protection, huge)), protection)
    check_cells(judge(case, closed=True), case.cells, kst_control)


@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("state", STATES)
@pytest.mark.parametrize("protection", BY)
def test_killed_while_threads_wait(
    subject: Subject, here: Here, protection: str, state: Callable[[Case], None] | None
) -> None:
    """A process killed while threads wait in every kind of memory can be reaped, in whatever state the memory is.

    After each operation of the matrix its rows do the same (bystanders.py). Source: I1, I9; userfaultfd_release(),
    exit_mmap(): the log is watched, and a process that does not end is a HANG.
    """
    wanted = SWAPPED if state is swap_out else FILLABLE if state is _filled else KINDS
    case = prepared(subject, here(f"killed-{protection}", _kinds(protection, wanted)), protection)
    if state is not None:
        state(case)
    sync = Case(subject, [cell for cell in case.cells if cell.delivery == "sync"])
    actors = [new.actor for (new,) in sync.each(lambda _: ops.actor())]
    crew = dict(zip(map(str, sync.cells), actors, strict=True))
    page = {str(cell): max(cell.armed) for cell in sync.cells}
    how = "read" if protection == "rwp" else "rmw"
    sync.each(lambda cell: ops.access(crew[str(cell)], how, cell.region[page[str(cell)]], 0))
    states = sync.each(lambda cell: ops.latest_ticket(crew[str(cell)], None, 2000))
    waiting = {str(cell) for cell, (seen,) in zip(sync.cells, states, strict=True) if seen.state == "blocked"}
    # To what is read-only a write is SIGSEGV, before any protection is looked at.
    read_only = protection == "wp" and state is _first_read_only
    hit = {str(cell) for cell in sync.cells if not (read_only and max(cell.armed) == 0)}
    # First the ends: a child that outlives a test that fails keeps its huge pages from those that come after.
    for one in (subject, *case.children):
        one.end()
    assert waiting >= hit, f"not waiting: {sorted(hit - waiting)}"
