"""The plugin that splits a figure (bench_split.py) builds, and what it writes is read on from where one was."""

from __future__ import annotations

import struct
from pathlib import Path

import pytest
from bench_split import Splits, build, row


def test_the_plugin_builds_without_a_warning(tmp_path: Path) -> None:
    assert build(tmp_path).read_bytes()[:4] == b"\x7fELF"


def test_what_was_written_is_taken_once(tmp_path: Path) -> None:
    file = tmp_path / "splits"
    file.write_bytes(struct.pack("<3Q", 20, 100, 1000))
    splits = Splits(file)
    assert splits.take() == [(20, 100, 1000)]
    assert splits.take() == []


@pytest.mark.parametrize(("ticks", "fits"), [(1120, True), (1118, True), (1117, False), (1121, False)])
def test_a_sample_is_split_by_one_that_is_as_long(capsys: pytest.CaptureFixture[str], ticks: int, fits: bool) -> None:
    assert row("a path", [(ticks, 4)], [(20, 100, 1000), (5000, 1, 1)]) == fits
    told = capsys.readouterr().out.split()
    assert told[3:] == ["20" if ticks == 1120 else "18", "100", "1,000"] or not fits
