"""Exact figures are measured once: what was kept is what comes back, only for the same kernel measured in the same way,
and a comparison that knows all of it boots nothing. On made-up figures: no kernel is booted."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from click.testing import CliRunner
from results_factory import HOW, Tried, made, record
from rich.console import Console

from kselftests_py import cli, compare, history, run
from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.reports import history as report
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import KernelEntry, Metric, Outcome, Record
from kselftests_py.results import history as kept

pytest_plugins = ["history_fixtures"]

WHEN = "2026-11-24T15:00:00+00:00"
ASYNC = {"path": "fault", "delivery": "async", "kind": "anon", "protection": "rwp", "access": "read"}
TEST = "latency/test_fault_cost.py::test_fault_cost_in_instructions[rwp-async-anon-read]"


def figure(value: float, outcome: Outcome = Outcome.DONE, **fields: object) -> Record:
    metric = Metric(name="fault_p50", value=value, unit="instructions", mode="exact", labels=ASYNC)
    fixed = {"id": TEST, "suite": "latency", "outcome": outcome, "metrics": [metric], "profile": "exact"}
    return record(**fixed | fields)


def entry(digit: str, release: str) -> KernelEntry:
    return KernelEntry(label=release, spec=f"debian:{release}", release=release, digest=digit * 64)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    return tmp_path / "cache"


def test_the_last_figure_comes_back_for_the_same_kernel_and_way_only() -> None:
    for value in (1500, 1487):
        kept.remember(entry("a", "7.3.4"), HOW, WHEN, figure(value))
    found = kept.recall("a" * 64, HOW)
    assert found is not None
    assert [one.metrics[0].value for one in found.records.values()] == [1487]
    assert kept.recall("b" * 64, HOW) is None
    for name in HOW:
        assert kept.recall("a" * 64, HOW | {name: "another"}) is None, name


@pytest.mark.parametrize("outcome", [Outcome.FAIL, Outcome.CRASH, Outcome.HANG, Outcome.ERROR, Outcome.MISS])
def test_what_failed_is_tried_again(outcome: Outcome) -> None:
    kept.remember(entry("a", "7.3.4"), HOW, WHEN, figure(1500, outcome))
    assert kept.recall("a" * 64, HOW) is None


def test_a_damaged_history_is_named(cache: Path) -> None:
    kept.remember(entry("a", "7.3.4"), HOW, WHEN, figure(1500))
    (results,) = cache.glob("history/*/results.jsonl")
    results.write_text("no record\n" + results.read_text())
    with pytest.raises(HarnessError, match=r"results.jsonl line 1: not a record"):
        kept.recall("a" * 64, HOW)


@pytest.fixture
def tried(boots: Tried) -> Tried:
    """``boots``, with a figure of each kernel known."""
    for release, value in (("7.2.13", 1500), ("7.3.4", 1501)):
        image = made(f"debian:{release}")
        kernel = KernelEntry(label=image.label, spec=image.spec, release=release, digest=image.digest)
        kept.remember(kernel, HOW, WHEN, figure(value))
    return boots


@pytest.mark.parametrize(
    ("memory", "reuse", "where", "booted", "word"),
    [
        ("1G", True, False, [], "DEARER"),
        ("2G", True, False, ["7.2.13", "7.3.4"], "NO BOOT"),
        ("1G", False, False, ["7.2.13", "7.3.4"], "NO BOOT"),
        ("1G", True, True, ["7.2.13", "7.3.4"], "NO BOOT"),
    ],
    ids=["measured-before", "not-so", "again", "without-its-functions"],
)
def test_what_was_measured_before_is_not_booted(
    tmp_path: Path, tried: Tried, memory: str, reuse: bool, where: bool, booted: list[str], word: str
) -> None:
    options = run.Options(
        expression="rwp-async-anon-read and instructions", memory=memory, out=tmp_path / "run", reuse=reuse,
        where=where, guests=1,  # else what is tried is tried in other processes
    )  # fmt: skip
    view = TerminalView(Console(quiet=True))
    folder, found, verdict = compare.compare(options, "debian:7.3.4", "debian:7.2.13", 0, view)
    assert ([release for release, _ in tried], verdict.word) == (booted, word)
    assert [change.more for change in found.changes] == ([] if booted else [1])
    told = [one.provenance.get("exact figures", "") for one in folder.manifest().kernels]
    assert all(WHEN in text for text in told) is not bool(booted)


@pytest.mark.usefixtures("tried")
def test_a_comparison_as_json_says_of_each_path_what_it_became() -> None:
    told = CliRunner().invoke(
        cli.main, ["compare", "debian:7.3.4", "debian:7.2.13", "-k", "rwp-async-anon-read and instructions", "--json"]
    )
    (change,) = (found := json.loads(told.stdout))["changes"]
    assert (change["title"], change["more"], change["verdict"]) == ("rwp fault async anon read", 1, "dearer")
    assert (found["verdict"], found["exit_code"], told.exit_code) == ("PASS", 0, 0)
    assert found["relation"].startswith("two kernels of different origin")


@pytest.mark.usefixtures("tried")
def test_a_damaged_history_ends_a_comparison_in_one_line(cache: Path) -> None:
    for results in cache.glob("history/*/results.jsonl"):
        results.write_text("no record\n" + results.read_text())
    told = CliRunner().invoke(cli.main, ["compare", "debian:7.3.4", "debian:7.2.13", "-k", "rwp-async-anon-read"])
    assert told.exit_code == 3
    assert "not a record" in told.output.strip().splitlines()[-1]


def test_history_has_the_kernels_in_order_and_leaves_others_out(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setattr(history, "how", lambda memory: HOW | {"memory": memory})
    for digit, release, value in (("a", "7.10.1", 3), ("b", "7.9.2", 2), ("c", "7.2.0", 1)):
        kept.remember(entry(digit, release), HOW, WHEN, figure(value))
    kept.remember(entry("d", "6.12.0"), HOW | {"qemu": "QEMU 8"}, WHEN, figure(9))
    found = history.gather("fault rwp", "1G")
    assert found.kernels == ["7.2.0", "7.9.2", "7.10.1"]
    assert [path.figures for path in found.paths] == [[1, 2, 3]]
    assert found.others == 1
    with pytest.raises(UsageError, match="no path of 3 kernels has the words 'wp'"):
        history.gather("wp", "1G")


@pytest.mark.parametrize(("name", "magic"), [("x.svg", b"<?xml"), ("x.png", b"\x89PNG")])
def test_drawing_is_of_the_kind_asked_for(tmp_path: Path, name: str, magic: bytes) -> None:
    report.plot(["7.2 $x$", "7.3"], [("a $path$", [1.0, 2.0]), ("another", [None, 3.0])], tmp_path / name)
    assert (tmp_path / name).read_bytes().startswith(magic)
    with pytest.raises(UsageError, match="ends in"):
        report.plot(["7.2"], [("a", [1.0])], tmp_path / "x.doc")


def test_nothing_measured_is_one_line() -> None:
    told = CliRunner().invoke(cli.main, ["history"])
    assert (told.exit_code, told.output.count("\n")) == (2, 1), told.output
