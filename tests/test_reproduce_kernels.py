"""A run on a real kernel, from its capsule, moved elsewhere: another boot says the same, to the instruction."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from test_reproduce import changed
from test_run_kernels import kst

from kselftests_py import reproduce
from kselftests_py.results import RunFolder, capsule
from kselftests_py.results.differences import Reproduction

pytestmark = [pytest.mark.vm, pytest.mark.network]

TESTS = ["--suite", "idle", "--suite", "latency", "--mode", "exact", "-k", "hot_that_nobody or test_range_cost and rwp"]


def test_another_boot_says_the_same_and_one_instruction_less_is_told(tmp_path: Path) -> None:
    """The negative control: the capsule says one instruction less for one path."""
    first = kst("run", "--kernel", "debian:7.3", *TESTS, "--out", tmp_path / "run")
    assert first.returncode == 0, first.stderr[-3000:]
    moved = tmp_path / "moved.kst"
    moved.write_bytes((tmp_path / "run" / capsule.NAME).read_bytes())
    again = kst("reproduce", moved, "--out", tmp_path / "again", "--json")
    assert again.returncode == 0, again.stderr[-3000:]
    told = json.loads(again.stdout)
    assert told["verdict"] == "SAME"
    assert told["kernels"][0]["same_bytes"]
    [one] = told["compared"]
    assert len(one["figures"]) >= 2
    lied = next(figure for figure in one["figures"] if figure["labels"].get("path") == "protect")
    value, less = (f'"value": {number}' for number in (lied["base"], lied["base"] - 1))
    read = capsule.open_(changed(moved, tmp_path / "other.kst", "results.jsonl", value, less))
    folder = RunFolder.open(tmp_path / "again")
    seen = Reproduction([], [], reproduce.compared(read, folder))
    assert reproduce.judge(read, folder, seen).word == "NOT THE SAME"
