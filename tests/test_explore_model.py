"""The explorer's model, rule by rule; the numbers are sentences of suites/trapping/contract.toml."""

from __future__ import annotations

import pytest
from explore_walk import WP, Walk

from kselftests_py.explore import steps as s
from kselftests_py.explore.model import State, Unmodelled
from kselftests_py.explore.rules import apply

YES, NO, EITHER = {True}, {False}, {False, True}


def test_protecting_arms_what_is_there_and_no_hole() -> None:
    """P14, I8."""
    walk = Walk()
    walk.protect()
    assert walk.marked() == [YES, NO]
    assert [walk.model.accessed(walk.page(number)) for number in range(2)] == [NO, NO]  # S5


@pytest.mark.parametrize(
    ("kind", "features", "second"),
    [("anon", WP, NO), ("anon", (*WP, "WP_UNPOPULATED"), YES), ("anon", (*WP, "WP_ASYNC"), YES), ("shmem", WP, YES)],
)
def test_write_protection_of_a_hole(kind: str, features: tuple[str, ...], second: set[bool]) -> None:
    walk = Walk(kind, "wp", features)
    walk.protect()
    assert walk.marked() == [YES, second]


def test_sync_access_is_trapped_until_resolved() -> None:
    """F1, P16."""
    walk = Walk()
    walk.protect()
    assert walk.access("read") == {"blocked"}
    (branch,) = {one.message for one in walk.model.expected.accesses[0]}
    assert branch == "rwp 0:0"
    assert walk.resolve().outcomes(0) == {"done"}
    assert walk.model.accessed(walk.page()) == YES  # P19


def test_dontwake_leaves_the_thread_asleep_until_a_wake() -> None:
    """P16, P17."""
    walk = Walk()
    walk.protect()
    walk.access("write", value=7)
    assert walk.resolve(dontwake=True).outcomes(0) == {"blocked"}
    assert walk.do(s.Wake(uffd=0, region=0, first=0, count=1)).outcomes(0) == {"done"}
    assert walk.page().words == {7}


def test_wake_of_a_protected_page_traps_again() -> None:
    walk = Walk()
    walk.protect()
    walk.access("write", value=7)
    expected = walk.do(s.Wake(uffd=0, region=0, first=0, count=2))
    assert {(one.outcome, one.message) for one in expected.accesses[0]} == {("blocked", "rwp+write 0:0")}


def test_async_access_clears_the_marker() -> None:
    """F8."""
    walk = Walk(features=("RWP", "RWP_ASYNC"))
    walk.protect()
    assert walk.access("read") == {"done"}
    assert walk.marked() == [NO, NO]
    assert walk.model.accessed(walk.page()) == YES


def test_switch_to_async_wakes_everybody() -> None:
    """M8."""
    walk = Walk()
    walk.protect()
    walk.access("read")
    assert walk.do(s.SetMode(uffd=0, asynchronous=True)).outcomes(0) == {"done"}


def test_set_mode_without_the_feature() -> None:
    """M4, M7."""
    walk = Walk(mode="wp", features=WP)
    assert walk.do(s.SetMode(uffd=0, asynchronous=True)).errno == {"EINVAL"}
    assert walk.do(s.SetMode(uffd=0, asynchronous=False)).errno == {"0"}


def test_write_protection_lets_reads_pass() -> None:
    walk = Walk(mode="wp", features=WP)
    walk.protect()
    assert walk.access("read") == {"done"}
    assert walk.access("rmw", value=1) == {"blocked"}
    assert walk.marked() == [YES, NO]


@pytest.mark.parametrize("features", [(*WP, "WP_UNPOPULATED"), (*WP, "WP_ASYNC")])
def test_missing_page_is_told_before_its_write_protection(features: tuple[str, ...]) -> None:
    walk = Walk(mode="wp", features=features)
    walk.do(s.Unregister(uffd=0, region=0, first=0, count=2))
    walk.do(s.Register(uffd=0, mode=("wp", "missing"), region=0, first=0, count=2))
    walk.protect()
    assert walk.access("write", page=1) == {"blocked"}
    assert {one.message for one in walk.model.expected.accesses[0]} == {"missing+write 0:1"}


def test_inaccessible_memory_raises_and_keeps_the_marker() -> None:
    """F7, G1."""
    walk = Walk()
    walk.protect()
    walk.do(s.Mprotect(prot="none", region=0, first=0, count=2))
    assert walk.access("read") == {"SIGSEGV"}
    walk.do(s.Mprotect(prot="r", region=0, first=0, count=2))
    assert walk.marked() == [YES, NO]
    assert (walk.access("write"), walk.access("read", actor=1)) == ({"SIGSEGV"}, {"blocked"})


