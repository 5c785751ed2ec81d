"""The model's rules: what each step does to the world. See ``model``; numbers are of suites/trapping/contract.toml."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from kselftests_py.explore import steps as s
from kselftests_py.explore.advice import madvise, maybe_woken, mlock, touch
from kselftests_py.explore.layout import drop, exit_, fork, move, mremap, munmap, refused, swap_cycle
from kselftests_py.explore.model import HOLE, Actor, Expected, File, Model, Page, State, Uffd, Unmodelled, unmarked


def map_(model: Model, step: s.Map) -> None:
    if len(model.alive) > 1:
        raise Unmodelled("a mapping made after a fork")
    if step.thp and step.kind != "anon":
        raise Unmodelled("huge pages of files")
    number = len(model.regions)
    model.regions.append(step)
    for page in range(step.pages):
        file = (number, page) if step.kind in ("shmem", "tmpfs", "hugetlb") else None
        model.pages[0, number, page] = Page(step.kind, step.prot, file, huge=step.thp)
        if file:
            model.files[file] = File()


def populate(model: Model, step: s.Populate) -> None:
    pages = model.mapped(0, step.region, step.first, step.count)
    if any(one.raises for page in pages for one in page.states):
        raise Unmodelled("populating what may raise a signal")
    touch(model, 0, step, "write")
    for number, page in enumerate(pages, step.first):
        model.store(page, frozenset({step.value + number}))
        page.lazy = False


def open_(model: Model, step: s.Open) -> None:
    features = frozenset(step.features)
    if "RWP_ASYNC" in features and "RWP" not in features:
        raise Unmodelled("a userfaultfd that was not initialized")  # A4: EINVAL
    model.uffds.append(Uffd(features, 0, "RWP_ASYNC" in features))


def register(model: Model, step: s.Register) -> None:
    uffd = model.uffd(step.uffd)
    pages = model.mapped(uffd.process, step.region, step.first, step.count)
    modes = frozenset(step.mode)
    if not modes or modes >= {"wp", "rwp"} or ("rwp" in modes and "RWP" not in uffd.features):
        return refused(model, "EINVAL")  # R2, R3, R4
    if "minor" in modes:
        if pages[0].kind == "anon":
            return refused(model, "EINVAL")  # R9
        needs = "MINOR_HUGETLBFS" if pages[0].kind == "hugetlb" else "MINOR_SHMEM"
        if pages[0].kind == "hugetlb_private" or needs not in uffd.features:
            raise Unmodelled("minor faults of private memory, or without the feature")
    for page in pages:  # R13: judged in the order of addresses
        if "rwp" in modes and page.prot == "none":
            return refused(model, "EINVAL")  # R10
        if page.owner not in (None, step.uffd):
            return refused(model, "EBUSY")  # R13
        if page.owner == step.uffd and page.mode and page.mode not in modes:
            return refused(model, "EBUSY")  # R14
    if any(
        page.owner is not None
        and (page.mode not in modes or page.missing != ("missing" in modes) or page.minor != ("minor" in modes))
        for page in pages
    ):
        raise Unmodelled("registering again with other modes")
    for page in pages:  # R18: registration arms nothing
        page.owner, page.missing, page.minor = step.uffd, "missing" in modes, "minor" in modes
        page.mode = page.mode or ("rwp" if "rwp" in modes else "wp" if "wp" in modes else "")
    return None


def unregister(model: Model, step: s.Unregister) -> None:
    uffd = model.uffd(step.uffd)
    pages = model.mapped(uffd.process, step.region, step.first, step.count)
    if any(page.owner not in (None, step.uffd) for page in pages):
        return refused(model, "EINVAL")  # U4
    _release(model, step.uffd, pages)
    _wake(model, step)  # I1
    return None


_Ranged = s.Unregister | s.Resolve | s.Wake | s.Copy | s.Zeropage | s.Continue | s.Poison


def _wake(model: Model, step: _Ranged, *, maybe: bool = False) -> None:
    model.retry(list(model.waiting(step.uffd, step.region, step.first, step.count)), maybe=maybe)


def _release(model: Model, uffd: int, pages: Iterable[Page]) -> None:
    for page in pages:
        if page.owner == uffd:
            page.__dict__.update(page.unregistered().__dict__)


def _protected(model: Model, step: s.Protect | s.Resolve) -> list[Page] | None:
    """The range of a protecting ioctl; None: it is refused as a whole (P7, P9, W1, W2)."""
    pages = model.mapped(model.uffd(step.uffd).process, step.region, step.first, step.count)
    if any(page.owner not in (None, step.uffd) for page in pages):
        raise Unmodelled("protecting through the userfaultfd of another")
    if any(page.mode != ("rwp" if step.ioctl == "rwprotect" else "wp") for page in pages):
        refused(model, "ENOENT")
        return None
    return pages


def protect(model: Model, step: s.Protect) -> None:
    features = model.uffd(step.uffd).features
    for page in _protected(model, step) or ():
        # P14: RWP leaves holes alone. Write protection of a hole: memory of files always, anonymous memory with
        # WP_UNPOPULATED, which WP_ASYNC implies.
        holes = page.mode == "wp" and (page.kind != "anon" or bool(features & {"WP_UNPOPULATED", "WP_ASYNC"}))
        armed = frozenset(
            State(one.entry, one.marked or one.there or (holes and one.entry == "absent")) for one in page.states
        )
        # Whether the entry of a frame that has failed gets a marker no document says.
        page.states = armed | {State("failed", True) for one in armed if one.entry == "failed"}


def resolve(model: Model, step: s.Resolve) -> None:
    pages = _protected(model, step)
    if pages is None:
        return
    for page in pages:  # P20: resolving populates nothing
        page.states = unmarked(page.states)
    if not step.dontwake:
        _wake(model, step)  # P16


def set_mode(model: Model, step: s.SetMode) -> None:
    uffd = model.uffd(step.uffd)
    if "RWP" not in uffd.features:
        return refused(model, *(("EINVAL",) if step.asynchronous else ("0",)))  # M4, M7
    before, uffd.asynchronous = uffd.asynchronous, step.asynchronous  # M9
    if step.asynchronous:
        model.retry(list(model.waiting(step.uffd)), maybe=before)  # M8
    return None


def wake(model: Model, step: s.Wake) -> None:
    model.span(model.uffd(step.uffd).process, step.region, step.first, step.count)
    _wake(model, step)  # P17


def close(model: Model, step: s.Close) -> None:
    uffd = model.uffd(step.uffd)
    uffd.open = False
    _release(model, step.uffd, model.pages.values())  # U10
    model.retry(list(model.waiting(step.uffd)))


def thread(model: Model, step: s.Thread) -> None:
    if not (step.process < len(model.alive) and model.alive[step.process]):
        raise Unmodelled("a process that is not there")
    model.actors.append(Actor(step.process))


def access(model: Model, step: s.Access) -> None:
    if step.actor >= len(model.actors) or not model.actors[step.actor].idle:
        raise Unmodelled("an actor that may be busy")
    actor = model.actors[step.actor]
    (page,) = model.span(actor.process, step.region, step.page, 1)
    if step.how == "hwpoison":
        _fails(model, actor.process, step, page)
    actor.access, actor.states = step, frozenset({"running"})
    model.retry([step.actor])


def has_frame(page: Page) -> bool:
    """Whether it is known that anonymous memory is there for its process to read, in a frame of it and its children.

    The zero page is everybody's; what reclaim holds may be read from swap again.
    """
    whole = page.words is not None and 0 not in page.words and not (page.lazy or page.reclaimed or page.huge)
    readable = page.prot in ("r", "rw")
    return page.kind == "anon" and readable and whole and all(one.entry == "present" for one in page.states)


def _fails(model: Model, process: int, step: s.Access, page: Page) -> None:
    """The frame fails, for each process that has it."""
    if not has_frame(page):
        raise Unmodelled("the failure of what may not be there, or is not plain anonymous memory")
    if any(branch.outcome == "blocked" for branch in model.branches(process, step)):
        raise Unmodelled("the failure of what may trap, and may be something else when it is resolved")
    for other in model.pages.values():
        shared = other.words is None or page.words is None or other.words & page.words
        if other is not page and other.file is None and shared and any(one.there for one in other.states):
            other.states |= {State("failed", False)}


def mprotect(model: Model, step: s.Mprotect) -> None:
    for page in model.mapped(step.process, step.region, step.first, step.count):
        page.prot = step.prot  # G1: what is armed stays armed
        if "locked" in page.advised:  # and what is locked may have to be there
            page.states |= {State("present", one.marked) for one in page.states if one.entry in ("absent", "swapped")}


def punch_hole(model: Model, step: s.PunchHole) -> None:
    model.span(0, step.region, step.first, step.count)
    files = {(step.region, page) for page in range(step.first, step.first + step.count)}
    if not files <= set(model.files):
        raise Unmodelled("a hole in anonymous memory")
    for file in files:
        model.files[file] = File()
    drop(model, [page for page in model.pages.values() if page.file in files])
    maybe_woken(model, step)


def _one(model: Model, step: s.Copy | s.Zeropage | s.Continue | s.Poison) -> Page:
    """The page that a filling ioctl is about."""
    page, *more = model.mapped(model.uffd(step.uffd).process, step.region, step.first, step.count)
    if more or page.owner != step.uffd or page.prot != "rw":
        raise Unmodelled("filling several pages, or what is not registered here")
    return page


def _fill(model: Model, step: s.Copy | s.Zeropage, word: int, *, protect: bool, wakes: bool) -> None:
    """COPY and ZEROPAGE of one page, where it is known whether it is there.

    Of a guard page it is: but for its own advice nothing removes it. Whether poison is replaced no document says.
    """
    page = _one(model, step)
    if page.kind.startswith("hugetlb"):
        raise Unmodelled("filling hugetlb memory")
    if protect and page.mode != "wp":
        return refused(model, "EINVAL")  # X1
    cached = model.files[page.file].cached if page.file else frozenset({one.entry != "absent" for one in page.states})
    if {one.entry for one in page.states} == {"guard"}:
        return refused(model, "EEXIST")
    if cached == {True} and all(one.there for one in page.states):
        return refused(model, "EEXIST")
    if cached != {False} or page.states != {HOLE}:
        raise Unmodelled("filling what may be there")
    page.states, page.lazy = frozenset({State("present", protect)}), False  # X3
    model.store(page, frozenset({word}))
    if page.file:
        model.files[page.file].cached = frozenset({True})
    if wakes:
        _wake(model, step)
    return None


def copy_(model: Model, step: s.Copy) -> None:
    _fill(model, step, step.value + step.first, protect=step.protect, wakes=not step.dontwake)


def continue_(model: Model, step: s.Continue) -> None:
    """UFFDIO_CONTINUE(2const): maps the page that the file has."""
    page = _one(model, step)
    if page.file is None or not page.minor:
        raise Unmodelled("continuing where no minor faults are told of")
    if step.protect and page.mode != "wp":
        return refused(model, "EINVAL")  # X2
    cached = model.files[page.file].cached
    if not any(one.entry in ("absent", "poison") for one in page.states):
        return refused(model, "EEXIST", *(["EFAULT"] if False in cached else []))
    armed = {one.marked for one in page.states}
    if len(cached) > 1 or page.reclaimed or any(one.entry != "absent" for one in page.states):
        raise Unmodelled("continuing what may be mapped, or may be on swap")
    if cached == {False}:
        return refused(model, "EFAULT")
    if page.mode == "rwp" and armed != {False}:
        raise Unmodelled("continuing where an armed page was")
    # X4; without MODE_WP userfaultfd.rst does not say whether the protection of a hole outlives it
    page.states = frozenset(State("present", marked) for marked in ({True} if step.protect else armed | {False}))
    if not step.dontwake:
        _wake(model, step)
    return None


def zeropage(model: Model, step: s.Zeropage) -> None:
    _fill(model, step, 0, protect=False, wakes=True)


def poison(model: Model, step: s.Poison) -> None:
    """UFFDIO_POISON(2const), of one page: EEXIST if it is mapped; it does not say whether a hole with a marker is."""
    page = _one(model, step)
    if not any(one.entry in ("absent", "poison") for one in page.states):
        return refused(model, "EEXIST")
    sure = page.states == {HOLE}
    if not sure:
        model.expected.errno = frozenset({"0", "EEXIST"})
    page.states = frozenset({State("poison", False)} | (set() if sure else page.states))
    _wake(model, step, maybe=not sure)
    return None


def migrate(model: Model, step: s.Migrate) -> None:
    model.mapped(0, step.region, step.first, step.count)  # I4: where a page is changes nothing else


def kernel_work(model: Model, step: s.KernelWork) -> None:
    """I3, I4: it is "an access" that clears the marker (userfaultfd.rst), and this is none."""


RULES: dict[type, Callable[[Model, Any], None]] = {
    s.Map: map_,
    s.Populate: populate,
    s.Open: open_,
    s.Register: register,
    s.Unregister: unregister,
    s.Protect: protect,
    s.Resolve: resolve,
    s.SetMode: set_mode,
    s.Wake: wake,
    s.Close: close,
    s.Thread: thread,
    s.Access: access,
    s.Mprotect: mprotect,
    s.Madvise: madvise,
    s.Mlock: mlock,
    s.PunchHole: punch_hole,
    s.Munmap: munmap,
    s.Mremap: mremap,
    s.Copy: copy_,
    s.Continue: continue_,
    s.Zeropage: zeropage,
    s.Poison: poison,
    s.Move: move,
    s.Migrate: migrate,
    s.Fork: fork,
    s.Exit: exit_,
    s.SwapCycle: swap_cycle,
    s.KernelWork: kernel_work,
}


def apply(model: Model, step: s.Step) -> Expected:
    """Make the step; then ``settle`` must follow. :raises Unmodelled: the model is as it was."""
    model.expected = Expected()
    for page in model.pages.values():
        if page.lazy:
            page.may_be_freed()
    RULES[type(step)](model, step)
    for number, actor in enumerate(model.actors):
        if actor.states == {"blocked"} and number not in model.expected.accesses:
            model.expected.still.add(number)
    return model.expected
