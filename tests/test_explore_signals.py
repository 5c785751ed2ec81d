"""The explorer's model of guard pages (madvise(2)) and of poison (UFFDIO_POISON(2const)), rule by rule; F004, F030."""

from __future__ import annotations

import pytest
from explore_walk import WP, Walk

from kselftests_py.explore import known
from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Claim
from kselftests_py.explore.execute import Entry, Observed, Seen
from kselftests_py.explore.judge import judge
from kselftests_py.explore.model import HOLE, SIGNALS, State, Unmodelled
from kselftests_py.lab import KernelRefused

YES, NO = {True}, {False}
GUARD, POISON = State("guard", False), State("poison", False)


def advise(walk: Walk, advice: str, first: int = 0, count: int = 1) -> frozenset[str]:
    return walk.do(s.Madvise(advice=advice, region=0, first=first, count=count)).errno  # type: ignore[arg-type]


def poison(walk: Walk, page: int = 1) -> frozenset[str]:
    return walk.do(s.Poison(uffd=0, region=0, first=page, count=1)).errno


def test_guard_replaces_what_is_there_and_raises() -> None:
    """ "causing any read or write in the range to result in a SIGSEGV signal being raised"; D1."""
    walk = Walk()
    walk.protect()
    assert advise(walk, "GUARD_INSTALL") == {"0"}
    assert [walk.access(how) for how in ("read", "write", "rmw")] == [{"SIGSEGV"}] * 3
    assert (walk.marked(), walk.page().words) == ([NO, NO], {0})
    assert walk.model.accessed(walk.page()) == NO  # I4
    walk.protect()
    assert walk.marked() == [NO, NO]  # I2


@pytest.mark.parametrize("advice", ["DONTNEED", "FREE", "PAGEOUT", "COLD"])
def test_guard_is_removed_by_its_own_advice_alone(advice: str) -> None:
    """madvise(2): "are not removed by MADV_DONTNEED, MADV_FREE, MADV_PAGEOUT, or MADV_COLD"."""
    walk = Walk()
    advise(walk, "GUARD_INSTALL")
    assert advise(walk, advice, count=2) == {"0"}
    walk.do(s.Mprotect(prot="r", region=0, first=0, count=1))
    walk.do(s.Unregister(uffd=0, region=0, first=0, count=2))
    assert (walk.page().states, walk.access("read")) == ({GUARD}, {"SIGSEGV"})
    assert advise(walk, "GUARD_REMOVE", count=2) == {"0"}
    assert (walk.page().states, walk.access("read")) == ({HOLE}, {"done"})


def test_guard_in_a_file_hides_its_page_and_gives_it_back() -> None:
    """ "file-backed mappings are repopulated with the memory contents ... of the underlying mapped file"."""
    walk = Walk("shmem")
    advise(walk, "GUARD_INSTALL")
    walk.do(s.PunchHole(region=0, first=1, count=1))
    assert walk.model.contents(walk.page()) == {"SIGSEGV"}
    advise(walk, "GUARD_REMOVE")
    walk.access("read")
    assert (walk.model.contents(walk.page()), walk.page().states) == ({"10"}, {State("present", False)})


def test_guard_of_hugetlb_is_refused() -> None:
    """ "The mapping must not ... map hugetlb ranges. An EINVAL error is returned"."""
    walk = Walk("hugetlb")
    assert (advise(walk, "GUARD_INSTALL"), advise(walk, "GUARD_REMOVE")) == ({"EINVAL"}, {"EINVAL"})
    assert walk.page().states == {State("present", False)}


@pytest.mark.parametrize("kind", ["anon", "shmem"])
def test_guard_remains_on_fork_and_moves_with_its_mapping(kind: str) -> None:
    """madvise(2); but "for any parts which have had MADV_WIPEONFORK applied"."""
    walk = Walk(kind, pages=3)
    walk.do(s.Map(kind=kind, pages=3))  # type: ignore[arg-type]
    advise(walk, "GUARD_INSTALL", count=3)
    if kind == "anon":
        advise(walk, "WIPEONFORK", 2)
    walk.do(s.Fork())
    assert [walk.page(number, 1).states for number in range(3)] == [
        {GUARD},
        {GUARD},
        {HOLE if kind == "anon" else GUARD},
    ]
    walk.do(s.Mremap(region=0, first=0, count=2, to=1, to_first=1))
    assert [walk.model.pages[0, 1, number].states for number in range(3)] == [{HOLE}, {GUARD}, {GUARD}]


