"""The pytest plugin: the suites are plain pytest, run on every kernel given with ``--kst-kernel``.

Order: by kernel, then by kind of machine, so that one boot serves many tests.
Each finished test becomes one record in the run folder at once.
"""

from __future__ import annotations

import time
from collections.abc import Generator
from functools import partial
from pathlib import Path

import pytest

from kselftests_py.errors import KstError, UsageError
from kselftests_py.lab.channel import ChannelError
from kselftests_py.machines.kernel_log import Splat
from kselftests_py.machines.machine import MachineLost
from kselftests_py.pytest_plugin import beside, known, session
from kselftests_py.pytest_plugin.fixtures import (
    caps,
    exact_subject,
    kst_block,
    kst_control,
    kst_target,
    lab,
    machine,
    record_metric,
    record_part,
    seed,
    subject,
)
from kselftests_py.pytest_plugin.judge import check_log, record
from kselftests_py.pytest_plugin.keys import ERRORS, PARTS, REPORTS, RUN, STATION
from kselftests_py.pytest_plugin.names import test_id
from kselftests_py.pytest_plugin.session import Run
from kselftests_py.pytest_plugin.station import Settings, Target
from kselftests_py.results import Outcome, Record, RunFolder

__all__ = [
    "caps", "exact_subject", "kst_block", "kst_control", "kst_target", "lab", "machine", "record_metric", "record_part",
    "seed", "subject",
]  # fmt: skip

_MARKS = (
    "needs(*names): capabilities of the kernel without which the test is skipped",
    "control(*names): negative controls of the probe that make the test fail (see docs/probe-protocol.md)",
    "measures: no verdict on the kernel; what would be a pass is DONE",
    "wall: measures nanoseconds; left out with --kst-mode exact",
    "contract(*ids): sentences of suites/trapping/contract.toml that the test decides",
    "finding(id): expected to fail, strictly, because of docs/findings/<id>.md",
    "loses_machine: where its finding is seen the machine must be booted again: runs after the others of its kernel",
)


def pytest_addoption(parser: pytest.Parser) -> None:
    group = parser.getgroup("kst", "kernels under test (kselftests-py)")
    group.addoption("--kst-kernel", action="append", default=[], metavar="SPEC", help="kernel to test (repeatable)")
    group.addoption("--kst-baseline", action="append", default=[], metavar="SPEC", help="kernel to compare with")
    group.addoption("--kst-out", type=Path, metavar="DIR", help="run folder (default: kst-runs/<time>)")
    group.addoption("--kst-accel", default="auto", choices=["auto", "kvm", "tcg"], help="accelerator of the guests")
    group.addoption(
        "--kst-mode", default="both", choices=["exact", "wall", "both"], help="which clocks to measure with"
    )
    group.addoption("--kst-cpus", type=int, default=2, metavar="N", help="vCPUs of a guest (exact mode: always 1)")
    group.addoption("--kst-memory", default="1G", metavar="SIZE", help="memory of a guest, as vng takes it")
    group.addoption("--kst-timeout", type=float, default=60, metavar="SECONDS", help="bound of one test")
    group.addoption(
        "--kst-seed", type=int, default=0, metavar="N", help="other random choices, the same for the same N"
    )
    group.addoption(
        "--kst-fail-fast", action="store_true", help="stop at the first failure that no finding explains (-x: at any)"
    )
    group.addoption(
        "--kst-controls", action="store_true", help="run each test under its negative controls; it must fail"
    )


def pytest_configure(config: pytest.Config) -> None:
    for mark in _MARKS:
        config.addinivalue_line("markers", mark)


def pytest_sessionstart(session: pytest.Session) -> None:
    config = session.config
    if RUN in config.stash:  # `kst run` brought its own
        return
    if not config.option.kst_kernel:
        if config.option.kst_baseline:
            raise pytest.UsageError("--kst-baseline needs a --kst-kernel to compare with")
        return
    try:
        config.stash[RUN] = _begin(config)
    except UsageError as error:
        raise pytest.UsageError(str(error)) from None
    except KstError as error:
        pytest.exit(str(error), returncode=error.exit_code)


