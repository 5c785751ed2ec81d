"""The main job on real kernels: two Debian kernels booted, suites run on both, every claim seen to fail under a lie."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from junitparser import JUnitXml

from kselftests_py.results import Outcome, Record, RunFolder, judge
from kselftests_py.results.regression import figures

pytestmark = [pytest.mark.vm, pytest.mark.network]


def kst(*arguments: str | Path) -> subprocess.CompletedProcess[str]:
    command = [Path(sys.executable).parent / "kst", *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)


@pytest.fixture(scope="module")
def two_kernels(tmp_path_factory: pytest.TempPathFactory) -> tuple[subprocess.CompletedProcess[str], RunFolder]:
    """`kst run` as the README has it."""
    path = tmp_path_factory.mktemp("two") / "run"
    done = kst("run", "--json", "--out", path)
    return done, RunFolder.open(path)


def test_default_run_passes_with_one_verdict(
    two_kernels: tuple[subprocess.CompletedProcess[str], RunFolder],
) -> None:
    done, folder = two_kernels
    assert done.returncode == 0, done.stderr[-3000:]
    told: dict[str, Any] = json.loads(done.stdout)
    assert (told["verdict"], told["exit_code"]) == ("PASS", 0)
    assert [(entry.spec, entry.role) for entry in folder.manifest().kernels][1] == ("debian:7.3", "kernel")
    assert folder.manifest().kernels[0].role == "baseline"
    junit = JUnitXml.fromfile(str(folder.path / "junit.xml"))
    assert sum(suite.tests for suite in junit) == len(folder.records())
    assert all(entry.qemu_cmdlines and entry.accelerator_reason for entry in folder.manifest().kernels)


def by_kernel(folder: RunFolder, role: str) -> list[Record]:
    labels = {entry.label for entry in folder.manifest().kernels if entry.role == role}
    return [record for record in folder.records() if record.kernel in labels]


def test_rwp_is_tested_where_it_is_and_skipped_where_it_is_not(
    two_kernels: tuple[subprocess.CompletedProcess[str], RunFolder],
) -> None:
    _, folder = two_kernels
    new, old = by_kernel(folder, "kernel"), by_kernel(folder, "baseline")
    assert {record.id for record in new} == {record.id for record in old}
    rwp = [record for record in new if "test_rwp_sync.py" in record.id]
    assert {record.outcome for record in rwp} == {Outcome.PASS}
    skipped = [record for record in old if "test_rwp_sync.py" in record.id]
    assert {record.outcome for record in skipped} == {Outcome.SKIP}
    assert all("RWP" in record.message for record in skipped)
    assert any(record.outcome is Outcome.PASS for record in old)


def test_exact_numbers_are_the_same_on_another_boot(
    two_kernels: tuple[subprocess.CompletedProcess[str], RunFolder], tmp_path: Path
) -> None:
    """In every sample, whatever ran before: the same kernel and probe, another boot, another selection of tests."""
    _, folder = two_kernels
    selected = "fault or fork or exit or protect"
    done = kst(
        "run", "--kernel", "debian:7.3", "--suite", "latency", "--mode", "exact", "-k", selected,
        "--out", tmp_path / "run",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout[-3000:]
    first, second = (figures(by_kernel(one, "kernel")) for one in (folder, RunFolder.open(tmp_path / "run")))
    assert len(second) >= 100
    assert {key: first[key] for key in second} == second


def test_every_claim_is_seen_to_fail_under_its_negative_controls(tmp_path: Path) -> None:
    """Under each control the probe lies in one way; the claims it belongs to must notice, on the real 7.3 kernel."""
    done = kst("run", "--kernel", "debian:7.3", "--controls", "--out", tmp_path / "run")
    records = RunFolder.open(tmp_path / "run").records()
    assert [record.id for record in records if record.outcome not in (Outcome.PASS, Outcome.SKIP)] == []
    assert done.returncode == 0, done.stdout[-3000:]
    assert sum(record.outcome is Outcome.PASS for record in records) > 300


def test_debian_kernel_of_the_old_package_layout(tmp_path: Path) -> None:
    """6.12: vmlinuz in /boot, modules in /lib/modules; wp-only."""
    done = kst(
        "run", "--kernel", "debian:6.12", "--suite", "trapping", "-k", "test_wp and anon", "--out", tmp_path / "run"
    )
    assert done.returncode == 0, done.stdout[-3000:]
    [entry] = RunFolder.open(tmp_path / "run").manifest().kernels
    assert entry.release.startswith("6.12.")


LOSSES = """
import pytest
from kselftests_py.pytest_plugin.keys import RUN

@pytest.fixture
def machine(request, kst_target, subject):
    return request.config.stash[RUN].bench.station(kst_target, "functional").machine

def test_panics(machine, subject):
    with pytest.raises(Exception):
        machine.run("echo c > /proc/sysrq-trigger", 20)
    subject.proc_read("stat")

def test_after_the_panic(subject):
    assert "VmFlags" in subject.proc_read("smaps")

def test_hangs(machine, subject):
    machine.run("kill -STOP $(pidof agent)", 20)
    subject.proc_read("stat")

def test_after_the_hang(subject):
    assert "VmFlags" in subject.proc_read("smaps")

def test_warns(machine, subject):
    machine.run("echo 'WARNING: CPU: 0 PID: 1 at mm/x.c:1' > /dev/kmsg", 20)

def test_oopses_and_taints(machine, subject):
    machine.run("echo 'BUG: unable to handle page fault for address: 0' > /dev/kmsg", 20)
"""


def test_crash_and_hang_are_told_apart_and_the_run_goes_on(tmp_path: Path) -> None:
    """Really in a guest: after CRASH and HANG the machine is booted again and the next test runs."""
    suite = tmp_path / "losses"
    suite.mkdir()
    (suite / "test_losses.py").write_text(LOSSES)
    (suite / "pytest.ini").write_text("[pytest]\n")
    command = [sys.executable, "-m", "pytest", suite, "--kst-kernel", "debian:7.3", "--kst-out", tmp_path / "run"]
    command += ["--kst-timeout", "30"]
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=1800)
    folder = RunFolder.open(tmp_path / "run")
    outcomes = {record.id.partition("::test_")[2]: record.outcome for record in folder.records()}
    assert outcomes == {
        "panics": Outcome.CRASH,
        "after_the_panic": Outcome.PASS,
        "hangs": Outcome.HANG,
        "after_the_hang": Outcome.PASS,
        "warns": Outcome.CRASH,
        "oopses_and_taints": Outcome.CRASH,
    }, done.stdout[-3000:]
    panic = folder.records()[0]
    assert "sysrq triggered crash" in panic.message
    assert "Call Trace" in panic.log
    assert judge(folder.records(), folder.manifest()).exit_code == 1
    # Not the consoles: a boot that QEMU failed (kernel_log.lost_code_patch) is tried again, and leaves one.
    assert len(folder.manifest().kernels[0].boot_s) == 4
