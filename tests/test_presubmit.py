"""kst presubmit: which commits, which suites, which verdict; on small repositories and made-up results, no kernel."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner
from kernels_trees import commit_all, make_tree, user_git
from msgspec.structs import replace
from results_factory import record

from kselftests_py import cli, jobs
from kselftests_py import run as kst_run
from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.jobs import runs
from kselftests_py.kernels import KernelImage
from kselftests_py.presubmit import choice, flow
from kselftests_py.presubmit.commits import series
from kselftests_py.presubmit.flow import Tried
from kselftests_py.results import Record


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
        ("base...HEAD", "base...HEAD: commits of both sides, one after another, are no series; name BASE..HEAD"),
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
    with pytest.raises(UsageError, match=r"not a git repository.*; run it in a kernel tree, or name one with --tree"):
        series(tmp_path, "a..b")


@pytest.mark.parametrize(
    ("arguments", "code", "told"),
    [
        (("--parts", "debug"), 2, "--parts debug: write +series:PATH"),
        (("--parts", "+nonsense"), 2, "--parts +nonsense: write +series:PATH"),
        (("--parts", "+debgu"), 2, "did you mean +debug?"),
        (("--out", "/proc/no"), 3, "/proc/no: No such file or directory; name another folder with --out"),
    ],
)
def test_a_mistake_is_told_before_anything_is_built(
    tree: Path, monkeypatch: pytest.MonkeyPatch, arguments: tuple[str, ...], code: int, told: str
) -> None:
    monkeypatch.setattr(flow, "run", lambda *_, **__: pytest.fail("it began"))
    done = CliRunner().invoke(cli.main, ["presubmit", "--tree", str(tree), "base..HEAD", *arguments])
    assert (done.exit_code, done.output.count("\n"), told in done.output) == (code, 1, True), done.output


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
        (["fs/userfaultfd.c"], ["trapping", "eviction", "idle"]),
        (["kernel/fork.c"], ["trapping", "eviction"]),
        (["include/linux/pgtable.h"], ["trapping", "eviction"]),
        (["include/linux/mm_types.h"], ["trapping", "eviction"]),
        (["include/linux/mmc/host.h"], ["idle"]),
        (["fs/coredump.c"], ["trapping"]),
        (["tools/objtool/check.c"], ["idle"]),
        (["tools/perf/perf.c"], []),
        (["Documentation/x", "net/core/dev.c", "mm/memory.c"], ["trapping", "eviction", "idle"]),
    ],
)
def test_files_ask_for_suites(files: list[str], suites: list[str]) -> None:
    assert choice.ordered(choice.reasons(files)) == suites


def told(*failed: str, **others: str) -> Tried:
    """A commit on which these tests fail; *others* have these outcomes."""
    return Tried("1" * 40, outcomes={"always": "PASS", **dict.fromkeys(failed, "FAIL"), **others})


BASE = told("old", good="PASS", lacks="SKIP", known="XFAIL", fixed="XPASS")


@pytest.mark.parametrize(
    ("tried", "word", "code", "why"),
    [
        ([told()], "PASS", 0, "1 commits"),
        ([told("old")], "PASS", 0, "1 commits"),
        ([told(), replace(told("old", "new"), sha="2" * 40)], "FAIL", 1, "222222222222: 1 tests fail"),
        ([told(old="CRASH")], "FAIL", 1, "1 tests fail"),
        ([told(lacks="SKIP")], "PASS", 0, "1 commits"),
        ([told(good="SKIP")], "FAIL", 1, "unlike on the base: good"),
        ([told(known="XPASS")], "PASS", 0, "1 commits"),
        ([told(fixed="XPASS")], "PASS", 0, "1 commits"),
        ([told(fixed="XFAIL")], "FAIL", 1, "unlike on the base: fixed"),
        ([told(always="SKIP")], "FAIL", 1, "unlike on the base: always"),
        ([Tried("1" * 40, outcomes={"lacks": "SKIP"})], "NOTHING TESTED", 3, "no test passed"),
        ([replace(told(), warnings=["mm/a.c: unused"])], "WARNS", 1, "1 new warnings, mm/a.c: unused"),
        ([replace(told(), error="error: x"), told("new")], "NO BUILD", 125, "error: x"),
    ],
    ids=[
        "good", "as on the base", "fails", "crashes", "skipped there too", "passed there", "mends a finding",
        "mended there too", "brings a finding back", "skips all", "nothing tested", "warns", "does not build",
    ],
)  # fmt: skip
def test_verdict_is_that_of_the_first_bad_commit(tried: list[Tried], word: str, code: int, why: str) -> None:
    verdict = flow.judge(BASE, tried)
    assert (verdict.word, verdict.exit_code) == (word, code)
    assert why in verdict.why


def test_what_a_commit_mends() -> None:
    assert flow.repaired(BASE, told(old="PASS", known="XPASS", fixed="XPASS", good="PASS")) == ["old", "known"]


@pytest.fixture
def stubbed(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Stub:
    """A kernel for each digest, and a suite run that says what it is told to."""
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    stub = Stub(tree, tmp_path)
    monkeypatch.setattr(flow, "resolve", stub.resolve)
    monkeypatch.setattr(flow.warnings, "new", stub.warnings)
    monkeypatch.setattr(runs, "run", stub.run)
    return stub


class Stub:
    def __init__(self, tree: Path, scratch: Path) -> None:
        self.tree, self.config = tree, scratch / "config"
        self.config.write_text("CONFIG_CC_VERSION_TEXT=one")
        self.digest, self.told, self.records = "a", runs.Told("PASS", "", 0), [record()]
        self.runs: list[tuple[list[str], list[str]]] = []
        self.warned = 0

    def resolve(self, spec: str, note: Callable[[str], None]) -> KernelImage:
        note(f"{self.tree} has uncommitted changes: they are no part of {spec}")
        note(f"building {spec}")
        return KernelImage("git:x", "7.3", self.tree, None, self.config, self.digest * 64, {})

    def warnings(self, *_: object) -> list[str]:
        self.warned += 1
        return ["mm/a.c: unused"]

    def run(self, _spec: str, suites: list[str], options: list[str] = ()) -> tuple[runs.Told, list[Record]]:
        self.runs.append((list(suites), list(options)))
        return self.told, self.records

    def attempt(self, **plan: Any) -> Tried:
        commit = series(self.tree, "HEAD^..HEAD")[0]
        return flow.attempt(flow.Plan(str(self.tree), "", **{"suites": ["idle"]} | plan), commit.sha, commit.parent, ())


@pytest.mark.parametrize(
    ("verdict", "code", "error", "raised"),
    [("PASS", 0, "", False), ("FAIL", 1, "", False), ("NO BOOT", 125, "why", False), ("NOTHING TESTED", 3, "", False),
     ("BROKEN", 3, "", True), ("INTERRUPTED", 130, "", True)],
)  # fmt: skip
def test_what_a_run_says_of_a_commit(stubbed: Stub, verdict: str, code: int, error: str, raised: bool) -> None:
    stubbed.told = runs.Told(verdict, "why", code)
    for tried in (stubbed.attempt, lambda: flow.measure(flow.Plan(str(stubbed.tree), "", ()), "HEAD")):
        if raised:
            with pytest.raises(HarnessError, match="why"):
                tried()
        else:
            found = tried()
            assert (found.error, bool(found.outcomes)) == (error, not error)


def test_a_run_of_no_test_at_all_is_the_harness_fault(stubbed: Stub) -> None:
    stubbed.told, stubbed.records = runs.Told("NOTHING TESTED", "no test ran", 3), []
    with pytest.raises(HarnessError, match="no test ran"):
        stubbed.attempt()


@pytest.mark.parametrize(("code", "runs_in_all"), [(0, 3), (1, 4)], ids=["passed", "failed"])
def test_a_kernel_that_passed_is_not_run_again(stubbed: Stub, code: int, runs_in_all: int) -> None:
    """The same kernel with the same suites; another kernel, other suites or --again are run, and so is what failed."""
    stubbed.told = runs.Told("FAIL" if code else "PASS", "", code)
    assert stubbed.attempt() == stubbed.attempt()
    stubbed.digest = "b"
    stubbed.attempt()
    stubbed.attempt(suites=["trapping"])
    assert len(stubbed.runs) == runs_in_all
    stubbed.attempt(suites=["trapping"], again=True)
    assert len(stubbed.runs) == runs_in_all + 1


def test_warnings_are_told_again_unless_the_compiler_or_the_configuration_is_another(stubbed: Stub) -> None:
    assert stubbed.attempt().warnings == stubbed.attempt().warnings == ["mm/a.c: unused"]
    assert stubbed.warned == 1
    stubbed.config.write_text("CONFIG_CC_VERSION_TEXT=two")
    stubbed.attempt()
    assert stubbed.warned == 2
    stubbed.attempt(again=True)
    assert stubbed.warned == 3
    stubbed.attempt(again=True, tests_only=True)
    assert stubbed.warned == 3


def test_exact_figures_of_the_same_kernel_are_not_measured_twice(stubbed: Stub) -> None:
    for again in (False, True):
        flow.measure(flow.Plan(str(stubbed.tree), "", (), again), "HEAD")
    assert stubbed.runs == [(["latency"], ["--mode", "exact", "--reuse"]), (["latency"], ["--mode", "exact"])]


@pytest.mark.parametrize("options", [(), ("--reuse",)])
def test_kst_run_takes_figures_measured_before_when_asked_to(
    monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]
) -> None:
    asked: list[kst_run.Options] = []

    def made_up(wanted: kst_run.Options, _view: object) -> None:
        asked.append(wanted)
        raise HarnessError("seen")

    monkeypatch.setattr(kst_run, "run", made_up)
    CliRunner().invoke(cli.main, ["run", "--mode", "exact", *options])
    assert [one.reuse for one in asked] == [bool(options)]


def test_what_a_build_says_reaches_the_user(stubbed: Stub, capfd: pytest.CaptureFixture[str]) -> None:
    stubbed.attempt()
    sha = series(stubbed.tree, "HEAD^..HEAD")[0].sha
    spec = f"git:{stubbed.tree}@{sha}"
    assert capfd.readouterr().err == f"{sha[:12]}: building {spec}\n{sha[:12]}: tries idle\n"


def test_the_long_jobs_come_first_and_figures_join_their_commit(stubbed: Stub, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []

    def inline(work: Sequence[jobs.Job], **_: object) -> Iterator[jobs.Finished]:
        begun.extend(job.key for job in work)
        yield from (jobs.Finished(job.key, job.call(*job.args)) for job in work)

    monkeypatch.setattr(flow.jobs, "run", inline)
    found = series(stubbed.tree, "base..HEAD")
    base, head = found[0].parent, found[1].sha
    plan = flow.Plan(str(stubbed.tree), "", ["idle"])
    tried = list(flow.run(plan, found, at_once=1, scheduler=None, note=lambda said: None))
    assert begun == [f"{base} exact", f"{head} exact", base, found[0].sha, head]
    assert [(one.sha, bool(one.figures)) for one in tried] == [(base, True), (found[0].sha, False), (head, True)]


def test_everything_is_written_for_programs(tmp_path: Path) -> None:
    tried = [replace(told("bad", known="XFAIL"), warnings=["mm/a.c: unused"])]
    path = flow.write(tmp_path / "out", BASE, tried, flow.judge(BASE, tried))
    written = json.loads(path.read_text())
    assert written["commits"][0]["warnings"] == ["mm/a.c: unused"]
    assert (written["commits"][0]["failed"], written["commits"][0]["outcomes"]["known"]) == (["bad"], "XFAIL")
    assert written["verdict"]["exit_code"] == 1
