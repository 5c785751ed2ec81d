"""kst compare: one instruction more is told where a path is steady, noise is not, and the gate cannot be passed by
not measuring. On made-up figures: no kernel is booted."""

from __future__ import annotations

import io
from pathlib import Path

import bench_steady
import msgspec
import pytest
import results_factory as factory
from click.testing import CliRunner
from results_factory import NEW, OLD, record
from rich.console import Console

from kselftests_py import cli, compare
from kselftests_py.errors import HarnessError
from kselftests_py.reports import changes as report
from kselftests_py.reports import html, junit
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import Metric, Outcome, Record, judge
from kselftests_py.results.regression import changes, missing, regressions
from kselftests_py.run import Options

ASYNC = {"path": "fault", "delivery": "async", "kind": "anon", "protection": "wp"}
SYNC = ASYNC | {"delivery": "sync"}
COW = {"path": "cow", "kind": "anon"}
FORK = {"path": "fork", "kind": "anon"}
STAGE = {"path": "waterfall", "delivery": "sync", "kind": "anon", "stage": "read"}


def figure(value: float, labels: dict[str, str], kernel: str = NEW, mode: str = "exact") -> Record:
    metric = Metric(name="fault_p50", value=value, unit="instructions", mode=mode, labels=labels)
    return record(id=f"latency/{labels}", kernel=kernel, outcome=Outcome.DONE, metrics=[metric])


@pytest.mark.parametrize(
    ("labels", "base", "head", "verdict"),
    [
        (ASYNC, 1500, 1501, "dearer"),
        (ASYNC, 1500, 1499, "cheaper"),
        (ASYNC, 1500, 1500, "same"),
        (SYNC, 15000, 15001, "same"),
        (SYNC, 15000, 15016, "same"),
        (SYNC, 15000, 15017, "dearer"),
        (COW, 1_000_000, 1_000_001, "dearer"),
        (COW, 1_000_000, 999_999, "cheaper"),
        (FORK, 110_000, 110_048, "same"),
        (FORK, 110_000, 110_049, "dearer"),
        (FORK, 110_000, 109_951, "cheaper"),
        (FORK | {"path": "fork-event"}, 140_000, 140_048, "same"),
        ({"path": "exit", "kind": "anon"}, 150_000, 150_080, "same"),
        ({"path": "exit", "kind": "anon"}, 150_000, 150_081, "dearer"),
        ({"path": "mremap-event", "kind": "anon"}, 20_000, 20_032, "same"),
        (STAGE, 1_200, 1_216, "same"),
        (STAGE, 1_200, 1_217, "dearer"),
        (SYNC | {"path": "missing"}, 13_000, 13_160, "same"),
        (SYNC | {"path": "missing"}, 13_000, 13_161, "dearer"),
        ({"path": "absent-write", "kind": "thp"}, 540_000, 540_032, "same"),
        ({"path": "absent-write", "kind": "thp"}, 540_000, 540_033, "dearer"),
        ({"path": "absent-write", "kind": "anon"}, 540_000, 540_001, "dearer"),
        ({"path": "protect", "kind": "zero", "pages": "262144"}, 331.84, 331.855, "same"),
        ({"path": "protect", "kind": "zero", "pages": "262144"}, 331.84, 331.865, "dearer"),
        ({"path": "protect", "kind": "anon", "pages": "512"}, 173.0, 173.01, "dearer"),
    ],
)
def test_each_instruction_counts_where_a_path_is_steady(
    labels: dict[str, str], base: float, head: float, verdict: str
) -> None:
    (change,) = changes([figure(base, labels)], [figure(head, labels)])
    assert (change.verdict, change.more) == (verdict, head - base)


def test_only_exact_figures_of_the_same_path_are_compared() -> None:
    base = [figure(1, ASYNC), figure(1, SYNC), figure(1, COW, mode="wall"), figure(5, {"path": "overhead"})]
    head = [figure(2, ASYNC), figure(2, COW, mode="wall"), figure(6, {"path": "overhead"})]
    assert [change.labels for change in changes(base, head)] == [ASYNC]
    assert len(missing(base, head)) == 1
    assert "delivery=sync" in missing(base, head)[0]


def test_what_is_allowed_is_no_regression() -> None:
    found = changes([figure(100, ASYNC)], [figure(110, ASYNC)])
    assert regressions(found, 9) == found
    assert regressions(found, 10) == []


@pytest.mark.parametrize(
    ("head", "allowed", "word", "code"),
    [
        ([1500, 1600], 0.0, "PASS", 0),
        ([1501, 1600], 0.0, "DEARER", 1),
        ([1501, 1600], 1.0, "PASS", 0),
        ([1501, 1600], None, "PASS", 0),
        ([1500], 0.0, "NOT MEASURED", 3),
        ([1500], None, "PASS", 0),
    ],
)
def test_gate(tmp_path: Path, head: list[float], allowed: float | None, word: str, code: int) -> None:
    paths = [ASYNC, {"path": "scan", "kind": "anon"}]
    records = [figure(value, path, OLD) for value, path in zip([1500, 1600], paths, strict=True)]
    records += [figure(value, path) for value, path in zip(head, paths, strict=False)]
    found = compare.between(factory.run_folder(tmp_path / "run", records, factory.manifest()), allowed)
    verdict = compare.decide(found, allowed)
    assert (verdict.word, verdict.exit_code) == (word, code)
    if word == "DEARER":
        assert "wp fault async anon" in verdict.why