@pytest.mark.parametrize("ioctl", ["rwprotect", "writeprotect"])
def test_refusals_change_nothing(ioctl: str) -> None:
    """P7, W1, I7."""
    walk = Walk(pages=3)
    walk.protect(count=2)
    walk.do(s.Unregister(uffd=0, region=0, first=2, count=1))
    whole = {"uffd": 0, "region": 0, "first": 0, "count": 3}
    assert walk.do(s.Resolve(ioctl=ioctl, **whole)).errno == {"ENOENT"}  # type: ignore[arg-type]
    assert walk.do(s.Protect(ioctl=ioctl, **whole)).errno == {"ENOENT"}  # type: ignore[arg-type]
    assert walk.marked() == [YES, NO, NO]


def test_register_of_what_is_taken_or_inaccessible() -> None:
    """R3, R4, R10, R13, R14."""
    walk = Walk()
    walk.do(s.Open(features=(*WP, "RWP")))  # type: ignore[arg-type]
    one = {"region": 0, "first": 0, "count": 1}
    assert walk.do(s.Register(uffd=1, mode=("rwp",), **one)).errno == {"EBUSY"}
    assert walk.do(s.Register(uffd=0, mode=("wp",), **one)).errno == {"EBUSY"}
    assert walk.do(s.Register(uffd=0, mode=("wp", "rwp"), **one)).errno == {"EINVAL"}
    assert walk.do(s.Register(uffd=0, mode=(), **one)).errno == {"EINVAL"}
    walk.do(s.Unregister(uffd=0, region=0, first=0, count=2))
    walk.do(s.Mprotect(prot="none", region=0, first=1, count=1))
    assert walk.do(s.Register(uffd=1, mode=("rwp",), region=0, first=0, count=2)).errno == {"EINVAL"}
    assert walk.page().owner is None


@pytest.mark.parametrize("end", [s.Unregister(uffd=0, region=0, first=0, count=2), s.Close(uffd=0)])
def test_end_of_protection_wakes_and_clears(end: s.Step) -> None:
    """I1, U7, U10."""
    walk = Walk()
    walk.protect()
    walk.access("read")
    assert walk.do(end).outcomes(0) == {"done"}
    assert walk.marked() == [NO, NO]


def test_fork_without_the_event_leaves_a_free_child() -> None:
    """K1, I6."""
    walk = Walk()
    walk.protect()
    walk.do(s.Fork())
    walk.do(s.Thread(process=1))
    assert (walk.marked(), walk.marked(1)) == ([YES, NO], [NO, NO])
    assert walk.access("write", actor=2, value=9) == {"done"}
    assert (walk.page().words, walk.page(0, 1).words) == ({10}, {9})


def test_fork_with_the_event_copies_the_protection() -> None:
    """K2, M10."""
    walk = Walk(features=("RWP", "EVENT_FORK"))
    walk.protect()
    with pytest.raises(Unmodelled):
        walk.do(s.Fork())
    walk.do(s.Fork(event=0))
    walk.do(s.Thread(process=1))
    assert walk.marked(1) == [YES, NO]
    assert walk.access("read", actor=2) == {"blocked"}
    assert walk.do(s.Close(uffd=1)).outcomes(2) == {"done"}
    assert walk.marked() == [YES, NO]


def test_two_children_are_apart_from_each_other_and_from_their_parent() -> None:
    """K1, K2, I6: the second fork tells of what the parent has registered, not of what the first child has."""
    walk = Walk(features=("RWP", "EVENT_FORK"))
    walk.protect()
    walk.do(s.Fork(event=0))
    walk.do(s.Unregister(uffd=0, region=0, first=0, count=2))
    walk.do(s.Fork())
    for process in (1, 2):
        walk.do(s.Thread(process=process))
    assert [walk.marked(process) for process in range(3)] == [[NO, NO], [YES, NO], [NO, NO]]
    assert (walk.access("write", actor=2, value=5), walk.access("write", actor=3, value=6)) == ({"blocked"}, {"done"})
    assert [walk.page(0, process).words for process in range(3)] == [{10}, {10}, {6}]
    walk.do(s.Exit(process=2))
    with pytest.raises(Unmodelled):
        walk.do(s.Fork())


