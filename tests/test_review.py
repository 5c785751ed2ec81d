"""kst review: what is refused before anything is booted, what is asked of kst run, and what becomes of its verdict."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import results_factory as factory
from click.testing import CliRunner
from kernels_trees import change, mail, make_tree, new_file
from results_factory import NEW, OLD, record

from kselftests_py import cli, review, run
from kselftests_py.results import Outcome, Record, RunFolder, Verdict, judge


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    (tmp_path / "v1.patch").write_text(mail(change()))
    (tmp_path / "docs.patch").write_text(mail(new_file("Documentation.rst", "words")))
    (tmp_path / "old.patch").write_text(mail(change(old="line 99")))
    return make_tree(tmp_path / "linux")


@pytest.mark.parametrize(
    ("series", "base", "code", "told"),
    [
        ("v1.patch --suite trappin", "tree:linux", 2, "did you mean 'trapping'?"),
        ("v1.patch --out linux", "tree:linux", 2, "is not empty and not a run"),
        ("v1.patch", "debian:7.3", 2, "a series needs a source"),
        ("v1.patch", "host", 2, "a series needs a source"),
        ("none.patch", "tree:linux", 2, "no such file or directory"),
        ("old.patch", "tree:linux", 2, "does not apply: the hunk at mm/memory.c:4"),
        ("docs.patch", "tree:linux", 3, "the same, byte for byte, with and without it: nothing to test"),
    ],
)
def test_refused_in_one_line_before_anything_boots(
    linux: Path, tmp_path: Path, series: str, base: str, code: int, told: str
) -> None:
    result = CliRunner().invoke(cli.main, ["review", "--base", base, "--out", "run", *series.split()])
    assert (result.exit_code, told in result.output) == (code, True), result.output
    assert (code == 2) == ("building" not in result.output), "a slip is told before minutes are spent"
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("base", "told"), [("SYNTAX", "tree:linux: the kernel does not"), ("", "v2.patch: the kernel does not build: mm")]
)
def test_who_does_not_build_is_told(linux: Path, base: str, told: str) -> None:
    """The base, if it does not: then the series is not at fault."""
    (linux / "mm/memory.c").write_text(f"{base}\n" + "".join(f"line {number}\n" for number in range(2, 30)))
    Path("v2.patch").write_text(mail(change(new="line SYNTAX")))
    result = CliRunner().invoke(cli.main, ["review", "v2.patch", "--base", "tree:linux"])
    assert (result.exit_code, told in result.output.splitlines()[-1]) == (125, True), result.output


def both(before: dict[str, Any], after: dict[str, Any]) -> list[Record]:
    """A test that passes on both kernels, and ten more with these fields on the base and with the series."""
    ten = [f"trapping/test_{number}" for number in range(10)]
    records = [record(kernel=kernel) for kernel in (OLD, NEW)]
    for kernel, fields in ((OLD, before), (NEW, after)):
        records += [record(id=name, kernel=kernel, **fields) for name in ten]
    return records


PASSES, FAILS, SKIPS = ({"outcome": outcome} for outcome in (Outcome.PASS, Outcome.FAIL, Outcome.SKIP))
KNOWN, MENDED = FAILS | {"finding": "F020"}, PASSES | {"finding": "F020"}


@pytest.mark.parametrize(
    ("before", "after", "code", "told"),
    [
        (PASSES, PASSES, 0, "11 tests compared, none worse"),
        (FAILS, PASSES, 0, "none worse with the series than on its base, 10 mended"),
        (KNOWN, MENDED, 0, "10 mended"),
        (FAILS, FAILS, 0, "none worse"),
        (SKIPS, PASSES, 0, "none worse"),
        (PASSES, FAILS, 1, "10 PASS -> FAIL"),
        (PASSES, SKIPS, 1, "10 PASS -> SKIP"),
        (MENDED, KNOWN, 1, "10 XPASS -> XFAIL"),
        (FAILS, {"outcome": Outcome.CRASH}, 1, "10 FAIL -> CRASH"),
        (KNOWN, {"outcome": Outcome.HANG}, 1, "10 XFAIL -> HANG"),
        (PASSES, {"outcome": Outcome.MISS}, 3, "could not be judged"),
        (FAILS, FAILS | {"outcome": Outcome.MISS}, 3, "could not be judged"),
    ],
)
def test_the_verdict_is_of_what_the_series_changes(
    tmp_path: Path, before: dict[str, Any], after: dict[str, Any], code: int, told: str
) -> None:
    folder = factory.run_folder(tmp_path / "run", both(before, after))
    verdict = review.judge(folder, review.between(folder))
    assert (verdict.exit_code, told in verdict.why) == (code, True), verdict


def test_a_kernel_that_did_not_boot_and_one_that_was_never_tested_are_no_pass(tmp_path: Path) -> None:
    for name, records, manifest, code in (
        ("boot", both(PASSES, PASSES), factory.manifest(boot_failed="no init"), 125),
        ("skips", [record(kernel=kernel, **SKIPS) for kernel in (OLD, NEW)], factory.manifest(), 3),
    ):
        folder = factory.run_folder(tmp_path / name, records, manifest)
        assert review.judge(folder, review.between(folder)).exit_code == code


@pytest.mark.parametrize(("outcome", "code", "word"), [(Outcome.PASS, 0, "PASS"), (Outcome.FAIL, 1, "FAIL")])
def test_both_kernels_are_run_as_asked_and_the_reply_drafted(
    linux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, outcome: Outcome, code: int, word: str
) -> None:
    asked: list[run.Options] = []

    def made_up(options: run.Options, _view: Any) -> tuple[RunFolder, Verdict]:
        asked.append(options)
        records = [record(kernel=OLD), record(kernel=NEW, outcome=outcome)]
        folder = factory.run_folder(tmp_path / "run", records)
        return folder, judge(folder.records(), folder.manifest())

    monkeypatch.setattr(run, "run", made_up)
    arguments = ["review", "v1.patch", "--base", "tree:linux+twin", "--suite", "idle", "-k", "anon", "--json"]
    result = CliRunner().invoke(cli.main, arguments)
    assert result.exit_code == code, result.output
    [options] = asked
    assert (options.kernels, options.baseline) == (("tree:linux+twin+series:v1.patch",), "tree:linux+twin")
    wanted = run.Options(suites=("idle",), expression="anon", mode="exact")
    assert replace(options, kernels=(), baseline=None) == wanted
    told = json.loads(result.stdout.splitlines()[-1])
    assert (told["verdict"], told["exit_code"], len(told["outcomes"])) == (word, code, code)
    reply = (tmp_path / "run/reply.txt").read_text()
    assert "kst review v1.patch --base tree:linux+twin --suite idle -k anon" in " ".join(reply.split())
    assert ("Tested-by:" in reply) is (code == 0)
