"""What random sequences come to: a defect is found only where they go. No kernel."""

from __future__ import annotations

from collections import Counter
from typing import Any

import hypothesis
import pytest
from hypothesis import HealthCheck, Phase

from kselftests_py.explore import steps as s
from kselftests_py.explore.choose import OPERATIONS
from kselftests_py.explore.explorer import BATCH
from kselftests_py.explore.generate import sequences
from kselftests_py.explore.model import Model, Place
from kselftests_py.explore.offer import Offer
from kselftests_py.explore.rules import apply
from kselftests_py.lab import constants as scan

ALL = Offer(
    kinds=("anon", "shmem", "hugetlb", "hugetlb_private"),
    modes=("rwp", "wp"),
    features=("RWP_ASYNC", "WP_ASYNC", "WP_UNPOPULATED", "EVENT_FORK", "EVENT_REMAP"),
    swap=True,
    thp=True,
    move=True,
    poison=True,
    guard=True,
    ksm=True,
    nodes=True,
    hwpoison=True,
    works=("compaction", "numa_hints"),
    minor=("shmem", "hugetlb"),
    categories=(scan.Page.ACCESSED, scan.Page.WRITTEN),
)
COUNT = 500
"""Sequences: what two minutes of an exploration under TCG try."""


@pytest.fixture(scope="module")
def tried() -> list[s.Sequence]:
    found: list[s.Sequence] = []
    settings = hypothesis.settings(
        max_examples=BATCH,
        deadline=None,
        database=None,
        phases=(Phase.generate,),
        suppress_health_check=list(HealthCheck),
    )
    for seed in range(COUNT // BATCH):
        wrapped: Any = hypothesis.given(sequences(ALL))(lambda sequence: found.append(sequence))
        hypothesis.seed(seed)(settings(wrapped))()
    return found


def name_of(step: s.Step) -> str:
    """As in OPERATIONS."""
    if isinstance(step, s.Access) and step.how == "hwpoison":
        return step.how
    return str(getattr(step, "advice", "") or type(step).__name__).lower().replace("_", "")


def test_every_operation_comes_about(tried: list[s.Sequence]) -> None:
    """Of each step that the model knows, and of each advice, some; else it is only said to be tried."""
    seen = Counter(name_of(step) for sequence in tried for step in sequence.steps)
    assert {name: seen[name] for name in OPERATIONS if name != "nothing" and not seen[name]} == {}


def meets(sequence: s.Sequence) -> Counter[str]:
    """What its accesses and looks come upon, of what raises signals and of two children."""
    model, found = Model(), Counter[str]()
    for step in sequence.steps:
        expected = apply(model, step)
        for branches in expected.accesses.values():
            found |= {f"{branch.state.entry} accessed": 1 for branch in branches}
        if isinstance(step, s.Protect) and step.ioctl == "rwprotect" and expected.errno == {"0"}:
            pages = model.span(model.uffds[step.uffd].process, step.region, step.first, step.count)
            entries = {one.entry for page in pages for one in page.states}
            found |= {f"{entry} in a range that is protected": 1 for entry in entries}
        if isinstance(step, s.Fork):
            found |= {f"{one.entry} forked": 1 for page in model.pages.values() for one in page.states}
            found["second fork"] += len(model.alive) > 2
            found["second fork that tells"] += len(model.alive) > 2 and step.event is not None
            found["fork by a child"] += step.process > 0
            found["fork by a child that tells"] += step.process > 0 and step.event is not None
        if isinstance(step, s.Continue) and expected.errno == {"0"}:
            found["continued"] += 1
        model.settle(None)
    return found


def test_what_raises_signals_is_met(tried: list[s.Sequence]) -> None:
    """A guard or a poisoned page that nobody accesses, protects, or forks shows nothing."""
    found = Counter[str]()
    for sequence in tried:
        found.update(name for name, times in meets(sequence).items() if times)
    wanted = [f"{entry} {how}" for entry in ("guard", "poison") for how in ("accessed", "in a range that is protected")]
    wanted += ["guard forked", "poison forked", "second fork", "second fork that tells", "continued"]
    wanted += ["failed accessed", "failed forked", "failed in a range that is protected"]
    wanted += ["fork by a child", "fork by a child that tells"]
    assert {name: found[name] for name in wanted if found[name] < 2} == {}


def shows_broken_cow(sequence: s.Sequence) -> bool:
    """Whether it would show a fork that leaves the parent able to write to what the child reads (I6).

    So it was in an early version of the series: with a page that is registered for RWP, not protected, and writable.
    """
    model, left = Model(), set[Place]()
    for step in sequence.steps:
        if isinstance(step, s.Fork):
            left = {
                place
                for place, page in model.pages.items()
                if page.kind == "anon" and page.mode == "rwp" and page.owner != step.event
                and all(one.entry == "present" and not one.marked for one in page.states)
            }  # fmt: skip
        expected = apply(model, step)
        if isinstance(step, s.Access) and step.how != "read" and expected.outcomes(step.actor) == {"done"}:
            place = (model.actors[step.actor].process, step.region, step.page)
            if place in left and len(model.alive) > 1 and model.alive[1] and model.pages[1, *place[1:]].prot:
                return True
        model.settle(None)
    return False


def test_fork_that_breaks_cow_would_be_met(tried: list[s.Sequence]) -> None:
    assert sum(shows_broken_cow(sequence) for sequence in tried) >= 2
