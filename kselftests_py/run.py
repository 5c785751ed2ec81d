"""``kst run``: kernels resolved, suites run on each, reports written, one exit code."""

from __future__ import annotations

import contextlib
import difflib
import os
import signal
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from types import FrameType

import psutil
import pytest

from kselftests_py import needs, reports
from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import KernelImage, newest_without_rwp
from kselftests_py.paths import data_dir
from kselftests_py.pytest_plugin import session as kst_session
from kselftests_py.pytest_plugin.keys import RUN
from kselftests_py.pytest_plugin.station import Need, Settings, Target
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import RunFolder, Verdict, capsule, judge
from kselftests_py.upstream import programs

DEFAULT_KERNEL = "debian:7.3"
INTERRUPTED = 130
MAX_SEED = (1 << 32) - 1
UPSTREAM = "upstream"
ON_REQUEST = (UPSTREAM,)
"""Suites that run only when they are named."""


@dataclass(frozen=True)
class Options:
    """What ``kst run`` was asked for."""

    kernels: Sequence[str] = ()
    baseline: str | None = None
    suites: Sequence[str] = ()
    expression: str = ""
    accel: str = "auto"
    mode: str = "both"
    cpus: int = 2
    memory: str = "1G"
    out: Path | None = None
    timeout: float = 60.0
    fail_fast: bool = False
    controls: bool = False
    blocks: int = 0  # of a comparison in wall time: each wall test so often on each kernel, the kernels taking turns
    margin: float = 0.03  # the share by which wall time may differ and still be called the same
    lie: str = ""  # a negative control that the kernels under test are measured with, the baselines not
    seed: int = 0  # added to those that the suites draw from: instants of races, sets of touched pages
    reuse: bool = False  # exact figures of the same kernel, measured in the same way before, need no boot
    guests: int = 0  # of exact tests, at once; 0: as many as there are CPUs and memory for
    where: bool = False  # exact: which functions the instructions are in
    apart: bool = False  # the same, as far as it can be had: it tells a change from noise


@dataclass(eq=False)  # pytest keeps plugins in sets, once there is a conftest.py
class _Plugin:
    """Hands the prepared run and its view to the pytest plugin."""

    run: kst_session.Run
    view: TerminalView
    title: str
    total: int = field(default=0, init=False)

    @pytest.hookimpl(trylast=True)  # pytest's own reporter is there by then
    def pytest_configure(self, config: pytest.Config) -> None:
        config.stash[RUN] = self.run
        if reporter := config.pluginmanager.get_plugin("terminalreporter"):
            config.pluginmanager.unregister(reporter)

    def pytest_collectreport(self, report: pytest.CollectReport) -> None:
        if report.failed:
            self.view.note(f"cannot load {report.nodeid}: {report.longreprtext.strip().splitlines()[-1]}")

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.view.run_started(len(session.items), self.title)


def suite_names() -> list[str]:
    """The suites of this installation."""
    return sorted(path.name for path in data_dir("suites").iterdir() if any(path.glob("test_*.py")))


def _suite_folders(wanted: Sequence[str]) -> list[str]:
    known = suite_names()
    for name in wanted:
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1)
            hint = f"did you mean '{near[0]}'?" if near else f"there are: {', '.join(known)}"
            raise UsageError(f"--suite {name}: no such suite; {hint}")
    default = [name for name in known if name not in ON_REQUEST]
    return [str(data_dir("suites") / name) for name in (wanted or default)]


def _kernels(options: Options, note: Callable[[str], None]) -> tuple[list[str], list[str]]:
    """Specs of the kernels under test and of the baseline; the defaults only when nothing was named."""
    baselines = [options.baseline] if options.baseline not in (None, "none") else []
    if options.kernels or options.baseline is not None:
        return list(options.kernels or [DEFAULT_KERNEL]), [one for one in baselines if one]
    image, said = newest_without_rwp(note)
    if said:
        note(said)
    return [DEFAULT_KERNEL], [image.spec]


