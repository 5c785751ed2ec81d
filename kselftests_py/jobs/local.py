"""Jobs in processes of this machine."""

from __future__ import annotations

import multiprocessing
import os
import platform
import signal
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from types import FrameType

from kselftests_py.errors import HarnessError
from kselftests_py.jobs.job import ATTEMPTS, Finished, Job, died, perform


def run(work: Sequence[Job], at_once: int) -> Iterator[Finished]:
    """Run every job, with *at_once* guests at a time, each in a pool of one process: whose process dies takes no other
    along. A job of more guests than that runs alone."""
    queue = deque((job, 1) for job in work)
    free = [_pool() for _ in range(min(at_once, len(work)))]
    running: dict[Future[Finished], tuple[Job, int, ProcessPoolExecutor]] = {}
    try:
        while queue or running:
            while queue and free and (not running or _guests(running) + queue[0][0].vms <= at_once):
                (job, attempt), pool = queue.popleft(), free.pop()
                running[pool.submit(_in_process, job, platform.node())] = job, attempt, pool
            for future in wait(running, return_when=FIRST_COMPLETED).done:
                job, attempt, pool = running.pop(future)
                found = _found(future, job, attempt)
                if isinstance(future.exception(), BrokenProcessPool):
                    pool.shutdown()
                    pool = _pool()
                free.append(pool)
                if found is None:
                    queue.appendleft((job, attempt + 1))
                else:
                    yield found
    except BaseException:  # Ctrl-C, a polite kill, or nobody wants the rest
        for worker in multiprocessing.active_children():
            worker.terminate()
        raise
    finally:
        for pool in [*free, *(pool for _, _, pool in running.values())]:
            pool.shutdown(cancel_futures=True)


def _guests(running: dict[Future[Finished], tuple[Job, int, ProcessPoolExecutor]]) -> int:
    return sum(job.vms for job, *_ in running.values())


def _pool() -> ProcessPoolExecutor:
    context = multiprocessing.get_context("spawn")  # a forked child would share our locks and threads
    return ProcessPoolExecutor(1, context, initializer=_end_politely)


def _found(future: Future[Finished], job: Job, attempt: int) -> Finished | None:
    """What became of *job*; None if its process died and it is to be begun again."""
    error = future.exception()
    if error is None:
        return replace(future.result(), attempts=attempt)
    if not isinstance(error, BrokenProcessPool):  # its value cannot be pickled
        said = f"{job.key}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
        return Finished(job.key, error=HarnessError(said), attempts=attempt)
    return died(job, attempt) if attempt >= ATTEMPTS else None


def _end_politely() -> None:
    """Let the first signal that ends this process end its job as an exception, so that the job tidies up."""

    def end(number: int, _frame: FrameType | None) -> None:
        for each in (signal.SIGINT, signal.SIGTERM):
            signal.signal(each, signal.SIG_IGN)  # the next one would end the tidying
        raise SystemExit(128 + number)

    for each in (signal.SIGINT, signal.SIGTERM):
        signal.signal(each, end)


def _in_process(job: Job, worker: str) -> Finished:
    try:
        return perform(job, worker)
    except SystemExit:
        os._exit(1)  # or the pool would send it as the job's result