def test_a_run_without_exact_figures_of_both_is_no_comparison(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="no path was measured exactly on both"):
        compare.between(factory.run_folder(tmp_path / "run", [figure(1, ASYNC)], factory.manifest()), None)


def test_reports_of_the_run_folder_have_the_comparison(tmp_path: Path) -> None:
    """The page and JUnit show what became dearer, with the kernel under test; a run of one kernel shows nothing."""
    records = [figure(1500, ASYNC, OLD), figure(1512, ASYNC), figure(7, COW, OLD), figure(7, COW)]
    records = [msgspec.structs.replace(one, suite="latency") for one in records]
    folder = factory.run_folder(tmp_path / "run", records, factory.manifest())
    page = html.write(folder).read_text()
    assert "Path by path, in instructions" in page
    assert '<td class="n r">+12</td>' in page
    name = 'name="more:fault_p50 wp fault async anon [instructions]" value="+12"'
    assert junit.write(folder).read_text().count(name) == 1
    alone = factory.manifest()
    alone.kernels = alone.kernels[:1]
    folder.write_manifest(alone)
    assert "Path by path" not in html.write(folder).read_text()
    assert "more:" not in junit.write(folder).read_text()


@pytest.mark.parametrize(("where", "code"), [(OLD, 1), (NEW, 1)])
def test_a_kernel_that_crashed_half_way_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str, code: int
) -> None:
    """What is left of its figures would make a gate green."""
    records = [
        figure(1500, ASYNC, OLD),
        figure(1500, ASYNC),
        record(id="latency/x", kernel=where, outcome=Outcome.CRASH),
    ]
    folder = factory.run_folder(tmp_path / "run", records, factory.manifest())
    monkeypatch.setattr(compare.run, "run", lambda *_: (folder, judge(folder.records(), folder.manifest())))
    _, found, verdict = compare.compare(Options(), NEW, OLD, 0.0, TerminalView(Console(quiet=True)))
    assert (found.changes, verdict.word, verdict.exit_code) == ([], "CRASH", code)


def test_table_names_each_path_and_its_change() -> None:
    found = changes([figure(1000, ASYNC), figure(7, COW)], [figure(1010, ASYNC), figure(7, COW)])
    out = io.StringIO()
    Console(file=out, width=160).print(report.table(found, "7.2", "7.3"))
    lines = out.getvalue().splitlines()
    assert [line.split()[:4] for line in lines[2:]] == [["wp", "fault", "async", "anon"], ["cow", "anon", "7", "7"]]
    assert "+10  +1.00 %" in lines[2]
    assert "=" in lines[3]


def test_paths_are_shown_in_an_order_in_which_they_are_compared() -> None:
    """Base and head of each differ in nothing: what counts is their order."""
    size = {"path": "protect", "kind": "anon", "protection": "wp"}
    wanted = [
        ASYNC | {"trapped": "no"}, ASYNC | {"protection": "rwp"}, ASYNC | {"protection": "rwp", "kind": "hugetlb"},
        COW, COW | {"protection": "wp"}, COW | {"protection": "rwp"},
        *(size | {"pages": pages} for pages in ("16", "512", "262144")),
        *(STAGE | {"stage": stage} for stage in ("trap", "read", "resolve", "wake", "back")),
    ]  # fmt: skip
    records = [figure(1, labels) for labels in sorted(wanted, key=str)]
    found = report.in_order(changes(records, records))
    by_path = [
        [one.labels for one in found if one.labels["path"] == path] for path in ("fault", "cow", "protect", "waterfall")
    ]
    assert by_path == [wanted[:3], wanted[3:6], wanted[6:9], wanted[9:]]
    both = [msgspec.structs.replace(one, kernel=kernel) for one in records for kernel in (OLD, NEW)]
    page = html.render(both, factory.manifest()).partition("Path by path")[2]
    places = [page.index(f">{one.title}<") for one in found]
    assert places == sorted(places)


def test_the_same_kernel_twice_is_refused() -> None:
    told = CliRunner().invoke(cli.main, ["compare", "host", "host"])
    assert (told.exit_code, told.output.count("\n")) == (2, 1), told.output


@pytest.mark.parametrize(("second", "alarms"), [(1500, 0), (1501, 1)])
def test_the_bench_of_boots_alarms_where_the_gate_would(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], second: float, alarms: int
) -> None:
    for number, value in enumerate([1500, second]):
        within_noise = figure(140_000 + 10 * number, FORK | {"path": "fork-event"})
        records = [figure(value, ASYNC), within_noise]
        factory.run_folder(tmp_path / f"boot-{number}", records, factory.manifest())
    assert bench_steady.main(str(tmp_path)) == alarms
    shown = capsys.readouterr().out
    assert f"1 comparisons of a boot with another, {alarms} alarms" in shown
    assert f"2 boots, 2 figures, {1 - alarms} equal to the instruction in all" in shown
