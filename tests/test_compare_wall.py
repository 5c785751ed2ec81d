"""kst compare --mode wall: what is compared, what is decided, and what never is. On made-up figures; the last tests
measure the running kernel, and assert nothing that depends on its speed."""

from __future__ import annotations

import io
import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import results_factory as factory
from click.testing import CliRunner
from results_factory import NEW, OLD, record
from rich.console import Console

from kselftests_py import cli, compare_wall
from kselftests_py.errors import HarnessError
from kselftests_py.lab import Lab
from kselftests_py.lab.replies import Histogram, PathCost
from kselftests_py.measure.shift import CANNOT_TELL, FASTER, SAME, SLOWER
from kselftests_py.pytest_plugin.station import clock_fault
from kselftests_py.reports import html, junit, shifts
from kselftests_py.reports.comparison import NOTHING
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import Manifest, Metric, Outcome, Record, RunFolder, judge, wall
from kselftests_py.results.wall import Wall
from kselftests_py.run import Options

ASYNC = {"path": "fault", "delivery": "async", "kind": "anon", "access": "write", "protection": "wp"}
SCAN = {"path": "scan", "kind": "anon", "protection": "wp"}
BLOCKS = 6


def blocks(kernel: str, labels: dict[str, str], centre: float, name: str = "fault_p50", **fields: Any) -> list[Record]:
    """A path's figure in each block, within 1 % of *centre*."""
    noise = np.random.default_rng([*kernel.encode(), *name.encode(), int(centre)])
    made = []
    for block in range(1, BLOCKS + 1):
        value = float(centre * noise.uniform(0.99, 1.01))
        histogram = [(value, 900), (3 * value, 100)]
        metric = Metric(
            **{"name": name, "value": value, "unit": "ns", "mode": "wall", "labels": labels, "histogram": histogram}
            | fields
        )
        test = f"latency/{name}[{labels}-block{block}]"
        made.append(
            record(id=test, suite="latency", kernel=kernel, outcome=Outcome.DONE, metrics=[metric], block=block)
        )
    return made


def manifest(accelerator: str = "kvm", unfit: tuple[str, ...] = (), margin: float = 0.03) -> Manifest:
    made = factory.manifest(accelerator, options={"blocks": BLOCKS, "margin": margin})
    for entry in made.kernels:
        entry.unfit = list(unfit)
    return made


def compared(records: list[Record], made: Manifest | None = None) -> Wall:
    found = wall.of_run(records, made or manifest())
    assert found is not None
    return found


@pytest.mark.parametrize(
    ("head", "verdict"), [(1000.0, SAME), (1100.0, SLOWER), (900.0, FASTER), (1030.0, CANNOT_TELL)]
)
def test_each_path_has_a_verdict(head: float, verdict: str) -> None:
    found = compared(blocks(OLD, ASYNC, 1000) + blocks(NEW, ASYNC, head))
    (change,) = found.changes
    assert (change.found, change.verdict) == (verdict, verdict)
    assert change.shift.replicates == (BLOCKS, BLOCKS)
    assert (found.base, found.head, found.replicate) == (OLD, NEW, "boot")
    assert change.base_percentiles["p99.9"] > 2 * change.base_percentiles["p50"]


def test_samples_are_no_replicates() -> None:
    """A thousand samples of one boot say nothing of the next boot."""
    records = blocks(OLD, ASYNC, 1000)[:1] + blocks(NEW, ASYNC, 2000)[:1]
    (change,) = compared(records).changes
    assert change.verdict == CANNOT_TELL
    assert shifts.row(change)[-3:] == [NOTHING, NOTHING, CANNOT_TELL]


def test_a_rate_is_compared_as_what_each_one_takes() -> None:
    """So that more is dearer, always: half as many pages a second is twice the time each."""
    rate = {"name": "pages_per_second", "unit": "pages/s", "histogram": None}
    (change,) = compared(blocks(OLD, ASYNC, 2e5, **rate) + blocks(NEW, ASYNC, 1e5, **rate)).changes
    assert (change.name, change.verdict) == ("ns_per_page", SLOWER)
    assert 9_800 < change.shift.head < 10_200


def test_what_is_not_compared() -> None:
    """Reads that nothing traps, clock reads, counts, exact figures, and what was measured outside of a block."""
    others = [
        blocks(kernel, ASYNC | change, 5, **fields)
        for kernel in (OLD, NEW)
        for change, fields in (
            ({"trapped": "no"}, {}),
            ({"path": "overhead"}, {}),
            ({}, {"mode": "exact", "name": "x"}),
            ({}, {"unit": "pages", "name": "y"}),
        )
    ]
    alone = [
        record(kernel=kernel, metrics=[Metric(name="z", value=1, unit="ns", mode="wall")]) for kernel in (OLD, NEW)
    ]
    assert compared([*alone, *(one for some in others for one in some)]).changes == []
    assert wall.of_run(blocks(OLD, ASYNC, 1) + blocks(NEW, ASYNC, 1), factory.manifest("kvm")) is None


