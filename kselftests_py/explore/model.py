"""What the kernel must do, page by page: the model that every sequence is judged by.

Written from userfaultfd.rst, pagemap.rst, the man pages, and the sentences of suites/trapping/contract.toml (their
numbers stand beside what follows from them), and never bent to what a kernel did. Where they leave a thing open, the
model keeps every possibility: a page is in one of a *set* of states, an access has a *set* of outcomes. What is
observed narrows the sets (``settle``, ``observe``); an observation that is not in its set is a contradiction.

A page is (entry, marked): its page table entry is absent, present or swapped, or is one at which each access raises a
signal; and it has the marker of userfaultfd protection or not. I2: the marker is there if and only if the next access
(``wp``: write) traps.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from kselftests_py.explore import steps as s

Words = frozenset[int] | None
"""The words a page may hold; None: any."""
Place = tuple[int, int, int]
"""Process, region, page."""
OK = frozenset({"0"})
SIGNALS = {"guard": "SIGSEGV", "poison": "SIGBUS", "failed": "SIGBUS"}
"""What an access raises at an entry of MADV_GUARD_INSTALL (madvise(2)), of UFFDIO_POISON(2const): X6, and where the
frame has failed (madvise(2), MADV_HWPOISON)."""


class Unmodelled(Exception):
    """The model has no opinion on this step here: a generator leaves it out, a replay file with it is refused."""


class State(NamedTuple):
    entry: str  # absent, present or swapped (a page of a file is never that here, only its file is); or of SIGNALS
    marked: bool

    @property
    def there(self) -> bool:
        return self.entry in ("present", "swapped")

    @property
    def raises(self) -> str:
        """The signal that each access to it raises."""
        return SIGNALS.get(self.entry, "")


HOLE = State("absent", False)


@dataclass
class Page:
    """One page as one process has it mapped; ``prot`` is empty where nothing is mapped."""

    kind: str
    prot: str
    file: tuple[int, int] | None = None  # of shared memory: the region and page that it was mapped as
    owner: int | None = None  # the userfaultfd it is registered with
    mode: str = ""  # wp or rwp
    missing: bool = False
    minor: bool = False
    states: frozenset[State] = frozenset({HOLE})
    words: Words = frozenset({0})
    huge: bool = False  # may be mapped by huge pages: what is done to it may be done to those beside it
    reclaimed: bool = False  # has been offered to reclaim
    lazy: bool = False  # may be freed at any time (MADV_FREE), until it is written to
    advised: frozenset[str] = frozenset()  # wiped on fork, left out on fork, mergeable, locked

    def unregistered(self) -> Page:
        return replace(self, owner=None, mode="", missing=False, minor=False, states=unmarked(self.states))

    def may_be_freed(self) -> None:
        """As if it were dropped (``layout.drop``), or not."""
        freed = [one for one in self.states if one.entry != "guard"]
        self.states |= {State("absent", one.marked and self.mode == "wp") for one in freed} | {HOLE for _ in freed}
        self.words = None if self.words is None else self.words | {0}


@dataclass
class File:
    """One page of a file; ``cached``: whether it is allocated (swapped out, too)."""

    words: Words = frozenset({0})
    cached: frozenset[bool] = frozenset({False})


@dataclass
class Uffd:
    features: frozenset[str]
    process: int
    asynchronous: bool
    open: bool = True


@dataclass
class Actor:
    process: int
    states: frozenset[str] = frozenset({"idle"})  # idle, blocked; running only within a step
    access: s.Access | None = None
    uffd: int | None = None  # that its fault waits on

    @property
    def idle(self) -> bool:
        return self.states == {"idle"}


def inside(access: s.Access, region: int, first: int, count: int) -> bool:
    """Whether the page accessed is one of *count* of *region* from *first* on."""
    return access.region == region and first <= access.page < first + count


@dataclass(frozen=True)
class Branch:
    """One way an access may go: its outcome, the state of the page then, the message it sends."""

    outcome: str  # done, blocked, or a signal
    state: State
    message: str = ""


@dataclass
class Expected:
    """What a step may answer: the errno, and for each actor that was asked to go on, its branches."""

    errno: frozenset[str] = OK
    accesses: dict[int, list[Branch]] = field(default_factory=dict)
    still: set[int] = field(default_factory=set)  # busy actors that nothing has woken
    events: dict[int, str] = field(default_factory=dict)  # of each userfaultfd, the message that is no page fault

    def outcomes(self, actor: int) -> frozenset[str]:
        found = {branch.outcome for branch in self.accesses.get(actor, [])}
        return frozenset(found | ({"blocked"} if actor in self.still else set()))


@dataclass
class Settled:
    """What must have come with the outcomes that were seen."""

    messages: dict[int, list[set[str]]] = field(default_factory=dict)
    """Of each userfaultfd, the possible messages of each actor that sends one (empty text: none)."""
    values: dict[int, Words] = field(default_factory=dict)
    """Of each actor that loaded a word, what it may be."""


def unmarked(states: Iterable[State]) -> frozenset[State]:
    return frozenset(State(one.entry, False) for one in states)


class Model:
    """The world as the steps so far have made it."""

    def __init__(self) -> None:
        self.regions: list[s.Map] = []
        self.pages: dict[Place, Page] = {}
        self.files: dict[tuple[int, int], File] = {}
        self.uffds: list[Uffd] = []
        self.actors: list[Actor] = []
        self.alive: list[bool] = [True]
        self.moved: set[int] = set()  # regions that a mremap took from or put into
        self.expected = Expected()

    # What is asked by whom.

    def span(self, process: int, region: int, first: int, count: int) -> list[Page]:
        """The pages of a range; :raises Unmodelled: there is no such range."""
        if region >= len(self.regions) or first + count > self.regions[region].pages:
            raise Unmodelled("a range that is not in a region")
        if not (process < len(self.alive) and self.alive[process]):
            raise Unmodelled("a process that is not there")
        if (process, region, first) not in self.pages:
            raise Unmodelled("a region mapped after the fork, in the child")
        return [self.pages[process, region, page] for page in range(first, first + count)]

    def mapped(self, process: int, region: int, first: int, count: int) -> list[Page]:
        """The pages of a range without holes: what calls do about holes is another matter."""
        found = self.span(process, region, first, count)
        if not all(page.prot for page in found):
            raise Unmodelled("a range with holes")
        return found

    def uffd(self, number: int) -> Uffd:
        if number >= len(self.uffds) or not self.uffds[number].open or not self.alive[self.uffds[number].process]:
            raise Unmodelled("a userfaultfd that is not there")
        return self.uffds[number]

    def waiting(self, uffd: int, region: int | None = None, first: int = 0, count: int = 0) -> Iterator[int]:
        """Actors whose fault waits on *uffd*, in the range if one is given."""
        for number, actor in enumerate(self.actors):
            if actor.access is None or "blocked" not in actor.states or actor.uffd != uffd:
                continue
            if region is None or inside(actor.access, region, first, count):
                yield number

    # One access.

    def branches(self, process: int, access: s.Access) -> list[Branch]:
        """What an access to a page may come to."""
        page = self.span(process, access.region, access.page, 1)[0]
        write = access.stores
        if page.prot in ("", "none") or (write and page.prot != "rw"):
            return [Branch("SIGSEGV", state) for state in page.states]  # F7
        found = []
        for state in page.states:
            if state.raises:
                found.append(Branch(state.raises, state))
                continue
            trapped = state.marked and (page.mode == "rwp" or (page.mode == "wp" and write))
            flags, at = ("+write" if write else ""), f"{access.region}:{access.page}"
            cached = self.files[page.file].cached if page.file else frozenset({False})
            absent = state.entry == "absent"
            if absent:  # whether or not a marker is there
                told = {"missing": page.missing and False in cached, "minor": page.minor and True in cached}
                found += [Branch("blocked", state, f"{why}{flags} {at}") for why, here in told.items() if here]
                if not (False in cached and not page.missing) and not (True in cached and self._maps(page)):
                    continue
            if trapped and self.asynchronous(page):
                found.append(Branch("done", State("present", False)))  # F8
            elif trapped:
                message = f"{page.mode}{flags} {at}"  # F1
                entries = {state.entry} if page.mode == "rwp" and state.entry == "absent" else {state.entry, "present"}
                found += [Branch("blocked", State(entry, True), message) for entry in sorted(entries)]
            else:
                found.append(Branch("done", State("present", state.marked)))
        if access.how == "hwpoison":  # who asks for it may be told by a signal, and it may not work
            found += [Branch(outcome, State("failed", False)) for outcome in ("done", "SIGBUS")]
        return found

    @staticmethod
    def _maps(page: Page) -> bool:
        """Whether a fault on a page that its file has may map it: also where it is on swap, not in the page cache."""
        return not page.minor or page.reclaimed

    def asynchronous(self, page: Page) -> bool:
        """Whether its faults resolve themselves."""
        uffd = self.uffds[page.owner] if page.owner is not None else None
        return uffd is not None and (uffd.asynchronous if page.mode == "rwp" else "WP_ASYNC" in uffd.features)

    def retry(self, actors: Iterable[int], *, maybe: bool = False) -> None:
        """These actors go on with their access; *maybe*: or stay asleep, the documentation does not say."""
        for number in actors:
            actor = self.actors[number]
            assert actor.access is not None
            found = self.branches(actor.process, actor.access)
            place = (actor.process, actor.access.region, actor.access.page)
            if maybe or "idle" in actor.states:
                found += [Branch("blocked", state) for state in self.pages[place].states]
            self.expected.accesses[number] = found
            self.pages[place].states |= {branch.state for branch in found}

    # What was observed.

    def settle(self, seen: dict[int, str] | None) -> Settled:
        """Take the outcomes of the accesses (None: nobody looked) and make them happen."""
        settled = Settled({uffd: [{event}] for uffd, event in self.expected.events.items()})
        places = [self._place(number) for number in self.expected.accesses]
        writers = [self._place(number) for number in self.expected.accesses if self._access(number).stores]
        for number, branches in self.expected.accesses.items():
            actor, place, access = self.actors[number], self._place(number), self._access(number)
            page = self.pages[place]
            taken = [one for one in branches if seen is None or one.outcome == seen.get(number)]
            if places.count(place) == 1:
                page.states = frozenset(one.state for one in taken) or page.states
            outcomes = {one.outcome for one in taken}
            if "blocked" in outcomes:
                actor.uffd = page.owner if page.owner is not None else actor.uffd
                if actor.uffd is not None:
                    sent = {one.message for one in taken if one.outcome == "blocked"}
                    settled.messages.setdefault(actor.uffd, []).append(sent)
            if "done" in outcomes:
                alone = writers.count(place) <= access.stores
                if access.how in ("read", "rmw"):
                    settled.values[number] = self.words(page) if alone else None
                self._done(page, access, sure=outcomes == {"done"}, alone=alone)
                if page.huge:
                    self.spread(place, access)
            actor.states = frozenset("blocked" if one == "blocked" else "idle" for one in outcomes) or actor.states
        return settled

    def _access(self, number: int) -> s.Access:
        access = self.actors[number].access
        assert access is not None
        return access

    def _place(self, number: int) -> Place:
        access = self._access(number)
        return self.actors[number].process, access.region, access.page

    def _done(self, page: Page, access: s.Access, *, sure: bool, alone: bool) -> None:
        """A completed access: its store, and the page of the file that is there now."""
        old = self.words(page)
        if access.stores:
            new: Words = frozenset({access.value})
            if access.how == "rmw":
                new = None if old is None else frozenset(word + access.value for word in old)
            if not alone or new is None or (not sure and old is None):
                self.store(page, None)  # two stores whose order nobody knows
            else:
                self.store(page, new if sure else new | (old or frozenset()))
            page.lazy = page.lazy and not sure
        self.present(page, access, sure=sure)

    def present(self, page: Page, access: s.Access, *, sure: bool) -> None:
        """What an access does to the file behind the page, and to its neighbours there."""
        if page.file is None:
            return
        file = self.files[page.file]
        file.cached = frozenset({True}) if sure else file.cached | {True}
        if access.how == "read" and not page.mode and not page.minor and not page.kind.startswith("hugetlb"):
            self._fault_around(page)

    def spread(self, place: Place, access: s.Access) -> None:
        """A huge page comes, and in async mode is resolved, as a whole; where it is split, it does not."""
        page = self.pages[place]
        resolves = self.asynchronous(page) and (page.mode == "rwp" or access.stores)
        for number in range(self.regions[place[1]].pages):
            other = self.pages[place[0], place[1], number]
            if other is page or not other.prot:
                continue
            other.states |= {State("present", False) for one in other.states if not (one.marked or one.raises)}
            if resolves and other.mode == page.mode:
                other.states |= {State("present", False) for one in other.states if one.marked}

    def _fault_around(self, page: Page) -> None:
        """A read of a file may map neighbours that are cached; not where pages are tracked (I4)."""
        for other in self.pages.values():
            near = other.file and page.file and other.file[0] == page.file[0] and other.prot
            tracked = other.mode or other.minor
            if near and not tracked and other.file and True in self.files[other.file].cached:
                other.states |= {State("present", one.marked) for one in other.states if not one.raises}

    def words(self, page: Page) -> Words:
        return self.files[page.file].words if page.file else page.words

    def store(self, page: Page, words: Words) -> None:
        if page.file:
            self.files[page.file].words = words
        else:
            page.words = words

    def marked(self, page: Page) -> set[bool]:
        return {one.marked for one in page.states}

    def accessed(self, page: Page) -> set[bool]:
        """PAGE_IS_ACCESSED: in RWP ranges only (S1), of what is there and has no marker (S3, S5, S6; I4).

        Of a frame that has failed no document says it.
        """
        free = [one for one in page.states if page.mode == "rwp" and not one.marked]
        maybe = {True} if any(one.entry == "failed" for one in free) else set()
        return {one.there and one in free for one in page.states} | maybe

    def written(self, page: Page) -> set[bool]:
        """PAGE_IS_WRITTEN: pagemap.rst tells it of write-protected ranges; S2: not of RWP ranges."""
        if page.mode != "wp":
            return {False} if page.mode == "rwp" else {False, True}
        known = [{False} if one.marked else {True} if one.there else {False, True} for one in page.states]
        return set().union(*known)

    def contents(self, page: Page) -> set[str] | None:
        """What reading it comes to when nothing is protected any more: its word, or a signal; None: any word."""
        signals, words = {one.raises for one in page.states if one.raises}, self.words(page)
        if all(one.raises for one in page.states):
            return signals
        return None if words is None else signals | {str(word) for word in words}

    def observe(self, page: Page, entries: set[str], marked: bool) -> None:
        """Narrow the states of a page to those that pagemap shows."""
        found = frozenset(one for one in page.states if one.marked == marked)
        page.states = frozenset(one for one in found if one.entry in entries) or found or page.states
        if page.lazy and all(one.entry == "absent" for one in page.states):
            page.lazy, page.words = False, frozenset({0})
