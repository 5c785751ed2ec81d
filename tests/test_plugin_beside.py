"""Exact tests on several guests at once: what each says is kept, whoever it ran beside and whatever becomes of its
process. The guests are this machine's own probe, so nothing is booted."""

from __future__ import annotations

import hashlib
import os
import time
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from rich.console import Console

from kselftests_py import run
from kselftests_py.kernels import KernelImage
from kselftests_py.lab.channel import Channel
from kselftests_py.machines.exact import ExactGuest
from kselftests_py.machines.local import LocalHost
from kselftests_py.machines.machine import MachineInfo, NeverUp
from kselftests_py.pytest_plugin import beside, session, station
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import Outcome, Record, RunFolder, Verdict

KERNELS = ["debian:7.2.13", "debian:7.3.4"]
MEETS = """
import os, time, pathlib

def meets(name, others):
    here = pathlib.Path(__file__).parent
    (here / name).touch()
    deadline = time.monotonic() + 5
    while not all((here / other).exists() for other in others):
        assert time.monotonic() < deadline, "nothing ran beside it"
        time.sleep(0.01)
"""


class Pretended(ExactGuest):
    """A guest that is this machine; one of release 0 does not boot, and of release 1 only the first."""

    def start(self) -> MachineInfo:
        further = Path("booted").exists()
        Path("booted").touch()
        if self._image.release == "0" or (self._image.release == "1" and further):
            raise NeverUp("no boot here")
        self._consoles()
        self._host = LocalHost()
        return self._host.start()

    def channel(self) -> Channel:
        return self._host.channel()

    def save(self) -> None: ...

    def rewind(self) -> None: ...

    def stop(self) -> None:
        if hasattr(self, "_host"):
            self._host.stop()


def made(spec: str, _note: object = None) -> KernelImage:
    release = spec.removeprefix("debian:")
    digest = hashlib.sha256(release.encode()).hexdigest()
    return KernelImage(spec, release, Path("vmlinuz"), None, None, digest, {})


class Bench:
    """Runs *cases* as the suite of a run."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._folder = folder
        (folder / "cases").mkdir()
        for where, name, fake in (
            (run, "_suite_folders", lambda _wanted: [str(folder / "cases")]),
            (session, "resolve", made),
            (station, "ExactGuest", Pretended),
            (station, "agent", lambda: Path("agent")),
            (station, "check_clock", lambda _lab, _label: None),
        ):
            monkeypatch.setattr(where, name, fake)
        monkeypatch.chdir(folder)

    def __call__(self, cases: str, **options: Any) -> tuple[dict[str, list[Record]], RunFolder, Verdict, str]:
        (self._folder / "cases" / "test_cases.py").write_text(MEETS + cases)
        given = {"kernels": KERNELS[1:], "baseline": "none", "mode": "exact", "guests": 2} | options
        with Path("said").open("w+") as said:
            view = TerminalView(Console(file=said))
            folder, verdict = run.run(run.Options(out=self._folder / "run", **given), view)
            said.seek(0)
            told = said.read()
        found: dict[str, list[Record]] = {}
        for record in folder.ordered():
            found.setdefault(record.id.partition("::")[2], []).append(record)
        return found, folder, verdict, told


@pytest.fixture
def bench(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Bench:
    return Bench(tmp_path, monkeypatch)


TWO_KERNELS = "def test_meets(exact_subject, kst_target):\n    meets(kst_target.label, ['7.2.13', '7.3.4'])"
TWO_TESTS = """
def test_one(exact_subject): meets("one", ["two"])
def test_two(exact_subject): meets("two", ["one"])
"""


@pytest.mark.parametrize(("guests", "outcome"), [(2, Outcome.PASS), (1, Outcome.FAIL)])
@pytest.mark.parametrize(
    ("cases", "kernels"), [(TWO_KERNELS, KERNELS), (TWO_TESTS, KERNELS[1:])], ids=["two kernels", "two tests of one"]
)
def test_two_guests_run_at_once_if_they_may(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, cases: str, kernels: list[str], guests: int, outcome: Outcome
) -> None:
    """With one, each waits for the other in vain: so it is seen that they did not merely take turns."""
    monkeypatch.setattr(beside, "_SHARE", 1)
    found, folder, _, told = bench(cases, kernels=kernels, guests=guests)
    records = [one for several in found.values() for one in several]
    assert outcome in {one.outcome for one in records}
    assert Outcome.FAIL not in {one.outcome for one in records} or guests == 1
    assert len(records) == 2
    entries = folder.manifest().kernels
    assert [(len(entry.boot_s), bool(entry.capabilities), entry.accelerator) for entry in entries] == [
        (guests if len(kernels) == 1 else 1, True, "none")
    ] * len(kernels)
    assert told.count("starting (exact)") == max(guests, len(kernels))
    assert len(list((folder.path / "console").iterdir())) == max(guests, len(kernels))


def test_no_guest_is_booted_for_a_few_tests(bench: Bench) -> None:
    cases = "import pytest\n@pytest.mark.parametrize('number', range(9))\ndef test_a(exact_subject, number): pass"
    found, folder, _, _ = bench(cases, guests=64)
    assert len(found) == 9
    assert len(folder.manifest().kernels[0].boot_s) == 1


def test_everything_a_test_says_is_kept(bench: Bench) -> None:
    """Metrics, outcomes, reasons, in the order of the tests and not of chance."""
    cases = """
