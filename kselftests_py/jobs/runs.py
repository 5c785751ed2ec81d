"""``kst run`` as a piece of a job: in a process of its own, with results that are data."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

import msgspec

from kselftests_py import kept
from kselftests_py.errors import HarnessError
from kselftests_py.jobs.identity import identity
from kselftests_py.results import Record, RunFolder

_BOUND = 3600.0
"""Seconds for one ``kst run``: each of its tests has a bound of its own."""
_TIDYING = 20.0
"""Seconds that it has to end its guest and remove its files, when it is not wanted any more."""


class Told(msgspec.Struct, frozen=True):
    """What ``kst run --json`` said."""

    verdict: str
    why: str
    exit_code: int


class _Passed(msgspec.Struct, frozen=True):
    told: Told
    records: list[Record]


def run_once(
    digest: str, kernel: str, suites: Sequence[str], options: Sequence[str] = (), *, again: bool = False
) -> tuple[Told, list[Record]]:
    """As ``run``; but what passed on the kernel with *digest*, with this kst, its suites, this QEMU and this compiler
    (of the probe), passed.

    With *again* it is run all the same. What did not pass is never kept.
    """
    ours = identity()
    name = kept.key([digest, *suites, "", *options, ours.code, ours.qemu, ours.compiler])
    before = None if again else kept.recall("runs", name, _Passed)
    if before is not None:
        return before.told, before.records
    told, records = run(kernel, suites, options)
    if told.exit_code == 0:
        kept.remember("runs", name, _Passed(told, records))
    return told, records


def run(kernel: str, suites: Sequence[str], options: Sequence[str] = ()) -> tuple[Told, list[Record]]:
    """``kst run`` of *suites* on the kernel *kernel*, in a process of its own that dies with us: verdict and records.

    :raises HarnessError: it says nothing that can be read.
    """
    with tempfile.TemporaryDirectory(prefix="kst-job-") as scratch:
        out = Path(scratch) / "run"
        command = ["setpriv", "--pdeathsig", "TERM", sys.executable, "-m", "kselftests_py", "run", "--json"]
        command += ["--kernel", kernel, "--baseline", "none", "--jobs", "1", "--out", str(out), *options]
        command += [part for suite in suites for part in ("--suite", suite)]
        code, said, errors = _until_its_end(command)
        try:
            return msgspec.json.decode(said, type=Told), RunFolder.open(out).records()
        except msgspec.MsgspecError:
            lines = errors.strip().splitlines() or ["no output"]
            raise HarnessError(f"{' '.join(suites)}: kst run ended with {code}: {lines[-1][:300]}") from None


def _until_its_end(command: Sequence[str]) -> tuple[int, str, str]:
    """Its exit code, output and errors; if we are ended before it is, it is asked to end, and tidies up first."""
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, errors="replace"
    ) as process:
        try:
            said, errors = process.communicate(timeout=_BOUND)
        except BaseException as error:
            process.terminate()
            try:
                process.communicate(timeout=_TIDYING)
            except subprocess.TimeoutExpired:
                process.kill()
            if isinstance(error, subprocess.TimeoutExpired):
                raise HarnessError(f"kst run did not end within {_BOUND:.0f} s: {' '.join(command)}") from None
            raise
    return process.returncode, said, errors
