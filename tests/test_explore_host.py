"""The explorer on the running kernel: it finds what is wrong, if something is, and nothing else."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from explore_walk import explorer_here

from kselftests_py.explore import advice, rules
from kselftests_py.explore import explorer as explorer_module
from kselftests_py.explore import steps as s
from kselftests_py.explore.explorer import Explorer

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
