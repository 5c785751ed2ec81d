"""Exact tests on several guests at once, each guest in a process of its own.

They count instructions, so neither a busy machine nor another guest changes a figure, and each begins on the machine as
it was saved: what one tells does not depend on which were run before it, or where. The processes are forked with all
tests collected; each has one guest of one kernel, is handed one test after the other, and sends what becomes of it back
to this one, which alone writes.
"""

from __future__ import annotations

import contextlib
import ctypes
import multiprocessing
import os
import signal
import time
import warnings
from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from typing import Any

import pytest

from kselftests_py.errors import BootError, HarnessError, KstError
from kselftests_py.pytest_plugin.judge import record
from kselftests_py.pytest_plugin.keys import ERRORS, RUN
from kselftests_py.pytest_plugin.session import Run
from kselftests_py.pytest_plugin.station import Target
from kselftests_py.results import Record

_SHARE = 40  # tests that take as long as a boot: for fewer no further guest is worth it
_TIDYING = 20.0  # seconds for a process to stop its guest
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


class _Gone(KeyboardInterrupt):
    """Nobody listens any more; pytest lets it pass, as it does Ctrl-C."""


class _Teller:
    """What a forked process has in place of a ``Listener``: each event goes to the process that it is of."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, *event: Any) -> None:
        try:
            self._connection.send(event)
        except OSError:
            raise _Gone from None

    def hear(self) -> int | None:
        """The number of the next test, if there is one."""
        try:
            number: int | None = self._connection.recv()
        except (EOFError, OSError):
            raise _Gone from None
        return number

    def note(self, text: str) -> None:
        self.tell("note", text)

    def test_started(self, test_id: str, kernel: str) -> None:
        self.tell("started", test_id, kernel)

    def test_finished(self, record: Record) -> None:
        raise AssertionError("who publishes a record tells of it")


def _work(session: pytest.Session, items: Sequence[pytest.Item], target: Target, teller: _Teller) -> None:
    """Run the tests whose numbers come, until one of them is none."""
    run = session.config.stash[RUN]

    def publish(_: Target, records: list[Record]) -> None:
        if target.broken is not None:
            teller.tell("broken", isinstance(target.broken, BootError), str(target.broken))
        teller.tell("finished", records)

    run.listener, run.bench.note, run.publish = teller, teller.note, publish
    run.bench.up = lambda entry, info: teller.tell("up", info, entry.capabilities)
    while (number := teller.hear()) is not None:
        session.config.hook.pytest_runtest_protocol(item=items[number], nextitem=None)


def _process(
    session: pytest.Session, items: Sequence[pytest.Item], target: Target, connection: Connection, parent: int
) -> None:
    """``_work``, which ends with its *parent*, and stops its guest however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # which is a KeyboardInterrupt here, see run.py
    teller = _Teller(connection)
    try:
        try:
            if os.getppid() == parent:
                _work(session, items, target, teller)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches all, and then we are asked to end
                signal.signal(number, signal.SIG_IGN)
            session.config.stash[RUN].bench.close()
    except KeyboardInterrupt:
        os._exit(1)  # that is told elsewhere
    except (KstError, OSError) as error:
        with contextlib.suppress(_Gone):
            teller.note(f"{target.label}: {error}")
        os._exit(1)


@dataclass
class _Worker:
    target: Target
    process: BaseProcess
    connection: Connection
    number: int | None = None  # of the test that it runs
    began: float = 0.0


