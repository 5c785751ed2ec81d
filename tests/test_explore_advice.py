"""The explorer's model of madvise(2) and of minor faults, rule by rule."""

from __future__ import annotations

import pytest
from explore_walk import Walk

from kselftests_py.explore import steps as s
from kselftests_py.explore.model import HOLE, State, Unmodelled

YES, NO = {True}, {False}


def advise(walk: Walk, advice: str, count: int = 2) -> frozenset[str]:
    return walk.do(s.Madvise(advice=advice, region=0, first=0, count=count)).errno  # type: ignore[arg-type]


def test_lazily_freed_page_holds_what_it_did_or_zero_until_it_is_written() -> None:
    """madvise(2), MADV_FREE; what is still there is still protected (I3)."""
    walk = Walk()
    walk.protect()
    assert advise(walk, "FREE") == {"0"}
    assert walk.page().states == {State("present", True), State("absent", False)}
    assert walk.page().words == {0, 10}
    walk.model.observe(walk.page(), {"present"}, marked=True)
    assert walk.access("write", value=7) == {"done", "blocked"}  # it may have gone meanwhile
    walk.resolve()
    walk.do(s.Madvise(advice="COLD", region=0, first=0, count=2), {0: "done"})
    assert (walk.page().lazy, walk.page().words) == (True, {0, 7, 10})  # nobody looked whether the write was done
    walk.access("write", actor=1, value=8)
    assert (walk.page().lazy, walk.page().words) == (False, {8})


def test_page_that_is_seen_freed_is_zero() -> None:
    walk = Walk()
    advise(walk, "FREE")
    walk.model.observe(walk.page(), {"absent"}, marked=False)
    assert (walk.page().lazy, walk.page().words) == (False, {0})


@pytest.mark.parametrize("advice", ["FREE", "WIPEONFORK"])
def test_advice_for_private_anonymous_memory_only(advice: str) -> None:
    walk = Walk("shmem")
    assert advise(walk, advice) == {"EINVAL"}
    assert (walk.page().words, walk.model.files[0, 0].words) == ({0}, {10})


def test_memory_that_is_wiped_on_fork() -> None:
    """And its counterpart; K1, I6."""
    walk = Walk()
    walk.protect()
    advise(walk, "WIPEONFORK")
    advise(walk, "KEEPONFORK", 1)
    walk.do(s.Fork())
    assert [walk.page(number, 1).words for number in range(2)] == [{10}, {0}]
    assert walk.page(1, 1).states == {HOLE}
    assert walk.page().words == {10}


def test_memory_that_is_left_out_on_fork_sends_no_event() -> None:
    walk = Walk(features=("RWP", "EVENT_FORK"))
    walk.protect()
    advise(walk, "DONTFORK")
    with pytest.raises(Unmodelled):
        walk.do(s.Fork(event=0))
    walk.do(s.Fork())
    walk.do(s.Thread(process=1))
    assert walk.access("read", actor=2) == {"SIGSEGV"}
    assert (walk.page(0, 1).prot, walk.marked()) == ("", [YES, NO])


def test_left_out_memory_can_be_taken_back_in() -> None:
    walk = Walk()
    advise(walk, "DONTFORK")
    advise(walk, "DOFORK", 1)
    walk.do(s.Fork())
    assert (walk.page(0, 1).prot, walk.page(1, 1).prot) == ("rw", "")


def test_collapse_changes_no_protection_and_no_contents() -> None:
    """madvise(2), MADV_COLLAPSE: best effort."""
    walk = Walk()
    with pytest.raises(Unmodelled):
        advise(walk, "COLLAPSE")
    walk.page().huge = True
    walk.protect()
    assert "EINVAL" in advise(walk, "COLLAPSE", 1)
    assert (walk.marked(), walk.page().words) == ([YES, NO], {10})


MINOR = ("RWP", "PAGEFAULT_FLAG_WP", "WP_HUGETLBFS_SHMEM", "MINOR_SHMEM")


def minor_walk(mode: str = "rwp") -> Walk:
    """Page 0 is in the file and not in the page table; page 1 is nowhere."""
    walk = Walk("shmem", mode, MINOR)
    walk.do(s.Unregister(uffd=0, region=0, first=0, count=2))
    walk.do(s.Madvise(advice="DONTNEED", region=0, first=0, count=2))
    walk.do(s.Register(uffd=0, mode=(mode, "minor"), region=0, first=0, count=2))  # type: ignore[arg-type]
    return walk


def continue_(walk: Walk, page: int = 0, **modes: bool) -> frozenset[str]:
    return walk.do(s.Continue(uffd=0, region=0, first=page, count=1, **modes)).errno


def test_first_access_to_a_page_that_only_the_file_has_is_a_minor_fault() -> None:
    """userfaultfd.rst: co-register with MODE_MINOR to see the first access to cached but unmapped pages; X4."""
    walk = minor_walk()
    assert walk.access("write", value=7) == {"blocked"}
    assert {one.message for one in walk.model.expected.accesses[0]} == {"minor+write 0:0"}
    assert walk.access("read", page=1, actor=1) == {"done"}  # no page to be told of, and MISSING is not asked for
    assert walk.resolve().outcomes(0) == {"blocked"}  # woken, and told of again
    assert continue_(walk) == {"0"}
    assert (walk.marked(), walk.model.files[0, 0].words) == ([NO, NO], {7})
    assert walk.model.accessed(walk.page()) == YES
    assert continue_(walk) == {"EEXIST"}


