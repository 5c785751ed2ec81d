"""kst reproduce: the same is told from not the same, and both from what cannot be told; a stranger's capsule sets
nothing but what it may. The host's kernel runs in process; other runs are made up."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import msgspec
import pytest
import results_factory as factory
from click.testing import CliRunner, Result
from kernels_trees import change, commit_all, mail, make_tree
from results_factory import NEW, OLD, record
from rich.console import Console
from test_capsule import members_of, packed
from test_compare import ASYNC, SYNC, figure

from kselftests_py import cli, reproduce, run
from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import KernelImage, resolve
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import KernelEntry, Manifest, Outcome, Record, RunFolder, Verdict, capsule, judge
from kselftests_py.results.capsule import Capsule
from kselftests_py.results.differences import Again, Reproduction

DRAWS = "test_racers_are_let_go_by_what_ends_the_protection and wp"
QUICK = ["--kernel", "host", "--suite", "trapping", "--seed", "7"]
QUICK += ["-k", f"(test_only_the_range_is_trapped and anon and wp) or ({DRAWS})"]
OPTIONS: dict[str, Any] = {
    "kernels": ["x"], "baseline": "y", "suites": ["trapping"], "expression": "", "accel": "auto", "mode": "both",
    "cpus": 2, "memory": "1G", "out": None, "timeout": 60.0, "fail_fast": False, "controls": False,
}  # fmt: skip


def kst(*arguments: str | Path) -> Result:
    return CliRunner().invoke(cli.main, [str(one) for one in arguments])


@pytest.fixture(scope="module")
def host_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A real run, of the kernel we are on."""
    path = tmp_path_factory.mktemp("host") / "run"
    told = kst("run", *QUICK, "--out", path)
    assert told.exit_code == 0, told.output
    return path


def changed(capsule_path: Path, to: Path, name: str, old: str, new: str) -> Path:
    """A capsule in which *old* became *new* in the member *name*."""
    members = members_of(capsule_path)
    text = members[name].decode()
    assert old in text
    return packed(to, members | {name: text.replace(old, new, 1).encode()})


def test_a_run_leaves_a_capsule_that_says_the_same_when_it_is_run_again(host_run: Path, tmp_path: Path) -> None:
    moved = tmp_path / "moved.kst"
    moved.write_bytes((host_run / capsule.NAME).read_bytes())
    told = kst("reproduce", moved, "--out", tmp_path / "again", "--json")
    assert told.exit_code == 0, told.output
    found = json.loads(told.stdout.splitlines()[-1])
    assert found["verdict"] == "SAME"
    assert found["compared"][0]["tests"] == len(RunFolder.open(host_run).records()) > 0
    seeds = [RunFolder.open(folder).manifest().seeds for folder in (host_run, tmp_path / "again")]
    assert seeds[0] == seeds[1]
    assert set(seeds[0].values()) == {8}
    assert "Outcome: SAME" in (tmp_path / "again/reply.txt").read_text()


def test_an_outcome_that_is_another_is_not_the_same(host_run: Path, tmp_path: Path) -> None:
    path = changed(host_run / capsule.NAME, tmp_path / "x.kst", "results.jsonl", '"PASS"', '"FAIL"')
    told = kst("reproduce", path, "--out", tmp_path / "again")
    assert told.exit_code == 1, told.output
    assert "FAIL -> PASS" in told.output
    assert "NOT THE SAME: 1 outcomes" in told.output


@pytest.mark.parametrize(
    ("name", "old", "new", "code", "told"),
    [
        ("manifest.json", '"memory": "1G"', '"memory": "1G -device evil"', 3, "its options are none of kst run"),
        ("manifest.json", '"cpus": 2,\n    "memory": "', '"cpus": 65,\n    "memory": "', 3, "its options are none"),
        ("manifest.json", '"accel": "auto"', '"accel": "kvm,evil"', 3, "its options are none"),
        ("manifest.json", '"seed": 7', '"command": "explore", "seed": "7"', 3, "is of kst explore, and only kst run"),
        ("manifest.json", '"seed": 7', '"seed": -1', 3, "its options are none"),
        ("manifest.json", '"trapping"', '"../../evil"', 3, "this kst has no suite"),
        ("manifest.json", '"suites"', '"suites_"', 3, "its options are none"),
        ("manifest.json", '"role": "kernel"', '"role": "baseline"', 3, "no run of kst run"),
        ("manifest.json", '"release": "', '"release": "\\u001b[31m9\\nkst: fine', 3, "with 9 kst: fine"),
        ("capsule.json", '"host"', '"ssh"', 3, "has no digest"),
        ("capsule.json", '"format": 1', '"format": 7', 2, "is of format 7"),
    ],
)
def test_what_a_capsule_may_not_ask_for(
    host_run: Path, tmp_path: Path, name: str, old: str, new: str, code: int, told: str
) -> None:
    path = changed(host_run / capsule.NAME, tmp_path / "x.kst", name, old, new)
    result = kst("reproduce", path, "--out", tmp_path / "again")
    assert (result.exit_code, told in result.output) == (code, True), result.output
    assert len(result.output.splitlines()) == 1
    assert "\x1b" not in result.output
    assert not (tmp_path / "again").exists()


