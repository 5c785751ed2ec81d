"""What the jobs of the tests call; workers import it."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path

from kselftests_py.errors import BootError


def double(number: int) -> int:
    return 2 * number


def no_boot(why: str) -> None:
    raise BootError(why)


def broken() -> None:
    raise ZeroDivisionError("a bug\nof two lines")


def kill_own_worker(log: str, times: int) -> int:
    """Which call this is, by the file *log*; the first *times* of them take their process along."""
    with Path(log).open("a") as calls:
        calls.write("x")
        calls.flush()
        nth = calls.tell()
    if nth <= times:
        os.kill(os.getpid(), signal.SIGKILL)
    return nth


def wait_for_file(path: str, began: str) -> str:
    """Ends when *path* is there, at most a minute after it told so by making the file *began*."""
    Path(began).touch()
    deadline = time.monotonic() + 60
    while not Path(path).exists() and time.monotonic() < deadline:
        time.sleep(0.05)
    return path
