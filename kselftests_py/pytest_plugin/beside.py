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

from kselftests_py.errors import BootError, HarnessError
from kselftests_py.pytest_plugin.judge import record
from kselftests_py.pytest_plugin.keys import ERRORS, RUN
from kselftests_py.pytest_plugin.session import Run
from kselftests_py.pytest_plugin.station import Target
from kselftests_py.results import Record

_SHARE = 40  # tests that take as long as a boot: for fewer no further guest is worth it
_TIDYING = 20.0  # seconds for a process to stop its guest
_PR_SET_PDEATHSIG = 1  # include/uapi/linux/prctl.h


class _Teller:
    """What a forked process has in place of a ``Listener``: each event goes to the process that it is of."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection

    def tell(self, *event: Any) -> None:
        self._connection.send(event)

    def note(self, text: str) -> None:
        self.tell("note", text)

    def test_started(self, test_id: str, kernel: str) -> None:
        self.tell("started", test_id, kernel)

    def test_finished(self, record: Record) -> None:
        raise AssertionError("who publishes a record tells of it")


def _work(session: pytest.Session, items: Sequence[pytest.Item], target: Target, connection: Connection) -> None:
    """Run the tests whose numbers come, until one of them is none."""
    run = session.config.stash[RUN]
    teller = _Teller(connection)
    run.listener, run.bench.note = teller, teller.note
    run.bench.up = lambda entry, info: teller.tell("up", info, entry.capabilities)
    run.publish = lambda _, records: teller.tell("finished", records)
    while (number := connection.recv()) is not None:
        item = items[number]
        if target.broken is not None:
            teller.tell("broken", isinstance(target.broken, BootError), str(target.broken))
        session.config.hook.pytest_runtest_protocol(item=item, nextitem=None)


def _process(
    session: pytest.Session, items: Sequence[pytest.Item], target: Target, connection: Connection, parent: int
) -> None:
    """``_work``, which ends with its *parent*, and stops its guest however it ends."""
    ctypes.CDLL(None).prctl(_PR_SET_PDEATHSIG, signal.SIGTERM)  # which is a KeyboardInterrupt here, see run.py
    try:
        try:
            if os.getppid() == parent:
                _work(session, items, target, connection)
        finally:
            for number in (signal.SIGINT, signal.SIGTERM):  # Ctrl-C reaches all, and then we are asked to end
                signal.signal(number, signal.SIG_IGN)
            session.config.stash[RUN].bench.close()
    except (KeyboardInterrupt, EOFError, OSError):
        os._exit(1)  # interrupted, or nobody listens: that is told elsewhere


@dataclass
class _Worker:
    target: Target
    process: BaseProcess
    connection: Connection
    item: pytest.Item | None = None
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
            left, served = len(self._left[label]), any(one.target.label == label for one in self._workers.values())
            if left >= (_SHARE if served else 1):
                self._fork(self._targets[label])

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
        number = left.popleft() if left else None
        worker.item, worker.began = None if number is None else self._items[number], time.monotonic()
        with contextlib.suppress(OSError):  # it is gone: its connection says so next
            worker.connection.send(number)
        if number is None:
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
            target.entry.capabilities = capabilities
            self._run.bench.up(target.entry, info)
        elif what == "broken":
            of_kernel, why = about
            target.broken = (BootError if of_kernel else HarnessError)(why)
        else:
            self._run.publish(target, about[0])
            self._next(worker)

    def _lost(self, worker: _Worker) -> None:
        """Its test is a MISS, and the others need another process."""
        self._join(worker)
        if (item := worker.item) is not None:
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
