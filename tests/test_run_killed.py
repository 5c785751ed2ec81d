"""A run that is interrupted or killed leaves the results it had, no QEMU, and nothing that stops the next run."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from kselftests_py.results import RunFolder, judge

pytestmark = pytest.mark.vm
BOUND = 240.0  # seconds for a boot and a first test, on a busy machine without KVM


def kst(run: Path, suite: list[str]) -> subprocess.Popen[str]:
    command = [Path(sys.executable).parent / "kst", "run", "--kernel", "debian:7.3", "--baseline", "none"]
    command += ["--suite", *suite, "--out", run]
    return subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )


def wait_for(what: str, seconds: float, state: object) -> None:
    """Wait until the callable *state* is true; fail, saying what was awaited, when the bound runs out."""
    deadline = time.monotonic() + seconds
    while not state():  # type: ignore[operator]
        assert time.monotonic() < deadline, f"awaited for {seconds:.0f} s: {what}"
        time.sleep(0.05)


@pytest.fixture
def running(
    tmp_path: Path, request: pytest.FixtureRequest
) -> Iterator[tuple[subprocess.Popen[str], Path, list[psutil.Process]]]:
    """A run in the middle: some records are written, QEMU is up."""
    process = kst(tmp_path / "run", request.param)
    results = tmp_path / "run" / "results.jsonl"
    wait_for("three records", BOUND, lambda: results.exists() and results.read_bytes().count(b"\n") >= 3)
    below: list[psutil.Process] = []

    def qemu_is_seen() -> bool:  # psutil may leave out a child for a moment
        below[:] = psutil.Process(process.pid).children(recursive=True)
        return any(one.name().startswith("qemu-system") for one in below)

    wait_for("QEMU among the processes of the run", 20, qemu_is_seen)
    yield process, tmp_path / "run", below
    if process.poll() is None:
        process.kill()
    process.wait()


def gone(processes: list[psutil.Process]) -> bool:
    return not any(one.is_running() and one.status() != psutil.STATUS_ZOMBIE for one in processes)


FUNCTIONAL = ["trapping"]
EXACT = ["latency", "--mode", "exact", "--jobs", "2"]  # the guests are those of processes below the run


@pytest.mark.parametrize(
    ("running", "number", "code"),
    [
        (FUNCTIONAL, signal.SIGINT, 130),
        (FUNCTIONAL, signal.SIGTERM, 130),
        (FUNCTIONAL, signal.SIGKILL, -9),
        (EXACT, signal.SIGINT, 130),
        (EXACT, signal.SIGTERM, 130),
        (EXACT, signal.SIGKILL, -9),
    ],
    indirect=["running"],
)
def test_results_stay_and_qemu_goes(
    running: tuple[subprocess.Popen[str], Path, list[psutil.Process]], number: signal.Signals, code: int
) -> None:
    process, run, below = running
    if number == signal.SIGINT:
        os.killpg(process.pid, number)  # as a terminal does
    else:
        process.send_signal(number)
    output, _ = process.communicate(timeout=60)
    assert process.returncode == code, output
    assert "Traceback" not in output
    wait_for("the end of QEMU and of all that the run started", 20, lambda: gone(below))
    folder = RunFolder.open(run)
    assert len(folder.records()) >= 3
    assert judge(folder.records(), folder.manifest()).exit_code == 3  # incomplete is not a pass
    again = subprocess.run(
        [Path(sys.executable).parent / "kst", "report", run], capture_output=True, text=True, check=False
    )
    assert (again.returncode, "INCOMPLETE" in again.stdout) == (3, True), again.stdout + again.stderr
