"""What the steps of a sequence make and need: what a C program of them has to declare, include and ask for."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from kselftests_py.explore import steps as s

HUGETLB = ("hugetlb", "hugetlb_private")
HOW: dict[s.How, str] = {"read": "r", "write": "w", "rmw": "a", "hwpoison": "h"}
"""How a thread accesses memory, by the letter that a program tells it."""


@dataclass(frozen=True)
class Objects:
    """What the steps of a sequence make, in order."""

    regions: tuple[s.Map, ...]
    uffds: int
    threads: tuple[int, ...]
    """The process of each actor."""
    children: int
    features: frozenset[str]
    """UFFD_FEATURE_ names that are asked for, or that some step needs."""
    swaps: bool
    hows: tuple[str, ...]
    """How threads access memory: of r, w, a (rmw), h (hwpoison)."""
    child_threads: bool
    child_forks: bool

    @staticmethod
    def of(steps: Iterable[s.Step], reader: int | None = None) -> Objects:
        """*reader*: the process in which, after the steps, a thread reads memory."""
        steps = tuple(steps)
        hows = {HOW[step.how] for step in steps if isinstance(step, s.Access)}
        hows |= {"w"} if any(isinstance(step, s.Populate) for step in steps) else set()
        hows |= {"r"} if reader is not None else set()
        threads = tuple(step.process for step in steps if isinstance(step, s.Thread))
        features = {name for step in steps if isinstance(step, s.Open) for name in step.features}
        kinds = [step.kind for step in steps if isinstance(step, s.Map)]
        for step in steps:
            if isinstance(step, s.Register):
                features |= {"PAGEFAULT_FLAG_WP"} if "wp" in step.mode else set()
                features |= {"RWP"} if "rwp" in step.mode else set()
                minor: s.Feature = "MINOR_HUGETLBFS" if kinds[step.region] in HUGETLB else "MINOR_SHMEM"
                features |= {minor} if "minor" in step.mode else set()
            elif isinstance(step, s.Poison):
                features.add("POISON")
            elif isinstance(step, s.Move):
                features.add("MOVE")
            elif isinstance(step, s.SetMode):
                features.add("RWP_ASYNC")
        return Objects(
            regions=tuple(step for step in steps if isinstance(step, s.Map)),
            uffds=sum(
                isinstance(step, s.Open) or (isinstance(step, s.Fork) and step.event is not None) for step in steps
            ),
            threads=threads,
            children=sum(isinstance(step, s.Fork) for step in steps),
            features=frozenset(features),
            swaps=any(
                isinstance(step, s.SwapCycle) or (isinstance(step, s.Madvise) and step.advice == "PAGEOUT")
                for step in steps
            ),
            hows=tuple(sorted(hows)),
            child_forks=any(isinstance(step, s.Fork) and step.process for step in steps),
            child_threads=any(threads) or bool(reader and any(isinstance(step, s.Fork) for step in steps)),
        )
