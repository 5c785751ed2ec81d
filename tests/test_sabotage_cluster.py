"""A whole campaign, and a series, on a Dask scheduler and two workers, one of which dies in mid-job: each counts once.

The kernel is a tiny tree that make builds in a moment, and what ``kst run`` says of it is made up (sabotage_runs.py);
all else is what ``kst sabotage --scheduler`` and ``kst presubmit --scheduler`` do.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest
import sabotage_runs
from click.testing import CliRunner
from jobs_cluster import LocalCluster
from kernels_trees import commit_all, make_tree

from kselftests_py.cli import sabotage as command
from kselftests_py.cli.presubmit import presubmit_command
from kselftests_py.jobs import runs
from kselftests_py.sabotage.defects import Defect, Edit

MADE = {"ours-only": 7, "upstream-only": 8, "nobody": 6, "deadly": 9}


def defect(name: str) -> Defect:
    edit = Edit(file="mm/memory.c", function="arm", match="return 0;", replace=f"return {MADE[name]};")
    return Defect(name=name, breaks="I1", shows="something goes wrong", edit=[edit])


@pytest.fixture
def calls(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file with a line for each run."""
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KST_TEST_CALLS", str(tmp_path / "calls"))
    monkeypatch.setenv("TMPDIR", str(tmp_path))  # who is killed leaves its directory behind
    monkeypatch.setattr(runs, "run", sabotage_runs.run)
    return tmp_path / "calls"


@pytest.fixture
def cluster(tmp_path: Path, calls: Path) -> Iterator[LocalCluster]:
    """Two workers whose guests are made up."""
    with LocalCluster(tmp_path) as started:
        for name in ("one", "two"):
            started.worker(name, preload="sabotage_runs")
        started.await_workers(2)
        yield started


def dead(cluster: LocalCluster) -> int:
    return sum(cluster.processes[name].poll() is not None for name in ("one", "two"))


def test_a_campaign_on_two_workers_one_of_which_dies(
    cluster: LocalCluster, calls: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    linux, out = make_tree(tmp_path / "linux"), tmp_path / "score.json"
    (linux / "mm/memory.c").write_text("int arm(int page)\n{\n\treturn 0;\n}\n")
    monkeypatch.setattr(command, "load", lambda: [defect(name) for name in MADE])

    def campaign() -> str:
        arguments = ["--kernel", f"tree:{linux}", "--scheduler", cluster.address, "--out", str(out)]
        done = CliRunner().invoke(command.sabotage_command, arguments)
        assert done.exit_code == 1, done.output  # nobody noticed one
        return done.output

    said = campaign()
    assert dead(cluster) == 1
    assert "noticed 2 of 4; the kernel's own selftests 2 of 4" in said
    told = msgspec.json.decode(out.read_bytes())["defects"]
    assert sorted((one["name"], one["verdict"], bool(one["tried"]["upstream"]["by"])) for one in told) == [
        ("deadly", "killed", True),
        ("nobody", "survived", False),
        ("ours-only", "killed", False),
        ("upstream-only", "survived", True),
    ]
    tries = Counter(calls.read_text().splitlines())
    assert tries["trapping 9"] == 2, "its job ran again, elsewhere"
    others = {f"{suite} {number}" for suite in ("trapping", "upstream") for number in (6, 7, 8)}
    assert {tries[each] for each in others} <= {1, 2}, "at most twice: what was under way on the worker that died"
    assert len(list((tmp_path / "cache/sabotage/verdicts").glob("*.json"))) == 2 * 4

    again = campaign()
    assert "noticed 2 of 4; the kernel's own selftests 2 of 4" in again
    assert again.count("(known)") == 4
    assert Counter(calls.read_text().splitlines()) == tries, "what is known is not tried again"


def test_a_series_on_two_workers_one_of_which_dies(cluster: LocalCluster, calls: Path, tmp_path: Path) -> None:
    linux = make_tree(tmp_path / "linux")
    made = linux / "Documentation" / "made"
    made.parent.mkdir()
    shas = {}
    for number in (1, 2, 9, 3):
        made.write_text(f"return {number};\n")
        shas[number] = commit_all(linux, f"change {number}")
    arguments = ["--tree", str(linux), f"{shas[1]}..{shas[3]}", "--all", "--again", "--scheduler", cluster.address]
    done = CliRunner().invoke(presubmit_command, [*arguments, "--out", str(tmp_path / "out")])
    assert done.exit_code == 1, done.output
    assert dead(cluster) == 1
    told = msgspec.json.decode((tmp_path / "out" / "presubmit.json").read_bytes())
    assert [(one["sha"], bool(one["failed"])) for one in told["commits"]] == [
        (shas[2], False),
        (shas[9], True),
        (shas[3], False),
    ]
    assert (told["base"]["sha"], told["base"]["failed"]) == (shas[1], [])
    assert Counter(calls.read_text().splitlines())["trapping 9"] == 2, "its job ran again, elsewhere"
