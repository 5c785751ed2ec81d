"""Each way a test can end becomes its outcome, record and exit code. On the running kernel: no VM."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from kselftests_py.results import Outcome, RunFolder, judge

CASES = """
import os
import pytest
from kselftests_py.machines.machine import Loss, MachineLost

def test_pass(subject):
    assert subject.pid > 0

def test_fail(subject):
    assert 1 == 2, "one is not two"

def test_error(subject):
    raise RuntimeError("the test broke")

def test_died(subject):
    subject.peek(8)

def test_hang(subject):
    from kselftests_py.lab.errors import SubjectHung
    raise SubjectHung("no answer within 10 s", "rwprotect")

def test_crash(subject):
    raise MachineLost(Loss.PANIC, "Kernel panic - not syncing: test", "the console")

def test_lost(subject):
    raise MachineLost(Loss.LOST, "the connection broke")

@pytest.mark.needs("rwp")
def test_skip(subject, caps):
    assert caps.missing("rwp") is None

@pytest.mark.measures
def test_done(subject, record_metric):
    record_metric("answer", 42, "pages", labels={"path": "idle"})

@pytest.mark.finding("F999")
def test_expected(subject):
    assert False

@pytest.mark.finding("F999")
def test_unexpected(subject):
    pass
"""
EXPECTED = {
    "test_pass": (Outcome.PASS, ""),
    "test_fail": (Outcome.FAIL, "one is not two"),
    "test_error": (Outcome.ERROR, "the test broke"),
    "test_died": (Outcome.ERROR, "died"),
    "test_hang": (Outcome.HANG, "no answer within"),
    "test_crash": (Outcome.CRASH, "Kernel panic"),
    "test_lost": (Outcome.MISS, "the connection broke"),
    "test_done": (Outcome.DONE, ""),
    "test_expected": (Outcome.FAIL, ""),
    "test_unexpected": (Outcome.PASS, ""),
}


def run_suite(tmp_path: Path, cases: str, *arguments: str) -> tuple[subprocess.CompletedProcess[str], RunFolder]:
    suite = tmp_path / "outcomes"
    suite.mkdir()
    (suite / "test_cases.py").write_text(cases)
    (suite / "pytest.ini").write_text("[pytest]\naddopts = --strict-markers\n")
    command = [sys.executable, "-m", "pytest", suite, "--kst-kernel", "host", "--kst-out", tmp_path / "run", *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    return done, RunFolder.open(tmp_path / "run")


def test_each_end_becomes_its_outcome(tmp_path: Path) -> None:
    _, folder = run_suite(tmp_path, CASES)
    records = {record.id.partition("::")[2]: record for record in folder.records()}
    for name, (outcome, told) in EXPECTED.items():
        record = records[name]
        assert (record.outcome, told in record.message) == (outcome, True), record
        assert record.counts_as_failure == (name in ("test_fail", "test_hang", "test_crash", "test_unexpected"))
    assert records["test_skip"].outcome in (Outcome.SKIP, Outcome.PASS)  # a host may have RWP
    assert records["test_done"].metrics[0].value == 42
    assert records["test_crash"].log == "the console"
    assert len(records) == len(EXPECTED) + 1
    assert judge(folder.records(), folder.manifest()).exit_code == 1


def test_what_loses_the_machine_runs_last(tmp_path: Path) -> None:
    """Else the others would need another boot."""
    cases = "import pytest\n@pytest.mark.loses_machine\ndef test_a(subject): pass\ndef test_b(subject): pass"
    _, folder = run_suite(tmp_path, cases)
    assert [record.id.partition("::")[2] for record in folder.records()] == ["test_b", "test_a"]


@pytest.mark.parametrize(
    ("cases", "code"),
    [
        ("def test_ok(subject): pass", 0),
        ("def test_bad(subject): assert 0", 1),
        ("def test_broken(subject): raise KeyError(1)", 3),
        ("import pytest\ndef test_skipped(subject): pytest.skip('no such thing')", 3),
        ("import pytest\n@pytest.mark.finding('F1')\ndef test_x(subject): assert 0\ndef test_ok(subject): pass", 0),
        ("import pytest\n@pytest.mark.finding('F1')\ndef test_x(subject): pass", 1),
    ],
    ids=["pass", "fail", "error", "all-skipped", "expected", "unexpected-pass"],
)
def test_exit_code_of_the_run(tmp_path: Path, cases: str, code: int) -> None:
    _, folder = run_suite(tmp_path, cases)
    assert judge(folder.records(), folder.manifest()).exit_code == code


@pytest.mark.skipif(os.geteuid() != 0, reason="writing to the kernel log needs root")
def test_warning_in_the_kernel_log_is_a_crash_and_outranks_a_failure(tmp_path: Path) -> None:
    cases = """
def shout():
    with open("/dev/kmsg", "w") as log:
        log.write("WARNING: CPU: 0 PID: 1 at mm/control.c:1 kselftests_py_test\\n")