def test_rwp_stands_beside_wp_of_the_same_kernel() -> None:
    records = blocks(OLD, ASYNC, 1000) + blocks(NEW, ASYNC, 1000) + blocks(NEW, ASYNC | {"protection": "rwp"}, 500)
    (kernel, (change,)) = next(iter(compared(records).protections.items()))
    assert (kernel, change.verdict, change.title) == (NEW, FASTER, "fault async anon write")


@pytest.mark.parametrize(
    ("head", "allowed", "unfit", "word", "code"),
    [
        (1000, 0.0, (), "PASS", 0),
        (1100, 0.0, (), "SLOWER", 1),
        (1100, None, (), "PASS", 0),
        (1100, 200.0, (), "PASS", 0),
        (1100, 50.0, (), "SLOWER", 1),
        (1030, 0.0, (), "PASS", 0),
        (5000, 0.0, ("load 9.0 on 2 CPUs",), "DONE", 0),
    ],
)
def test_gate(head: float, allowed: float | None, unfit: tuple[str, ...], word: str, code: int) -> None:
    """Only what is surely slower, by more than margin and bound, on a machine that is fit."""
    records = blocks(OLD, ASYNC, 1000) + blocks(NEW, ASYNC, head)
    found = compared(records, manifest(unfit=unfit))
    verdict = compare_wall.decide(found, allowed)
    assert (verdict.word, verdict.exit_code) == (word, code), verdict
    if unfit:
        assert unfit[0] in verdict.why
        assert [(one.found, one.verdict) for one in found.changes] == [(SLOWER, CANNOT_TELL)]


def test_a_path_that_only_the_baseline_has_is_no_pass_of_a_gate() -> None:
    records = blocks(OLD, ASYNC, 1000) + blocks(NEW, ASYNC, 1000) + blocks(OLD, SCAN, 7, "scan_per_page")
    found = compared(records)
    assert found.missing == ["wp scan anon"]
    assert compare_wall.decide(found, 0.0).exit_code == 3
    assert compare_wall.decide(found, None).exit_code == 0


def test_reports_have_the_comparison(tmp_path: Path) -> None:
    records = blocks(OLD, ASYNC, 1000) + blocks(NEW, ASYNC, 1100)
    folder = factory.run_folder(tmp_path / "run", records, manifest(unfit=("clock source <hpet>",)))
    page = html.write(folder).read_text()
    assert "Path by path, in wall time" in page
    assert page.count("clock source &lt;hpet&gt;") == 4  # of both kernels, with the comparison and with each of them
    folder.write_manifest(manifest())
    assert '<td class="n r">slower</td>' in html.write(folder).read_text()
    told = junit.write(folder).read_text()
    assert told.count('name="shift:fault_p50 wp fault async anon write [ns]"') == 1
    assert "slower" in told


def test_under_emulation_reports_have_shares_only(tmp_path: Path) -> None:
    records = blocks(OLD, ASYNC, 123_457) + blocks(NEW, ASYNC, 123_457)
    folder = factory.run_folder(tmp_path / "run", records, manifest("tcg", ("emulated by QEMU (TCG)",)))
    out = io.StringIO()
    found = compared(records, folder.manifest())
    Console(file=out, width=200).print(shifts.table(found.changes, found, (OLD, NEW), relative=True))
    for text in (html.write(folder).read_text(), junit.write(folder).read_text(), out.getvalue()):
        assert "123," not in text
        assert "shift:" not in text
    assert CANNOT_TELL in out.getvalue()


def test_the_table_is_two_columns_change_interval_verdict() -> None:
    found = compared(blocks(OLD, ASYNC, 1000) + blocks(NEW, ASYNC, 1100))
    out = io.StringIO()
    console = Console(file=out, width=200)
    console.print(shifts.table(found.changes, found, (OLD, NEW)))
    console.print(shifts.tails_table(found.changes, (OLD, NEW)))
    head, line, *_ = out.getvalue().splitlines()[1:]
    assert head.split() == ["path", "measured", OLD, NEW, "change", "95", "%", "interval", "p", "verdict"]
    assert line.split()[-1] == "slower"
    assert "p99.9" in out.getvalue()


