"""What a step is of: small numbers that are read as an operation where a sequence has got to.

What the model has no opinion on there is left out. So a sequence that Hypothesis shrinks, by making numbers smaller,
stays one that the model can judge.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

from kselftests_py.explore import known
from kselftests_py.explore import steps as s
from kselftests_py.explore.layout import told_of_fork
from kselftests_py.explore.model import HOLE, Model, Page, Place, Unmodelled
from kselftests_py.explore.offer import Offer
from kselftests_py.explore.rules import apply, has_frame

_HOWS: tuple[s.How, ...] = ("read", "write", "rmw")


@dataclass
class Walk:
    """A sequence in the making, and the model at its end."""

    offer: Offer
    model: Model = field(default_factory=Model)
    steps: list[s.Step] = field(default_factory=list)

    def put(self, step: s.Step) -> bool:
        """Append the step, if the model has an opinion on it."""
        try:
            apply(self.model, step)
        except Unmodelled:
            return False
        self.model.settle(None)
        self.steps.append(step)
        return True


def page_of(number: int, pages: int) -> int:
    """A page by a small number: of many pages the first ones, the middle and the last."""
    near = [*range(min(pages, 8)), pages // 2, pages - 1]
    return number % pages if pages <= 8 else near[number % len(near)]


@dataclass(frozen=True)
class Raw:
    """Four small numbers to be read as what an operation is of."""

    a: int
    b: int
    c: int
    d: int

    def range(self, walk: Walk) -> dict[str, int]:
        """A range of some region; large numbers are wide ranges."""
        region = self.a % len(walk.model.regions)
        pages = walk.model.regions[region].pages
        first = page_of(self.b, pages)
        count = pages - first if self.c >= 8 else 1 + self.c % (pages - first)
        return {"region": region, "first": first, "count": count}

    def uffd(self, walk: Walk) -> int:
        return (self.d // 4) % len(walk.model.uffds) if walk.model.uffds else 0

    def process(self, walk: Walk) -> int:
        alive = [process for process, there in enumerate(walk.model.alive) if there]
        return alive[self.d % len(alive)]


def near(walk: Walk, raw: Raw, fits: Callable[[Place, Page], bool], often: int = 10) -> dict[str, int] | None:
    """One page of those that fit, as a range; None: there is none, or *raw* wants none: it does *often* times of 16."""
    if raw.c < 16 - often:
        return None
    found = [
        (region, page)
        for (process, region, page), one in walk.model.pages.items()
        if fits((process, region, page), one)
    ]
    if not found:
        return None
    region, page = found[page_of(raw.b, len(found))]
    return {"region": region, "first": page, "count": 1}


def _awaited(walk: Walk) -> Callable[[Place, Page], bool]:
    """Pages that somebody waits for."""
    waiting = {
        (actor.process, actor.access.region, actor.access.page)
        for actor in walk.model.actors
        if actor.access and "blocked" in actor.states
    }
    return lambda place, page: place in waiting


def _hole(place: Place, page: Page) -> bool:
    return page.owner is not None and page.states == {HOLE} and page.prot == "rw"


def _cached_hole(place: Place, page: Page) -> bool:
    return page.minor and all(one.entry == "absent" for one in page.states)


def _raises(place: Place, page: Page) -> bool:
    return any(one.raises for one in page.states)


def _movable(place: Place, page: Page) -> bool:
    return page.kind == "anon" and page.prot == "rw" and all(one.entry == "present" for one in page.states)


def _left_to_both(walk: Walk, process: int) -> Callable[[Place, Page], bool]:
    """Private pages of *process* that a fork left to another one too, and neither has written since (I6)."""

    def there(page: Page | None) -> bool:
        return page is not None and any(one.there and not one.marked for one in page.states)

    def fits(place: Place, page: Page) -> bool:
        if place[0] != process or page.file or not there(page):
            return False
        others = [walk.model.pages.get((other, *place[1:])) for other in range(len(walk.model.alive))]
        return any(other is not page and there(other) and other.words == page.words for other in others if other)

    return fits


_Read = Callable[[Walk, Raw], "s.Step | None"]


def _owner(walk: Walk, raw: Raw, at: dict[str, int]) -> tuple[int, s.Ioctl]:
    """The userfaultfd that the range begins in, and its protecting ioctl; any other one seldom."""
    uffd = raw.uffd(walk)
    process = walk.model.uffds[uffd].process if uffd < len(walk.model.uffds) else 0
    page = walk.model.pages.get((process, at["region"], at["first"]))
    if page is None or page.owner is None or raw.d == 15:
        return uffd, "rwprotect" if "rwp" in walk.offer.modes and raw.d % 2 else "writeprotect"
    return page.owner, "rwprotect" if page.mode == "rwp" else "writeprotect"


def _idle(walk: Walk, raw: Raw) -> int | None:
    found = [number for number, actor in enumerate(walk.model.actors) if actor.idle]
    return found[raw.d % len(found)] if found else None


def access(walk: Walk, raw: Raw) -> s.Step | None:
    actor = _idle(walk, raw)
    if actor is None:
        return None
    process = walk.model.actors[actor].process

    def protected(place: Place, page: Page) -> bool:
        return place[0] == process and any(one.marked and one.entry != "absent" for one in page.states)

    forked = raw.a % 2 and len(walk.model.alive) > 1
    at = near(walk, raw, _left_to_both(walk, process) if forked else protected)
    at = at or near(walk, raw, lambda place, page: place[0] == process and _raises(place, page), 12) or raw.range(walk)
    how = _HOWS[raw.c % 3]
    value = 0 if how == "read" else 100 + len(walk.steps)
    return s.Access(actor=actor, how=how, region=at["region"], page=at["first"], value=value)


def register(walk: Walk, raw: Raw) -> s.Register:
    modes = walk.offer.modes
    mode: list[s.Mode] = [modes[raw.d % len(modes)]]
    at = raw.range(walk)
    if raw.c in (7, 11):
        mode.append("missing")
    kind = walk.model.regions[at["region"]].kind
    often = raw.c % 4 == 2 or (kind == "hugetlb" and raw.c % 2 == 0)
    if walk.offer.minor and often and (kind in walk.offer.minor or raw.d == 13):
        mode.append("minor")
    return s.Register(uffd=raw.uffd(walk), mode=tuple(mode), **at)


def protect(walk: Walk, raw: Raw) -> s.Step:
    at = raw.range(walk)
    uffd, ioctl = _owner(walk, raw, at)
    return s.Protect(uffd=uffd, ioctl=ioctl, **at)


def _resolve(walk: Walk, raw: Raw) -> s.Step:
    at = near(walk, raw, _awaited(walk)) or raw.range(walk)
    uffd, ioctl = _owner(walk, raw, at)
    return s.Resolve(uffd=uffd, ioctl=ioctl, dontwake=raw.d % 4 == 3, **at)


def _mprotect(walk: Walk, raw: Raw) -> s.Step:
    prots: tuple[s.Prot, ...] = ("rw", "r", "none", "rw")
    return s.Mprotect(process=raw.process(walk), prot=prots[raw.d // 2 % 4], **raw.range(walk))


def _madvise(advice: s.Advice) -> _Read:
    return lambda walk, raw: s.Madvise(process=raw.process(walk), advice=advice, **raw.range(walk))


def _dontneed(walk: Walk, raw: Raw) -> s.Step:
    """Where the file keeps its page, an access is a minor fault then."""
    at = near(walk, raw, lambda place, page: page.minor and all(one.there for one in page.states), 5) or raw.range(walk)
    return s.Madvise(process=raw.process(walk), advice="DONTNEED", **at)


def _guard(walk: Walk, raw: Raw) -> s.Step | None:
    """Two pages at most: behind a guard nothing happens any more. Not where it is F030, which costs a process."""
    at = raw.range(walk)
    at["count"] = min(at["count"], 1 + (raw.c % 8 == 7))
    step = s.Madvise(process=raw.process(walk), advice="GUARD_INSTALL", **at)
    return None if known.hangs(step, walk.model) else step


def _unguard(walk: Walk, raw: Raw) -> s.Step:
    at = near(walk, raw, _raises) or raw.range(walk)
    return s.Madvise(process=raw.process(walk), advice="GUARD_REMOVE", **at)


def _poison(walk: Walk, raw: Raw) -> s.Step | None:
    at = near(walk, raw, _hole, 14) or (raw.range(walk) | {"count": 1} if raw.c % 4 == 1 else None)
    return None if at is None else s.Poison(uffd=_owner(walk, raw, at)[0], **at)


def _collapse(walk: Walk, raw: Raw) -> s.Step | None:
    huge = [(region, one.pages) for region, one in enumerate(walk.model.regions) if one.thp]
    if not huge:
        return None
    region, pages = huge[raw.a % len(huge)]
    return s.Madvise(process=raw.process(walk), advice="COLLAPSE", region=region, first=0, count=pages)


def _copy(walk: Walk, raw: Raw) -> s.Step:
    at = near(walk, raw, _hole) or raw.range(walk) | {"count": 1}
    uffd, _ = _owner(walk, raw, at)
    return s.Copy(uffd=uffd, value=500 + len(walk.steps), protect=raw.c % 2 == 1, dontwake=raw.c % 8 == 4, **at)


def _continue(walk: Walk, raw: Raw) -> s.Step:
    at = near(walk, raw, _cached_hole, 14) or raw.range(walk) | {"count": 1}
    uffd, _ = _owner(walk, raw, at)
    return s.Continue(uffd=uffd, protect=raw.c % 4 == 1, dontwake=raw.c % 8 == 4, **at)


def _zeropage(walk: Walk, raw: Raw) -> s.Step:
    at = near(walk, raw, _hole) or raw.range(walk) | {"count": 1}
    return s.Zeropage(uffd=_owner(walk, raw, at)[0], **at)


def _wake(walk: Walk, raw: Raw) -> s.Step:
    at = near(walk, raw, _awaited(walk)) or raw.range(walk)
    return s.Wake(uffd=_owner(walk, raw, at)[0], **at)


def _unregister(walk: Walk, raw: Raw) -> s.Step:
    at = raw.range(walk)
    return s.Unregister(uffd=_owner(walk, raw, at)[0], **at)


def _mremap(walk: Walk, raw: Raw) -> s.Step | None:
    at = raw.range(walk)
    regions = walk.model.regions
    alike = [to for to, one in enumerate(regions) if one.kind == regions[at["region"]].kind and to != at["region"]]
    if not alike:
        return None
    to = alike[raw.d % len(alike)]
    to_first = raw.d // 4 % regions[to].pages
    at["count"] = min(at["count"], regions[to].pages - to_first)
    return s.Mremap(process=0, to=to, to_first=to_first, **at)


def _move(walk: Walk, raw: Raw) -> s.Step:
    at = near(walk, Raw(raw.a, raw.d, raw.c, 0), _movable) or raw.range(walk) | {"count": 1}
    to = near(walk, raw, _hole) or Raw(raw.d, raw.c, 0, 0).range(walk)
    return s.Move(uffd=_owner(walk, raw, to)[0], to=to["region"], to_first=to["first"], **at)


def _fork(walk: Walk, raw: Raw) -> s.Step:
    process = raw.process(walk) if raw.c >= 6 else 0
    events = sorted(told_of_fork(walk.model, process))
    return s.Fork(process=process, event=events[0] if events else None)


def _mlock(walk: Walk, raw: Raw) -> s.Step:
    return s.Mlock(process=raw.process(walk), unlock=raw.d % 4 == 3, **raw.range(walk))


def _fails(walk: Walk, raw: Raw) -> s.Step | None:
    """The frame of a page that both sides of a fork have rather than of another."""
    actor = _idle(walk, raw)
    if actor is None:
        return None
    process = walk.model.actors[actor].process
    at = near(walk, raw, _left_to_both(walk, process))
    at = at or near(walk, raw, lambda place, page: place[0] == process and has_frame(page), 16)
    return s.Access(actor=actor, how="hwpoison", region=at["region"], page=at["first"]) if at else None


def _work(walk: Walk, raw: Raw) -> s.Step:
    return s.KernelWork(work=walk.offer.works[raw.a % len(walk.offer.works)])


OPERATIONS: dict[str, tuple[int, _Read]] = {
    "nothing": (1, lambda walk, raw: None),
    "access": (12, access),
    "protect": (6, protect),
    "resolve": (5, _resolve),
    "register": (3, register),
    "populate": (2, lambda walk, raw: s.Populate(value=300 + len(walk.steps), **raw.range(walk))),
    "mprotect": (4, _mprotect),
    "dontneed": (2, _dontneed),
    "pageout": (2, _madvise("PAGEOUT")),
    "free": (2, _madvise("FREE")),
    "dontfork": (1, _madvise("DONTFORK")),
    "dofork": (1, _madvise("DOFORK")),
    "wipeonfork": (1, _madvise("WIPEONFORK")),
    "keeponfork": (1, _madvise("KEEPONFORK")),
    "collapse": (4, _collapse),
    "cold": (1, _madvise("COLD")),
    "willneed": (1, _madvise("WILLNEED")),
    "populateread": (1, _madvise("POPULATE_READ")),
    "populatewrite": (1, _madvise("POPULATE_WRITE")),
    "guardinstall": (3, _guard),
    "guardremove": (2, _unguard),
    "poison": (3, _poison),
    "mergeable": (1, _madvise("MERGEABLE")),
    "unmergeable": (1, _madvise("UNMERGEABLE")),
    "mlock": (2, _mlock),
    "hwpoison": (2, _fails),
    "kernelwork": (1, _work),
    "punchhole": (2, lambda walk, raw: s.PunchHole(**raw.range(walk))),
    "fork": (4, _fork),
    "thread": (2, lambda walk, raw: s.Thread(process=raw.process(walk))),
    "wake": (1, _wake),
    "unregister": (1, _unregister),
    "close": (1, lambda walk, raw: s.Close(uffd=raw.uffd(walk))),
    "setmode": (3, lambda walk, raw: s.SetMode(uffd=raw.uffd(walk), asynchronous=raw.d % 2 == 1)),
    "copy": (2, _copy),
    "zeropage": (1, _zeropage),
    "continue": (4, _continue),
    "mremap": (2, _mremap),
    "move": (2, _move),
    "migrate": (2, lambda walk, raw: s.Migrate(node=raw.d % 2, **raw.range(walk))),
    "munmap": (1, lambda walk, raw: s.Munmap(process=raw.process(walk), **raw.range(walk))),
    "swapcycle": (1, lambda walk, raw: s.SwapCycle()),
    "exit": (1, lambda walk, raw: s.Exit(process=1 + raw.a % max(1, len(walk.model.alive) - 1))),
}