class _Floor:
    """The processes, and the tests that are left for them, of each kernel."""

    def __init__(self, session: pytest.Session, run: Run, items: Sequence[tuple[pytest.Item, Target]]) -> None:
        self._session, self._run = session, run
        self._items = [item for item, _ in items]
        self._targets = {target.label: target for _, target in items}
        self._left = {
            label: deque(number for number, (_, target) in enumerate(items) if target.label == label)
            for label in self._targets
        }
        most = max(len(numbers) for numbers in self._left.values())
        # One guest for each kernel first, then a second one, ...
        self._starts = deque(
            label for share in range(0, most, _SHARE) for label, numbers in self._left.items() if share < len(numbers)
        )
        self._workers: dict[Connection, _Worker] = {}
        self._up: set[str] = set()  # kernels that were seen to boot

    def run(self) -> None:
        try:
            while True:
                self._begin()
                if not self._workers:
                    return
                for connection in wait(list(self._workers)):
                    assert isinstance(connection, Connection)
                    self._hear(self._workers[connection])
                    if self._session.shouldfail:
                        raise self._session.Failed(self._session.shouldfail)
        finally:
            self._end()

    def _begin(self) -> None:
        """Fork as many processes as there may be, where they are worth a boot."""
        while self._starts and len(self._workers) < self._run.guests:
            label = self._starts.popleft()
            if len(self._left[label]) >= (_SHARE if self._served(label) else 1):
                self._fork(self._targets[label])

    def _served(self, label: str) -> int:
        """How many processes there are for that kernel."""
        return sum(one.target.label == label for one in self._workers.values())

    def _fork(self, target: Target) -> None:
        context = multiprocessing.get_context("fork")
        ours, theirs = context.Pipe()
        arguments = (self._session, self._items, target, theirs, os.getpid())
        process = context.Process(target=_process, args=arguments, daemon=True)
        with warnings.catch_warnings():  # of threads that the child lacks: those that draw the progress bar
            warnings.simplefilter("ignore", DeprecationWarning)
            process.start()
        theirs.close()
        worker = self._workers[ours] = _Worker(target, process, ours)
        self._next(worker)

    def _next(self, worker: _Worker) -> None:
        """Hand it a test, or let it end."""
        left = self._left[worker.target.label]
        worker.number, worker.began = left.popleft() if left else None, time.monotonic()
        with contextlib.suppress(OSError):  # it is gone: its connection says so next
            worker.connection.send(worker.number)
        if worker.number is None:
            self._join(worker)

    def _hear(self, worker: _Worker) -> None:
        target, listener = worker.target, self._run.listener
        try:
            what, *about = worker.connection.recv()
        except (EOFError, OSError):
            self._lost(worker)
            return
        if what == "note":
            listener.note(*about)
        elif what == "started":
            listener.test_started(*about)
        elif what == "up":
            info, capabilities = about
            self._up.add(target.label)
            target.entry.capabilities = capabilities
            self._run.bench.up(target.entry, info)
        elif what == "broken":
            self._broken(worker, *about)
        else:
            self._run.publish(target, about[0])
            self._next(worker)

    def _broken(self, worker: _Worker, of_kernel: bool, why: str) -> None:
        """Its guest does not come up. Where another one serves the kernel, that has its test, and nothing is lost."""
        label = worker.target.label
        if self._served(label) > 1 and worker.number is not None:
            self._run.listener.note(f"{label}: goes on with a guest less: {why}")
            self._left[label].appendleft(worker.number)
            with contextlib.suppress(OSError):
                worker.connection.send(None)
            self._join(worker)
        elif label not in self._up:
            worker.target.broken = (BootError if of_kernel else HarnessError)(why)

    def _lost(self, worker: _Worker) -> None:
        """Its test is a MISS, and the others need another process."""
        self._join(worker)
        if worker.number is not None:
            item = self._items[worker.number]
            error = HarnessError(f"the process that it ran in ended ({worker.process.exitcode})")
            item.stash.setdefault(ERRORS, []).append(error)
            self._run.publish(worker.target, [record(item, worker.target, None, worker.began, None)])
        self._starts.append(worker.target.label)

    def _join(self, worker: _Worker) -> None:
        del self._workers[worker.connection]
        worker.connection.close()
        worker.process.join(_TIDYING)
        if worker.process.is_alive():
            worker.process.kill()  # its guest's leash is its own
            worker.process.join()

    def _end(self) -> None:
        for worker in self._workers.values():
            worker.process.terminate()
        for worker in list(self._workers.values()):
            self._join(worker)


def run_all(session: pytest.Session, items: Sequence[tuple[pytest.Item, Target]]) -> None:
    """Run *items*, exact tests and their kernels, on as many guests as the run may have."""
    run = session.config.stash[RUN]
    run.bench.close()  # else the processes would keep what belongs to its machines
    _Floor(session, run, items).run()
