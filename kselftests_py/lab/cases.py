"""Set-ups that the suites share: a region of one kind, registered with one protection, not yet protected."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest

from kselftests_py.lab import ops
from kselftests_py.lab.actor import Ticket
from kselftests_py.lab.constants import RWP, RWP_ASYNC, WP, WP_ASYNC, WP_SHMEM, Feature, Page, ProtectMode, Term
from kselftests_py.lab.errors import KernelRefused
from kselftests_py.lab.region import Region
from kselftests_py.lab.subject import Subject
from kselftests_py.lab.uffd import Uffd

FILE_KINDS: list[Any] = ["shmem", "tmpfs", pytest.param("hugetlb", marks=pytest.mark.needs("hugetlb"))]
"""Shared memory, which can be mapped twice, for ``parametrize("kind", FILE_KINDS)``."""
KINDS: list[Any] = ["anon", *FILE_KINDS]
"""All memory that userfaultfd protects."""

HUGE = 512
"""Pages of a huge one."""

DISTINCT_KINDS: list[Any] = [kind for kind in KINDS if kind != "tmpfs"]
"""One of each kind that the kernel treats in its own way: a memfd is a file on tmpfs."""


def features(protection: str, delivery: str, kind: str) -> Term:
    """The features that *protection* (``rwp``, ``wp``) with *delivery* (``sync``, ``async``) needs on *kind*."""
    if protection == "rwp":
        return RWP | RWP_ASYNC if delivery == "async" else RWP
    wanted = WP if kind == "anon" else WP | WP_SHMEM
    return wanted | WP_ASYNC if delivery == "async" else wanted


def track(
    subject: Subject,
    kind: str,
    protection: str,
    delivery: str,
    pages: int,
    populated: slice = slice(None),
    extra: Feature | None = None,
) -> tuple[Region, Uffd]:
    """A region of *pages* pages whose *populated* ones hold their stamp, registered with *protection*.

    Nothing is protected yet. *extra* are further features to negotiate.
    """
    wanted = features(protection, delivery, kind) | Term(feature=extra or 0)
    mapped, opened, api = subject.batch(ops.region(kind, pages), ops.uffd_open(), ops.uffd_api(None, wanted.feature))
    region = Region.of(subject, kind, mapped)
    span, mode = region[populated], RWP if protection == "rwp" else WP
    subject.batch(
        ops.stamp(span.addr, len(span), span.page_size, 1),
        ops.register(opened.uffd, region.addr, region.length, mode.mode),
    )
    uffd = Uffd(subject, opened.uffd, api)
    uffd.registered(region, mode)
    return region, uffd


@contextmanager
def skipped_if_unavailable(tried: bool) -> Iterator[None]:
    """Skip the test if what it measures is not to be had here, as the probe found when it *tried* to make it."""
    try:
        yield
    except KernelRefused as refused:
        if not tried or refused.name != "EOPNOTSUPP":
            raise
        pytest.skip(str(refused))


def check_woken_by_wake_alone(subject: Subject, region: Region, uffd: Uffd, waiter: Ticket) -> None:
    """Page 0 of two is resolved with DONTWAKE: it is free, and *waiter* sleeps on in it, until UFFDIO_WAKE."""
    uffd.protect(region[:1], ProtectMode.DONTWAKE)
    assert region.marked_pages() == {1}
    assert subject.actor().rmw(region[0], 0).done
    assert waiter.blocked
    uffd.wake(region[:1])
    assert waiter.done


def huge(subject: Subject, pages: int = HUGE, *, populate: bool = True) -> Region:
    """Anonymous memory in huge pages (not populated: the huge zero page); where there is none, the test is skipped."""
    region = subject.region("anon", pages, thp="always")
    if populate:
        region.populate()
    else:
        assert subject.actor().read(region[0]).done
    found = subject.pagemap_scan(region[:1], Page.PRESENT, Page.PRESENT | Page.HUGE)
    if not found or not found[0][2] & Page.HUGE:
        pytest.skip("the kernel had no huge page to give")
    return region
