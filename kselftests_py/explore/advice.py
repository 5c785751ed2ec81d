"""The model's rules of madvise(2): see ``rules``. What madvise(2) says of each advice stands beside it."""

from __future__ import annotations

from collections.abc import Callable

from kselftests_py.explore import steps as s
from kselftests_py.explore.layout import drop, refused
from kselftests_py.explore.model import Model, Page, State, Unmodelled, inside

_Rule = Callable[[Model, s.Madvise, list[Page]], None]
_HUGETLB = ("DONTNEED", "POPULATE_READ", "POPULATE_WRITE")
"""The advices on hugetlb memory that the model has an opinion on."""


def touch(model: Model, process: int, step: s.Populate | s.Madvise, how: s.How) -> None:
    """An access to each page, by a thread that nothing may block."""
    accesses = [
        s.Access(actor=0, how=how, region=step.region, page=number)
        for number in range(step.first, step.first + step.count)
    ]
    model.mapped(process, step.region, step.first, step.count)
    for access in accesses:
        if {branch.outcome for branch in model.branches(process, access)} != {"done"}:
            raise Unmodelled("populating what may trap")
    for access in accesses:
        place = (process, step.region, access.page)
        page = model.pages[place]
        page.states = frozenset(branch.state for branch in model.branches(process, access))
        if page.huge:
            model.spread(place, access)
        model.present(page, access, sure=True)


def madvise(model: Model, step: s.Madvise) -> None:
    pages = model.mapped(step.process, step.region, step.first, step.count)
    rule = _ADVICES.get(step.advice)
    if rule is None or (pages[0].kind.startswith("hugetlb") and step.advice not in _HUGETLB):
        raise Unmodelled(f"MADV_{step.advice} of {pages[0].kind} memory")
    rule(model, step, pages)


def _dontneed(model: Model, step: s.Madvise, pages: list[Page]) -> None:
    drop(model, pages)
    for page in pages:
        if page.file is None:
            page.words = frozenset({0})
    maybe_woken(model, step)


def maybe_woken(model: Model, step: s.Madvise | s.PunchHole) -> None:
    """Who waits for a page that is dropped goes on, or sleeps on: I1 has an exception for it. A hole is one in each
    process that has the file."""
    for number, actor in enumerate(model.actors):
        if actor.access is None or "blocked" not in actor.states:
            continue
        here = isinstance(step, s.PunchHole) or actor.process == step.process
        if here and inside(actor.access, step.region, step.first, step.count):
            model.retry([number], maybe=True)


def _pageout(model: Model, step: s.Madvise, pages: list[Page]) -> None:
    """Reclaim takes what it likes, and keeps protection (userfaultfd.rst; I3): in every mapping of a file."""
    files = {page.file for page in pages if page.file}
    for page in [*pages, *(one for one in model.pages.values() if one.file in files)]:
        out = "absent" if page.file else "swapped"
        page.reclaimed = True
        page.states |= {State(out, one.marked) for one in page.states if one.entry == "present"}


def _nothing(model: Model, step: s.Madvise, pages: list[Page]) -> None:
    """Advice that shows in nothing that is looked at."""


def _populate_read(model: Model, step: s.Madvise, pages: list[Page]) -> None:
    touch(model, step.process, step, "read")


def _populate_write(model: Model, step: s.Madvise, pages: list[Page]) -> None:
    touch(model, step.process, step, "write")


def _free(model: Model, step: s.Madvise, pages: list[Page]) -> None:
    """ "The kernel can free the pages at any time", until they are written to; "only to private anonymous pages"."""
    if any(page.kind != "anon" for page in pages):
        return refused(model, "EINVAL")
    for page in pages:
        page.lazy = True
        page.may_be_freed()
    maybe_woken(model, step)
    return None


def _on_fork(what: str, *, on: bool) -> _Rule:
    """What becomes of the memory in a child that is forked later: see ``layout.fork``."""

    def rule(model: Model, step: s.Madvise, pages: list[Page]) -> None:
        if what == "wiped" and any(page.kind != "anon" for page in pages):
            if not on:
                raise Unmodelled("MADV_KEEPONFORK of what cannot be wiped")
            return refused(model, "EINVAL")  # "only to private anonymous pages"
        for page in pages:
            page.on_fork = page.on_fork | {what} if on else page.on_fork - {what}
        return None

    return rule


def _collapse(model: Model, step: s.Madvise, pages: list[Page]) -> None:
    """ "Perform a best-effort synchronous collapse": it may be done or not, and changes no contents and no protection.

    Its man page does not say whether pages that are absent come; where they are waited for, nobody may bring them.
    """
    if any(not page.huge or page.missing for page in pages):
        raise Unmodelled("collapsing what may not be huge, or what is told of when it comes")
    model.expected.errno = frozenset({"0", "EAGAIN", "EBUSY", "EINVAL", "ENOMEM"})
    for page in pages:
        page.states |= {State("present", one.marked) for one in page.states}


_ADVICES: dict[str, _Rule] = {
    "DONTNEED": _dontneed,
    "PAGEOUT": _pageout,
    "FREE": _free,
    "DONTFORK": _on_fork("left out", on=True),
    "DOFORK": _on_fork("left out", on=False),
    "WIPEONFORK": _on_fork("wiped", on=True),
    "KEEPONFORK": _on_fork("wiped", on=False),
    "COLLAPSE": _collapse,
    "COLD": _nothing,
    "WILLNEED": _nothing,
    "POPULATE_READ": _populate_read,  # I3: whoever makes the access
    "POPULATE_WRITE": _populate_write,
}
