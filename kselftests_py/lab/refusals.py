"""A table of calls that the kernel must refuse, and the check that a refused call has changed nothing (I7)."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from kselftests_py.lab import ops
from kselftests_py.lab.constants import PAGEMAP_UFFD_BIT
from kselftests_py.lab.errors import KernelRefused
from kselftests_py.lab.ops import Op
from kselftests_py.lab.region import PAGEMAP_GRAIN, Region
from kselftests_py.lab.replies import Entries, Sums, TicketState
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
    its pages are protected. A trap is told by an addition of 0, which RWP and WP trap alike. Compared after each row:

    - the page table entry of each page, and so its marker;
    - the bytes of each page, of a huge one its first and last 4 KiB, read past the page tables, which is no access
      (where /proc/kcore is not to be had they are compared at the end alone);
    - the trap of each page: the threads that wait, one for each protected page, are interrupted and make their access
      again, which must stop again and be told again, once; an access to each other page must pass.

    At the end *uffd* is closed, and every byte is compared by reading it.
    """
    look, before = _watched(subject, region, uffd)
    wrong: dict[str, str] = {}
    for name, (op, errno) in rows.items():
        # After a call that was let through nothing is as it was, and nothing more is looked at.
        told, *seen = subject.batch(op, *([] if wrong else look), stop_on_errno=False)
        if _answer(told) != errno:
            wrong[name] = f"{_answer(told)} instead of {errno}"
        elif seen:
            changed = [what for what, now in _noted(seen).items() if now != before[what]]
            assert not changed, f"{name}: refused, and changed all the same: {', '.join(changed)}"
    assert not wrong, "; ".join(f"{name}: {what}" for name, what in wrong.items())
    uffd.close()
    broken = region.changed_pages()
    assert not broken, f"refused, and the bytes of pages {sorted(broken)} changed all the same"


def _watched(subject: Subject, region: Region, uffd: Uffd) -> tuple[list[Op[Any]], dict[str, list[Any]]]:
    """Operations that show all there is to see of *region*, and what they show now that threads wait for its pages."""
    grains, size = region.page_size // PAGEMAP_GRAIN, region.page_size
    parts = sorted({region.addr, region.addr + size - PAGEMAP_GRAIN})
    still = [ops.pagemap(region.addr, len(region) * grains), *[ops.contents(at, len(region), size) for at in parts]]
    entries, *made = subject.batch(still[0], *[ops.actor() for _ in range(len(region) + 1)])
    marked = [bool(int(entry, 16) & PAGEMAP_UFFD_BIT) for entry in entries.entries[::grains]]
    assert any(marked), "the set-up protects a page whose waiter must not be woken"
    passer, *crew = [new.actor for new in made]
    waiting = [(actor, page) for actor, page, armed in zip(crew, range(len(region)), marked, strict=True) if armed]
    free = [page for page, armed in enumerate(marked) if not armed]
    asleep = [ops.latest_ticket(actor) for actor, _ in waiting]
    subject.batch(
        *[ops.access(actor, "rmw", region[page], 0) for actor, page in waiting], *asleep, ops.events(uffd.handle)
    )
    passing = [ops.touch(passer, "rmw", region.addr, size, free, 0), ops.latest_ticket(passer)] if free else []
    look = [*still, *[ops.interrupt(actor) for actor, _ in waiting], *asleep, *passing, ops.events(uffd.handle)]
    shown = _noted(subject.batch(*look))
    assert shown[_TRAPS] == ["blocked"] * len(waiting) + ["done"] * bool(free), f"set-up: {shown[_TRAPS]}"
    assert [address for address, _ in shown[_MESSAGES]] == [region[page] for _, page in waiting], "set-up: messages"
    return look, shown


_ENTRIES, _BYTES, _TRAPS, _MESSAGES = "page table entries", "bytes", "who waits and who passes", "messages"


def _noted(seen: list[Any]) -> dict[str, list[Any]]:
    """What is compared, by what it is called in a message."""
    return {
        _ENTRIES: [entry for one in seen if isinstance(one, Entries) for entry in one.entries],
        _BYTES: [text for one in seen if isinstance(one, Sums) for text in one.sums],
        _TRAPS: [one.state for one in seen if isinstance(one, TicketState)],
        _MESSAGES: sorted((event.address, event.flags) for event in seen[-1].events),
    }


def _answer(result: object) -> str:
    return result.name if isinstance(result, KernelRefused) else "success"