import pytest
@pytest.mark.measures
def test_b(exact_subject, record_metric): record_metric("b", 7, "instructions", mode="exact")
def test_c(exact_subject): assert exact_subject.pid < 0, "no such process"
@pytest.mark.needs("rwp")
def test_a(exact_subject, kst_target): assert kst_target.capabilities.missing("rwp") is None
def test_d(exact_subject): raise KeyError(1)
"""
    found, folder, verdict, told = bench(cases, kernels=KERNELS)
    assert list(found) == ["test_a", "test_b", "test_c", "test_d"]
    for records in found.values():
        assert [one.kernel for one in records] == ["7.2.13", "7.3.4"]
        assert {one.profile for one in records} == {"exact"}
    assert {one.metrics[0].value for one in found["test_b"]} == {7}
    assert {(one.outcome, one.message) for one in found["test_c"]} == {(Outcome.FAIL, "no such process")}
    assert "test_cases.py" in found["test_c"][0].log
    assert {one.outcome for one in found["test_a"]} <= {Outcome.SKIP, Outcome.PASS}  # a host may have RWP
    assert {one.outcome for one in found["test_d"]} == {Outcome.ERROR}
    assert verdict.exit_code == 1
    assert folder.manifest().finished
    summary = told[told.rindex("\nkernel ") :]
    assert 0 <= summary.index("7.2.13") < summary.index("7.3.4")


def test_a_process_that_dies_costs_its_test_and_no_other(bench: Bench, capfd: pytest.CaptureFixture[str]) -> None:
    cases = """
import signal
def test_a(exact_subject): os.kill(os.getpid(), signal.SIGKILL)
def test_b(exact_subject): pass
def test_c(exact_subject): os._exit(3)
def test_d(exact_subject): pass
"""
    found, _, verdict, _ = bench(cases)
    assert {name: one.outcome for name, (one,) in found.items()} == {
        "test_a": Outcome.MISS, "test_b": Outcome.PASS, "test_c": Outcome.MISS, "test_d": Outcome.PASS,
    }  # fmt: skip
    assert [found[name][0].message for name in ("test_a", "test_c")] == [
        "the process that it ran in ended (-9)", "the process that it ran in ended (3)",
    ]  # fmt: skip
    assert (verdict.word, verdict.exit_code) == ("BROKEN", 3)
    assert "Traceback" not in capfd.readouterr().err


@pytest.mark.parametrize("tests", [1, 2])
@pytest.mark.parametrize("fail_fast", [False, True])
def test_a_kernel_that_does_not_boot_is_told_as_such(bench: Bench, tests: int, fail_fast: bool) -> None:
    cases = "\n".join(f"def test_{number}(exact_subject): pass" for number in range(tests))
    found, folder, verdict, _ = bench(cases, kernels=["debian:0"], fail_fast=fail_fast)
    assert (verdict.word, verdict.why, verdict.exit_code) == ("NO BOOT", "no boot here", 125)
    assert {one.outcome for records in found.values() for one in records} == {Outcome.MISS}
    assert folder.manifest().boot_failed == "no boot here"
    assert len(found) == (1 if fail_fast else tests)


def test_a_further_guest_that_does_not_come_up_costs_nothing(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    """As where there is no memory for it."""
    monkeypatch.setattr(beside, "_SHARE", 1)
    cases = """
import pytest
@pytest.mark.parametrize("number", range(20))
def test_a(exact_subject, number): time.sleep(0.1)
"""
    found, folder, verdict, told = bench(cases, kernels=["debian:1"], guests=3)
    assert {one.outcome for records in found.values() for one in records} == {Outcome.PASS}
    assert len(found) == 20
    assert (verdict.word, folder.manifest().boot_failed) == ("PASS", "")
    assert "1: goes on with a guest less: no boot here" in told


@pytest.mark.parametrize(("memory", "guests"), [("1G", 3), ("2g", 1), ("3072", 1), ("512M", 4), ("64G", 1)])
def test_there_are_no_more_guests_than_there_is_memory_for(
    monkeypatch: pytest.MonkeyPatch, memory: str, guests: int
) -> None:
    monkeypatch.setattr("psutil.virtual_memory", lambda: SimpleNamespace(available=(3 << 30) + 1))
    monkeypatch.setattr(os, "sched_getaffinity", lambda _pid: set(range(4)))
    assert run._guests(memory) == guests


def test_a_fail_fast_run_ends_with_what_runs_beside(bench: Bench) -> None:
    """Nothing else is begun, and nobody waits for what is not wanted any more."""
    cases = """
def test_a(exact_subject, kst_target):
    meets(kst_target.label, ["7.2.13", "7.3.4"])
    assert kst_target.label != "7.3.4"
    time.sleep(60)
def test_b(exact_subject): pass
"""
    began = time.monotonic()
    found, _, verdict, _ = bench(cases, kernels=KERNELS, fail_fast=True)
    assert time.monotonic() - began < 40
    assert Counter(one.outcome for records in found.values() for one in records) == {Outcome.FAIL: 1}
    assert verdict.exit_code == 1


def test_no_process_is_left(bench: Bench) -> None:
    found, _, _, _ = bench(
        "import pytest\n@pytest.mark.measures\n"
        "def test_a(exact_subject, record_metric): record_metric('pid', os.getpid(), '1')"
    )
    pid = int(found["test_a"][0].metrics[0].value)
    assert pid != os.getpid()
    assert not Path(f"/proc/{pid}").exists()
