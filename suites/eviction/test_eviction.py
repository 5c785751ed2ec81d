"""Eviction by a VMM against racing writers: no write is lost, no thread is left asleep.

The loop runs inside the probe (op ``evict``) on shmem with two mappings, as "VMM Working Set Tracking Workflow" of
Documentation/admin-guide/mm/userfaultfd.rst has it: track in async mode, switch to sync, scan, write the cold pages
out through the second mapping, punch them out, wake, fetch back on fault. Every writer counts its own increments of
every page; at the end each byte of every page is accounted for. The wp-only loop stands beside it.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kselftests_py.lab import Subject
from kselftests_py.lab.replies import Evicted

RWP_LOOP = pytest.mark.needs("rwp", "rwp_async", "pagemap_scan", "page_accessed", "missing_shmem", "smp")
WP_LOOP = pytest.mark.needs("wp", "wp_shmem", "pagemap_scan", "missing_shmem", "smp")


WRITERS = 2
ROUNDS = 8


def _evict(subject: Subject, mode: str, seed: int, variant: str = "documented") -> Evicted:
    return subject.evict(mode=mode, pages=128, writers=WRITERS, rounds=ROUNDS, seed=seed, variant=variant)


def _record(record_metric: Callable[..., None], mode: str, counters: Evicted) -> None:
    labels = {"path": "evict", "protection": mode, "kind": "shmem"}
    for name in ("evicted", "fetched", "hot_evicted"):
        record_metric(name, getattr(counters, name), "pages", labels=labels)
    record_metric("damaged", counters.damaged, "pages", labels=labels)
    for name in ("rounds", "writes", "reads", "faults", "lost_writes", "asleep", "ambushes_trapped"):
        record_metric(name, getattr(counters, name), "1", labels=labels)


def _assert_safe(counters: Evicted) -> None:
    """Nothing lost, nobody asleep; the write to a page between its writing out and its hole was trapped each time."""
    assert counters.lost_writes == 0, counters.first_lost
    assert counters.damaged == 0
    assert counters.asleep == 0
    assert counters.ambushes_trapped == counters.rounds == ROUNDS
    assert counters.evicted > 0
    assert counters.fetched > 0
    assert counters.writes > 0


@RWP_LOOP
@pytest.mark.control("drop_write", "corrupt_evicted", "skip_protect")
@pytest.mark.parametrize("seed", [1, 2], indirect=True)
def test_rwp_loop_loses_no_write_and_no_thread(subject: Subject, record_metric: Callable[..., None], seed: int) -> None:
    """The documented loop: every byte survives eviction, every blocked thread runs again, no hot page is evicted.

    In each round one write hits a page that is written out and not yet punched out: it is trapped (control
    skip_protect), so it is not lost (drop_write), and no byte that nobody wrote changes (corrupt_evicted).
    Source: userfaultfd.rst, VMM Working Set Tracking Workflow; I1, I3, I5 of the UAPI contract.
    """
    counters = _evict(subject, "rwp", seed)
    _record(record_metric, "rwp", counters)
    _assert_safe(counters)
    assert counters.hot_evicted == 0


@WP_LOOP
@pytest.mark.control("drop_write", "corrupt_evicted", "skip_protect")
@pytest.mark.parametrize("seed", [1, 2], indirect=True)
def test_wp_loop_loses_no_write_but_evicts_what_is_read(
    subject: Subject, record_metric: Callable[..., None], seed: int
) -> None:
    """The wp-only loop is as safe for writes, yet it evicts pages that were read all along: it cannot see reads.

    Source: the debate of April 2026 ("race-free eviction can be done with uffd-wp; proper
    working-set discovery cannot").
    """
    counters = _evict(subject, "wp", seed)
    _record(record_metric, "wp", counters)
    _assert_safe(counters)
    assert counters.hot_evicted > 0


# The loop broken on purpose, one step at a time: what it then does wrong must be seen, or the tests above mean nothing.
BROKEN = [
    pytest.param("rwp", "scan_before_sync", "lost_writes", marks=RWP_LOOP),
    pytest.param("rwp", "stay_async", "lost_writes", marks=RWP_LOOP),
    pytest.param("rwp", "skip_protect", "lost_writes", marks=RWP_LOOP),
    pytest.param("rwp", "no_wake", "asleep", marks=RWP_LOOP),
    pytest.param("wp", "skip_protect", "lost_writes", marks=WP_LOOP),
    pytest.param("wp", "stay_async", "lost_writes", marks=[WP_LOOP, pytest.mark.needs("wp_async")]),
    pytest.param("wp", "no_wake", "asleep", marks=WP_LOOP),
]


@pytest.mark.parametrize(("mode", "variant", "harm"), BROKEN)
def test_broken_loop_is_caught(subject: Subject, seed: int, mode: str, variant: str, harm: str) -> None:
    """Without one of its documented steps the loop loses a write or leaves a thread asleep, and its counters say so.

    Says nothing about the kernel: it shows that the two tests of the loop can fail. Source: userfaultfd.rst, comments
    of steps 2 and 4 of the workflow.
    """
    counters = _evict(subject, mode, seed, variant)
    assert getattr(counters, harm) > 0