def _check_sources(targets: Sequence[Target], suites: Sequence[str], note: Callable[[str], None]) -> None:
    """Tell before the boot where ``upstream`` will be skipped; :raises HarnessError: nothing else was asked, and it
    would be everywhere."""
    if UPSTREAM not in suites:
        return
    lacking: dict[str, str] = {}
    for one in targets:
        try:
            programs.source_of(one.kernel)
        except programs.NoSource as error:
            lacking[one.label] = str(error)
    if set(suites) == {UPSTREAM} and lacking.keys() >= {one.label for one in targets if one.entry.role == "kernel"}:
        raise HarnessError(f"{lacking[targets[-1].label]}; nothing would be tested")
    for label, why in lacking.items():
        note(f"{label}: --suite {UPSTREAM} is skipped: {why}")


@contextlib.contextmanager
def sigterm_as_interrupt() -> Iterator[None]:
    """A polite kill ends the run as Ctrl-C does: machines stopped, results kept, reports written."""

    def interrupt(_number: int, _frame: FrameType | None) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _guests(memory: str) -> int:
    """For how many guests of that size there are CPUs and memory here."""
    size = int(memory.rstrip("KMGkmg")) << {"K": 10, "G": 30}.get(memory[-1].upper(), 20)
    return max(1, min(len(os.sched_getaffinity(0)), psutil.virtual_memory().available // size))


def check(options: Options) -> None:
    """What can be told before the first kernel is had, which may take minutes.

    :raises UsageError: a suite is none, or the run folder is used.
    """
    _suite_folders(options.suites)
    if options.out is not None:
        RunFolder.check_free(options.out)


def run(options: Options, view: TerminalView) -> tuple[RunFolder, Verdict]:
    """Run the suites; the folder with everything, and the verdict.

    :raises UsageError: the options ask for what cannot be.
    :raises HarnessError: a kernel or the run folder is not to be had.
    """
    check(options)
    folders = _suite_folders(options.suites)
    names = [Path(folder).name for folder in folders]
    specs, baselines = _kernels(options, view.note)
    targets = kst_session.targets(specs, baselines, view, twice=options.blocks > 0)
    for one in targets:
        one.lie = options.lie if one.entry.role == "kernel" else ""
    for kernel in [one.kernel for one in targets if isinstance(one.kernel, KernelImage)]:
        for line in needs.tell(kernel, names):
            view.note(line)
    _check_sources(targets, names, view.note)
    folder = RunFolder.create(options.out)
    where: Need = "must" if options.where else "try" if options.apart else "no"
    settings = Settings(options.accel, options.cpus, options.memory, options.timeout, where)
    shown = {name: str(value) if isinstance(value, Path) else value for name, value in asdict(options).items()}
    prepared = kst_session.begin(folder, targets, settings, view, shown, options.controls)
    prepared.fail_fast = options.fail_fast
    prepared.blocks = options.blocks
    prepared.seed = options.seed
    prepared.reuse = options.reuse and not options.controls
    prepared.guests = options.guests or _guests(options.memory)
    arguments = [*folders, "-p", "no:cacheprovider", "--capture=no", "-q", f"--kst-mode={options.mode}"]
    arguments += ["-c", str(data_dir("suites") / "pytest.ini")]
    arguments += ["-k", options.expression] if options.expression else []
    title = " and ".join(one.label for one in targets)
    with sigterm_as_interrupt():
        status = pytest.main(arguments, plugins=[_Plugin(prepared, view, title)])
    view.stop()
    if prepared.stopped is not None:
        raise prepared.stopped
    if status == pytest.ExitCode.USAGE_ERROR and options.expression:  # pytest has said where it is wrong
        raise UsageError(f"-k {options.expression}: no expression that pytest can read")
    reports.write_all(folder)
    try:
        capsule.write(folder)
    except HarnessError as error:  # what was seen is not lost for it
        view.note(str(error))
    view.run_finished(folder)
    verdict = judge(folder.ordered(), folder.manifest())
    if status == pytest.ExitCode.INTERRUPTED:
        verdict = Verdict("INTERRUPTED", f"stopped; 'kst report {folder.path}' shows what there is", INTERRUPTED)
    return folder, verdict