def test_another_probe_is_told(host_run: Path, tmp_path: Path) -> None:
    members = members_of(host_run / capsule.NAME) | {"probe/uffd.c": b"other"}
    told = kst("reproduce", packed(tmp_path / "x.kst", members), "--out", tmp_path / "again")
    assert "another than the capsule's in probe/uffd.c" in told.output
    assert "capsule's in probe/uffd.c" in (tmp_path / "again/reply.txt").read_text()
    assert told.exit_code == 0, told.output


DIFFERENT: dict[str, tuple[list[Record], list[Record], str, int]] = {
    "same": ([record(), figure(5, ASYNC)], [record(), figure(5, ASYNC)], "SAME", 0),
    "noise": ([figure(15_000, SYNC)], [figure(15_010, SYNC)], "SAME", 0),
    "same-failure": ([record(outcome=Outcome.FAIL)], [record(outcome=Outcome.FAIL)], "SAME", 0),
    "one-instruction": ([figure(5000, ASYNC)], [figure(5001, ASYNC)], "NOT THE SAME", 1),
    "worse": ([record()], [record(outcome=Outcome.CRASH)], "NOT THE SAME", 1),
    "better": ([record(outcome=Outcome.FAIL)], [record()], "NOT THE SAME", 1),
    "finding": ([record(outcome=Outcome.FAIL)], [record(outcome=Outcome.FAIL, finding="F1")], "NOT THE SAME", 1),
    "skipped": ([record()], [record(outcome=Outcome.SKIP)], "NOT THE SAME", 1),
    "gone": ([record(), record(id="b")], [record()], "NOT THE SAME", 1),
    "new": ([record()], [record(), record(id="b")], "NOT THE SAME", 1),
    "other-kernel": ([record(kernel=OLD)], [record(kernel=NEW)], "NOT THE SAME", 1),
    "lost": ([record()], [record(outcome=Outcome.MISS)], "CANNOT TELL", 3),
    "was-lost": ([record(outcome=Outcome.ERROR)], [record()], "CANNOT TELL", 3),
    "lost-and-worse": (
        [record(), record(id="b")],
        [record(outcome=Outcome.MISS), record(id="b", outcome=Outcome.FAIL)],
        "NOT THE SAME",
        1,
    ),
    "not-measured": ([record(id="m", metrics=figure(5, ASYNC).metrics)], [record(id="m")], "CANNOT TELL", 3),
    "nothing": ([], [], "CANNOT TELL", 3),
    "no-result-then": ([], [record()], "CANNOT TELL", 3),
}


def judged(tmp_path: Path, then: list[Record], now: list[Record], **manifest: Any) -> Verdict:
    first = factory.run_folder(tmp_path / "then", then, factory.manifest(options=OPTIONS))
    again = factory.run_folder(tmp_path / "now", now, factory.manifest(**manifest))
    read = capsule.open_(first.path)
    return reproduce.judge(read, again, Reproduction([], [], reproduce.compared(read, again)))


@pytest.mark.parametrize("case", DIFFERENT)
def test_verdicts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, case: str) -> None:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    then, now, word, code = DIFFERENT[case]
    verdict = judged(tmp_path, then, now)
    assert (verdict.word, verdict.exit_code) == (word, code), verdict.why


@pytest.mark.parametrize(
    ("then", "now", "word"),
    [
        ([record()], [record(), record(id="b"), figure(5, ASYNC)], "SAME"),
        ([record()], [record(outcome=Outcome.FAIL), record(id="b")], "NOT THE SAME"),
        ([record(), record(id="b")], [record()], "NOT THE SAME"),
    ],
)
def test_a_run_that_was_stopped_is_compared_in_what_it_had_come_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, then: list[Record], now: list[Record], word: str
) -> None:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    first = factory.run_folder(tmp_path / "then", then, factory.manifest(options=OPTIONS, finished=""))
    again = factory.run_folder(tmp_path / "now", now, factory.manifest())
    read = capsule.open_(first.path)
    assert reproduce.judge(read, again, Reproduction([], [], reproduce.compared(read, again))).word == word