@pytest.mark.parametrize("where", [OLD, NEW])
def test_a_kernel_that_crashed_half_way_is_not_compared(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    records = blocks(OLD, ASYNC, 1000) + blocks(NEW, ASYNC, 1000)
    crash = record(id="latency/x[block4]", suite="latency", kernel=where, outcome=Outcome.CRASH, block=4)
    folder = factory.run_folder(tmp_path / "run", [*records, crash], manifest())
    found, verdict = _compare(folder, monkeypatch)
    assert (found.wall, verdict.word, verdict.exit_code) == (None, "CRASH", 1)


def test_nothing_measured_on_both_is_no_comparison(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = factory.run_folder(tmp_path / "run", blocks(NEW, ASYNC, 1), manifest())
    with pytest.raises(HarnessError, match="no path was measured in wall time on both"):
        _compare(folder, monkeypatch)


def _compare(folder: RunFolder, monkeypatch: pytest.MonkeyPatch) -> tuple[Any, Any]:
    monkeypatch.setattr(compare_wall.run, "run", lambda *_: (folder, judge(folder.records(), folder.manifest())))
    monkeypatch.setattr(compare_wall, "resolve", lambda *_: None)
    _, found, verdict = compare_wall.compare_wall(Options(), NEW, OLD, 0.0, TerminalView(Console(quiet=True)))
    return found, verdict


@pytest.mark.parametrize(
    ("specs", "told"),
    [(("host", "host"), False), (("ssh:root@a", "ssh:root@b"), False), (("ssh:root@a", "host"), True)],
)
def test_two_builds_of_the_probe_are_told(
    specs: tuple[str, str], told: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = factory.run_folder(tmp_path / "run", blocks(OLD, ASYNC, 1) + blocks(NEW, ASYNC, 1), manifest())
    monkeypatch.setattr(compare_wall.run, "run", lambda *_: (folder, judge(folder.records(), folder.manifest())))
    _, found, _ = compare_wall.compare_wall(Options(), *specs, None, TerminalView(Console(quiet=True)))
    assert ("two builds" in found.probes) == told


@pytest.mark.parametrize(
    ("spans", "why"),
    [
        ([(0, 60), (4_000_000, 39)], "stands still"),
        ([(1000, 50), (2000, 49)], "steps of a microsecond"),
        ([(730, 90), (1000, 9)], ""),
    ],
)
def test_a_clock_that_does_not_see_a_microsecond_is_told(
    spans: list[tuple[int, int]], why: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Subject:
        def __enter__(self) -> Subject:
            return self

        def __exit__(self, *_: object) -> None: ...

        def path_cost(self, *_: object, **__: object) -> PathCost:
            return PathCost(Histogram("ticks", spans), Histogram("ticks", []))

    lab = Lab.__new__(Lab)
    monkeypatch.setattr(lab, "subject", Subject)
    found = clock_fault(lab)
    assert why in found
    assert bool(why) == bool(found)


@pytest.mark.parametrize("arguments", [("--boots", "5"), ("--lie", "slow_resolve"), ("--mode", "wall", "--where")])
def test_what_is_for_the_other_mode_is_refused(arguments: tuple[str, ...]) -> None:
    told = CliRunner().invoke(cli.main, ["compare", "host", "host", *arguments])
    assert (told.exit_code, told.output.count("\n")) == (2, 1), told.output


def test_the_kernels_take_turns_block_by_block(tmp_path: Path) -> None:
    """The running kernel beside itself: A B A B, each block read before and after. Which verdict, nobody asks."""
    command = [
        Path(sys.executable).parent / "kst",
        "compare",
        "host",
        "host",
        "--mode",
        "wall",
        "--boots",
        "4",
        "--json",
    ]
    command += ["--out", tmp_path / "run", "-k", "protect_cost and wp and anon"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
    told = json.loads(done.stdout)
    if told["verdict"] == "NOTHING TESTED":
        pytest.skip("userfaultfd write protection is not to be had here")
    assert (done.returncode, told["verdict"] in ("PASS", "DONE")) == (0, True), done.stderr[-2000:]
    folder = RunFolder.open(tmp_path / "run")
    turns = [(one.block, one.kernel) for one in folder.records() if one.outcome is Outcome.DONE]
    assert turns == [(block, kernel) for block in range(1, 5) for kernel in ("host", "host again")]
    for entry in folder.manifest().kernels:
        assert entry.noise["clocksource"]
        assert "8 readings" in entry.noise["load"]
    assert [one["shift"]["replicates"] for one in told["wall"]["changes"]] == [[4, 4]] * 2
    assert all(metric.percentiles for one in folder.records() for metric in one.metrics if metric.histogram)
