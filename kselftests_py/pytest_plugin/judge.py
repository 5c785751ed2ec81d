"""From what a test raised, and what the kernel log says, to one record."""

from __future__ import annotations

import inspect
import time

import pytest

from kselftests_py.errors import KstError
from kselftests_py.lab import SubjectDied, SubjectHung
from kselftests_py.machines.kernel_log import Splat, find_splat
from kselftests_py.machines.machine import Loss, MachineLost
from kselftests_py.pytest_plugin.keys import ERRORS, METRICS, REPORTS, STATION
from kselftests_py.pytest_plugin.names import suite_of, test_id
from kselftests_py.pytest_plugin.station import BROKEN_TAINT, Station, Target
from kselftests_py.results import Outcome, Record


def check_log(station: Station) -> Splat | None:
    """What the kernel wrote since the last look, if it tells of a broken kernel; :raises KstError: no answer."""
    if station.lab is None or not station.log_readable:
        return None
    log = station.lab.kernel_log()
    splat = find_splat(log.lines)
    new_taint = log.taint & ~station.taint & BROKEN_TAINT
    station.taint = log.taint
    if splat is None and new_taint:
        return Splat(
            "taint",
            f"the kernel became tainted (0x{new_taint:x}) without a line in its log",
            "\n".join(log.lines[-50:]),
        )
    return splat


def _outcome(errors: list[BaseException], splat: Splat | None) -> tuple[Outcome, str, str]:
    """Outcome, message and log; the worst of what happened counts: CRASH outranks HANG outranks FAIL."""
    lost = next((one for one in errors if isinstance(one, MachineLost)), None)
    if lost is not None and lost.loss in (Loss.PANIC, Loss.OOPS):
        return Outcome.CRASH, str(lost), lost.log
    if splat is not None:
        return Outcome.CRASH, f"{splat.kind}: {splat.line}", splat.excerpt
    if lost is not None:
        return (Outcome.HANG if lost.loss is Loss.HANG else Outcome.MISS), str(lost), lost.log
    for kind, outcome in ((SubjectHung, Outcome.HANG), (AssertionError, Outcome.FAIL), (SubjectDied, Outcome.ERROR)):
        for error in errors:
            if isinstance(error, kind):
                return outcome, _first_line(error), ""
    for error in errors:
        if isinstance(error, pytest.skip.Exception):
            return Outcome.SKIP, str(error), ""
        return (Outcome.MISS if isinstance(error, KstError) else Outcome.ERROR), _first_line(error), ""
    return Outcome.PASS, "", ""


def _first_line(error: BaseException) -> str:
    text = str(error).strip() or type(error).__name__
    return (
        text.splitlines()[0]
        if isinstance(error, (AssertionError, KstError))
        else f"{type(error).__name__}: {text.splitlines()[0]}"
    )


def record(
    item: pytest.Item, target: Target, splat: Splat | None, began: float, control: str | None, block: int = 0
) -> Record:
    """The record of a finished test. Under a negative *control* a test must FAIL or CRASH: then it passes here."""
    errors = item.stash.get(ERRORS, [])
    outcome, message, log = _outcome(errors, splat)
    if outcome is Outcome.PASS and item.get_closest_marker("measures"):
        outcome = Outcome.DONE
    if outcome in (Outcome.FAIL, Outcome.ERROR) and not log:
        log = "\n".join(one.longreprtext for one in item.stash.get(REPORTS, []) if one.failed)
    if control is not None:
        caught = outcome in (Outcome.FAIL, Outcome.CRASH)
        missed = outcome in (Outcome.PASS, Outcome.DONE)
        message = f"control {control}: {message or 'not noticed: the test passed'}"
        outcome = Outcome.PASS if caught else Outcome.FAIL if missed else outcome
    mark = item.get_closest_marker("finding") if control is None else None
    station = item.stash.get(STATION, None)
    return Record(
        id=test_id(item, target.label),
        suite=suite_of(item),
        kernel=target.label,
        outcome=outcome,
        duration_s=round(time.monotonic() - began, 4),
        message=message,
        log=log,
        claim=inspect.cleandoc(getattr(getattr(item, "obj", None), "__doc__", None) or ""),
        finding=str(mark.args[0]) if mark else "",
        metrics=item.stash.get(METRICS, []),
        where=station.channel.where if station and station.channel else {},
        block=block,
        profile=station.profile if station else "",
    )
