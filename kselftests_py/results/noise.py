"""By how much an exact figure may differ where one kernel booted otherwise, and in which functions that arises."""

from __future__ import annotations

from collections.abc import Mapping

import msgspec


class Noise(msgspec.Struct, frozen=True):
    """Of paths that have one of the values of each of ``labels``: the figure may differ by ``most``, in its unit.

    ``functions``: the only ones in which it does, and by how many instructions each, ``most`` together; none: it may be
    in any.
    """

    labels: dict[str, tuple[str, ...]]
    most: float
    functions: dict[str, int] = {}


# docs/latency.md has what was seen, of these and of the rest.

# Forwards or backwards, by where the two lie in their slabs (arch/x86/lib/memcpy_64.S); there are several copies.
_COPIES = {"memcpy": 4, "memcpy_orig": 32}
_MADE = _COPIES | {
    # How long a chain of a hash is: of processes by number, with a random seed, and of address spaces.
    "pidfs_add_pid": 16,
    "__khugepaged_enter": 4,
    # How many pages the free lists have of each size.
    "__zone_watermark_ok": 16,
    "enqueue_top_rt_rq": 12,
}
_ENDS = _COPIES | {
    "__khugepaged_exit": 4,
    # What is freed in batches: who fills one pays.
    "kmem_cache_free_bulk": 64,
}
# What RCU finds to do at a timer tick.
_TICK = {
    "__rcu_read_unlock": 4,
    "irqentry_exit": 8,
    "raw_irqentry_exit_cond_resched": 8,
    "rcu_sched_clock_irq": 4,
}
_HUGE = _TICK | {"__zone_watermark_ok": 32}
# Two threads take turns: a switch may be one of another kind.
_SWITCH = {
    "dequeue_task_rt": 12,
    "psi_group_change": 8,
    "record_times": 8,
}
# ... or later, and what a fault maps around it depends on how far the other is.
_AROUND = _SWITCH | {
    "enqueue_top_rt_rq": 12,
    "filemap_map_pages": 48,
    "next_uptodate_folio": 96,
    "update_rt_rq_load_avg": 72,
}

NOISE = [
    # A stage has no sample of its own whose functions are known: that is the fault's.
    Noise({"path": ("waterfall",)}, 16),
    Noise({"delivery": ("sync",)}, 16, _SWITCH),
    Noise({"path": ("missing",)}, 160, _AROUND),
    Noise({"path": ("mremap-event",)}, 32, _SWITCH),
    # Samples of several kinds, and the median may be of one or the other: these differ in more functions.
    Noise({"path": ("fork-event",)}, 48),
    Noise({"path": ("fork",)}, 48, _MADE),
    Noise({"path": ("exit",)}, 80, _ENDS),
    Noise({"path": ("gup", "gup-write", "absent-write"), "kind": ("thp", "hugetlb", "shmem_thp")}, 32, _HUGE),
    # Some 100 million instructions, with timer ticks. This is of a page: one instruction more of each is told.
    Noise({"pages": ("262144",)}, 0.02),
]

_NONE = Noise({}, 0.0)


def of_path(labels: Mapping[str, str]) -> Noise:
    """The noise of the path with these labels: the largest, where there are several, of these the first."""
    found = [one for one in NOISE if all(labels.get(name) in values for name, values in one.labels.items())]
    return max(found, key=lambda one: one.most, default=_NONE)