def test_warns_and_passes(subject): shout()
def test_warns_and_fails(subject):
    shout()
    assert False
def test_innocent(subject): pass
"""
    _, folder = run_suite(tmp_path, cases)
    crash, both, innocent = folder.records()
    assert [crash.outcome, both.outcome, innocent.outcome] == [Outcome.CRASH, Outcome.CRASH, Outcome.PASS]
    assert "mm/control.c" in crash.log
    assert judge(folder.records(), folder.manifest()).exit_code == 1


def test_the_manifest_has_the_seed_of_each_test_that_draws(tmp_path: Path) -> None:
    cases = """
import pytest
@pytest.mark.parametrize("seed", [1, 9], indirect=True)
def test_two(subject, seed): assert seed in (6, 14)
def test_one(subject, seed): assert seed == 6
def test_none(subject): pass
"""
    _, folder = run_suite(tmp_path, cases, "--kst-seed", "5")
    assert judge(folder.records(), folder.manifest()).exit_code == 0
    assert folder.manifest().seeds == {
        "outcomes/test_cases.py::test_two[1]": 6,
        "outcomes/test_cases.py::test_two[9]": 14,
        "outcomes/test_cases.py::test_one": 6,
    }
    assert set(folder.manifest().seeds) < {record.id for record in folder.records()}


def test_control_that_is_noticed_passes_and_one_that_is_not_fails(tmp_path: Path) -> None:
    cases = """
import pytest
from kselftests_py.lab import WP, WRITE, Fault
@pytest.mark.control("wrong_address", "lose_wake")
def test_address(subject):
    region = subject.region("anon", pages=3).populate()
    uffd = subject.uffd(WP)
    uffd.register(region, mode=WP)
    uffd.writeprotect(region)
    subject.actor().write(region[0], 1)
    assert uffd.next_fault() == Fault(region[0], WP | WRITE)
def test_without_control(subject): pass
"""
    _, folder = run_suite(tmp_path, cases, "--kst-controls")
    found = {record.id.partition("[")[2]: record for record in folder.records()}
    assert set(found) == {"control=wrong_address]", "control=lose_wake]"}
    assert found["control=wrong_address]"].outcome is Outcome.PASS
    assert found["control=lose_wake]"].outcome is Outcome.FAIL
    assert "not noticed" in found["control=lose_wake]"].message


def test_first_failure_ends_a_fail_fast_run(tmp_path: Path) -> None:
    _, folder = run_suite(tmp_path, "def test_a(subject): assert 0\ndef test_b(subject): pass", "-x")
    assert [record.outcome for record in folder.records()] == [Outcome.FAIL]


def test_a_finding_does_not_end_a_fail_fast_run_whether_it_holds_or_is_mended(tmp_path: Path) -> None:
    cases = """
import pytest
@pytest.mark.finding("F999")
def test_a(subject): assert 0
@pytest.mark.finding("F999")
def test_b(subject): pass
def test_c(subject): assert 0
def test_d(subject): pass
"""
    _, folder = run_suite(tmp_path, cases, "--kst-fail-fast")
    assert [record.outcome for record in folder.records()] == [Outcome.FAIL, Outcome.PASS, Outcome.FAIL]


def test_time_of_a_test_is_bounded(tmp_path: Path) -> None:
    cases = """
def test_endless(subject):
    while True:
        subject.proc_read("stat")
def test_next(subject): pass
"""
    _, folder = run_suite(tmp_path, cases, "--kst-timeout", "2")
    assert [record.outcome for record in folder.records()] == [Outcome.HANG, Outcome.PASS]
    assert "--timeout" in folder.records()[0].message


def test_suite_without_a_kernel_is_refused_and_not_skipped(tmp_path: Path) -> None:
    (tmp_path / "test_it.py").write_text("def test_it(subject): pass")
    command = [sys.executable, "-m", "pytest", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, cwd=tmp_path)
    assert done.returncode == 2
    assert "--kst-kernel SPEC" in done.stdout


def test_reply_that_is_none_costs_one_test_and_a_new_start(tmp_path: Path) -> None:
    cases = """
import pytest
from kselftests_py.pytest_plugin.keys import RUN
def test_garbage(request, kst_target, subject, monkeypatch):
    channel = request.config.stash[RUN].bench.station(kst_target, "functional").channel
    monkeypatch.setattr(channel, "call", lambda line, timeout: b"\\x1b[31m not JSON \\xff")
    subject.proc_read("stat")
def test_next(subject): assert "VmFlags" in subject.proc_read("smaps")
"""
    _, folder = run_suite(tmp_path, cases)
    assert [record.outcome for record in folder.records()] == [Outcome.MISS, Outcome.PASS]
    assert "not of the protocol" in folder.records()[0].message
    assert "\x1b" not in folder.records()[0].message
