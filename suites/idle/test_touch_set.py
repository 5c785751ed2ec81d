"""Idle pages: what a tracker says was touched, against the set of pages that the test did touch.

The touch set is drawn from a seed, so the truth is exact, and the same for the same seed: a share of the pages is read,
a share written, some both, and the rest left alone. RWP must find exactly the touched pages; wp-only finds exactly the
written ones, so the pages that were only read look idle to it and would be evicted although they are hot.
"""

from __future__ import annotations

import random
from collections.abc import Callable

import pytest

from kselftests_py.lab import Subject
from kselftests_py.lab.cases import track

PAGES = 256
READ = 64
WRITTEN = 32
SEEDS = [1, 2]


def touch_set(seed: int) -> tuple[list[int], list[int]]:
    """Page numbers to read and to write, in the order in which to do so; the two lists overlap in a few pages."""
    draw = random.Random(seed)
    return draw.sample(range(PAGES), READ), draw.sample(range(PAGES), WRITTEN)


def _record(
    record_metric: Callable[..., None], protection: str, kind: str, read: list[int], written: list[int], found: set[int]
) -> set[int]:
    """Record what the tracker *found* of the pages that were touched; returns these, the hot pages.

    ``hot_pages_evicted`` are those that look idle to the tracker; precision is the share of *found* that is hot (of
    an empty *found*, 1), recall the share of the hot pages that was found.
    """
    hot = {*read, *written}
    labels = {"path": "idle", "protection": protection, "delivery": "async", "kind": kind}
    for name, pages in (
        ("hot_pages", hot),
        ("read_only_hot_pages", hot - set(written)),
        ("found_pages", found),
        ("hot_pages_evicted", hot - found),
        ("read_only_hot_pages_evicted", hot - set(written) - found),
    ):
        record_metric(name, len(pages), "pages", labels=labels)
    record_metric("precision", len(found & hot) / len(found) if found else 1.0, "ratio", labels=labels)
    record_metric("recall", len(found & hot) / len(hot), "ratio", labels=labels)
    return hot


@pytest.mark.needs("rwp", "rwp_async", "pagemap_scan", "page_accessed")
@pytest.mark.control("skip_protect", "touch_neighbour", "hide_accessed")
@pytest.mark.parametrize("seed", SEEDS, indirect=True)
@pytest.mark.parametrize("kind", ["anon", "shmem"])
def test_rwp_finds_exactly_the_touched_pages(
    subject: Subject, record_metric: Callable[..., None], kind: str, seed: int
) -> None:
    """RWP async and one PAGEMAP_SCAN return the touched pages, all of them and no others: precision 1, recall 1.

    Source: userfaultfd.rst, Working-set detection with PAGEMAP_SCAN; I3, I4 of the UAPI contract.
    """
    read, written = touch_set(seed)
    region, uffd = track(subject, kind, "rwp", "async", PAGES)
    uffd.protect(region)
    actor = subject.actor()
    assert actor.touch("read", region, read).done
    assert actor.touch("write", region, written, value=1).done
    found = region.accessed_pages()
    hot = _record(record_metric, "rwp", kind, read, written, found)
    assert found == hot


@pytest.mark.needs("wp", "wp_shmem", "wp_async", "pagemap_scan")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("seed", SEEDS, indirect=True)
@pytest.mark.parametrize("kind", ["anon", "shmem"])
def test_wp_finds_exactly_the_written_pages(
    subject: Subject, record_metric: Callable[..., None], kind: str, seed: int
) -> None:
    """WP async and one PAGEMAP_SCAN return the written pages and no others: pages that were only read look idle.

    Source: pagemap.rst, PAGE_IS_WRITTEN; debate of April 2026 ("proper working-set discovery cannot" be done with WP).
    """
    read, written = touch_set(seed)
    region, uffd = track(subject, kind, "wp", "async", PAGES)
    uffd.protect(region)
    actor = subject.actor()
    assert actor.touch("read", region, read).done
    assert actor.touch("write", region, written, value=1).done
    found = region.written_pages()
    _record(record_metric, "wp", kind, read, written, found)
    assert found == set(written)


@pytest.mark.needs("rwp", "rwp_async", "pagemap_scan", "page_accessed")
@pytest.mark.control("skip_protect", "touch_neighbour")
@pytest.mark.parametrize("kind", ["anon", "shmem"])
def test_rwp_calls_nothing_hot_that_nobody_touched(subject: Subject, kind: str) -> None:
    """Three intervals in which one page is touched each: every scan returns that page alone, never an older one.

    Source: I4 of the UAPI contract; the tracking loop of userfaultfd.rst.
    """
    region, uffd = track(subject, kind, "rwp", "async", PAGES)
    actor = subject.actor()
    for page in (7, 200, 8):
        uffd.protect(region)
        assert actor.touch("read", region, [page]).done
        assert region.accessed_pages() == {page}
