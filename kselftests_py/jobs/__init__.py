"""Pieces of work that may run anywhere, one result each: in processes of this machine, or on Dask's workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from kselftests_py.jobs import cluster, local
from kselftests_py.jobs.job import Finished, Job

__all__ = ["Finished", "Job", "run"]


def run(
    work: Sequence[Job],
    *,
    scheduler: str | None = None,
    at_once: int = 1,
    note: Callable[[str], None] = lambda said: None,
) -> Iterator[Finished]:
    """Run every job; each result as it comes, one for each job.

    Here, *at_once* at a time, or on the workers of the Dask *scheduler* (an address), each with as many guests as it
    announced. *note* is told which workers are refused, and why. Closing the iterator drops what has not begun.
    :raises HarnessError: the scheduler cannot be reached or goes away, or has no worker that may do a job.
    """
    return cluster.run(work, scheduler, note) if scheduler is not None else local.run(work, at_once)
