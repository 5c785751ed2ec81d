"""The model's rules of madvise(2) and mlock(2): see ``rules``. What they say of each advice stands beside it."""

from __future__ import annotations

from collections.abc import Callable

from kselftests_py.explore import steps as s
from kselftests_py.explore.layout import drop, refused
from kselftests_py.explore.model import HOLE, Model, Page, State, Unmodelled, inside

_Rule = Callable[[Model, s.Madvise, list[Page]], None]
_HUGETLB = ("DONTNEED", "POPULATE_READ", "POPULATE_WRITE", "GUARD_INSTALL", "GUARD_REMOVE")
"""The advices on hugetlb memory that the model has an opinion on."""
_NOT_ON_LOCKED = ("DONTNEED", "COLD", "PAGEOUT")
"""EINVAL where "the specified address range includes locked" pages (madvise(2), ERRORS)."""
_ON_LOCKED = ("POPULATE_READ", "POPULATE_WRITE", "DONTFORK", "DOFORK", "COLLAPSE", "GUARD_REMOVE")
"""The others that the model has an opinion on, of locked memory."""


def touch(model: Model, process: int, step: s.Populate | s.Madvise | s.Mlock, how: s.How, *, sure: bool = True) -> None:
    """An access to each page but those of SIGNALS, by a thread that nothing may block; not *sure*: or to none."""
    model.mapped(process, step.region, step.first, step.count)
    found = {}
    for number in range(step.first, step.first + step.count):
        access = s.Access(actor=0, how=how, region=step.region, page=number)
        found[access] = [one for one in model.branches(process, access) if not one.state.raises]
        if any(branch.outcome != "done" for branch in found[access]):
            raise Unmodelled("populating what may trap")
    for access, branches in found.items():
        place = (process, step.region, access.page)
        page = model.pages[place]
        stay = {one for one in page.states if not sure or one.raises}
        page.states = frozenset(stay | {branch.state for branch in branches})
        if page.huge and branches:
            model.spread(place, access)
        if branches:
            model.present(page, access, sure=sure)


def madvise(model: Model, step: s.Madvise) -> None:
    pages = model.mapped(step.process, step.region, step.first, step.count)
    rule = _ADVICES.get(step.advice)
    if rule is None or (pages[0].kind.startswith("hugetlb") and step.advice not in _HUGETLB):
        raise Unmodelled(f"MADV_{step.advice} of {pages[0].kind} memory")
    locked = {"locked" in page.advised for page in pages}
    if True in locked and step.advice not in _ON_LOCKED:
        if locked != {True} or step.advice not in _NOT_ON_LOCKED:
            raise Unmodelled(f"MADV_{step.advice} of locked memory")
        return refused(model, "EINVAL")
    return rule(model, step, pages)


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


def _populate(how: s.How) -> _Rule:
    """I3: whoever makes the access. It fails at what raises a signal; "some page tables might have been populated"."""

    def rule(model: Model, step: s.Madvise, pages: list[Page]) -> None:
        if any(page.prot == "none" or (how == "write" and page.prot == "r") for page in pages):
            raise Unmodelled("populating what cannot be accessed")
        signals = [{bool(one.raises) for one in page.states} for page in pages]
        touch(model, step.process, step, how, sure=all(one == {False} for one in signals))
        if any(True in one for one in signals):
            model.expected.errno = frozenset({"EFAULT", "EHWPOISON"} | ({"0"} if {True} not in signals else set()))

    return rule


def _free(model: Model, step: s.Madvise, pages: list[Page]) -> None:
    """ "The kernel can free the pages at any time", until they are written to; "only to private anonymous pages"."""
    if any(page.kind != "anon" for page in pages):
        return refused(model, "EINVAL")
    for page in pages:
        page.lazy = True
        page.may_be_freed()
    maybe_woken(model, step)
    return None


def _advised(what: str, *, on: bool) -> _Rule:
    """What becomes of the memory later: in a child (see ``layout.fork``), or by KSM, which does not run here."""

    def rule(model: Model, step: s.Madvise, pages: list[Page]) -> None:
        if what == "wiped" and any(page.kind != "anon" for page in pages):
            if not on:
                raise Unmodelled("MADV_KEEPONFORK of what cannot be wiped")
            return refused(model, "EINVAL")  # "only to private anonymous pages"
        for page in pages:
            page.advised = page.advised | {what} if on else page.advised - {what}
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
        page.states |= {State("present", one.marked) for one in page.states if not one.raises}


def _guard(model: Model, step: s.Madvise, pages: list[Page]) -> None:
    """ "If the region maps memory pages those mappings will be replaced"; not hugetlb."""
    if pages[0].kind.startswith("hugetlb"):
        return refused(model, "EINVAL")
    for page in pages:
        page.states, page.lazy = frozenset({State("guard", False)}), False
        page.words = frozenset({0})
    maybe_woken(model, step)
    return None


def _unguard(model: Model, step: s.Madvise, pages: list[Page]) -> None:
    """Guards "act as empty regions of the containing mapping" then; all else is "left in place"."""
    if pages[0].kind.startswith("hugetlb"):
        return refused(model, "EINVAL")
    for page in pages:
        page.states = frozenset(HOLE if one.entry == "guard" else one for one in page.states)
    maybe_woken(model, step)
    return None


def mlock(model: Model, step: s.Mlock) -> None:
    """All pages "are guaranteed to be resident in RAM when the call returns".

    It does not say by what access: I3, of either kind. Nor what becomes of a page that raises a signal.
    """
    pages = model.mapped(step.process, step.region, step.first, step.count)
    if pages[0].kind.startswith("hugetlb"):
        raise Unmodelled("locking hugetlb memory, which never leaves")
    if step.unlock:
        for page in pages:
            page.advised -= {"locked"}
        return
    if any(page.prot == "none" or any(one.raises for one in page.states) for page in pages):
        raise Unmodelled("locking what cannot be accessed")
    before = [page.states for page in pages]
    hows: tuple[s.How, ...] = ("write", "read") if all(page.prot == "rw" for page in pages) else ("read",)
    after: list[frozenset[State]] = [frozenset()] * len(pages)
    for how in hows:
        for page, states in zip(pages, before, strict=True):
            page.states = states
        touch(model, step.process, step, how)
        after = [states | page.states for states, page in zip(after, pages, strict=True)]
    for page, states in zip(pages, after, strict=True):
        page.states, page.advised = states, page.advised | {"locked"}


_ADVICES: dict[str, _Rule] = {
    "DONTNEED": _dontneed,
    "PAGEOUT": _pageout,
    "FREE": _free,
    "DONTFORK": _advised("left out", on=True),
    "DOFORK": _advised("left out", on=False),
    "WIPEONFORK": _advised("wiped", on=True),
    "KEEPONFORK": _advised("wiped", on=False),
    "MERGEABLE": _advised("mergeable", on=True),
    "UNMERGEABLE": _advised("mergeable", on=False),
    "COLLAPSE": _collapse,
    "COLD": _nothing,
    "WILLNEED": _nothing,
    "POPULATE_READ": _populate("read"),
    "POPULATE_WRITE": _populate("write"),
    "GUARD_INSTALL": _guard,
    "GUARD_REMOVE": _unguard,
}
