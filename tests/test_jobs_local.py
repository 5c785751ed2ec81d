"""Jobs in processes of this machine: one result each, errors as results, a killed process is tried again, bounded."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path

import jobs_calls
import pytest

from kselftests_py import jobs
from kselftests_py.errors import BootError, HarnessError


def test_one_result_for_each_job() -> None:
    found = list(jobs.run([jobs.Job(f"j{n}", jobs_calls.double, (n,)) for n in range(5)], at_once=2))
    assert sorted((one.key, one.value, one.attempts) for one in found) == [(f"j{n}", 2 * n, 1) for n in range(5)]


@pytest.mark.parametrize(
    ("call", "args", "kind", "said"),
    [
        (jobs_calls.no_boot, ("no init",), BootError, "no init"),
        (jobs_calls.broken, (), HarnessError, "ZeroDivisionError: a bug of two lines"),
        (jobs_calls.unsendable, (), HarnessError, "ZeroDivisionError: cannot be sent"),
    ],
)
def test_an_error_is_a_result_of_one_line(call: object, args: tuple[str, ...], kind: type, said: str) -> None:
    (found,) = jobs.run([jobs.Job("bad", call, args)])  # type: ignore[arg-type]
    assert type(found.error) is kind
    assert said in str(found.error)
    assert "\n" not in str(found.error)


@pytest.mark.parametrize(("times", "value", "attempts"), [(1, 2, 2), (9, None, 3)])
def test_a_killed_process_is_tried_again_three_times_at_most(
    tmp_path: Path, times: int, value: int | None, attempts: int
) -> None:
    log = tmp_path / "calls"
    (found,) = jobs.run([jobs.Job("killer", jobs_calls.kill_own_worker, (str(log), times))])
    assert (found.value, found.attempts, log.stat().st_size) == (value, attempts, attempts)
    assert (found.error is None) == (value is not None)


def test_a_job_of_two_guests_has_the_place_of_two(tmp_path: Path) -> None:
    """Not begun beside another, and no other beside it, whatever comes after it in the queue."""
    log = str(tmp_path / "log")
    guests = {"a": 1, "wide": 2, "b": 1, "c": 1}
    # The processes of the last two take seconds to start where the machine is busy.
    bounds = {"a": 1, "wide": 1, "b": 60, "c": 60}
    work = [jobs.Job(name, jobs_calls.beside, (log, name, bounds[name], 4), vms=vms) for name, vms in guests.items()]
    found = {one.key: one.value for one in jobs.run(work, at_once=2)}
    assert (found["a"], found["wide"]) == ([], [])
    assert {*found["b"], *found["c"]} & {"b", "c"}


def test_a_job_of_more_guests_than_there_is_room_for_is_run_all_the_same() -> None:
    (found,) = jobs.run([jobs.Job("wide", jobs_calls.double, (2,), vms=2)], at_once=1)
    assert found.value == 4


def test_a_job_that_kills_its_process_takes_no_other_along(tmp_path: Path) -> None:
    """Not those beside it, nor those that have not begun."""
    calls = str(tmp_path / "calls")
    work = [
        jobs.Job("killer", jobs_calls.kill_own_worker, (calls, 99)),
        jobs.Job("beside", jobs_calls.outlast, (calls, 3)),
    ]
    work += [jobs.Job(f"after{n}", jobs_calls.outlast, (calls, 3)) for n in range(2)]
    found = {one.key: one for one in jobs.run(work, at_once=2)}
    assert "its worker died 3 times" in str(found.pop("killer").error)
    assert {key: (one.value, one.attempts) for key, one in found.items()} == {
        "beside": (3, 1),
        "after0": (3, 1),
        "after1": (3, 1),
    }


def end_once_begun(call: Callable[[str], None], folder: Path, began: str) -> None:
    """Ctrl-C while the job *call* is under way."""
    work = [jobs.Job("held", call, (str(folder),)), jobs.Job("quick", jobs_calls.double, (1,))]
    running = jobs.run(work, at_once=2)
    assert next(running).key == "quick"
    deadline = time.monotonic() + 60
    while not list(folder.glob(began)):
        assert time.monotonic() < deadline
        time.sleep(0.05)
    running.close()  # type: ignore[attr-defined]


def test_jobs_that_are_ended_leave_no_directory_behind(tmp_path: Path) -> None:
    end_once_begun(jobs_calls.hold_directory, tmp_path, "*/began")
    assert list(tmp_path.iterdir()) == []


def test_the_kst_run_of_a_job_that_is_ended_tidies_up(tmp_path: Path) -> None:
    end_once_begun(jobs_calls.hold_program, tmp_path, "began")
    assert (tmp_path / "tidied").exists()
