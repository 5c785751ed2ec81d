"""What a job is, and what becomes of it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from kselftests_py.errors import HarnessError, KstError

ATTEMPTS = 3
"""How often a job is begun whose worker dies under it."""


@dataclass(frozen=True)
class Job:
    """One piece: *call* (of a module) on plain *args*. *exact*: its figures depend on QEMU's version; *vms*: how many
    guests it runs at once."""

    key: str
    call: Callable[..., Any]
    args: tuple[Any, ...] = ()
    exact: bool = False
    vms: int = 1


@dataclass(frozen=True)
class Finished:
    """What became of the job *key*: its value, or the error that ended it; on which worker, at which attempt."""

    key: str
    value: Any = None
    error: KstError | None = None
    worker: str = ""
    attempts: int = 1


def perform(job: Job, worker: str) -> Finished:
    """Do *job* here, on *worker*. Whatever it raises becomes an error that can be sent."""
    try:
        return Finished(job.key, job.call(*job.args), worker=worker)
    except KstError as error:
        return Finished(job.key, error=error, worker=worker)
    except Exception as error:
        said = HarnessError(f"{job.key} on {worker}: {type(error).__name__}: {' '.join(str(error).split())[:300]}")
        return Finished(job.key, error=said, worker=worker)


def died(job: Job, attempts: int) -> Finished:
    """The result of a job that took its worker with it each time."""
    return Finished(job.key, error=HarnessError(f"{job.key}: its worker died {attempts} times"), attempts=attempts)
