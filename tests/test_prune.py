"""kst kernels prune: what goes, and what stays because somebody is in it or it cannot be made again in minutes."""

from __future__ import annotations

import os
import time
from pathlib import Path

import filelock
import pytest
from click.testing import CliRunner
from kernels_trees import make_tree

from kselftests_py import cli, kept
from kselftests_py.kernels import resolve, source, store
from kselftests_py.kernels.spec import BuildSpec, parse
from kselftests_py.results import Verdict


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A cache with a kernel that was built, two benches, and something in each other room."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("KST_CACHE", str(folder))
    monkeypatch.setattr(store, "hold", lambda _entry: None)  # else it is in use as long as this process lives
    resolve(f"tree:{make_tree(tmp_path / 'linux')}")
    for name in ("sabotage/a-0/src", "sabotage/b-0/src", "upstream/key", "ccache/0", "history/digest", "probe/key"):
        (folder / name).mkdir(parents=True)
        (folder / name / "file").write_bytes(b"x" * 1000)
    for room in ("runs", "sabotage/verdicts"):
        kept.remember(room, "name", Verdict("PASS", "", 0))
    return folder


def files(cache: Path) -> set[str]:
    """The rooms (or benches) in which there are files still; locks are none."""
    found = [path.relative_to(cache) for path in cache.rglob("*") if path.is_file() and not path.name.endswith("lock")]
    return {"/".join(path.parts[: 2 if path.parts[0] == "sabotage" else 1]) for path in found}


def prune() -> list[str]:
    result = CliRunner().invoke(cli.main, ["kernels", "prune"])
    assert result.exit_code == 0, result.output
    return result.output.splitlines()


def test_everything_that_can_be_made_again_goes(cache: Path) -> None:
    (line,) = prune()
    assert line.startswith("removed 1 kernels")
    assert files(cache) == {"history", "probe", "sabotage/verdicts"}


def test_a_bench_in_use_stays_and_what_no_lock_guards_with_it(cache: Path) -> None:
    with filelock.FileLock(cache / "sabotage/a-0.lock"):
        lines = prune()
    assert lines[1:] == [f"kept {cache / 'sabotage/a-0'}: another kst is in it"]
    gone = {"builds", "kernels", "sabotage/b-0"}
    assert files(cache) >= {"sabotage/a-0", "upstream", "ccache", "recipes", "runs"}
    assert not files(cache) & gone
    prune()
    assert files(cache) == {"history", "probe", "sabotage/verdicts"}


def test_a_workspace_in_use_stays(cache: Path) -> None:
    wanted = parse(f"tree:{cache.parent / 'linux'}")
    assert isinstance(wanted, BuildSpec)
    with source.opened(wanted, lambda _: None) as workspace:
        assert f"kept {workspace.folder}: another kst is in it" in prune()
        assert (workspace.src / "Makefile").exists()


def test_what_is_being_made_stays_for_a_day(cache: Path) -> None:
    for name, age in (("young", 3600), ("old", 2 * 86400)):
        (cache / f"sabotage/.new-{name}").mkdir()
        os.utime(cache / f"sabotage/.new-{name}", (time.time() - age,) * 2)
    prune()
    assert {path.name for path in (cache / "sabotage").glob(".new-*")} == {".new-young"}