def test_continue_without_waking() -> None:
    walk = minor_walk()
    walk.access("read")
    assert continue_(walk, dontwake=True) == {"0"}
    assert walk.model.expected.outcomes(0) == {"blocked"}
    assert walk.do(s.Wake(uffd=0, region=0, first=0, count=1)).outcomes(0) == {"done"}


def test_continue_of_what_the_file_has_not_or_with_protection() -> None:
    """EFAULT; X2; MODE_WP."""
    walk = minor_walk()
    assert continue_(walk, 1) == {"EFAULT"}
    assert continue_(walk, protect=True) == {"EINVAL"}
    walk = minor_walk("wp")
    assert continue_(walk, protect=True) == {"0"}
    assert (walk.marked(), walk.access("read"), walk.access("write")) == ([YES, NO], {"done"}, {"blocked"})


def test_minor_faults_of_anonymous_memory_and_of_what_may_be_on_swap() -> None:
    """R9; a page on swap is not in the page cache."""
    walk = Walk(features=MINOR)
    assert walk.do(s.Register(uffd=0, mode=("minor",), region=0, first=0, count=2)).errno == {"EINVAL"}
    walk = minor_walk()
    walk.do(s.Madvise(advice="PAGEOUT", region=0, first=0, count=2))
    assert walk.access("read") == {"done", "blocked"}


def test_advice_to_ksm_changes_nothing_where_it_does_not_run() -> None:
    """But makes a mapping of its own, which is not moved together with its neighbours."""
    walk = Walk()
    walk.do(s.Map(kind="anon", pages=2))
    walk.protect()
    assert (advise(walk, "MERGEABLE", 1), walk.marked(), walk.page().words) == ({"0"}, [YES, NO], {10})
    with pytest.raises(Unmodelled):
        walk.do(s.Mremap(region=0, first=0, count=2, to=1, to_first=0))
    assert advise(walk, "UNMERGEABLE") == {"0"}
    walk.do(s.Mremap(region=0, first=0, count=2, to=1, to_first=0))


def test_minor_faults_of_hugetlb() -> None:
    """userfaultfd.rst: UFFD_FEATURE_MINOR_HUGETLBFS; of memory that other processes cannot have nothing is said."""
    features = (*MINOR, "MINOR_HUGETLBFS")
    walk = Walk("hugetlb", features=features)
    whole = {"region": 0, "first": 0, "count": 2}
    walk.do(s.Unregister(uffd=0, **whole))
    walk.do(s.Madvise(advice="DONTNEED", **whole))
    walk.do(s.Register(uffd=0, mode=("rwp", "minor"), **whole))
    assert walk.access("read") == {"blocked"}
    assert {one.message for one in walk.model.expected.accesses[0]} == {"minor 0:0"}
    assert walk.do(s.Continue(uffd=0, region=0, first=0, count=1)).outcomes(0) == {"done"}
    assert walk.model.accessed(walk.page()) == YES  # X4
    for kind, some in (("hugetlb", MINOR), ("hugetlb_private", features)):
        walk = Walk(kind, features=some)
        walk.do(s.Unregister(uffd=0, **whole))
        with pytest.raises(Unmodelled):
            walk.do(s.Register(uffd=0, mode=("minor",), **whole))


def lock(walk: Walk, count: int = 2, **more: bool) -> frozenset[str]:
    return walk.do(s.Mlock(region=0, first=0, count=count, **more)).errno


def test_locking_is_an_access_of_either_kind() -> None:
    """mlock(2): resident when the call returns; I3. What may trap is not tried."""
    walk = Walk(features=("RWP", "RWP_ASYNC"))
    walk.protect()
    assert lock(walk) == {"0"}
    assert (walk.marked(), walk.page(1).states) == ([NO, NO], {State("present", False)})
    assert (walk.page().words, walk.page(1).words) == ({10}, {0})
    walk = Walk()
    walk.protect()
    with pytest.raises(Unmodelled):
        lock(walk)
    assert walk.marked() == [YES, NO]


def test_locking_write_protected_memory_may_write_or_not() -> None:
    walk = Walk(mode="wp", features=("PAGEFAULT_FLAG_WP", "WP_HUGETLBFS_SHMEM", "WP_ASYNC"))
    walk.protect()
    lock(walk)
    assert walk.marked() == [{True, False}, {True, False}]


def test_locked_memory_is_not_dropped_or_reclaimed_until_it_is_unlocked() -> None:
    """madvise(2), EINVAL; "not inherited by a child" (mlock(2))."""
    walk = Walk()
    lock(walk)
    assert [advise(walk, advice) for advice in ("DONTNEED", "COLD", "PAGEOUT")] == [{"EINVAL"}] * 3
    assert walk.page().words == {10}
    walk.do(s.Fork())
    drop = s.Madvise(process=1, advice="DONTNEED", region=0, first=0, count=2)
    assert walk.do(drop).errno == {"0"}
    lock(walk, 1, unlock=True)
    with pytest.raises(Unmodelled):
        advise(walk, "DONTNEED")
    assert advise(walk, "DONTNEED", 1) == {"0"}
