"""Protection is exact at the edges of its range: the pages before and after are as free as before.

Source: userfaultfd_rwprotect(), userfaultfd_writeprotect() and change_protection(): [start, start + len);
invariants I2 and I8 of the UAPI contract.
"""

from __future__ import annotations

import pytest

from kselftests_py.lab import Subject
from kselftests_py.lab.cases import KINDS, track

PAGES = 7
RANGES = [pytest.param(2, 3, id="one-page"), pytest.param(2, 5, id="three-pages")]
PROTECTIONS = [
    pytest.param("rwp", marks=pytest.mark.needs("rwp")),
    pytest.param("wp", marks=pytest.mark.needs("wp", "wp_shmem")),
]
TRACKERS = [
    pytest.param("rwp", marks=pytest.mark.needs("rwp", "rwp_async", "pagemap_scan", "page_accessed")),
    pytest.param("wp", marks=pytest.mark.needs("wp", "wp_shmem", "wp_async", "pagemap_scan")),
]


@pytest.mark.contract("I2", "I8")
@pytest.mark.control("skip_protect", "protect_one_more", "protect_one_less")
@pytest.mark.parametrize(("first", "behind"), RANGES)
@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_range_is_trapped(subject: Subject, kind: str, protection: str, first: int, behind: int) -> None:
    """Writes to every page outside the range pass; writes to its first and its last page block.

    Source: I2, I8.
    """
    region, uffd = track(subject, kind, protection, "sync", pages=PAGES)
    uffd.protect(region[first:behind])
    outside = [page for page in range(PAGES) if not first <= page < behind]
    passing = subject.actor().touch("write", region, outside, value=1)
    assert not passing.blocked
    assert passing.done
    assert uffd.events() == []
    for page in {first, behind - 1}:
        assert subject.actor().write(region[page], 1).blocked
    assert region.marked_pages() == set(range(first, behind))


@pytest.mark.contract("I8", "S3")
@pytest.mark.control("skip_protect", "protect_one_more", "protect_one_less")
@pytest.mark.parametrize(("first", "behind"), RANGES)
@pytest.mark.parametrize("protection", TRACKERS)
@pytest.mark.parametrize("kind", KINDS)
def test_only_the_range_is_tracked(subject: Subject, kind: str, protection: str, first: int, behind: int) -> None:
    """A scan right after protecting calls the pages of the range untouched, and those around it touched.

    Source: pagemap_page_category() in fs/proc/task_mmu.c: present without the marker is ACCESSED or WRITTEN; I8.
    """
    region, uffd = track(subject, kind, protection, "async", pages=PAGES)
    uffd.protect(region[first:behind])
    touched = region.accessed_pages() if protection == "rwp" else region.written_pages()
    assert touched == set(range(PAGES)) - set(range(first, behind))


@pytest.mark.control("skip_protect", "protect_one_more")
@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_resolving_part_of_a_range_leaves_the_rest(subject: Subject, kind: str, protection: str) -> None:
    """Resolving the middle of a protected range frees exactly its pages; those before and after stay protected.

    Source: I2, I8; userfaultfd.rst, Protecting and Unprotecting.
    """
    region, uffd = track(subject, kind, protection, "sync", pages=PAGES)
    uffd.protect(region[1:6])
    uffd.resolve(region[2:4])
    free = subject.actor().touch("write", region, [0, 2, 3, 6], value=1)
    assert not free.blocked
    assert free.done
    for page in (1, 4):
        assert subject.actor().write(region[page], 1).blocked
    assert region.marked_pages() == {1, 4, 5}