def test_child_of_a_child_has_what_its_parent_had() -> None:
    """K2, M10: the event comes to the userfaultfd that the first child's memory is registered with."""
    walk = Walk(features=("RWP", "EVENT_FORK"))
    walk.protect()
    walk.do(s.Fork(event=0))
    walk.do(s.Resolve(uffd=0, ioctl="rwprotect", region=0, first=0, count=2))
    with pytest.raises(Unmodelled):
        walk.do(s.Fork(process=1, event=0))
    walk.do(s.Fork(process=1, event=1))
    walk.do(s.Thread(process=2))
    assert [walk.marked(process) for process in range(3)] == [[NO, NO], [YES, NO], [YES, NO]]
    assert walk.access("read", actor=2) == {"blocked"}
    walk.do(s.Exit(process=1))
    assert walk.do(s.Close(uffd=2)).outcomes(2) == {"done"}


def test_frame_that_fails_raises_for_each_process_that_has_it() -> None:
    """madvise(2), MADV_HWPOISON: as a hardware memory corruption; who has asked for it may be told by a signal."""
    walk = Walk()
    walk.do(s.Fork())
    walk.do(s.Thread(process=1))
    assert walk.access("hwpoison") == {"done", "SIGBUS"}
    assert State("failed", False) in walk.page().states
    walk.model.observe(walk.page(), {"absent", "failed"}, marked=False)
    assert walk.model.accessed(walk.page()) == EITHER
    assert walk.access("read", actor=1) == {"SIGBUS"}
    assert (walk.model.contents(walk.page()), walk.access("read", actor=2)) == ({"SIGBUS"}, {"SIGBUS", "done"})
    walk.do(s.Madvise(advice="DONTNEED", region=0, first=0, count=2))
    assert walk.access("read", actor=1) == {"SIGBUS", "done"}


def test_frame_that_is_not_known_does_not_fail() -> None:
    """What may trap, what nobody may access, the zero page, and what reclaim has."""
    walk = Walk()
    with pytest.raises(Unmodelled):
        walk.access("hwpoison", page=1)
    walk.protect()
    with pytest.raises(Unmodelled):
        walk.access("hwpoison")
    walk.resolve()
    walk.do(s.Mprotect(prot="none", region=0, first=0, count=2))
    with pytest.raises(Unmodelled):
        walk.access("hwpoison")
    walk.do(s.Mprotect(prot="rw", region=0, first=0, count=2))
    walk.do(s.Madvise(advice="PAGEOUT", region=0, first=0, count=2))
    with pytest.raises(Unmodelled):
        walk.access("hwpoison")


@pytest.mark.parametrize("work", ["compaction", "numa_hints"])
def test_work_of_the_kernel_is_no_access(work: s.Work) -> None:
    """I3, I4."""
    walk = Walk()
    walk.protect()
    assert walk.do(s.KernelWork(work=work)).errno == {"0"}
    assert (walk.marked(), walk.page().words) == ([YES, NO], {10})
    assert walk.access("read") == {"blocked"}


def test_dropped_page_loses_its_marker_and_may_leave_who_waits() -> None:
    """D1, and the exception of I1."""
    walk = Walk()
    walk.protect()
    walk.access("read")
    assert walk.do(s.Madvise(advice="DONTNEED", region=0, first=0, count=2)).outcomes(0) == {"blocked", "done"}
    assert walk.marked() == [NO, NO]
    assert walk.page().words == {0}


def test_populating_is_an_access_like_any_other() -> None:
    """I3; it is not tried where it would block."""
    walk = Walk(features=("RWP", "RWP_ASYNC"))
    walk.protect()
    walk.do(s.Madvise(advice="POPULATE_READ", region=0, first=0, count=2))
    assert [walk.model.accessed(walk.page(number)) for number in range(2)] == [YES, YES]
    walk.do(s.SetMode(uffd=0, asynchronous=False))
    walk.protect()
    with pytest.raises(Unmodelled):
        walk.do(s.Madvise(advice="POPULATE_READ", region=0, first=0, count=2))


def test_reclaim_keeps_protection() -> None:
    """I3."""
    walk = Walk("shmem")
    walk.protect()
    walk.do(s.Madvise(advice="PAGEOUT", region=0, first=0, count=2))
    assert walk.page().states == {State("present", True), State("absent", True)}
    assert walk.access("read") == {"blocked"}


def test_migration_keeps_protection() -> None:
    """I4: a page that is moved is the same page."""
    walk = Walk()
    walk.protect()
    assert walk.do(s.Migrate(region=0, first=0, count=2, node=1)).errno == {"0"}
    assert (walk.marked(), walk.page().words) == ([YES, NO], {10})
    assert walk.access("read") == {"blocked"}


def test_what_is_observed_narrows_what_may_be() -> None:
    walk = Walk("shmem", "wp", WP)
    walk.protect()
    walk.do(s.Madvise(advice="DONTNEED", region=0, first=0, count=2))
    assert walk.marked() == [EITHER, EITHER]  # no document says it of write protection
    walk.model.observe(walk.page(), {"absent"}, marked=True)
    assert walk.access("write") == {"blocked"}


