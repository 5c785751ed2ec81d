"""PAGEMAP_SCAN on RWP memory: which categories, which flags, which refusals.

Source: pagemap_page_category(), pagemap_scan_test_walk() and pagemap_scan_get_args() in fs/proc/task_mmu.c;
Documentation/admin-guide/mm/pagemap.rst; contract.toml, S1 to S12.
"""

from __future__ import annotations

from typing import Any

import pytest

from kselftests_py.lab import RWP, RWP_ASYNC, WP, WP_ASYNC, WP_SHMEM, Page, Region, ScanFlag, Subject, Term, Uffd, ops
from kselftests_py.lab.cases import DISTINCT_KINDS, track
from kselftests_py.lab.ops import Op
from kselftests_py.lab.refusals import check_refusals

pytestmark = pytest.mark.needs("rwp", "rwp_async", "pagemap_scan", "page_accessed")

contract = pytest.mark.contract
KNOWN_FLAGS = ScanFlag.WP_MATCHING | ScanFlag.CHECK_WPASYNC
BITS = Page.ACCESSED | Page.WRITTEN | Page.PRESENT | Page.SWAPPED
SCAN_WORDS = 12  # struct pm_scan_arg: size flags start end walk_end vec vec_len max_pages and four masks


def mixed(subject: Subject, kind: str, wanted: Term) -> tuple[Region, Uffd]:
    """Six pages, two of each: RWP, WP, not registered; the second of each pair is a hole."""
    region = subject.region(kind, 6)
    for page in (0, 2, 4):
        region.populate(pages=slice(page, page + 1))
    uffd = subject.uffd(RWP | WP | WP_SHMEM | wanted)
    uffd.register(region[0:2], RWP)
    uffd.register(region[2:4], WP)
    return region, uffd


def categories(subject: Subject, region: Region) -> list[Page]:
    """What the scan says of each page, of ACCESSED, WRITTEN, PRESENT and SWAPPED."""
    found = [Page(0)] * len(region)
    for start, end, bits in subject.pagemap_scan(region, mask=0, returns=BITS):
        for page in range(region.page_of(start), region.page_of(end - 1) + 1):
            found[page] |= Page(bits)
    return found


@contract("S1", "S2", "S3", "S5")
@pytest.mark.needs("wp", "wp_shmem")
@pytest.mark.control("wrong_category", "hide_accessed")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_each_category_has_its_mode(subject: Subject, kind: str) -> None:
    """ACCESSED is reported in RWP ranges only and WRITTEN in WP ranges only; a hole of an RWP range is neither.

    Source: pagemap_page_category() and pagemap_hugetlb_category(): userfaultfd_rwp(vma), userfaultfd_wp(vma).
    """
    region, _ = mixed(subject, kind, Term())
    present = Page.PRESENT
    hole_wp = Page(0) if kind == "hugetlb" else Page.WRITTEN  # "hugetlb differs": pagemap_scan_pte_hole()
    assert categories(subject, region) == [
        present | Page.ACCESSED,
        Page(0),
        present | Page.WRITTEN,
        hole_wp,
        present,
        Page(0),
    ]


@contract("S4", "S5")
@pytest.mark.control("hide_accessed", "skip_protect")
@pytest.mark.needs("thp")
def test_huge_page_is_accessed_as_a_whole(subject: Subject) -> None:
    """An armed transparent huge page is not ACCESSED; one access makes it so as a whole; the page beside it is not.

    Source: pagemap_thp_category(); do_huge_pmd_uffd_rwp().
    """
    region = subject.region("anon", 1024, thp="always").populate()
    uffd = subject.uffd(RWP | RWP_ASYNC)
    uffd.register(region, RWP)
    huge = subject.pagemap_scan(region, Page.HUGE)
    if [(start, end) for start, end, _ in huge] != [(region.addr, region.end)]:
        pytest.skip("the kernel had no two huge pages to give")
    assert region.accessed_pages() == set(range(1024))
    uffd.protect(region)
    assert region.accessed_pages() == set()
    assert subject.actor().read(region[700]).done
    assert region.accessed_pages() == set(range(512, 1024))


@contract("S6", "P24")
@pytest.mark.needs("swap")
@pytest.mark.control("skip_protect", "hide_accessed")
def test_swapped_pages(subject: Subject) -> None:
    """A page swapped out while armed stays armed and not ACCESSED, traps, and resolving reaches its swap entry.

    Source: pagemap_page_category(): swap entries; do_swap_page(): rwp_restore; change_pte_range(): swap entries.
    """
    region, uffd = track(subject, "anon", "rwp", "sync", pages=4)
    uffd.protect(region[:3])
    subject.call(ops.settle(region.addr))  # a page that waits for its LRU list is not reclaimed
    region.madvise("PAGEOUT")
    swapped = region.pages_with(Page.SWAPPED)
    assert swapped == {0, 1, 2, 3}
    assert region.accessed_pages() == {3}
    assert region.marked_pages() == {0, 1, 2}
    reader = subject.actor().read(region[0])
    assert reader.blocked
    uffd.resolve(region[:2])
    assert reader.done
    assert region.marked_pages() == {2}
    assert subject.actor().read(region[1]).done
    uffd.resolve(region)
    assert region.changed_pages() == set()


