"""``kst`` without kernels: what becomes of a commit stands in its file ``verdict``. Run as a program, by git."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import results_factory as factory
from results_factory import NEW, record

from kselftests_py import cli, jobs, run
from kselftests_py.errors import BootError, HarnessError
from kselftests_py.jobs import runs
from kselftests_py.kernels import KernelImage
from kselftests_py.presubmit import flow
from kselftests_py.results import Outcome, Record, RunFolder, Verdict, judge


def outcome(spec: str) -> list[Record]:
    """The records of the commit of *spec*, or the error that its file names."""
    folder, _, revision = spec.removeprefix("git:").partition("@")
    told = subprocess.run(
        ["git", "show", f"{revision}:verdict"], cwd=folder, check=True, capture_output=True, text=True
    )
    word = told.stdout.strip()
    if word == "NO BUILD":
        raise BootError("it does not build")
    if word == "DISK":
        raise HarnessError("the disk is full")
    if word == "BUG":
        raise ZeroDivisionError
    if word == "XPASS":
        return [record(), record(id="trapping/test_y", finding="F020")]
    if word == "SKIP":
        return [record(outcome=Outcome.SKIP), record(id="trapping/test_y", outcome=Outcome.SKIP)]
    always, known = record(id="trapping/test_z"), record(id="trapping/test_y", outcome=Outcome.FAIL, finding="F020")
    return [record(outcome=Outcome(word)), always, known]


def judged(folder: Path, records: list[Record]) -> tuple[RunFolder, Verdict]:
    """A run of one kernel with these *records*."""
    manifest = factory.manifest()
    manifest.kernels = [entry for entry in manifest.kernels if entry.label == NEW]
    return factory.run_folder(folder, records, manifest), judge(records, manifest)


def kst_run(options: run.Options, _view: Any) -> tuple[RunFolder, Verdict]:
    """In place of ``run.run``."""
    records = outcome(options.kernels[0])
    return judged(Path(tempfile.mkdtemp(dir=folder_of_runs)) / "run", records)


def suite_run(spec: str, _suites: Sequence[str], _options: Sequence[str] = ()) -> tuple[runs.Told, list[Record]]:
    """In place of ``jobs.runs.run``."""
    records = outcome(spec)
    with tempfile.TemporaryDirectory() as scratch:
        verdict = judged(Path(scratch) / "run", records)[1]
    return runs.Told(verdict.word, verdict.why, verdict.exit_code), records


def built(spec: str, _note: Any) -> KernelImage:
    """In place of ``kernels.resolve``."""
    outcome(spec)
    return KernelImage(spec, "7.3", Path(spec), None, None, spec.rpartition("@")[2], {})


def inline(work: Sequence[jobs.Job], **_options: Any) -> Iterator[jobs.Finished]:
    """In place of ``jobs.run``: here, where the stubs are."""
    for job in work:
        try:
            yield jobs.Finished(job.key, job.call(*job.args))
        except HarnessError as error:
            yield jobs.Finished(job.key, error=error)


if __name__ == "__main__":
    folder_of_runs = sys.argv.pop(1)
    run.run = kst_run
    runs.run = suite_run
    flow.resolve = built
    flow.warnings.new = lambda *_: []
    flow.jobs.run = inline
    cli.main(prog_name="kst")
