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

from kselftests_py import cli, run
from kselftests_py.results import Outcome, RunFolder, Verdict, judge


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
    result = CliRunner().invoke(cli.main, ["review", series, "--base", base, "--out", "run"])
    assert (result.exit_code, told in result.output) == (code, True), result.output
    assert "Traceback" not in result.output
    assert not (tmp_path / "run").exists()


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
