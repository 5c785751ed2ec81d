"""The explorer on the running kernel: it finds what is wrong, if something is, and nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from explore_walk import explorer_here

from kselftests_py.explore import advice, rules
from kselftests_py.explore import explorer as explorer_module
from kselftests_py.explore import steps as s
from kselftests_py.explore.explorer import Explorer
from kselftests_py.lab import Lab
from kselftests_py.lab.ops import Op

LONG = 600.0
"""Seconds; what ends an exploration here is the number of sequences."""


def test_running_kernel_shows_nothing_that_is_not_known(tmp_path: Path) -> None:
    with explorer_here(tmp_path) as (explorer, found):
        explorer.explore(LONG, most=100)
    # The log of a host is everybody's: a complaint in it that does not come again is not ours.
    assert [(one.sequence, one.claim) for one in found if one.confirmed] == []
    assert explorer.count.sequences == 100


@pytest.mark.parametrize(
    ("control", "checks", "needed"),
    [("lose_wake", {"state", "messages"}, 7), ("corrupt", {"contents", "value", "marked"}, 4)],
)
def test_lie_is_found_and_shrunk(control: str, checks: set[str], needed: int, tmp_path: Path) -> None:
    """The proof that it can find something. *needed*: the steps that no sequence can show this lie without."""
    with explorer_here(tmp_path, control, seed=2) as (explorer, found):
        explorer.explore(LONG, most=500, fail_fast=True)
    (one,) = [each for each in found if each.confirmed]
    assert one.claim.check in checks
    assert needed <= len(one.sequence.steps) <= needed + 2, one.sequence


def test_same_seed_same_sequences(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """And another seed others. No sequence is run."""
    runs: list[list[s.Sequence]] = []
    for number, seed in enumerate((7, 7, 8)):
        tried: list[s.Sequence] = []
        monkeypatch.setattr(Explorer, "attempt", lambda self, sequence, tried=tried: tried.append(sequence))
        with explorer_here(tmp_path / str(number), seed=seed) as (explorer, _):
            explorer.explore(LONG, most=130)
        runs.append(tried)
    assert runs[0] == runs[1] != runs[2]
    assert len(runs[0]) == 130
    assert sum(len(one.steps) for one in runs[0]) > 130 * 14


@pytest.mark.parametrize(
    ("table", "operation", "mutation"),
    [
        (advice._ADVICES, "GUARD_INSTALL", advice._ADVICES["DONTNEED"]),
        (rules.RULES, s.Poison, lambda model, step: None),
    ],
    ids=["guard that is a hole", "poison that is a hole"],
)
def test_model_that_errs_is_contradicted(
    table: dict[Any, Any], operation: Any, mutation: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What the model has of guards and poison is looked at: with a rule that is wrong the kernel contradicts it."""
    monkeypatch.setitem(table, operation, mutation)
    monkeypatch.setattr(explorer_module, "SHRINK_S", 4.0)
    with explorer_here(tmp_path, seed=2) as (explorer, found):
        if not (explorer._offer.guard and explorer._offer.poison):
            pytest.skip("this kernel has no guard pages of shared memory, or no poison")
        explorer.explore(LONG, most=500, fail_fast=True)
    (one,) = [each for each in found if each.confirmed]
    steps = one.sequence.steps
    assert any(getattr(step, "advice", type(step)) == operation for step in steps)


def test_at_the_end_who_one_descriptor_lets_go_is_done_before_the_next_is_closed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A thread of a parent and one of its child wait for the same page of a file: the model has them go on in order."""
    page = {"region": 0, "first": 0, "count": 1}
    features: tuple[s.Feature, ...] = ("PAGEFAULT_FLAG_WP", "WP_HUGETLBFS_SHMEM", "MINOR_SHMEM", "EVENT_FORK")
    sequence = s.Sequence(
        steps=(
            s.Map(kind="shmem", pages=1),
            s.Open(features=features),
            s.Thread(),
            s.Populate(value=10, **page),
            s.Register(uffd=0, mode=("wp", "minor"), **page),
            s.Madvise(advice="DONTNEED", **page),
            s.Access(actor=0, how="rmw", region=0, page=0, value=110),
            s.Fork(event=0),
            s.Thread(process=1),
            s.Access(actor=1, how="write", region=0, page=0, value=118),
        )
    )
    asked: list[tuple[str, int]] = []
    usual = Lab.call_subject

    def call(lab: Lab, subject: int, batch: Sequence[Op[Any]], **more: Any) -> Any:
        asked.extend((op.name, subject) for op in batch)
        return usual(lab, subject, batch, **more)

    monkeypatch.setattr(Lab, "call_subject", call)
    with explorer_here(tmp_path) as (explorer, _):
        if "shmem" not in explorer._offer.minor or "EVENT_FORK" not in explorer._offer.features:
            pytest.skip("this kernel has no minor faults of shared memory, or no EVENT_FORK")
        assert explorer.attempt(sequence, strict=True) is None
    parent, child = dict.fromkeys(subject for _, subject in asked)
    first, second = (number for number, one in enumerate(asked) if one == ("uffd_close", parent))
    assert {*asked[first + 1 : second]} == {("ticket", parent), ("ticket", child)}