@pytest.mark.parametrize("advice", ["POPULATE_READ", "POPULATE_WRITE"])
def test_populating_a_guard_fails_and_may_have_populated_the_rest(advice: str) -> None:
    """ "as will MADV_POPULATE_READ or MADV_POPULATE_WRITE"; "some page tables might have been populated"."""
    walk = Walk()
    advise(walk, "GUARD_INSTALL")
    assert advise(walk, advice, count=2) == {"EFAULT", "EHWPOISON"}
    assert [walk.page(number).states for number in range(2)] == [{GUARD}, {HOLE, State("present", False)}]
    with pytest.raises(Unmodelled):
        walk.populate(1)


def test_who_waits_for_a_page_that_becomes_a_guard() -> None:
    """The exception of I1; once woken it raises the signal."""
    walk = Walk()
    walk.protect()
    walk.access("read")
    step = s.Madvise(advice="GUARD_INSTALL", region=0, first=0, count=1)
    assert walk.do(step, {0: "blocked"}).outcomes(0) == {"blocked", "SIGSEGV"}
    assert walk.do(s.Wake(uffd=0, region=0, first=0, count=1)).outcomes(0) == {"SIGSEGV"}


@pytest.mark.parametrize("kind", ["anon", "shmem", "hugetlb"])
def test_poison_raises_whatever_is_protected_then(kind: str) -> None:
    """X6; userfaultfd.rst: "any future faulters ... get a SIGBUS". UFFDIO_POISON(2const): EEXIST of what is mapped."""
    walk = Walk(kind)
    assert (poison(walk, 0), poison(walk, 1)) == ({"EEXIST"}, {"0"})
    walk.protect()
    assert (walk.marked(), walk.access("read", 1), walk.access("write", 1)) == ([YES, NO], {"SIGBUS"}, {"SIGBUS"})
    walk.do(s.Close(uffd=0))
    assert walk.model.contents(walk.page(1)) == {"SIGBUS"}


def test_poison_wakes_who_waits_for_the_page() -> None:
    """userfaultfd.rst: an action to "resolve" a missing fault."""
    walk = Walk()
    walk.do(s.Unregister(uffd=0, region=0, first=0, count=2))
    walk.do(s.Register(uffd=0, mode=("rwp", "missing"), region=0, first=0, count=2))
    assert walk.access("write", 1) == {"blocked"}
    assert walk.do(s.Poison(uffd=0, region=0, first=1, count=1)).outcomes(0) == {"SIGBUS"}


def test_what_no_document_says_of_poison_may_be_either() -> None:
    """Whether it is dropped, or had by another address space; or goes where a marker of write protection is."""
    walk = Walk()
    poison(walk)
    walk.do(s.Fork())
    assert (walk.page(1).states, walk.page(1, 1).states) == ({POISON}, {POISON, HOLE})
    advise(walk, "DONTNEED", count=2)
    assert (walk.page(1).states, walk.access("read", 1)) == ({POISON, HOLE}, {"SIGBUS", "done"})
    with pytest.raises(Unmodelled):
        walk.do(s.Copy(uffd=0, region=0, first=1, count=1, value=3))
    walk = Walk("shmem", "wp", WP)
    walk.protect()
    assert (poison(walk), walk.access("write", 1)) == ({"0", "EEXIST"}, {"SIGBUS", "blocked"})


def test_guard_is_not_filled() -> None:
    """As nothing but its own advice removes it, what fills cannot succeed (I8), and EEXIST is what is left."""
    walk = Walk()
    advise(walk, "GUARD_INSTALL")
    assert walk.do(s.Copy(uffd=0, region=0, first=0, count=1, value=3)).errno == {"EEXIST"}
    assert walk.do(s.Zeropage(uffd=0, region=0, first=0, count=1)).errno == {"EEXIST"}
    assert poison(walk, 0) == {"EEXIST"}