def test_mremap_without_the_event_disarms() -> None:
    """V2."""
    walk = Walk()
    walk.do(s.Map(kind="anon", pages=2))
    walk.protect()
    walk.do(s.Mremap(region=0, first=0, count=1, to=1, to_first=1))
    moved = walk.model.pages[0, 1, 1]
    assert (walk.model.marked(moved), moved.words, moved.owner) == (NO, {10}, None)
    assert walk.access("read") == {"SIGSEGV"}


def test_mremap_with_the_event_keeps_protection_and_tells() -> None:
    """V1."""
    walk = Walk(features=("RWP", "EVENT_REMAP"))
    walk.do(s.Map(kind="anon", pages=2))
    walk.protect()
    expected = walk.do(s.Mremap(region=0, first=0, count=1, to=1, to_first=1))
    moved = walk.model.pages[0, 1, 1]
    assert (walk.model.marked(moved), moved.owner, expected.events) == (YES, 0, {0: "remap"})


def test_move_arms_in_rwp_memory() -> None:
    """X5; ENOENT of a hole, EEXIST where something is."""
    walk = Walk()
    walk.do(s.Map(kind="anon", pages=3))
    walk.do(s.Populate(region=1, first=0, count=2, value=70))

    def move(first: int, to_first: int) -> frozenset[str]:
        return walk.do(s.Move(uffd=0, region=1, first=first, count=1, to=0, to_first=to_first)).errno

    assert (move(2, 1), move(0, 0), move(0, 1)) == ({"ENOENT"}, {"EEXIST"}, {"0"})
    assert (walk.marked(), walk.page(1).words) == ([NO, YES], {70})
    assert walk.model.pages[0, 1, 0].words == {0}


def test_huge_page_may_be_resolved_as_a_whole_or_not() -> None:
    """S4 speaks of a huge page, and no document says when one is split."""
    walk = Walk(features=("RWP", "RWP_ASYNC"))
    walk.do(s.Map(kind="anon", pages=4, thp=True))
    walk.do(s.Populate(region=1, first=0, count=1, value=70))
    whole = {"uffd": 0, "region": 1, "first": 0, "count": 4}
    walk.do(s.Register(mode=("rwp",), **whole))  # type: ignore[arg-type]
    walk.do(s.Protect(ioctl="rwprotect", **whole))  # type: ignore[arg-type]
    walk.do(s.Access(actor=0, how="read", region=1, page=0))
    marked = [walk.model.marked(walk.model.pages[0, 1, number]) for number in range(4)]
    assert marked == [NO, EITHER, EITHER, EITHER]


def test_two_stores_at_once_leave_either_word() -> None:
    walk = Walk()
    walk.protect()
    walk.access("write", actor=0, value=7)
    walk.access("write", actor=1, value=8)
    walk.resolve()
    assert walk.page().words is None


def test_filling_installs_unarmed_pages_once() -> None:
    """X3; EEXIST."""
    walk = Walk()
    fill = s.Copy(uffd=0, region=0, first=1, count=1, value=20)
    assert (walk.do(fill).errno, walk.do(fill).errno) == ({"0"}, {"EEXIST"})
    assert (walk.model.accessed(walk.page(1)), walk.page(1).words) == (YES, {21})


@pytest.mark.parametrize(
    "step",
    [
        s.Continue(uffd=0, region=0, first=0, count=1),
        s.Access(actor=5, how="read", region=0, page=0),
        s.Access(actor=0, how="read", region=3, page=0),
        s.Protect(uffd=4, ioctl="rwprotect", region=0, first=0, count=1),
        s.Protect(uffd=0, ioctl="rwprotect", region=0, first=1, count=9),
        s.Thread(process=2),
        s.Exit(process=1),
        s.Fork(event=7),
        s.Fork(process=1),
        s.Madvise(advice="HUGEPAGE", region=0, first=0, count=1),
        s.Move(uffd=0, region=0, first=0, count=2, to=0, to_first=1),
        s.Map(kind="shmem", pages=512, thp=True),
    ],
    ids=lambda step: type(step).__name__.lower(),
)
def test_no_opinion_changes_nothing(step: s.Step) -> None:
    walk = Walk()
    before = repr(vars(walk.model)["pages"]), len(walk.model.regions), len(walk.model.actors)
    with pytest.raises(Unmodelled):
        apply(walk.model, step)
    assert before == (repr(vars(walk.model)["pages"]), len(walk.model.regions), len(walk.model.actors))