@pytest.mark.parametrize(
    ("manifest", "word", "code"),
    [({"finished": ""}, "CANNOT TELL", 3), ({"boot_failed": "panic at boot"}, "NOT THE SAME", 1)],
)
def test_a_run_that_did_not_get_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, manifest: dict[str, str], word: str, code: int
) -> None:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    verdict = judged(tmp_path, [record()], [record()], **manifest)
    assert (verdict.word, verdict.exit_code) == (word, code)


@pytest.fixture
def patched(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[KernelImage, Capsule, Path]:
    """A kernel built from a commit with a patch, the capsule of a run of it, and the clone; the cache is empty."""
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    linux = make_tree(tmp_path / "linux")
    commit_all(linux)
    (tmp_path / "a.patch").write_text(mail(change()))
    spec = f"git:{linux}+series:{tmp_path / 'a.patch'}"
    kernel = resolve(spec)
    assert isinstance(kernel, KernelImage)
    entry = KernelEntry(
        label=kernel.label, spec=spec, release=kernel.release, digest=kernel.digest, provenance=kernel.provenance
    )
    manifest = Manifest(finished="now", kernels=[entry], options=OPTIONS)
    folder = factory.run_folder(tmp_path / "run", [record(kernel=kernel.label)], manifest)
    read = capsule.open_(capsule.write(folder))
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache2"))
    return kernel, read, linux


def again(read: Capsule, source: Path | None = None, trust: bool = False) -> Again:
    reproduce._check(read, 0, trust)
    return reproduce._again(read, 0, source, TerminalView(Console(quiet=True)))


def test_patches_out_of_a_capsule_are_built_only_when_trusted(
    patched: tuple[KernelImage, Capsule, Path], tmp_path: Path
) -> None:
    kernel, read, linux = patched
    with pytest.raises(UsageError, match=r"1 files of the capsule.*give --trust"):
        again(read, linux)
    with pytest.raises(UsageError, match="give --source DIR"):
        again(read, None, trust=True)
    assert not list(tmp_path.glob("cache2/builds/*"))
    found = again(read, linux, trust=True)
    assert (found.same_bytes, found.digest) == (True, kernel.digest)
    # It is in the cache now: nothing of the capsule is built any more.
    assert again(read) == found


def test_another_compiler_is_not_the_same_bytes_and_is_named(
    patched: tuple[KernelImage, Capsule, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    kernel, read, linux = patched
    (linux / "image").write_bytes((linux / "image").read_bytes() + b"x")
    other = commit_all(linux)
    read = msgspec.structs.replace(read, index=msgspec.convert(
        {"format": 1, "recipes": [{"kind": "git", "want": other}]}, capsule.Index
    ))  # fmt: skip
    kernel.provenance["compiler"] = "gcc 99"
    entry = msgspec.structs.replace(read.manifest.kernels[0], provenance=kernel.provenance)
    read = msgspec.structs.replace(read, manifest=msgspec.structs.replace(read.manifest, kernels=[entry]))
    found = again(read, linux, trust=True)
    assert not found.same_bytes
    assert found.why.endswith("instead of gcc 99")


def test_a_kernel_that_cannot_be_had_is_the_environments_failure(
    patched: tuple[KernelImage, Capsule, Path], tmp_path: Path
) -> None:
    _, read, _ = patched
    empty = make_tree(tmp_path / "empty")
    commit_all(empty, "another")
    with pytest.raises(HarnessError, match=r"cannot be had again: git:.*has no revision"):
        again(read, empty, trust=True)


def test_every_option_of_a_run_is_in_its_capsule() -> None:
    """Negative: a new option of kst run that is not said here is lost when a capsule is run again."""
    # To run again is not to reuse what was measured, and another machine has other CPUs.
    chosen = {"kernels", "baseline", "out", "reuse", "guests"}
    assert set(run.Options.__dataclass_fields__) - chosen == set(reproduce.Asked.__struct_fields__)


def test_a_failure_that_is_reproduced_is_no_pass_of_the_run(tmp_path: Path) -> None:
    folder = factory.run_folder(tmp_path / "run", [record(outcome=Outcome.FAIL)])
    assert judge(folder.records(), folder.manifest()).exit_code == 1