# What is seen, against the model: what a kernel with a defect would show.

GUARDED = (
    s.Map(kind="anon", pages=1),
    s.Open(features=("RWP",)),
    s.Register(uffd=0, region=0, first=0, count=1, mode=("rwp",)),
    s.Thread(),
    s.Madvise(advice="GUARD_INSTALL", region=0, first=0, count=1),
    s.Access(actor=0, how="read", region=0, page=0),
)


def seen(end: str = "SIGSEGV", contents: str = "SIGSEGV", *, accessed: bool = False) -> Observed:
    steps = [Seen("0", pages={(0, 0, 0): Entry(0, False, False)}) for _ in GUARDED]
    steps[-2].pages = {(0, 0, 0): Entry(1 << 62 | 1 << 58, accessed, False)}
    steps[-1].pages, steps[-1].states = dict(steps[-2].pages), {0: end}
    return Observed([*steps, Seen("0")], {(0, 0, 0): contents})


@pytest.mark.parametrize(
    ("observed", "check"),
    [
        (seen(), None),
        (seen("done"), "state"),
        (seen("SIGBUS"), "state"),
        (seen(contents="0"), "contents"),
        (seen(accessed=True), "accessed"),
    ],
    ids=["good", "readable", "other signal", "readable at the end", "F004"],
)
def test_guard_that_is_none_is_found(observed: Observed, check: str | None) -> None:
    claim = judge(s.Sequence(steps=GUARDED), observed)
    assert (claim and claim.check) == check


def test_f004_is_known_and_passed_over() -> None:
    """It is told at every look, so that nothing after it would ever be tried; what else is wrong is found still."""
    sequence, found = s.Sequence(steps=GUARDED), []

    def passing(claim: Claim, after: object) -> bool:
        finding = known.passed(claim, after)  # type: ignore[arg-type]
        found.append(finding and finding.finding)
        return finding is not None

    assert judge(sequence, seen(accessed=True), passing) is None
    assert found == ["F004", "F004"]
    other = judge(sequence, seen("done", accessed=True), passing)
    assert other is not None
    assert other.check == "state"
    claim = judge(sequence, seen(accessed=True))
    assert claim is not None
    finding = known.recognise(sequence, claim)
    assert finding is known.PASSED
    # A hole that is called accessed is none of it, nor is a guard that is called so elsewhere.
    assert known.recognise(s.Sequence(steps=(*GUARDED[:4], GUARDED[3])), claim) is None
    assert known.recognise(sequence, Claim(step=4, check="marked", page=0, expected=("no",), seen="yes")) is None


@pytest.mark.parametrize(
    ("kind", "mode", "hangs"), [("shmem", "wp", True), ("anon", "wp", False), ("shmem", "rwp", False)]
)
def test_f030_is_known_and_not_tried(kind: str, mode: str, hangs: bool) -> None:
    """Where it costs no process, guards are tried."""
    walk = Walk(kind, mode, (*WP, "RWP"))
    step = s.Madvise(advice="GUARD_INSTALL", region=0, first=0, count=1)
    assert not known.hangs(step, walk.model)
    walk.protect()
    assert known.hangs(step, walk.model) is hangs
    assert not known.hangs(s.Madvise(advice="GUARD_REMOVE", region=0, first=0, count=1), walk.model)


def test_signals_are_those_of_entries_alone() -> None:
    assert {State(entry, False).raises for entry in SIGNALS} == {"SIGSEGV", "SIGBUS"}
    assert not any(State(entry, False).raises for entry in ("absent", "present", "swapped"))


def test_errno_that_python_has_no_name_for() -> None:
    """madvise(2) names EHWPOISON; the probe gives it by strerrorname_np(3)."""
    refused = KernelRefused("EHWPOISON", "madvise")
    assert (refused.errno, refused.name) == (133, "EHWPOISON")
