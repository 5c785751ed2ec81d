"""kst presubmit: which commits, which suites, which verdict; on small repositories and made-up results, no kernel."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from kernels_trees import commit_all, make_tree, user_git

from kselftests_py import cli
from kselftests_py.errors import UsageError
from kselftests_py.jobs import runs
from kselftests_py.kernels import KernelImage
from kselftests_py.presubmit import choice, flow
from kselftests_py.presubmit.commits import NOWHERE, pushed, series
from kselftests_py.presubmit.flow import Tried


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A repository with a base and two commits."""
    folder = make_tree(tmp_path / "linux")
    commit_all(folder, "base")
    user_git(folder, "branch", "base")
    for number, name in enumerate(("mm/memory.c", "Documentation/mm.rst")):
        (folder / name).parent.mkdir(exist_ok=True)
        with (folder / name).open("a") as file:
            file.write(f"{number}\n")
        commit_all(folder, f"change {number}")
    return folder


def test_commits_of_a_range_oldest_first(tree: Path) -> None:
    found = series(tree, "base..HEAD")
    assert [(one.subject, one.files) for one in found] == [
        ("change 0", ("mm/memory.c",)),
        ("change 1", ("Documentation/mm.rst",)),
    ]
    assert found[1].parent == found[0].sha


def test_without_a_range_it_starts_at_the_upstream_branch(tree: Path) -> None:
    user_git(tree, "branch", "--set-upstream-to=base")
    assert series(tree, "") == series(tree, "base..HEAD")


@pytest.mark.parametrize(
    ("wanted", "told"),
    [
        ("", "the branch has no upstream to start from; name a range"),
        ("base..base", "has no commits"),
        ("nowhere..HEAD", "no such commits; git log shows"),
    ],
)
def test_a_range_that_is_none_is_one_line(tree: Path, wanted: str, told: str) -> None:
    done = CliRunner().invoke(cli.main, ["presubmit", "--tree", str(tree), *([wanted] if wanted else [])])
    assert (done.exit_code, done.output.count("\n")) == (2, 1), done.output
    assert told in done.output


def test_a_merge_is_refused(tree: Path) -> None:
    user_git(tree, "checkout", "-q", "-b", "side", "base")
    (tree / "side").write_text("x")
    commit_all(tree, "side")
    user_git(tree, "merge", "-q", "--no-edit", "-", "-m", "merged")
    with pytest.raises(UsageError, match="is a merge"):
        series(tree, "base..HEAD")


def test_a_shallow_clone_is_told(tree: Path, tmp_path: Path) -> None:
    user_git(tmp_path, "clone", "-q", "--depth", "1", f"file://{tree}", "shallow")
    with pytest.raises(UsageError, match="git fetch --unshallow"):
        series(tmp_path / "shallow", "HEAD~1..HEAD")


def test_no_repository_is_one_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is no git repository"):
        series(tmp_path, "a..b")


def test_ranges_of_a_push() -> None:
    lines = f"refs/heads/a 111 refs/heads/a 222\nrefs/heads/b 333 refs/heads/b {NOWHERE}\n(delete) {NOWHERE} r 444\n"
    assert pushed(lines) == ["222..111", "333"]
    with pytest.raises(UsageError, match="pre-push hook"):
        pushed("what?\n")


@pytest.mark.parametrize(
    ("files", "suites"),
    [
        (["mm/userfaultfd.c"], ["trapping", "eviction", "idle"]),
        (["include/linux/userfaultfd_k.h"], ["trapping", "eviction", "idle"]),
        (["mm/memory.c"], ["trapping", "eviction"]),
        (["fs/proc/task_mmu.c"], ["trapping", "idle"]),
        (["tools/testing/selftests/mm/uffd-common.c"], ["upstream"]),
        (["Documentation/mm/x.rst", "arch/arm64/mm/fault.c"], []),
        (["net/core/dev.c"], ["idle"]),
        (["Documentation/x", "net/core/dev.c", "mm/memory.c"], ["trapping", "eviction", "idle"]),
    ],
)
def test_files_ask_for_suites(files: list[str], suites: list[str]) -> None:
    assert choice.ordered(choice.reasons(files)) == suites


