"""What the kernel does to pages by itself, on every kind of memory: what was protected stays so, and nothing else.

Reclaim, migration, splitting, merging, memory failure: see ``test_matrix.py`` for what a row is. Each operation is seen
to have happened. Source: userfaultfd.rst ("Protection is preserved across page reclaim"; "The same applies to pages
temporarily replaced by migration entries"); invariants I2 to I5; of each operation the function named in its row.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest

from kselftests_py.lab import RWP, KernelRefused, Page, Subject, ops
from kselftests_py.lab.kinds import HUGE, HUGETLB
from kselftests_py.lab.matrix import (
    Case,
    Cell,
    brief,
    found,
    marks,
    pagemap,
    protect,
    protect_all,
    resolve,
    scan,
    swap_out,
    touched,
)
from kselftests_py.lab.operations import NEEDS, Operation, Row, only, rows

KPF_COMPOUND = 1 << 15 | 1 << 16
KPF_KSM = 1 << 21
"""Of /proc/kpageflags: head and tail of a large folio; a page that KSM has merged."""
SCANS = 2
"""Passes of KSM over all memory: a page is taken once it has not changed between two."""
BOUND_MS = 20_000
FILLING, RUN = 12288, 64
"""Pages of the filling for compaction, and of each run in it."""
COMPACTIONS = 4
"""One in ten or so moves nothing of ours."""
STEP = {"thp": 2 << 20, "mthp": 64 << 10}
"""Bytes of a large folio: one address of it migrates it all."""


def _advise(case: Case, advice: str) -> None:
    case.each(lambda cell: ops.madvise(cell.region.addr, cell.region.length, advice))


def pageout(case: Case) -> None:
    """try_to_unmap_one(), swp_pte_prepare(), do_swap_page(); shmem: cond_install_uffd_wp_ptes(), shmem_fault()."""
    swap_out(case)


def swapoff(case: Case) -> None:
    """unuse_pte(); shmem_unuse()."""
    pageout(case)
    case.subject.call(ops.swap_cycle())
    swapped = case.each(lambda cell: scan(cell, Page.SWAPPED))
    # A marker of write protection where shared memory was counts as swapped, too.
    left = [
        str(cell)
        for cell, (seen,) in zip(case.cells, swapped, strict=True)
        if cell.kind.kind == "anon" and found(cell, seen)
    ]
    assert not left, f"still swapped out after swapoff: {left}"


def compressed(case: Case) -> None:
    """zswap_store(), zswap_load(): the pages stay in memory, compressed."""
    stored = case.subject.call(ops.knob("vmstat", "zswpout")).value
    try:
        case.subject.call(ops.knob_set("zswap_enabled", "Y"))
    except KernelRefused as refused:
        pytest.skip(f"zswap cannot be switched on: {refused}")
    try:
        pageout(case)
    finally:
        case.subject.call(ops.knob_set("zswap_enabled", "N"))
    if case.subject.call(ops.knob("vmstat", "zswpout")).value == stored:
        pytest.skip("zswap took no page (the guest has no compressor for it)")


def read_ahead(case: Case) -> None:
    """MADV_WILLNEED: swapin_walk_pmd_entry(): swapped pages come into the swap cache, and are not mapped."""
    pageout(case)
    _advise(case, "WILLNEED")


def freed_lazily(case: Case) -> None:
    """MADV_FREE: madvise_free_pte_range(), madvise_free_huge_pmd(): nothing is dropped before reclaim."""
    _advise(case, "FREE")


def migrate(case: Case) -> None:
    """try_to_migrate_one(), remove_migration_pte(), remove_migration_pmd(), set_pmd_migration_entry()."""
    asked = case.each(lambda cell: ops.move_pages(cell.region.addr, cell.region.length, cell.region.page_size))
    here = {str(cell): nodes.nodes[0] for cell, (nodes,) in zip(case.cells, asked, strict=True)}
    _move(case, lambda cell: 1 - here[str(cell)])


def _move(case: Case, node: Callable[[Cell], int]) -> None:
    """move_pages(2) of each cell. :raises AssertionError: its first page is not where it was sent."""
    moved = case.each(
        lambda cell: ops.move_pages(cell.region.addr, cell.region.length, cell.region.page_size, node(cell))
    )
    for cell, (nodes,) in zip(case.cells, moved, strict=True):
        assert nodes.nodes[0] == node(cell), f"{cell}: move_pages: the first page is on {nodes.nodes[0]}"


def held_in_migration(case: Case) -> None:
    """change_softleaf_pte(), change_non_present_huge_pmd(), hugetlb_change_protection(): while its pages are migration
    entries all are resolved, and those that are to be protected are protected again; both is seen in the entries, and
    PAGEMAP_SCAN tells of the others as it does of pages.
    """
    case.each(protect_all)
    for cell in case.cells:
        step = STEP.get(cell.kind.name, cell.region.page_size)
        count = 1 if step >= 2 << 20 else cell.region.length // step
        calls = [
            resolve(cell, 0, len(cell.region)),
            pagemap(cell),
            *protect(cell),
            pagemap(cell),
            scan(cell, touched(cell)),
        ]
        try:
            results = case.subject.call(ops.held(cell.region.addr, count, step, calls)).results
        except KernelRefused as refused:
            pytest.skip(f"{cell}: {refused}")
        answers = [ops.result_of(item, call) for item, call in zip(results, calls, strict=True)]
        assert marks(cell, answers[1]) == set(), f"{cell}: markers that resolving left on migration entries"
        markers, hot = marks(cell, answers[-2]), found(cell, answers[-1])
        assert markers == cell.armed, f"{cell}: markers {brief(markers)} on migration entries, not {brief(cell.armed)}"
        told = f"{cell}: reported {brief(hot)} of migration entries, not {brief(cell.free)}"
        assert cell.delivery == "sync" or hot == cell.free, told


def compact(case: Case) -> None:
    """compact_node(): pages are migrated to free frames of higher numbers; which ones, is not ours to say."""
    if not any(_compacted(case) for _ in range(COMPACTIONS)):
        pytest.skip(f"{COMPACTIONS} compactions moved no page of any kind")


def _compacted(case: Case) -> bool:
    """Whether some page of some cell was moved by compaction, which fills blocks that are in use in part.

    So that there are such above the pages of the cells, a filling loses every other run of its pages, the lowest one
    last, and the cells come from the other node into what was freed last. Frames kept back for a CPU are no targets.
    """
    filling = case.subject.region("anon", FILLING).populate()
    node = filling.nodes()[0]
    frames = case.subject.call(ops.frames(filling.addr, FILLING)).frames
    highest_first = sorted(range(0, FILLING, RUN), key=lambda first: -frames[first])
    _move(case, lambda _: 1 - node)
    case.subject.call(ops.knob_set("pcp_high_fraction", "1000"))
    try:
        length = RUN * filling.page_size
        case.subject.batch(*[ops.madvise(filling[first], length, "DONTNEED") for first in highest_first[1::2]])
        _move(case, lambda _: node)
        before = _frames(case)
        case.subject.call(ops.knob_set("compact_memory", "1"))
        return _frames(case) != before
    finally:
        case.subject.call(ops.knob_set("pcp_high_fraction", "0"))
        filling.unmap()


def _frames(case: Case) -> dict[str, list[int]]:
    """The frame of each page of 4 KiB."""
    told = case.each(lambda cell: ops.frames(cell.region.addr, cell.region.length // 4096))
    return {str(cell): frames.frames for cell, (frames,) in zip(case.cells, told, strict=True)}


def soft_offline(case: Case) -> None:
    """soft_offline_page(): the frame of a page beside protected ones is given up, what is in it is migrated."""
    case.each(lambda cell: ops.madvise(cell.region[2], cell.region.page_size, "SOFT_OFFLINE"))


def neighbour_fails(case: Case) -> None:
    """memory_failure(): unmap_poisoned_folio() takes one page away; a large folio is split for it."""
    for cell in case.cells:
        cell.gone = range(2, 3)
    actor = case.subject.call(ops.actor()).actor
    told = case.each(
        lambda cell: [ops.access(actor, "hwpoison", cell.region[2]), ops.latest_ticket(actor, "done", 2000)]
    )
    for cell, (_, done) in zip(case.cells, told, strict=True):
        assert done.state == "done", f"{cell}: MADV_HWPOISON is {done.state}"
        assert done.signal == "SIGBUS" or done.value == 0, f"{cell}: MADV_HWPOISON: errno {done.value}"


def split(case: Case) -> None:
    """split_huge_page_to_order(): unmap_folio(), remap_page() by way of migration entries; or the huge PMD alone."""
    for cell in case.cells:
        span = f"{case.subject.pid},{cell.region.addr:#x},{cell.region.end:#x},0"
        case.subject.call(ops.knob_set("split_huge_pages", span))
    flags = case.each(lambda cell: ops.page_flags(cell.region.addr, 1))
    whole = [str(cell) for cell, (seen,) in zip(case.cells, flags, strict=True) if seen.flags[0] & KPF_COMPOUND]
    assert not whole, f"split_huge_pages left whole: {whole}"


def merged(case: Case) -> None:
    """write_protect_page(), replace_page() in mm/ksm.c: equal pages become one. All cells hold the same bytes."""
    _merge(case)


def unmerged(case: Case) -> None:
    """MADV_UNMERGEABLE: break_ksm() has each merged page faulted in, the protected ones too: no access by anybody.

    Pages are merged while nothing is protected.
    """
    case.each(lambda cell: resolve(cell, 0, len(cell.region)))
    _merge(case)
    case.each(protect)
    _advise(case, "UNMERGEABLE")
    flags = case.each(lambda cell: ops.page_flags(cell.region.addr, len(cell.region)))
    left = [
        str(cell) for cell, (seen,) in zip(case.cells, flags, strict=True) if any(word & KPF_KSM for word in seen.flags)
    ]
    assert not left, f"merged still after MADV_UNMERGEABLE: {left}"


def _merge(case: Case) -> None:
    """Let KSM merge what it can. :raises AssertionError: a page that is not protected was left alone."""
    _advise(case, "MERGEABLE")
    try:
        for name, value in (("ksm_sleep", "0"), ("ksm_pages_to_scan", "100000"), ("ksm_run", "1")):
            case.subject.call(ops.knob_set(name, value))
        passed = case.subject.call(ops.knob("ksm_full_scans")).value
        case.subject.call(ops.knob("ksm_full_scans", at_least=passed + SCANS + 1, timeout_ms=BOUND_MS))
    finally:
        case.subject.call(ops.knob_set("ksm_run", "0"))
    flags = case.each(lambda cell: ops.page_flags(cell.region[2], 1))
    apart = [str(cell) for cell, (seen,) in zip(case.cells, flags, strict=True) if not seen.flags[0] & KPF_KSM]
    assert not apart, f"a page that is not protected was not merged: {apart}"


def numa_hinted(case: Case) -> None:
    """change_prot_numa(), do_numa_page(), numa_rebuild_large_mapping(), do_huge_pmd_numa_page(): free pages get hints
    beside protected ones; a page that is hinted is accessed without a message.
    """
    settings = {"numa_scan_delay": "10", "numa_scan_period_min": "10", "numa_scan_period_max": "20"}
    was = {name: case.subject.call(ops.knob(name)).value for name in settings}
    hints, faults = (
        case.subject.call(ops.knob("vmstat", key)).value for key in ("numa_pte_updates", "numa_hint_faults")
    )
    try:
        for name, value in (*settings.items(), ("numa_balancing", "1")):
            case.subject.call(ops.knob_set(name, value))
        # The scan is the work of a thread that runs; its own page is hinted, too, and faults.
        busy = case.subject.region("anon", 1).populate()
        case.subject.actor().repeat("rmw", busy[0])
        free = sum(len(cell.free) for cell in case.cells)
        seen = case.subject.call(ops.knob("vmstat", "numa_pte_updates", hints + free, BOUND_MS)).value
        assert seen >= hints + free, f"{seen - hints} pages were hinted, {free} are free to be"
        assert case.subject.call(ops.knob("vmstat", "numa_hint_faults", faults + 1, BOUND_MS)).value > faults
    finally:
        for name, value in (("numa_balancing", "0"), *((name, str(value)) for name, value in was.items())):
            case.subject.call(ops.knob_set(name, value))


ANON = ("anon", "mthp", "read_only")
SWAPPED = (*ANON, "thp")
SHARED = ("anon_shared", "shmem", "tmpfs")
PRIVATE = (*ANON, "thp", "zero", "huge_zero", "shmem_private")
NOT_SWAPPED = {
    "zero": "the zero page is not swapped out",
    "huge_zero": "the huge zero page is not swapped out",
    **dict.fromkeys(HUGETLB, "hugetlb is not swapped out"),
}
LOST = {(kind, "rwp"): "F025" for kind in (*SHARED, "shmem_private")}
ZERO_STAYS = {
    "zero": "the zero page belongs to everybody",
    "huge_zero": "the huge zero page belongs to everybody",
}
NOT_MOVED = {
    **ZERO_STAYS,
    "shmem_thp": "write protection takes it out of the page table, and leaves markers",
}
NOT_COMPACTED = {
    **ZERO_STAYS,
    **dict.fromkeys(("thp", "shmem_thp", *HUGETLB), "compaction leaves pages of 2 MiB where they are"),
}
HELD = ("anon", "thp", "mthp", "shmem", "hugetlb_private")
POOL = dict.fromkeys(HUGETLB, "would take huge pages away from the tests after it")
LEFT_ALONE = {
    **dict.fromkeys(HUGETLB, "NUMA balancing leaves hugetlb alone"),
    "shmem_private": "its second half is a mapped file, which NUMA balancing leaves alone",
}
NO_FRAMES = {
    **ZERO_STAYS,
    **POOL,
    **dict.fromkeys(("thp", "shmem_thp"), "injecting a failure reads the page, and all its pages are protected"),
}
OPERATIONS = [
    Operation(pageout, ("swap",), NOT_SWAPPED, LOST),
    Operation(swapoff, ("swap",), NOT_SWAPPED, LOST),
    Operation(compressed, ("swap", "zswap"), only(SWAPPED, "zswap is what anonymous memory is swapped to")),
    Operation(read_ahead, ("swap",), NOT_SWAPPED, LOST),
    Operation(freed_lazily, absent=only(PRIVATE[:-1], "MADV_FREE takes private anonymous memory")),
    Operation(migrate, ("nodes",), NOT_MOVED),
    Operation(
        held_in_migration, ("nodes", "smp", "guest"),
        {
            **only(HELD, "its entries are those of another kind"),
            "hugetlb": "the migration has the lock of the file until its end, and protecting waits for that",
        },
        beside=("anon",),  # each is held by itself, which takes long
    ),
    Operation(compact, ("compaction", "nodes"), NOT_COMPACTED),
    Operation(soft_offline, ("hwpoison", "guest"), NO_FRAMES),
    Operation(neighbour_fails, ("hwpoison", "guest"), NO_FRAMES),
    Operation(
        split, ("split_huge_pages", "page_flags"), only(("thp", "mthp", "shmem_thp"), "is not in large folios")
    ),
    Operation(
        merged, ("ksm", "page_flags"),
        only(("anon", "mthp"), "of what KSM merges, private anonymous memory, one of each size"),
        {(kind, which): "F026" for kind in ("anon", "mthp") for which in ("rwp", "wp")},
    ),
    Operation(
        unmerged, ("ksm", "page_flags"),
        only(("anon", "mthp"), "of what KSM merges, private anonymous memory, one of each size"),
        {(kind, "rwp"): "F029" for kind in ("anon", "mthp")},
    ),
    Operation(
        numa_hinted, ("numa_balancing", "nodes"),
        {**ZERO_STAYS, **LEFT_ALONE},
    ),
]  # fmt: skip


@pytest.mark.contract("F9", "P21", "P22", "I2", "I3", "I4", "I5")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize(("operation", "protection", "kinds"), rows(OPERATIONS))
def test_protection_survives(check_row: Row, operation: Operation, protection: str, kinds: tuple[str, ...]) -> None:
    """Pages that were protected before the operation have the marker and trap; the others neither; no byte changed."""
    check_row(operation, protection, kinds)


@pytest.mark.contract("I8", "P15")
@pytest.mark.needs(*NEEDS["rwp"], "shmem_thp")
@pytest.mark.finding("F024")
@pytest.mark.control("skip_protect")
@pytest.mark.parametrize("pages", [HUGE, HUGE // 2], ids=["whole", "part"])
def test_huge_page_of_shared_memory_is_protected(subject: Subject, pages: int) -> None:
    """Protecting a huge page of a memfd, or a part of it, protects its pages, as with any other memory.

    Source: userfaultfd.rst, "sets PROT_NONE on present PTEs in the range. Pages stay resident"; I8.
    """
    region = subject.region("shmem", HUGE, thp="always").populate()
    assert region.pages_with(Page.HUGE) == set(range(HUGE)), "set-up: the memory is not mapped by a huge page"
    uffd = subject.uffd(RWP)
    uffd.register(region, RWP)
    uffd.protect(region[:pages])
    assert region.marked_pages() == set(range(pages))
    assert subject.actor().read(region[1]).blocked
