"""kst under git itself: as a pre-push hook of a real push, and under ``git bisect run``; what it sees is stubbed."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from kernels_trees import commit_all, user_git

STUB = Path(__file__).with_name("presubmit_stub.py")


@pytest.fixture(autouse=True)
def _cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    (tmp_path / "runs").mkdir()


def kst(tmp_path: Path, *arguments: str) -> list[str]:
    return [sys.executable, str(STUB), str(tmp_path / "runs"), *arguments]


def commit(tree: Path, verdict: str) -> str:
    """A commit that becomes what *verdict* says."""
    tree.mkdir(exist_ok=True)
    (tree / "verdict").write_text(f"{verdict}\n")
    with (tree / "log").open("a") as log:
        log.write(f"{verdict}\n")
    return commit_all(tree, verdict)


def push(tree: Path, *arguments: str) -> tuple[bool, str]:
    """Whether git pushed, and what the user saw."""
    done = subprocess.run(["git", "push", *arguments], cwd=tree, capture_output=True, text=True, timeout=900)
    assert "Traceback" not in done.stderr
    return done.returncode == 0, done.stdout + done.stderr


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """Its master is on the remote *origin*; with the hook of docs/kernels.md, on the new branch topic."""
    folder = tmp_path / "linux"
    commit(folder, "PASS")
    user_git(folder, "branch", "-M", "master")
    user_git(tmp_path, "init", "-q", "--bare", "remote.git")
    user_git(folder, "remote", "add", "origin", str(tmp_path / "remote.git"))
    user_git(folder, "push", "-q", "origin", "master")
    user_git(folder, "checkout", "-q", "-b", "topic")
    hook = folder / ".git/hooks/pre-push"
    hook.write_text(f"#!/bin/sh\nexec {shlex.join(kst(tmp_path, 'presubmit', '--pre-push'))}\n")
    hook.chmod(0o755)
    return folder


def at_remote(tree: Path, name: str = "topic") -> str:
    return user_git(tree.parent / "remote.git", "for-each-ref", "--format=%(objectname)", f"refs/heads/{name}")


def test_a_new_branch_is_pushed_when_each_of_its_commits_is_good(tree: Path) -> None:
    good = [commit(tree, "PASS") for _ in range(2)]
    pushed, told = push(tree, "-u", "origin", "topic")
    assert (pushed, at_remote(tree)) == (True, good[1]), told
    assert told.count("ok    ") == 2
    assert "2 commits build" in told
    commit(tree, "XPASS")
    commit(tree, "FAIL")
    pushed, told = push(tree)
    assert (pushed, at_remote(tree), told.count("ok    "), told.count("BAD   ")) == (False, good[1], 1, 1), told
    assert "1 that failed on the base pass: trapping/test_y" in told
    assert user_git(tree, "status", "--porcelain") == ""  # nothing in a kernel tree that tree: would build


def test_a_branch_that_goes_back_or_away_has_nothing_to_try(tree: Path) -> None:
    first, _ = commit(tree, "PASS"), commit(tree, "PASS")
    assert push(tree, "--no-verify", "-u", "origin", "topic")[0]
    user_git(tree, "reset", "-q", "--hard", first)
    pushed, told = push(tree, "--force")
    assert (pushed, at_remote(tree), "nothing to try" in told) == (True, first, True), told
    pushed, told = push(tree, "origin", ":topic")
    assert (pushed, at_remote(tree), "nothing to try" in told) == (True, "", True), told


def test_a_remote_branch_that_was_never_fetched_is_no_error(tree: Path, tmp_path: Path) -> None:
    user_git(tmp_path, "clone", "-q", "remote.git", "theirs")
    commit(tmp_path / "theirs", "XPASS")
    user_git(tmp_path / "theirs", "push", "-q", "origin", "HEAD:topic")
    mine = commit(tree, "PASS")
    pushed, told = push(tree, "--force", "origin", "topic")
    assert (pushed, at_remote(tree), told.count("ok    ")) == (True, mine, 1), told


def test_of_a_rebased_branch_only_its_own_commits_are_tried(tree: Path) -> None:
    commit(tree, "PASS")
    assert push(tree, "--no-verify", "origin", "topic")[0]
    user_git(tree, "checkout", "-q", "master")
    commit(tree, "FAIL")
    assert push(tree, "--no-verify", "origin", "master")[0]
    user_git(tree, "checkout", "-q", "-B", "topic")
    mine = commit(tree, "FAIL")
    pushed, told = push(tree, "--force", "origin", "topic")
    assert (pushed, at_remote(tree), told.count("ok    ")) == (True, mine, 1), told


def test_what_two_refs_of_a_push_have_is_tried_once(tree: Path) -> None:
    commit(tree, "PASS")
    user_git(tree, "tag", "-m", "v1", "v1")
    user_git(tree, "branch", "stacked")
    user_git(tree, "checkout", "-q", "stacked")
    commit(tree, "PASS")
    pushed, told = push(tree, "origin", "topic", "stacked", "v1", "v1^{tree}:refs/tags/tree")
    assert (pushed, told.count("ok    ")) == (True, 2), told


def test_what_is_not_committed_is_told_once(tree: Path) -> None:
    commit(tree, "PASS")
    (tree / "verdict").write_text("FAIL\n")
    pushed, told = push(tree, "origin", "topic")
    assert (pushed, told.count("has uncommitted changes: they are no part of what is tried")) == (True, 1), told


RUN = ("run", "--kernel", "git:.@HEAD", "--baseline", "none", "--fail-fast", "--bisect")


def bisect(tmp_path: Path, verdicts: list[str], *arguments: str) -> tuple[str, str]:
    """What ``git bisect run`` of a history with these *verdicts* ends with (the number of the first bad commit, or
    "stopped"), and all it printed; the first commit is good, the last one bad."""
    tree = tmp_path / "linux"
    shas = [commit(tree, verdict) for verdict in verdicts]
    user_git(tree, "bisect", "start", "HEAD", shas[0])
    command = [one.replace("BASE", shas[0]) for one in kst(tmp_path, *arguments)]
    done = subprocess.run(
        ["git", "bisect", "run", *command], cwd=tree, capture_output=True, text=True, timeout=900,
        env=os.environ | {"LC_ALL": "C"},
    )  # fmt: skip
    told = done.stdout + done.stderr
    if done.returncode:
        assert "exit code 128" in told
        log = user_git(tree, "bisect", "log")
        assert not any(f"git bisect {word}" in log for word in ("good", "bad", "skip"))
        return "stopped", told
    return str(next(number for number, sha in enumerate(shas) if f"{sha} is the first bad commit" in told)), told


PRESUBMIT = ("presubmit", "--bisect", "--all", "BASE..HEAD")


@pytest.mark.parametrize(
    ("arguments", "verdicts", "found"),
    [
        (RUN, ["PASS", "XPASS", "SKIP", "NO BUILD", "XPASS", "FAIL"], "5"),
        (PRESUBMIT, ["PASS", "XPASS", "NO BUILD", "NO BUILD", "XPASS", "FAIL"], "5"),
        (PRESUBMIT, ["SKIP", "SKIP", "SKIP", "SKIP", "PASS", "FAIL"], "5"),
        (RUN, ["PASS", "DISK", "DISK", "FAIL"], "stopped"),
        (RUN, ["PASS", "BUG", "BUG", "FAIL"], "stopped"),
        (PRESUBMIT, ["PASS", "DISK", "DISK", "FAIL"], "stopped"),
    ],
    ids=["run", "presubmit", "presubmit-all-skipped", "run-full-disk", "run-bug-of-ours", "presubmit-full-disk"],
)
def test_a_bisection_finds_the_bad_commit(
    tmp_path: Path, arguments: tuple[str, ...], verdicts: list[str], found: str
) -> None:
    """In between are commits that cannot be judged, and a finding that is mended."""
    ended, told = bisect(tmp_path, verdicts, *arguments)
    assert ended == found, told


@pytest.mark.parametrize(
    "arguments", [(*RUN, "--suit", "idle"), (*RUN, "--memory", "x"), ("presubmit", "--bisect", "BASE...HEAD")]
)
def test_a_mistake_in_the_command_stops_the_bisection(tmp_path: Path, arguments: tuple[str, ...]) -> None:
    assert bisect(tmp_path, ["PASS", "PASS", "FAIL"], *arguments)[0] == "stopped"
