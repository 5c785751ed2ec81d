"""What the kernel under test can do, as it was probed there: never derived from a version number."""

from __future__ import annotations

import difflib
from collections.abc import Callable

from kselftests_py.errors import UsageError
from kselftests_py.lab.constants import Feature
from kselftests_py.lab.errors import printable
from kselftests_py.lab.replies import Caps

HUGETLB_PAGES = 12
"""Free 2 MiB pages that the suites' hugetlb cases need at most."""


class Capabilities:
    """Answers "is *name* missing, and why" for the names that ``needs`` takes.

    ``raw`` is the probe's answer, ``features`` what UFFDIO_API offers.
    """

    def __init__(self, raw: Caps) -> None:
        self.raw = raw
        self.features = Feature(raw.uffd_features)

    def missing(self, name: str) -> str | None:
        """None if the kernel can do *name*, else the reason. Raises UsageError for a name nobody defined."""
        check = _CHECKS.get(name)
        if check is None:
            close = difflib.get_close_matches(name, _CHECKS, n=1)
            hint = f"did you mean {close[0]}?" if close else f"known are {', '.join(_CHECKS)}"
            raise UsageError(f"needs({name!r}): there is no such capability; {hint}")
        return check(self)

    def names(self) -> list[str]:
        """The capabilities that are there."""
        return [name for name in _CHECKS if self.missing(name) is None]


_Check = Callable[[Capabilities], str | None]


def _feature(*wanted: Feature) -> _Check:
    def check(caps: Capabilities) -> str | None:
        if not caps.raw.uffd_ioctls:
            return _no_uffd(caps)
        absent = [f"UFFD_FEATURE_{bit.name}" for bit in wanted if bit not in caps.features]
        return f"UFFDIO_API does not offer {', '.join(absent)} (features {caps.features:#x})" if absent else None

    return check


def _no_uffd(caps: Capabilities) -> str | None:
    return None if caps.raw.uffd_ioctls else "userfaultfd(2) is not to be had in this kernel"


def _flag(field: str, reason: str) -> _Check:
    return lambda caps: None if getattr(caps.raw, field) else reason


def _hugetlb(caps: Capabilities) -> str | None:
    free = caps.raw.hugetlb_free
    return None if free >= HUGETLB_PAGES else f"{free} free 2 MiB huge pages, {HUGETLB_PAGES} needed"


def _kvm(caps: Capabilities) -> str | None:
    return f"no virtual machine can be had: {printable(caps.raw.kvm)}" if caps.raw.kvm else None


def _two_cpus(caps: Capabilities) -> str | None:
    return None if caps.raw.cpus >= 2 else "one CPU: accesses cannot race"


def _guest(caps: Capabilities) -> str | None:
    return None if caps.raw.guest else "not a guest of kst: the settings of this machine are not ours to change"


def _knobs(*names: str, option: str) -> _Check:
    """A kernel thread that these knobs (native_probes/knobs.c) set going, in a guest of our own."""

    def check(caps: Capabilities) -> str | None:
        absent = sorted(set(names) - set(caps.raw.knobs))
        return f"the kernel has no {', '.join(absent)} ({option})" if absent else _guest(caps)

    return check


def _two_nodes(caps: Capabilities) -> str | None:
    return None if caps.raw.nodes >= 2 else "one NUMA node: nothing to migrate between"


_CHECKS: dict[str, _Check] = {
    "uffd": _no_uffd,
    "wp": _feature(Feature.PAGEFAULT_FLAG_WP),
    "wp_shmem": _feature(Feature.PAGEFAULT_FLAG_WP, Feature.WP_HUGETLBFS_SHMEM),
    "wp_async": _feature(Feature.WP_ASYNC),
    "wp_unpopulated": _feature(Feature.WP_UNPOPULATED),
    "rwp": _feature(Feature.RWP),
    "rwp_async": _feature(Feature.RWP, Feature.RWP_ASYNC),
    "minor_shmem": _feature(Feature.MINOR_SHMEM),
    "minor_hugetlb": _feature(Feature.MINOR_HUGETLBFS),
    "missing_shmem": _feature(Feature.MISSING_SHMEM),
    "move": _feature(Feature.MOVE),
    "poison": _feature(Feature.POISON),
    "event_fork": _feature(Feature.EVENT_FORK),
    "event_remap": _feature(Feature.EVENT_REMAP),
    "exact_address": _feature(Feature.EXACT_ADDRESS),
    "thread_id": _feature(Feature.THREAD_ID),
    "pagemap_scan": _flag("pagemap_scan", "/proc/self/pagemap has no PAGEMAP_SCAN"),
    "page_accessed": _flag("page_accessed", "PAGEMAP_SCAN does not know PAGE_IS_ACCESSED"),
    "page_idle": _flag("page_idle", "no /sys/kernel/mm/page_idle (CONFIG_IDLE_PAGE_TRACKING)"),
    "lru_gen": _flag("lru_gen", "no multi-generational LRU (CONFIG_LRU_GEN)"),
    "damon": _flag("damon", "no DAMON (CONFIG_DAMON_SYSFS)"),
    "soft_dirty": _flag("soft_dirty", "no soft-dirty bits (CONFIG_MEM_SOFT_DIRTY)"),
    "swap": _flag("swap", "no active swap"),
    "thp": _flag("thp", "no transparent huge pages"),
    "hugetlb": _hugetlb,
    "smp": _two_cpus,
    "nodes": _two_nodes,
    "kvm": _kvm,
    "guest": _guest,
    "mthp": _flag("mthp", "huge pages of 64 KiB are not switched on"),
    "shmem_thp": _flag("shmem_thp", "huge pages of shared memory are not switched on"),
    "hwpoison": _flag("hwpoison", "no handling of memory failures (CONFIG_MEMORY_FAILURE)"),
    "page_flags": _flag("page_flags", "/proc/kpageflags cannot be read"),
    "clear_refs": lambda caps: None if "clear_refs" in caps.raw.knobs else "no /proc/self/clear_refs can be written",
    "io_uring": _flag("io_uring", "io_uring_setup(2) is not to be had"),
    "guard": _flag("guard", "madvise has no MADV_GUARD_INSTALL of shared memory"),
    "zswap": _knobs("zswap_enabled", option="CONFIG_ZSWAP"),
    "compaction": _knobs("compact_memory", "pcp_high_fraction", option="CONFIG_COMPACTION"),
    "ksm": _knobs("ksm_run", "ksm_sleep", "ksm_pages_to_scan", option="CONFIG_KSM"),
    "khugepaged": _knobs("khugepaged_sleep", "khugepaged_pages_to_scan", option="CONFIG_TRANSPARENT_HUGEPAGE"),
    "split_huge_pages": _knobs("split_huge_pages", option="CONFIG_DEBUG_FS"),
    "numa_balancing": _knobs(
        "numa_balancing", "numa_scan_delay", "numa_scan_period_min", option="CONFIG_NUMA_BALANCING"
    ),
}