def _begin(config: pytest.Config) -> Run:
    option = config.option
    listener = session.Silent()
    targets = session.targets(option.kst_kernel, option.kst_baseline, listener)
    folder = RunFolder.create(option.kst_out)
    settings = Settings(option.kst_accel, option.kst_cpus, option.kst_memory, option.kst_timeout)
    options = {
        name[4:]: str(value) if isinstance(value, Path) else value
        for name, value in vars(option).items()
        if name.startswith("kst_")
    }
    begun = session.begin(folder, targets, settings, listener, options, option.kst_controls)
    begun.fail_fast = option.kst_fail_fast
    begun.seed = option.kst_seed
    return begun


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    run = metafunc.config.stash.get(RUN, None)
    if "kst_target" in metafunc.fixturenames:
        if run is None and not metafunc.config.option.collectonly:  # to list them, none is needed
            raise pytest.UsageError("these tests need a kernel: give --kst-kernel SPEC, for example debian:7.3 or host")
        targets = run.bench.targets if run else []
        metafunc.parametrize("kst_target", targets, indirect=True, scope="session", ids=[one.label for one in targets])
    if run and run.blocks and "kst_block" in metafunc.fixturenames and metafunc.definition.get_closest_marker("wall"):
        numbers = range(1, run.blocks + 1)
        metafunc.parametrize("kst_block", numbers, indirect=True, ids=[f"block{number}" for number in numbers])
    if run and run.controls and "kst_control" in metafunc.fixturenames:
        names = [name for mark in metafunc.definition.iter_markers("control") for name in mark.args]
        if names:
            metafunc.parametrize("kst_control", names, indirect=True, ids=[f"control={name}" for name in names])


def _target(item: pytest.Item) -> Target | None:
    spec = getattr(item, "callspec", None)
    target = spec.params.get("kst_target") if spec else None
    return target if isinstance(target, Target) else None


def _control(item: pytest.Item) -> str | None:
    spec = getattr(item, "callspec", None)
    control: str | None = spec.params.get("kst_control") if spec else None
    return control


def _block(item: pytest.Item) -> int:
    spec = getattr(item, "callspec", None)
    block: int = spec.params.get("kst_block", 0) if spec else 0
    return block


def _ends_block(item: pytest.Item, following: pytest.Item | None) -> bool:
    here, there = _block(item), _block(following) if following else 0
    return here > 0 and (here != there or following is None or _target(item) is not _target(following))


def _profile(item: pytest.Item) -> str:
    return "exact" if "exact_subject" in getattr(item, "fixturenames", ()) else "functional"


@pytest.hookimpl(trylast=True)
def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    run = config.stash.get(RUN, None)
    if run is None:
        return
    unwanted = {"exact": "wall", "wall": "exact"}.get(config.option.kst_mode)
    kept: list[pytest.Item] = []
    dropped: list[pytest.Item] = []
    for item in items:
        target = _target(item)
        clock = "exact" if _profile(item) == "exact" else "wall" if item.get_closest_marker("wall") else ""
        no_guest = target is not None and target.entry.digest == "" and clock == "exact"
        unused_control = run.controls and target is not None and _control(item) is None
        (dropped if (clock and clock == unwanted) or no_guest or unused_control else kept).append(item)
    exact = [(item, target) for item in kept if _profile(item) == "exact" and (target := _target(item))]
    run.bench.ask_functions({target.label: target for _, target in exact}.values())
    if run.reuse:
        try:
            written = known.recall(run, exact)
        except KstError as error:
            run.stopped = error
            pytest.exit(str(error), returncode=error.exit_code)
        kept = [item for item in kept if item not in written]
    if dropped:
        config.hook.pytest_deselected(items=dropped)
    order = [one.label for one in run.bench.targets]

    run.bench.wall = any(item.get_closest_marker("wall") for item in kept)

    def place(item: pytest.Item) -> tuple[int, int, bool, bool]:
        target = _target(item)
        kernel, loses = (order.index(target.label) if target else -1), bool(item.get_closest_marker("loses_machine"))
        return _block(item), kernel, _profile(item) == "exact", loses

    items[:] = sorted(kept, key=place)  # stable: else, on one machine, the suites keep their order


