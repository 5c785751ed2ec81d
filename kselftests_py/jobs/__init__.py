"""Pieces of work that may run anywhere, one result each: in processes of this machine."""

from __future__ import annotations

import multiprocessing
import platform
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from typing import Any

from kselftests_py.errors import KstError


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


def run(work: Sequence[Job], *, scheduler: str | None = None, at_once: int = 1) -> Iterator[Finished]:
    """Run every job, *at_once* at a time; each result as it comes, one for each key."""
    context = multiprocessing.get_context("spawn")  # a forked child would share our locks and threads
    with ProcessPoolExecutor(at_once, context) as pool:
        futures = {pool.submit(job.call, *job.args): job for job in work}
        try:
            for future in as_completed(futures):
                job = futures[future]
                try:
                    yield Finished(job.key, future.result(), worker=platform.node())
                except KstError as error:
                    yield Finished(job.key, error=error, worker=platform.node())
        finally:
            pool.shutdown(wait=False, cancel_futures=True)
