"""Whether memory is protected as it was before an operation: marker, trap, report and contents of each cell.

Many cells are looked at in each round trip to the probe; each is judged by itself.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import replace
from itertools import groupby
from typing import Any

from kselftests_py.lab import ops
from kselftests_py.lab.constants import RWP, WP, WRITE, Page, fault_bits
from kselftests_py.lab.errors import ProbeError
from kselftests_py.lab.kinds import CODE
from kselftests_py.lab.matrix import Case, Cell, brief, found, marks, pagemap, resolve, runs, scan, touched
from kselftests_py.lab.ops import Op
from kselftests_py.lab.region import PAGEMAP_GRAIN, Region
from kselftests_py.lab.subject import Subject

WAIT_MS = 2000
TOGETHER = 8
"""Cells looked at in one round trip: each has threads of its own, which may sleep at the same time."""
_BY_THE_OWNER = ("events", "end")
"""Steps that the process takes that has the descriptor; the others are of the one that has the memory."""


def accesses(cell: Cell) -> list[tuple[int, str]]:
    """The accesses that the judgement makes: to the first and last free page, and to the protected ones."""
    free = sorted(cell.free)
    how = "rmw" if cell.kind.prot & 2 else "read"
    return [(page, how) for page in sorted({*free[:1], *free[-1:]})] + [
        (page, how) for page, how in cell.kind.accessed if page not in cell.gone
    ]


def judge(case: Case, *, close: bool = True, closed: bool = False) -> dict[str, str]:
    """Whether marker, trap and contents of each cell are what they were before the operation; what is wrong, by cell.

    Pages that were protected have the marker, and each access to them traps (RWP) or those that write do (WP); the
    others neither; in async mode just what is accessed is reported; no byte has changed. At the end nothing is left: of
    a sync cell half of what is protected is resolved, then its descriptor is closed while threads wait for the rest (a
    huge page is resolved as a whole, or with *closed* by closing); the descriptor of an async one is closed. Without
    *close*, as where a child has the descriptor too, a sync cell is resolved and an async one unregistered.
    """
    wrong: dict[str, str] = {}
    actors: list[int] = []
    for first in range(0, len(case.cells), TOGETHER):
        cells = case.cells[first : first + TOGETHER]
        wanted = sum(1 + len(_waiting(cell)) for cell in cells)
        actors += [new.actor for new in case.subject.batch(*[ops.actor() for _ in range(wanted - len(actors))])]
        crew = iter(actors)
        steps = [_steps(cell, crew, _finish(cell, close, closed)) for cell in cells]
        try:
            seen = _run(cells, steps)
        except ProbeError as error:  # a thread is still asleep that was to pass, and cannot be given more to do
            wrong |= dict.fromkeys(map(str, cells), f"an access is under way that should have passed: {error}")
            actors = []
            continue
        for cell, answers in zip(cells, seen, strict=True):
            try:
                _check(cell, answers)
            except AssertionError as error:
                wrong[str(cell)] = str(error).splitlines()[0]
                actors = []  # one of them may sleep for ever
    return wrong


def _waiting(cell: Cell) -> list[tuple[int, str]]:
    return [access for access in accesses(cell) if not _passes(cell, access)]


Steps = Mapping[str, list[Op[Any]]]


def _steps(cell: Cell, actors: Iterator[int], end: list[Op[Any]]) -> Steps:
    """All that is to be seen of a cell: one actor makes the accesses that pass, each other one has its own."""
    passer = next(actors)
    crew = {access: next(actors) for access in _waiting(cell)}
    return {
        "marks": [pagemap(cell)],
        "before": [scan(cell, touched(cell)), scan(cell, Page.HUGE)],
        "accesses": [
            op
            for access in accesses(cell)
            for op in _access(cell, access, crew.get(access, passer), None if access in crew else "done")
        ],
        "after": [scan(cell, touched(cell))],
        "events": [ops.events(cell.uffd.handle)],
        "end": end,
        "woken": [ops.latest_ticket(actor, "done", WAIT_MS) for actor in crew.values()],
        "left": [pagemap(cell)],
        "sums": cell.sums_of(cell.region),
    }


def _run(cells: list[Cell], steps: list[Steps]) -> list[dict[str, list[Any]]]:
    """The answers of all steps of all cells; one round trip for each run of steps that one process takes."""
    seen: list[dict[str, list[Any]]] = [{} for _ in cells]
    first = cells[0]
    for subject, names in groupby(steps[0], lambda name: first.owner if name in _BY_THE_OWNER else first.subject):
        listed = list(names)
        ways = [(number, name) for name in listed for number in range(len(cells))]
        answers = iter(subject.batch(*[op for number, name in ways for op in steps[number][name]]))
        for number, name in ways:
            seen[number][name] = [next(answers) for _ in steps[number][name]]
    return seen


def _check(cell: Cell, seen: Mapping[str, list[Any]]) -> None:
    """:raises AssertionError: what was seen of the cell is not what it should have been."""
    _check_before(cell, seen["marks"][0], found(cell, seen["before"][0]))
    waiting = _waiting(cell)
    for access, state in zip(accesses(cell), [one.state for one in seen["accesses"][1::2]], strict=True):
        wanted = "blocked" if access in waiting else "done"
        assert state == wanted, f"{access[1]} of page {access[0]} is {state} instead of {wanted}"
    _check_messages(cell, waiting, seen["events"][0].events)
    if cell.delivery == "async":
        units = found(cell, seen["before"][1]) if cell.region.page_size == PAGEMAP_GRAIN else set()
        _check_tracked(cell, units, found(cell, seen["after"][0]))
    asleep = [access for access, state in zip(waiting, seen["woken"], strict=True) if state.state != "done"]
    assert not asleep, f"asleep though nothing is protected any more: {brief(asleep)}"
    left = marks(cell, seen["left"][0])
    assert not left, f"markers that stay: {brief(left)}"
    changed = cell.changed(seen["sums"])
    assert not changed, f"other bytes than before in the pages (of {cell.unit} bytes) {brief(changed)}"


def _access(cell: Cell, access: tuple[int, str], actor: int, wanted: str | None) -> list[Op[Any]]:
    page, how = access
    at = cell.region[page] + (CODE if how == "exec" else 0)
    value = cell.values.get(page, 0) if how == "write" else 0  # no byte is to change
    return [ops.access(actor, how, at, value), ops.latest_ticket(actor, wanted, WAIT_MS)]


def _finish(cell: Cell, close: bool, closed: bool) -> list[Op[Any]]:
    uffd, region, armed = cell.uffd.handle, cell.region, sorted(cell.armed)
    if close and (closed or cell.delivery == "async"):
        return [ops.uffd_close(uffd)]
    if cell.delivery == "async":
        return [ops.unregister(uffd, region.addr, region.length)]
    if not close or cell.kind.huge or region.page_size > PAGEMAP_GRAIN:
        return [resolve(cell, first, behind) for first, behind in runs(cell.left)]
    below = armed[len(armed) // 2] if armed else 0
    return [
        *[resolve(cell, first, behind) for first, behind in runs(page for page in cell.left if page < below)],
        ops.uffd_close(uffd),
    ]


def _traps(cell: Cell, access: tuple[int, str]) -> bool:
    """Whether the protection stops or records this access."""
    page, how = access
    return page in cell.armed and (cell.protection == "rwp" or how in ("write", "rmw"))


def _passes(cell: Cell, access: tuple[int, str]) -> bool:
    return cell.delivery == "async" or not _traps(cell, access)


def _check_before(cell: Cell, answer: Any, before: set[int]) -> None:
    markers = marks(cell, answer)
    assert markers == cell.armed, f"markers {brief(markers)} instead of {brief(cell.armed)}"
    if cell.delivery == "async":
        assert before == cell.free, f"touched before any access {brief(before)}, not {brief(cell.free)}"


def _check_messages(cell: Cell, waiting: list[tuple[int, str]], events: list[Any]) -> None:
    seen = sorted((cell.region.page_of(event.address), int(event.flags)) for event in events)
    bits = fault_bits(RWP if cell.protection == "rwp" else WP)
    expected = sorted(
        (page, int(bits | (fault_bits(WRITE) if how in ("write", "rmw") else 0))) for page, how in waiting
    )
    assert seen == expected, f"messages {brief(seen)} instead of {brief(expected)}"


def _check_tracked(cell: Cell, units: set[int], after: set[int]) -> None:
    """Just the pages accessed, but that a huge page (*units*) is tracked as a whole, and may be split by a write."""
    hit = {access[0] for access in accesses(cell) if _traps(cell, access)}
    least = cell.free | hit
    most = least | (cell.armed & units if hit & units else set())
    assert least <= after <= most, f"touched after the accesses {brief(after)}, not {brief(least)}"
    # Write protection splits a huge page that is written (wp_huge_pmd()); RWP resolves it as a whole.
    assert cell.protection == "wp" or after == most, f"touched after the accesses {brief(after)}, not {brief(most)}"


def unprotected(case: Case, there: Mapping[str, Region], owner: Subject) -> dict[str, str]:
    """What is wrong with memory that no userfaultfd has any more: the cells' regions as they are *there*, in *owner*.

    Nothing is marked, nothing traps, and no byte has changed.
    """
    wrong: dict[str, str] = {}
    actors: list[int] = []
    for cell in case.cells:
        actors = actors or [new.actor for new in owner.batch(*[ops.actor() for _ in range(4)])]
        now = replace(cell, region=there[str(cell)])
        tried = [access for access in cell.kind.accessed if access[0] not in cell.gone]
        answers = owner.batch(
            pagemap(now),
            *[op for access, actor in zip(tried, actors, strict=False) for op in _access(now, access, actor, "done")],
            *cell.sums_of(now.region),
        )
        states = [answer.state for answer in answers[2 : 1 + 2 * len(tried) : 2]]
        if marked := marks(now, answers[0]):
            wrong[str(cell)] = f"markers where no userfaultfd is: {brief(marked)}"
        elif set(states) - {"done"}:
            wrong[str(cell)], actors = f"accesses that do not pass: {states}", []
        elif cell.changed(answers[1 + 2 * len(tried) :]):
            wrong[str(cell)] = "other bytes than before"
    return wrong


def check_cells(wrong: dict[str, str], cells: Iterable[Any], control: str | None) -> None:
    """:raises AssertionError: something is wrong with a cell. Under a negative *control* every cell must notice it:
    one that does not makes the test pass, and the control count as unnoticed.
    """
    unnoticed = [str(cell) for cell in cells if str(cell) not in wrong]
    if control is not None and unnoticed:
        return
    assert not wrong, "; ".join(f"{cell}: {what}" for cell, what in wrong.items())
