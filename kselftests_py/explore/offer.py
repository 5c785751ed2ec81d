"""What the explorer tries on a kernel, by what was probed there."""

from __future__ import annotations

from dataclasses import dataclass
from typing import get_args

from kselftests_py.explore import steps as s
from kselftests_py.explore.execute import categories_of
from kselftests_py.lab import Capabilities, Feature
from kselftests_py.lab import constants as scan

_OPTIONAL = ("swap", "thp", "move", "poison", "guard", "ksm", "nodes", "hwpoison")
"""Capabilities that an attribute of :class:`Offer` is named after."""
_MINOR: dict[s.Kind, str] = {"shmem": "minor_shmem", "hugetlb": "minor_hugetlb"}


def lacking_for(work: s.Work, caps: Capabilities) -> str | None:
    """Why the kernel cannot be made to do *work*; on a machine that is not a guest it is not ours to ask for."""
    need = {"compaction": "compaction", "numa_hints": "numa_balancing"}[work]
    nodes = caps.missing("nodes") if work == "numa_hints" else None
    return caps.missing(need) or nodes or caps.missing("guest")


@dataclass(frozen=True)
class Offer:
    """What the kernel under test can do, and so what is tried; ``skipped`` says what is not, and why."""

    kinds: tuple[s.Kind, ...]
    modes: tuple[s.Mode, ...]
    features: tuple[s.Feature, ...]  # each may be negotiated or not
    swap: bool
    thp: bool
    move: bool
    poison: bool
    guard: bool
    ksm: bool  # that can be told to run, and is not: on a kernel that was booted for this
    nodes: bool  # two, to migrate between
    hwpoison: bool  # frames that may fail
    works: tuple[s.Work, ...]  # of the kernel's own
    minor: tuple[s.Kind, ...]  # whose minor faults are told of
    categories: tuple[scan.Page, ...]  # that PAGEMAP_SCAN can be asked for
    skipped: tuple[str, ...] = ()

    @classmethod
    def of(cls, caps: Capabilities) -> Offer:
        """From what was probed; a kernel with nothing to protect by leaves ``modes`` empty."""
        skipped, modes = [], list[s.Mode]()
        for mode in ("rwp", "wp"):
            why = caps.missing(mode) or (caps.missing("page_accessed") if mode == "rwp" else None)
            skipped += [f"{mode}: {why}"] if why else []
            modes += [] if why else [mode]
        kinds: list[s.Kind] = ["anon"]
        for kind, need in (("shmem", "wp_shmem"), ("hugetlb", "hugetlb"), ("hugetlb_private", "hugetlb")):
            why = caps.missing(need) or caps.missing("wp_shmem")
            skipped += [f"{kind}: {why}"] if why else []
            kinds += [] if why else [kind]  # type: ignore[list-item]
        optional: dict[s.Feature, str] = {
            "RWP_ASYNC": "rwp_async",
            "WP_ASYNC": "wp_async",
            "WP_UNPOPULATED": "wp_unpopulated",
            "EVENT_FORK": "event_fork",
        }
        features = tuple(name for name, need in optional.items() if caps.missing(need) is None)
        absent = {name: caps.missing(name) for name in _OPTIONAL}
        absent["hwpoison"] = absent["hwpoison"] or caps.missing("guest")  # a frame that has failed is lost
        idle: dict[s.Work, str | None] = {work: lacking_for(work, caps) for work in get_args(s.Work)}
        skipped += [f"{work}: {why}" for work, why in idle.items() if why]
        works = tuple(work for work, why in idle.items() if not why)
        skipped += [f"{name}: {why}" for name, why in absent.items() if why]
        features += tuple(name for name in ("EVENT_REMAP",) if Feature[name] in caps.features)
        there = {name: why is None for name, why in absent.items()}
        unminor = {kind: caps.missing(need) for kind, need in _MINOR.items() if kind in kinds}
        skipped += [f"minor faults of {kind}: {why}" for kind, why in unminor.items() if why]
        minor = tuple(kind for kind, why in unminor.items() if not why)
        known = categories_of(caps)
        return cls(
            tuple(kinds),
            tuple(modes),
            features,
            works=works,
            minor=minor,
            categories=known,
            skipped=tuple(skipped),
            **there,
        )

    def always(self) -> tuple[s.Feature, ...]:
        """The features that every descriptor negotiates."""
        found: list[s.Feature] = ["PAGEFAULT_FLAG_WP"] if "wp" in self.modes else []
        found += ["WP_HUGETLBFS_SHMEM"] if "wp" in self.modes and "shmem" in self.kinds else []
        found += ["MINOR_SHMEM"] if "shmem" in self.minor else []
        found += ["MINOR_HUGETLBFS"] if "hugetlb" in self.minor else []
        found += ["POISON"] if self.poison else []
        return (*found, *(("RWP",) if "rwp" in self.modes else ()))
