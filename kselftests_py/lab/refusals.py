"""A table of calls that the kernel must refuse, and the check that a refused call has changed nothing (I7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kselftests_py.lab import ops
from kselftests_py.lab.constants import PAGEMAP_UFFD_BIT
from kselftests_py.lab.errors import KernelRefused
from kselftests_py.lab.ops import Op
from kselftests_py.lab.region import PAGEMAP_GRAIN, Region
from kselftests_py.lab.subject import Subject
from kselftests_py.lab.uffd import Uffd

Rows = Mapping[str, tuple[Op[Any], str]]
"""What is tried, by name: the operation and the errno it must be refused with."""


def answers(subject: Subject, batch: list[Op[Any]]) -> list[str]:
    """What the kernel says to each operation, in one round trip: the name of an errno, or ``success``."""
    results = subject.batch(*batch, stop_on_errno=False) if batch else []
    return [_answer(result) for result in results]


def check_refusals(subject: Subject, region: Region, uffd: Uffd, rows: Rows) -> None:
    """Each row is refused with its errno, and changes neither markers nor traps nor contents of *region*.

    *region* is populated with the pattern of seed 1, *uffd* is the one it is registered with, in sync mode, and some of
    its pages are protected: a thread that waits on the first of these must sleep on, without another message. What
    tells a trap is an addition of 0, which RWP and WP trap alike.
    *uffd* is closed at the end: only then can the contents be read.
    """
    grains = region.page_size // PAGEMAP_GRAIN
    look = ops.pagemap(region.addr, len(region) * grains)
    started = subject.batch(look, *[ops.actor() for _ in range(len(region) + 1)])
    before, actors = started[0].entries, [new.actor for new in started[1:]]
    armed = [bool(int(entry, 16) & PAGEMAP_UFFD_BIT) for entry in before[::grains]]
    assert any(armed), "the set-up protects a page whose waiter must not be woken"
    waiter = subject.call(ops.access(actors.pop(), "rmw", region[armed.index(True)], 0)).ticket
    assert subject.call(ops.ticket(waiter)).state == "blocked"
    batch: list[Op[Any]] = [ops.events(uffd.handle)]
    for op, _ in rows.values():
        batch += [op, look]
    results = subject.batch(*batch, stop_on_errno=False)[1:]
    expected = {name: errno for name, (_, errno) in rows.items()}
    told = dict(zip(rows, map(_answer, results[::2]), strict=True))
    wrong = [f"{name}: {told[name]} instead of {errno}" for name, errno in expected.items() if told[name] != errno]
    assert not wrong, "; ".join(wrong)
    changed = [name for name, seen in zip(rows, results[1::2], strict=True) if seen.entries != before]
    assert not changed, f"refused, and page table entries changed all the same: {', '.join(changed)}"
    waiting, events = subject.batch(ops.ticket(waiter), ops.events(uffd.handle))
    assert waiting.state == "blocked", "refused, and the waiter was woken all the same"
    assert events.events == [], "refused, and messages came all the same"
    tickets = subject.batch(*[ops.access(actor, "rmw", at, 0) for actor, at in zip(actors, region, strict=True)])
    states = subject.batch(*[ops.ticket(new.ticket) for new in tickets])
    traps = [state.state == "blocked" for state in states]
    assert traps == armed, f"pages that trap were {armed} and are {traps}"
    uffd.close()
    broken = region.changed_pages()
    assert not broken, f"refused, and the bytes of pages {sorted(broken)} changed all the same"


def _answer(result: object) -> str:
    return result.name if isinstance(result, KernelRefused) else "success"
