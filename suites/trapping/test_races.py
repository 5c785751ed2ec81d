"""Protection that comes and goes while threads access the memory without pause, and other calls run beside them.

The loop runs inside the probe (op ``race``; native_probes/race_rounds.c has its steps): two racers on two CPUs, and
a thread that disturbs. Source: I1, I2, I3 and I5 of the UAPI contract; handle_userfault() and userfaultfd_set_mode()
in mm/userfaultfd.c ("Drain in-flight faults before flipping features"); do_uffd_rwp() in mm/memory.c.
"""

from __future__ import annotations

from typing import Any

import pytest

from kselftests_py.lab import Subject, ops
from kselftests_py.lab.replies import Race

BOUND_MS = 40_000  # each wait may take a quarter of it
RWP_NEEDS = pytest.mark.needs("rwp", "smp", "pagemap_scan", "page_accessed")
ASYNC_NEEDS = pytest.mark.needs("rwp", "rwp_async", "smp")
WP_NEEDS = pytest.mark.needs("wp", "wp_shmem", "smp", "pagemap_scan")
HUGETLB = pytest.mark.needs("hugetlb")


def _race(subject: Subject, seed: int, mode: str, kind: str, release: str, rounds: int, disturb: str = "none") -> Race:
    args: dict[str, Any] = {"mode": mode, "kind": kind, "release": release, "disturb": disturb, "rounds": rounds}
    pages = 4 if kind == "hugetlb" else 32
    return subject.call(ops.loop("race", Race, 60_000, **args, pages=pages, seed=seed, timeout_ms=BOUND_MS))


def _assert_held(race: Race, rounds: int) -> None:
    """Every access to a protected page was stopped, none twice, and every stopped thread went on when it could."""
    assert race.asleep == 0, race.first
    assert race.escaped == 0, race.first
    assert race.unarmed == 0, race.first
    assert race.again == 0
    assert race.damaged == 0
    assert race.rounds == rounds


RELEASES = [
    pytest.param("rwp", "anon", "resolve", marks=RWP_NEEDS),
    pytest.param("rwp", "shmem", "resolve", marks=RWP_NEEDS),
    pytest.param("rwp", "hugetlb", "resolve", marks=[RWP_NEEDS, HUGETLB]),
    pytest.param("rwp", "anon", "dontwake", marks=RWP_NEEDS),
    pytest.param("wp", "anon", "resolve", marks=WP_NEEDS),
    # Not WP on shmem or hugetlb: a page that resolving leaves read-only meets F023, but only by chance, so that no test
    # could be strict about it; docs/findings/F023.c tries until it does.
]
ENDINGS = [
    pytest.param("rwp", "anon", "close", marks=RWP_NEEDS),
    pytest.param("rwp", "hugetlb", "set_mode", marks=[ASYNC_NEEDS, HUGETLB]),
    pytest.param("wp", "shmem", "close", marks=WP_NEEDS),
]


@pytest.mark.contract("I1", "P16")
@pytest.mark.control("skip_protect", "lose_wake")
@pytest.mark.parametrize(("mode", "kind", "release"), RELEASES)
def test_racers_are_stopped_and_let_go(subject: Subject, seed: int, mode: str, kind: str, release: str) -> None:
    """Each racer stops once at a protected page and goes on when it is let go, however close the two calls are.

    Source: I1; handle_userfault() queues itself before it asks whether it must wait, or a wake between is lost.
    """
    _assert_held(_race(subject, seed, mode, kind, release, 120), 120)


@pytest.mark.contract("I1")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize(("mode", "kind", "ending"), ENDINGS)
def test_racers_are_let_go_by_what_ends_the_protection(
    subject: Subject, seed: int, mode: str, kind: str, ending: str
) -> None:
    """The same where the descriptor is closed, or SET_MODE switches to async: these wake everybody. Source: I1."""
    _assert_held(_race(subject, seed, mode, kind, ending, 120), 120)


@ASYNC_NEEDS
@pytest.mark.contract("M8", "I3")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("kind", ["anon", "shmem"])
def test_no_fault_resolves_itself_after_the_switch_to_sync(subject: Subject, seed: int, kind: str) -> None:
    """Once SET_MODE has switched to sync, no fault that was on its way resolves itself; the switch to async wakes all.

    Source: userfaultfd_set_mode(): "no in-flight fault can observe the old features after mmap_write_unlock()".
    """
    _assert_held(_race(subject, seed, "rwp", kind, "set_mode", 200), 200)


DISTURBANCES = ["fork", "scan", "mprotect", "unmap", "vanish", "descriptor", "reader"]
TRACKS = [
    pytest.param("rwp", "anon", "set_mode", marks=ASYNC_NEEDS),
    pytest.param("rwp", "shmem", "resolve", marks=RWP_NEEDS),
]


@pytest.mark.contract("I1", "I2", "I5")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("disturb", DISTURBANCES)
@pytest.mark.parametrize(("mode", "kind", "release"), TRACKS)
def test_other_calls_beside_the_racers(
    subject: Subject, seed: int, mode: str, kind: str, release: str, disturb: str
) -> None:
    """The same while the process forks, scans, splits and merges the mapping, unmaps other protected memory, or memory
    that is being protected, uses a second userfaultfd, or reads messages in a second thread.

    Source: I1, I2, I5; mmap_lock and per-VMA lock of the fault against those of each call.
    """
    race = _race(subject, seed, mode, kind, release, 20, disturb)
    _assert_held(race, 20)
    assert race.disturbances > 0
