"""What the bench of exact against wall figures says, on made-up ones whose relation is known."""

from __future__ import annotations

from pathlib import Path

import bench_ratio
import pytest
import results_factory as factory
from results_factory import NEW, OLD, record

from kselftests_py.results import Metric, Record


def figure(path: str, value: float, mode: str, **fields: object) -> Record:
    labels = {"path": path, "kind": "anon"} | ({"trapped": "no"} if path == "read" else {})
    metric = Metric(
        name="path_p50", value=value, unit="ns" if mode == "wall" else "instructions", mode=mode, labels=labels
    )
    return record(metrics=[metric], **fields)


def test_a_path_whose_instructions_take_longer_stands_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """1, 1 and 3 ns an instruction: of three pairs one is as instructions have it, two are apart by a factor of 3."""
    counts = {"scan": 100.0, "fork": 1000.0, "gup": 200.0, "read": 5.0, "overhead": 5.0}
    exact = [figure(path, value, "exact") for path, value in counts.items()] + [figure("cow", 9, "exact")]
    wall = [
        figure(path, value * (3 if path == "gup" else 1) + block - 2, "wall", block=block)
        for path, value in counts.items()
        for block in (1, 2, 3)
    ]
    wall += [figure("fork", 5, "wall", kernel=OLD)]
    folders = [factory.run_folder(tmp_path / name, each) for name, each in (("exact", exact), ("wall", wall))]
    assert bench_ratio.main(*(str(folder.path) for folder in folders), NEW, NEW) == 0
    *rows, correlation, factors = capsys.readouterr().out.splitlines()[1:]
    assert [row.split()[-2:] for row in rows] == [["scan", "anon"], ["fork", "anon"], ["gup", "anon"]]
    assert rows[2].split() == ["3.000", "|", "200", "|", "600", "(599", "to", "601)", "|", "path_p50", "gup", "anon"]
    assert correlation == "3 paths, 3 blocks; Spearman 1.000"
    assert factors.startswith("ratios of two paths: apart by a factor of 3.00 (median), 3.00 (most); 33% within 1.25")


def test_nothing_in_common_is_told(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = factory.run_folder(tmp_path / "run", [figure("scan", 1, "exact")])
    assert bench_ratio.main(str(folder.path), str(folder.path)) == 1
    assert "fewer than two paths" in capsys.readouterr().out