BASE = Tried("b" * 40, verdict="PASS", failed=["old"], passed=["good"], skipped=["lacks"])


@pytest.mark.parametrize(
    ("tried", "word", "code", "told"),
    [
        ([Tried("1" * 40, verdict="PASS")], "PASS", 0, "1 commits"),
        ([Tried("1" * 40, failed=["old"])], "PASS", 0, "1 commits"),
        ([Tried("1" * 40), Tried("2" * 40, failed=["old", "new"])], "FAIL", 1, "222222222222: 1 tests fail"),
        ([Tried("1" * 40, skipped=["lacks"])], "PASS", 0, "1 commits"),
        ([Tried("1" * 40, skipped=["good"])], "FAIL", 1, "unlike on the base: good"),
        ([Tried("1" * 40, warnings=["mm/a.c: unused"])], "WARNS", 1, "1 new warnings, mm/a.c: unused"),
        ([Tried("1" * 40, error="error: x"), Tried("2" * 40, failed=["new"])], "NO BUILD", 125, "error: x"),
    ],
    ids=["good", "as on the base", "fails", "skipped there too", "passed there", "warns", "does not build"],
)
def test_verdict_is_that_of_the_first_bad_commit(tried: list[Tried], word: str, code: int, told: str) -> None:
    verdict = flow.judge(BASE, tried)
    assert (verdict.word, verdict.exit_code) == (word, code)
    assert told in verdict.why


@pytest.mark.parametrize(("code", "error"), [(0, ""), (125, "no boot")])
def test_a_commit_that_only_the_measurement_boots(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, error: str
) -> None:
    """Where the files ask for no suite the measurement is the only boot, and a boot that fails in it counts."""
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    commit = series(tree, "HEAD^..HEAD")[0]
    kernel = KernelImage("git:x", "7.3", tree, None, None, "0" * 64, {})
    monkeypatch.setattr(flow, "resolve", lambda *_: kernel)
    monkeypatch.setattr(flow.warnings, "new", lambda *_: [])
    monkeypatch.setattr(runs, "run", lambda *_: (runs.Told("", "no boot", code), []))
    tried = flow.attempt(flow.Plan(str(tree), "", ()), commit.sha, commit.parent, commit.files, True)
    assert tried.error == error
    assert flow.judge(BASE, [tried]).exit_code == code


@pytest.mark.parametrize(("code", "runs_in_all"), [(0, 3), (1, 4)], ids=["passed", "failed"])
def test_a_kernel_that_passed_is_not_run_again(
    tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, runs_in_all: int
) -> None:
    """The same kernel with the same suites; another kernel, other suites or --again are run, and so is what failed."""
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(flow.warnings, "new", lambda *_: [])
    commit, calls = series(tree, "HEAD^..HEAD")[0], []

    def run(_spec: str, suites: list[str], *_: object) -> tuple[runs.Told, list[object]]:
        calls.append(suites)
        return runs.Told("FAIL" if code else "PASS", "", code), []

    monkeypatch.setattr(runs, "run", run)

    def attempt(digest: str, suites: list[str], *, again: bool = False) -> Tried:
        kernel = KernelImage("git:x", "7.3", tree, None, None, digest * 64, {})
        monkeypatch.setattr(flow, "resolve", lambda *_: kernel)
        plan = flow.Plan(str(tree), "", suites, again)
        return flow.attempt(plan, commit.sha, commit.parent, commit.files, False)

    assert attempt("a", ["idle"]) == attempt("a", ["idle"])
    attempt("b", ["idle"])
    attempt("a", ["trapping"])
    assert len(calls) == runs_in_all
    attempt("a", ["trapping"], again=True)
    assert len(calls) == runs_in_all + 1


def test_everything_is_written_for_programs(tmp_path: Path) -> None:
    tried = [Tried("1" * 40, warnings=["mm/a.c: unused"])]
    path = flow.write(tmp_path / "out", BASE, tried, flow.judge(BASE, tried))
    told = json.loads(path.read_text())
    assert told["commits"][0]["warnings"] == ["mm/a.c: unused"]
    assert told["verdict"]["exit_code"] == 1
