"""Memory beside that of a row of the matrix: the same is done to it, and then its protection ends the other ways.

A judgement resolves half of what is protected and closes the descriptor while threads wait for the rest, but of a huge
page it resolves all, and it ends with nothing left. A bystander is a cell that is not judged: one of each huge kind is
closed while a thread waits for it, and one of each kind is left with its waiting thread when the process is killed.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from kselftests_py.lab import ops
from kselftests_py.lab.judgement import WAIT_MS
from kselftests_py.lab.kinds import KINDS
from kselftests_py.lab.matrix import Case, Cell, brief, marks, pagemap, prepared
from kselftests_py.lab.subject import Subject

STAND_BY = ("anon", "thp", "shmem", "hugetlb_private")
"""One of each kind of entry that the kernel takes apart in its own way."""


def beside(
    subject: Subject, kinds: Iterable[str], protection: str, extra: int = 0, *, pinned: bool = False
) -> list[Cell]:
    """Bystanders of those of *kinds* that have some, protected like the cells of a case."""
    wanted = [name for name in STAND_BY if name in set(kinds)]
    huge = [name for name in wanted if KINDS[name].huge or name == "hugetlb_private"]
    made = prepared(
        subject, [*wanted, *huge], protection, extra, pinned=pinned, deliveries=("sync",), whole=False
    ).cells
    ends = ["killed"] * len(wanted) + ["closed"] * len(huge)
    return [replace(cell, end=end) for cell, end in zip(made, ends, strict=True)]


def end(subject: Subject, cells: list[Cell]) -> dict[str, str]:
    """Threads wait in all *cells*; some descriptors are closed, then the process is killed. What is wrong, by cell.

    :raises SubjectHung: the process does not end.
    """
    there = Case(subject, [cell for cell in cells if cell.armed])
    told = there.each(
        lambda cell: [
            ops.actor(),
            ops.access(None, "read" if cell.protection == "rwp" else "rmw", cell.region[max(cell.armed)], 0),
            ops.ticket(None),
        ]
    )
    tickets = {str(cell): given.ticket for cell, (_, given, _) in zip(there.cells, told, strict=True)}
    wrong = {
        str(cell): f"a thread is {state.state} that should wait"
        for cell, (_, _, state) in zip(there.cells, told, strict=True)
        if state.state != "blocked"
    }
    closed = Case(subject, [cell for cell in there.cells if cell.end == "closed" and str(cell) not in wrong])
    seen = closed.each(
        lambda cell: [
            ops.uffd_close(cell.uffd.handle),
            ops.ticket(tickets[str(cell)], "done", WAIT_MS),
            pagemap(cell),
            *cell.sums_of(cell.region),
        ]
    )
    for cell, (_, state, entries, *sums) in zip(closed.cells, seen, strict=True):
        if state.state != "done":
            wrong[str(cell)] = "closed, and a thread sleeps on"
        elif left := marks(cell, entries):
            wrong[str(cell)] = f"closed, and markers stay: {brief(left)}"
        elif changed := cell.changed(sums):
            wrong[str(cell)] = (
                f"closed, and other bytes than before in the pages (of {cell.unit} bytes) {brief(changed)}"
            )
    subject.end()
    return wrong