@contract("S7")
@pytest.mark.needs("wp_async", "wp_shmem")
@pytest.mark.control("wrong_category")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_wp_matching_skips_rwp_ranges(subject: Subject, kind: str) -> None:
    """PM_SCAN_WP_MATCHING reports and protects nothing in an RWP range, without an error; beside it, it does in WP.

    Source: pagemap_scan_test_walk(): "silently skipping unsupported vmas".
    """
    region, _ = mixed(subject, kind, WP_ASYNC | RWP_ASYNC)
    seen = subject.pagemap_scan(
        region, Page.PRESENT, Page.PRESENT | Page.ACCESSED | Page.WRITTEN, flags=int(ScanFlag.WP_MATCHING)
    )
    assert seen == [(region[2], region[3], Page.PRESENT | Page.WRITTEN)]
    assert region.marked_pages() == {2}


@contract("S8", "I7")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_check_wpasync_refuses_rwp_ranges(subject: Subject, kind: str) -> None:
    """PM_SCAN_CHECK_WPASYNC is EPERM at an RWP range, alone or with WP_MATCHING, and changes nothing.

    Source: pagemap_scan_test_walk(); I7.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=3)
    uffd.protect(region[1:2])

    def scan(flags: ScanFlag) -> Op[Any]:
        return ops.pagemap_scan(
            region.addr, region.length, flags=int(flags), category_mask=int(Page.PRESENT), return_mask=int(Page.PRESENT)
        )

    check_refusals(
        subject,
        region,
        uffd,
        {"CHECK_WPASYNC": (scan(ScanFlag.CHECK_WPASYNC), "EPERM"), "both flags": (scan(KNOWN_FLAGS), "EPERM")},
    )


@contract("S9")
@pytest.mark.needs("wp_async", "wp_shmem")
@pytest.mark.control("wrong_category")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_wpallowed_excludes_rwp_ranges(subject: Subject, kind: str) -> None:
    """A scan for PAGE_IS_WPALLOWED finds the WP range of an async descriptor, and not its RWP range.

    Source: pagemap_scan_test_walk(): wp_allowed.
    """
    region, _ = mixed(subject, kind, WP_ASYNC | RWP_ASYNC)
    seen = subject.pagemap_scan(region, Page.WPALLOWED | Page.PRESENT, Page.WRITTEN | Page.ACCESSED)
    assert seen == [(region[2], region[3], Page.WRITTEN)]


@contract("S10", "S11", "I7")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_refusals(subject: Subject, kind: str) -> None:
    """Flags and categories without meaning, an unaligned start, another size, and a vector nowhere are EINVAL.

    Source: pagemap_scan_get_args(); I7.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=2)
    uffd.protect(region[:1])
    at, size, accessed = region.addr, region.length, int(Page.ACCESSED)
    masks = ("category_inverted", "category_mask", "category_anyof_mask", "return_mask")
    rows: dict[str, tuple[Op[Any], str]] = {
        f"an unknown bit in {name}": (ops.pagemap_scan(at, size, **{name: 1 << 40}), "EINVAL") for name in masks
    }
    rows |= {
        "an unknown flag": (ops.pagemap_scan(at, size, flags=1 << 2, category_mask=accessed), "EINVAL"),
        "an unaligned start": (ops.pagemap_scan(at + 8, size, category_mask=accessed), "EINVAL"),
        "no struct": (ops.raw_ioctl("PAGEMAP_SCAN", 0), "EFAULT"),
    }
    scratch = subject.region("anon", 2).addr
    structs = {
        "another size": [8 * SCAN_WORDS - 8, 0, at, at + size, 0, 0, 0, 0, 0, accessed, 0, accessed],
        "a vector nowhere": [8 * SCAN_WORDS, 0, at, at + size, 0, 0, 4, 0, 0, accessed, 0, accessed],
    }
    for number, (name, words) in enumerate(structs.items()):
        struct = scratch + 256 * number
        subject.batch(*[ops.poke(struct + 8 * n, word) for n, word in enumerate(words)])
        rows[name] = (ops.raw_ioctl("PAGEMAP_SCAN", struct), "EINVAL")
    check_refusals(subject, region, uffd, rows)


@contract("S12")
@pytest.mark.control("skip_protect", "hide_accessed")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_scanning_does_not_arm(subject: Subject, kind: str) -> None:
    """A scan for ACCESSED is only a look: a second one says the same, and re-arming is a call of its own.

    Source: pagemap_scan_pmd_entry(): only PM_SCAN_WP_MATCHING changes entries.
    """
    region, uffd = track(subject, kind, "rwp", "async", pages=2)
    uffd.protect(region)
    assert subject.actor().read(region[0]).done
    assert [region.accessed_pages(), region.accessed_pages()] == [{0}, {0}]
    assert region.marked_pages() == {1}


@contract("I4")
@pytest.mark.finding("F004")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("what", ["guard", "poison"])
@pytest.mark.parametrize("kind", ["anon", "shmem"])
def test_page_that_nobody_can_access_is_not_accessed(subject: Subject, kind: str, what: str) -> None:
    """A guard page, or a page of UFFDIO_POISON, is not ACCESSED once the range has been protected.

    Source: pagemap_page_category(): a marker entry is not present, and never has the uffd bit; I4.
    """
    region, uffd = track(subject, kind, "rwp", "async", pages=4, populated=slice(0, 2))
    if what == "guard":
        region.madvise("GUARD_INSTALL", region[2:3])
    else:
        subject.call(ops.fill("poison", uffd.handle, region[2], region.page_size))
    uffd.protect(region)
    assert subject.actor().read(region[1]).done
    assert region.accessed_pages() == {1}
