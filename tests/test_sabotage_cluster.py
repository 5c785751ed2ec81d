"""A whole campaign on a Dask scheduler and two workers, one of which dies in mid-job: each defect counts once.

The kernel is a tiny tree that make builds in a moment, and what ``kst run`` says of it is made up (sabotage_runs.py);
all else is what ``kst sabotage --scheduler`` does.
"""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import msgspec
import pytest
import sabotage_runs
from click.testing import CliRunner
from jobs_cluster import LocalCluster
from kernels_trees import make_tree

from kselftests_py.cli import sabotage as command
from kselftests_py.jobs import runs
from kselftests_py.sabotage.defects import Defect, Edit

MADE = {"ours-only": 7, "upstream-only": 8, "nobody": 6, "deadly": 9}


def defect(name: str) -> Defect:
    edit = Edit(file="mm/memory.c", function="arm", match="return 0;", replace=f"return {MADE[name]};")
    return Defect(name=name, breaks="I1", shows="something goes wrong", edit=[edit])


def test_a_campaign_on_two_workers_one_of_which_dies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    linux, calls, out = make_tree(tmp_path / "linux"), tmp_path / "calls", tmp_path / "score.json"
    (linux / "mm/memory.c").write_text("int arm(int page)\n{\n\treturn 0;\n}\n")
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("KST_TEST_CALLS", str(calls))
    monkeypatch.setattr(command, "load", lambda: [defect(name) for name in MADE])
    monkeypatch.setattr(runs, "run", sabotage_runs.run)  # the clean kernel is tried here, the broken ones by workers

    def campaign(address: str) -> str:
        arguments = ["--kernel", f"tree:{linux}", "--scheduler", address, "--out", str(out)]
        done = CliRunner().invoke(command.sabotage_command, arguments)
        assert done.exit_code == 1, done.output  # nobody noticed one
        return done.output

    with LocalCluster(tmp_path) as cluster:
        for name in ("one", "two"):
            cluster.worker(name, preload="sabotage_runs")
        cluster.await_workers(2)
        said = campaign(cluster.address)
        assert sum(cluster.processes[name].poll() is not None for name in ("one", "two")) == 1, "one has died"
        assert "noticed 2 of 4; the kernel's own selftests 2 of 4" in said
        told = msgspec.json.decode(out.read_bytes())["defects"]
        assert {(one["name"], one["verdict"], bool(one["tried"]["upstream"]["by"])) for one in told} == {
            ("deadly", "killed", True),
            ("nobody", "survived", False),
            ("ours-only", "killed", False),
            ("upstream-only", "survived", True),
        }
        assert len(told) == 4
        tries = Counter(calls.read_text().splitlines())
        assert tries["trapping [9]"] == 2, "its job ran again, elsewhere"
        others = {f"{suite} [{number}]" for suite in ("trapping", "upstream") for number in (6, 7, 8)}
        assert {tries[each] for each in others} <= {1, 2}, "at most twice: what was under way on the worker that died"
        assert len(list((tmp_path / "cache/sabotage/verdicts").glob("*.json"))) == 2 * 4

        again = campaign(cluster.address)
        assert "noticed 2 of 4; the kernel's own selftests 2 of 4" in again
        assert again.count("(known)") == 4
        assert Counter(calls.read_text().splitlines()) == tries, "what is known is not tried again"
