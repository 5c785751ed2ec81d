"""Machines that are lost while the explorer is at work, kernels that complain, and Ctrl-C; no kernel."""

from __future__ import annotations

from typing import Any

import pytest

from kselftests_py.errors import HarnessError
from kselftests_py.explore import explorer, perform
from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Claim
from kselftests_py.explore.execute import Observed
from kselftests_py.explore.explorer import Explorer, Found
from kselftests_py.explore.offer import Offer
from kselftests_py.machines.kernel_log import Splat
from kselftests_py.machines.machine import Loss, MachineLost

NOTHING = dict.fromkeys(("swap", "thp", "move", "poison", "guard", "ksm", "nodes", "hwpoison"), False)
OFFER = Offer(("anon",), ("wp",), ("EVENT_FORK",), **NOTHING, works=(), minor=(), categories=())
LONG = 600.0


class Ground:
    """Counts how often it is started anew; ``splat`` is what the log says after the next sequence."""

    label, boots, lab, one_cpu = "a kernel", True, None, False

    def __init__(self) -> None:
        self.renewed = 0
        self.says: Splat | None = None

    def renew(self) -> None:
        self.renewed += 1

    def splat(self) -> Splat | None:
        return self.says


def forks(sequence: s.Sequence) -> bool:
    return any(isinstance(step, s.Fork) for step in sequence.steps)


@pytest.fixture
def ground() -> Ground:
    return Ground()


def exploring(ground: Ground, found: list[Found]) -> Explorer:
    return Explorer(ground, OFFER, seed=1, note=lambda text: None, found=found.append)  # type: ignore[arg-type]


def all_well(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(perform, "run", lambda *given, **more: Observed([]))
    monkeypatch.setattr(explorer, "judge", lambda *given: None)


def test_guest_that_dies_is_kept_as_a_crash_and_the_exploration_goes_on(
    ground: Ground, monkeypatch: pytest.MonkeyPatch
) -> None:
    def run(lab: Any, sequence: s.Sequence, *given: Any, **more: Any) -> Observed:
        if forks(sequence):
            raise MachineLost(Loss.PANIC, "Kernel panic - not syncing: fork")
        return Observed([])

    all_well(monkeypatch)
    monkeypatch.setattr(perform, "run", run)
    found: list[Found] = []
    one = exploring(ground, found)
    one.explore(LONG, most=60)
    assert one.count.sequences == 60
    assert [(each.claim.check, each.confirmed, forks(each.sequence)) for each in found] == [("crash", True, True)]
    assert "Kernel panic" in found[0].claim.seen
    steps = found[0].sequence.steps
    assert found[0].claim.step == len(steps)
    needed = {s.Fork: 1, s.Map: 2, s.Open: 2, s.Register: 1}  # most forks need nothing; one with an event needs those
    assert len(steps) <= sum(needed.values())
    assert {type(step) for step in steps} <= set(needed)
    assert one.count.again > 0
    assert ground.renewed >= one.count.again + 3  # for the first: when it was lost, before its replay, and after


def test_crashes_are_told_apart_by_what_the_kernel_says(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """Numbers in it make no difference, as they are others each time."""
    lines = iter(range(1000))
    said = ["WARNING: mm/x.c:{0} at f+0x{0}/0x80", "BUG: Bad page map in process agent  pte:{0:016x}"]

    def splat() -> Splat | None:
        return Splat("warning", said[ground.renewed > 0 and len(found) == 1].format(next(lines)), "")

    all_well(monkeypatch)
    found: list[Found] = []
    monkeypatch.setattr(ground, "splat", splat)
    one = exploring(ground, found)
    one.explore(LONG, most=5)
    assert [each.claim.seen[:12] for each in found] == ["warning: WAR", "warning: BUG"]
    assert all(each.confirmed and not each.sequence.steps for each in found)  # as nothing at all brings them about
    assert one.count.again == 3


def test_machine_that_is_lost_again_and_again_ends_it(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    def run(*given: Any, **more: Any) -> Observed:
        raise MachineLost(Loss.LOST, "connection reset")

    monkeypatch.setattr(perform, "run", run)
    found: list[Found] = []
    with pytest.raises(HarnessError, match="lost 3 times in a row; last: connection reset"):
        exploring(ground, found).explore(LONG, most=60)
    assert (found, ground.renewed) == ([], 3)


def test_complaint_of_the_kernel_that_does_not_come_again(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    """As a WARN_ONCE that some sequence before it has to do with: kept, and said to be not seen again."""
    all_well(monkeypatch)
    found: list[Found] = []
    one = exploring(ground, found)
    ground.says = Splat("warning", "WARNING: mm/x.c", "")
    monkeypatch.setattr(ground, "renew", lambda: setattr(ground, "says", None))
    one.explore(LONG, most=3)
    assert [(each.claim.check, each.claim.seen, each.confirmed) for each in found] == [
        ("crash", "warning: WARNING: mm/x.c", False)
    ]


def test_interrupt_keeps_what_is_found_as_far_as_it_is_shrunk(ground: Ground, monkeypatch: pytest.MonkeyPatch) -> None:
    all_well(monkeypatch)
    tries = 0

    def judge(*given: Any) -> Claim | None:
        nonlocal tries
        tries += 1
        if tries == 8:
            raise KeyboardInterrupt
        return Claim(step=0, check="errno", expected=("0",), seen="EFAULT") if tries > 3 else None

    monkeypatch.setattr(explorer, "judge", judge)
    found: list[Found] = []
    with pytest.raises(KeyboardInterrupt):
        exploring(ground, found).explore(LONG)
    assert [(each.claim.seen, each.confirmed) for each in found] == [("EFAULT", False)]
