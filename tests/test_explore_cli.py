"""``kst explore``: its verdicts, its files, its errors; on the running kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner, Result
from test_explore_files import ASLEEP, SEQUENCE

from kselftests_py import cli
from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Replay, encode


def kst(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, ["explore", "--kernel", "host", *(str(one) for one in arguments)])


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """For a run; a skip where the running kernel has no userfaultfd that protects."""
    asleep = tmp_path / "asleep.json"
    asleep.write_bytes(encode(Replay(format=1, sequence=SEQUENCE, claim=ASLEEP)))
    first = kst("--replay", asleep, "--out", tmp_path / "first")
    if "needs what this kernel lacks" in first.output:
        pytest.skip(first.output)
    assert "UFFDIO_UNREGISTER of pages 0 to 1 of region 0" in first.output
    return tmp_path / "run"


def test_lie_ends_with_1_and_leaves_what_tells_of_it(folder: Path) -> None:
    result = kst("--minutes", "2", "--seed", "1", "--fail-fast", "--control", "skip_protect", "--out", folder)
    assert result.exit_code == 1, result.output
    assert result.output.splitlines()[-1] == f"FAIL: 1 contradiction in {folder}"
    (place,) = folder.glob("contradiction-?")
    assert sorted(path.name for path in place.iterdir()) == ["finding.md", "program.c", "replay.json", "sequence.txt"]
    told = json.loads((folder / "explore.json").read_bytes())
    assert [one["claim"]["check"] for one in told["found"] if one["confirmed"]] == ["marked"]
    again = kst("--replay", place / "replay.json", "--control", "skip_protect", "--out", folder.with_name("again"))
    assert (again.exit_code, "(as in the file)" in again.output) == (1, True), again.output
    honest = kst("--replay", place / "replay.json", "--out", folder.with_name("honest"))
    assert (honest.exit_code, "nothing contradicts the model" in honest.output) == (0, True), honest.output


def test_nothing_found_ends_with_0(folder: Path) -> None:
    result = kst("--minutes", "0.05", "--seed", "1", "--out", folder)
    assert result.exit_code == 0, result.output
    assert result.output.splitlines()[-1] == f"PASS: no contradictions in {folder}"
    assert json.loads((folder / "explore.json").read_bytes())["seed"] == 1
    assert json.loads((folder / "manifest.json").read_bytes())["seeds"] == {"kst explore": 1}
    with_rwp = "host: rwp and wp on " in result.output
    assert with_rwp != ("not tried: rwp: UFFDIO_API does not offer UFFD_FEATURE_RWP" in result.output), result.output
    assert with_rwp or "host: wp on anon" in result.output


def replay_file(folder: Path, *steps: s.Step) -> Path:
    path = folder / "replay.json"
    path.write_bytes(encode(Replay(format=1, sequence=s.Sequence(steps=steps))))
    return path


def test_operation_that_the_kernel_lacks(folder: Path, tmp_path: Path) -> None:
    """No kernel that runs tests offers a swap device to them and huge pages both."""
    steps = (s.Map(kind="hugetlb", pages=1), s.SwapCycle())
    result = kst("--replay", replay_file(tmp_path, *steps), "--out", folder)
    assert result.exit_code == 2, result.output
    last = result.output.splitlines()[-1]
    assert "replay.json: needs what this kernel lacks: step" in last, result.output


@pytest.mark.parametrize(
    ("arguments", "told"),
    [
        (["--replay", "/nonexistent/replay.json"], "/nonexistent/replay.json: No such file or directory"),
        (["--replay", "/dev/zero"], "more than 1048576 bytes"),
        (["--replay", "/etc/passwd"], "no replay file of kst explore"),
        (["--kernel", "debain:7.3"], "debian:"),
        (["--minutes", "0"], "--minutes"),
        (["--seed", "-1"], "--seed"),
        (["--memory", "3x"], "--memory"),
    ],
)
def test_wrong_usage_is_one_line_and_exit_code_2(
    arguments: list[str], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    result = kst(*arguments)
    assert (result.exit_code, told in result.output) == (2, True), result.output
    assert "Traceback" not in result.output
