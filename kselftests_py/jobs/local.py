"""Jobs in processes of this machine."""

from __future__ import annotations

import multiprocessing
import platform
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace

from kselftests_py.jobs.job import ATTEMPTS, Finished, Job, died, perform


def run(work: Sequence[Job], at_once: int) -> Iterator[Finished]:
    """Run every job, *at_once* at a time. One killed process breaks a whole pool, so the rest goes to a new one."""
    context = multiprocessing.get_context("spawn")  # a forked child would share our locks and threads
    left = list(work)
    for attempt in range(1, ATTEMPTS + 1):
        broken = []
        with ProcessPoolExecutor(at_once, context) as pool:
            futures = {pool.submit(perform, job, platform.node()): job for job in left}
            try:
                for future in as_completed(futures):
                    try:
                        yield replace(future.result(), attempts=attempt)
                    except BrokenProcessPool:
                        broken.append(futures[future])
            except BaseException:  # Ctrl-C, a polite kill, or nobody wants the rest
                pool.shutdown(wait=False, cancel_futures=True)
                for worker in multiprocessing.active_children():
                    worker.terminate()  # and what it started dies with it, see runs.py
                raise
        left = broken
        if not left:
            return
    for job in left:
        yield died(job, ATTEMPTS)