@pytest.hookimpl(wrapper=True)
def pytest_runtestloop(session: pytest.Session) -> Generator[None, object, object]:
    run = session.config.stash.get(RUN, None)
    if run is None or session.config.option.collectonly:
        return (yield)
    run.publish = partial(_publish, session, run)
    exact: list[tuple[pytest.Item, Target]] = []
    if run.guests > 1:
        exact = [(item, target) for item in session.items if _profile(item) == "exact" and (target := _target(item))]
        taken = {item for item, _ in exact}
        session.items = [item for item in session.items if item not in taken]
    result = yield
    if exact:
        beside.run_all(session, exact)
    return result


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol(item: pytest.Item, nextitem: pytest.Item | None) -> Generator[None, object, object]:
    run, target = item.config.stash.get(RUN, None), _target(item)
    if run is None or target is None:
        return (yield)
    run.listener.test_started(test_id(item, target.label), target.label)
    began = time.monotonic()
    result = yield
    made = record(item, target, _look_at_kernel(item, run), began, _control(item), _block(item))
    _settle(item, run, made)
    if _ends_block(item, nextitem):
        _end_block(item, run)
    run.publish(target, [*item.stash.get(PARTS, []), made])
    return result


def _publish(session: pytest.Session, run: Run, target: Target, records: list[Record]) -> None:
    """Keep the records of a test of *target*, and tell of them; the last of them may end the run."""
    try:
        for one in records:
            run.folder.append(one)
            known.remember(run, target, one)
    except KstError as error:  # a full disk: what is written stays, nothing more can be
        run.stopped = error
        pytest.exit(str(error), returncode=error.exit_code)
    for one in records:
        run.listener.test_finished(one)
        if (run.fail_fast or session.config.getoption("maxfail") == 1) and (
            one.failed or one.outcome in (Outcome.ERROR, Outcome.MISS)
        ):
            session.shouldfail = f"{one.id}: {one.outcome}"  # a crash found in the log is no failure for pytest


def _look_at_kernel(item: pytest.Item, run: Run) -> Splat | None:
    station = item.stash.get(STATION, None)
    errors = item.stash.setdefault(ERRORS, [])
    if station is None or station.lab is None or any(isinstance(one, MachineLost) for one in errors):
        return None
    assert station.channel is not None
    station.channel.deadline = float("inf")
    try:
        return check_log(station)
    except KstError as error:
        errors.append(error)
        return None


def _settle(item: pytest.Item, run: Run, made: Record) -> None:
    """After a crash, a hang or a loss nothing that the machine says is worth anything: the next test boots it again."""
    station = item.stash.get(STATION, None)
    # A reply that is none leaves the channel out of step: as good as lost.
    lost = any(isinstance(one, (MachineLost, ChannelError)) for one in item.stash.get(ERRORS, []))
    crashed = made.outcome in (Outcome.CRASH, Outcome.HANG) or made.message.startswith("control break_log")
    if station is not None and (crashed or lost):
        run.bench.lost(station)


def _end_block(item: pytest.Item, run: Run) -> None:
    """The next block begins on a machine that is started anew: the block, a guest's boot, is what is replicated."""
    station = item.stash.get(STATION, None)
    if station is not None and station.lab is not None:
        run.bench.observe(station)
        station.stop()


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    run, target = item.config.stash.get(RUN, None), _target(item)
    if run is None or target is None:
        return
    station = run.bench.station(target, "exact" if _profile(item) == "exact" else "functional")
    item.stash[STATION] = station
    assert station.channel is not None
    station.channel.deadline = time.monotonic() + run.bench.settings.test_timeout
    station.channel.where = {}
    assert target.capabilities is not None
    for mark in item.iter_markers("needs"):
        for name in mark.args:
            station.provide(name)
            if reason := target.capabilities.missing(name):
                pytest.skip(reason)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(
    item: pytest.Item, call: pytest.CallInfo[None]
) -> Generator[None, pytest.TestReport, pytest.TestReport]:
    report = yield
    item.stash.setdefault(REPORTS, []).append(report)
    if call.excinfo is not None:
        item.stash.setdefault(ERRORS, []).append(call.excinfo.value)
    return report


@pytest.hookimpl(trylast=True)  # fixtures of an interrupted test are torn down by then
def pytest_sessionfinish(session: pytest.Session, exitstatus: int) -> None:
    if run := session.config.stash.get(RUN, None):
        run.finish(complete=exitstatus not in (pytest.ExitCode.INTERRUPTED, pytest.ExitCode.INTERNAL_ERROR))


def pytest_unconfigure(config: pytest.Config) -> None:
    if run := config.stash.get(RUN, None):
        run.bench.close()  # Ctrl-C during collection or an internal error comes past here as well
