"""Jobs on the workers of a Dask scheduler (docs/scale.md). Dask pickles: all of it is the user's own machines."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import CancelledError
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

from kselftests_py.errors import HarnessError
from kselftests_py.jobs.identity import Identity, identity
from kselftests_py.jobs.job import ATTEMPTS, Finished, Job, died, perform

if TYPE_CHECKING:
    from distributed import Client, Future

RESOURCE = "VM"
REACH = 20.0  # seconds to reach the scheduler, and to hear from a worker
LOOK = 2.0  # seconds between two looks at who is there, while nothing finishes
NOBODY = 60.0  # seconds without a worker for what is left; a nanny starts a killed worker anew in a few


def run(work: Sequence[Job], scheduler: str, note: Callable[[str], None]) -> Iterator[Finished]:
    """Run every job on the workers of *scheduler* that announce guests (``--resources "VM=n"``).

    A worker with other code is refused, one with another QEMU or compiler is refused for exact jobs: *note* is told,
    once.
    """
    try:
        from distributed import Client
        from distributed.comm import connect
    except ImportError:
        raise HarnessError("--scheduler needs Dask: pip install 'kselftests-py[scale]'") from None
    for name in ("distributed", "distributed.client", "distributed.core"):  # what goes wrong is told here, in one line
        logging.getLogger(name).setLevel(logging.CRITICAL)

    async def reach() -> None:
        await (await connect(scheduler, timeout=REACH)).close()

    try:
        # A Client that cannot connect is never closed: its thread stays, and when it is garbage it takes a lock that
        # whoever starts the next Client may hold at that moment, for ever (seen with distributed 2026.8).
        asyncio.run(reach())
        client = Client(scheduler, timeout=REACH)
    except (OSError, ValueError) as error:
        said = f"{error or type(error).__name__}".splitlines()[0]
        raise HarnessError(f"no Dask scheduler at {scheduler}: {said}; start one with 'dask scheduler'") from None
    try:
        yield from _Cluster(client, scheduler, note).run(work)
    except (OSError, CancelledError):
        raise HarnessError(f"the Dask scheduler at {scheduler} went away; start it, then this, again") from None
    finally:
        client.close(timeout=LOOK)


@dataclass
class _Cluster:
    client: Client
    address: str
    note: Callable[[str], None]
    ours: Identity = field(default_factory=identity)
    known: dict[str, Identity | str] = field(default_factory=dict)  # by address: who it is, or why it cannot tell
    vms: dict[str, float] = field(default_factory=dict)  # by address: the guests of those that are there now

    def run(self, work: Sequence[Job]) -> Iterator[Finished]:
        from distributed import wait

        queue = deque((job, 1) for job in work)
        running: dict[Future, tuple[Job, int, set[str]]] = {}
        seen = float("-inf")  # when something ran last: who was never there is not waited for
        try:
            while queue or running:
                self._look()
                while queue and (able := self._able(queue[0][0])):
                    if sum(job.vms for job, *_ in running.values()) >= sum(self.vms[each] for each in able):
                        break  # what waits here, not at a worker, goes to whoever comes, and dies with none
                    job, attempt = queue.popleft()
                    future = self.client.submit(
                        _on_worker, job, pure=False, workers=sorted(able), resources={RESOURCE: job.vms}
                    )
                    running[future] = job, attempt, able
                if running:
                    seen = time.monotonic()
                elif time.monotonic() - seen > NOBODY:
                    raise HarnessError(self._nobody(queue[0][0]))
                else:
                    time.sleep(LOOK)  # a nanny starts its worker anew
                with contextlib.suppress(TimeoutError):
                    wait(list(running), timeout=LOOK, return_when="FIRST_COMPLETED")
                for future in [one for one in running if one.done()]:
                    job, attempt, _ = running.pop(future)
                    yield self._finished(future, job, attempt)
                for future in [one for one, (_, _, able) in running.items() if not able & self.vms.keys()]:
                    job, attempt, _ = running.pop(future)  # all that it was meant for are gone: to whoever came since
                    future.cancel()
                    if attempt >= ATTEMPTS:
                        yield died(job, attempt)
                    else:
                        queue.appendleft((job, attempt + 1))
        finally:
            if running and self.client.status == "running":
                self.client.cancel(list(running))

    def _look(self) -> None:
        """Who is there; those that are new are asked who they are."""
        connected = self.client.status == "running"
        workers = self.client.scheduler_info(n_workers=-1).get("workers") if connected else None
        if workers is None:
            raise CancelledError  # with the connection, all that was asked for is lost
        self.vms = {each: told["resources"].get(RESOURCE, 0) for each, told in workers.items()}
        if new := [each for each in workers if each not in self.known]:
            answers = self.client.run(identity, workers=new, on_error="return")
            for each, answer in answers.items():
                self.known[each] = (
                    answer if isinstance(answer, Identity) else f"cannot tell what it has: {answer!r:.200}"
                )
                if why := self._refusal(each):
                    self.note(f"worker {workers[each]['name']} is refused{why}")

    def _refusal(self, worker: str) -> str:
        """Why it is given no job, or no exact one; empty if it is welcome to all."""
        theirs = self.known.get(worker, "not asked yet")
        if not self.vms.get(worker):
            return f': it announces no guests; start it with --resources "{RESOURCE}=1"'
        if not isinstance(theirs, Identity):
            return f": {theirs}"
        if theirs.code != self.ours.code:
            return f": its kst is another ({theirs.code}, here {self.ours.code})"
        if theirs.qemu != self.ours.qemu:
            return f" for exact jobs: its QEMU is '{theirs.qemu}', here '{self.ours.qemu}'"
        if theirs.compiler != self.ours.compiler:
            return f" for exact jobs: its compiler is '{theirs.compiler}', here '{self.ours.compiler}'"
        return ""

    def _able(self, job: Job) -> set[str]:
        return {each for each, vms in self.vms.items() if vms >= job.vms and self._welcome(each, job)}

    def _welcome(self, worker: str, job: Job) -> bool:
        why = self._refusal(worker)
        return not why or (why.startswith(" for exact jobs") and not job.exact)

    def _nobody(self, job: Job) -> str:
        each = [f"{worker}{self._refusal(worker) or f': announces {vms:g} guests'}" for worker, vms in self.vms.items()]
        wanted = f"{job.key} ({'exact, ' if job.exact else ''}{job.vms} guests)"
        return f"no worker of {self.address} may do {wanted}: {'; '.join(each) or 'it has none'}"

    def _finished(self, future: Future, job: Job, attempt: int) -> Finished:
        from distributed.scheduler import KilledWorker

        if future.status == "cancelled":
            raise CancelledError
        deaths: int = self.client.run_on_scheduler(_deaths, key=future.key)
        try:
            found: Finished = future.result()
            return replace(found, attempts=attempt + deaths)
        except KilledWorker:
            return died(job, attempt + deaths - 1)
        except Exception as error:  # its value cannot be pickled, its module is not there
            said = f"{job.key}: {type(error).__name__}: {' '.join(str(error).split())[:300]}"
            return Finished(job.key, error=HarnessError(said), attempts=attempt + deaths)


def _on_worker(job: Job) -> Finished:
    from distributed import get_worker

    return perform(job, str(get_worker().name))


def _deaths(dask_scheduler: Any, key: str) -> int:
    """How many workers died with this task: the scheduler gives up beyond its own allowed-failures."""
    task = dask_scheduler.tasks.get(key)
    return int(task.suspicious) if task else 0
