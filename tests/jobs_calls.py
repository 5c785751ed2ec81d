"""What the jobs of the tests call; workers import it."""

from __future__ import annotations

import os
import signal
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

from kselftests_py.errors import BootError
from kselftests_py.jobs import runs


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
    _wait(Path(path).exists)
    return path


def outlast(calls: str, times: int) -> int:
    """Ends when ``kill_own_worker`` was called so many *times* by the file *calls*, at most after a minute."""
    _wait(lambda: Path(calls).exists() and Path(calls).stat().st_size >= times)
    return times


def beside(log: str, name: str, seconds: float, of: int) -> list[str]:
    """Who else wrote to *log* while this ran: until somebody did, or all *of* them have; at most so many seconds."""
    with Path(log).open("a") as lines:
        lines.write(f"{name}\n")
    before = Path(log).read_text()
    _wait(lambda: Path(log).read_text() != before or before.count("\n") == of, seconds)
    return Path(log).read_text().removeprefix(before).split()


def _wait(there: Callable[[], bool], bound: float = 60) -> None:
    deadline = time.monotonic() + bound
    while not there() and time.monotonic() < deadline:
        time.sleep(0.05)


def hold_directory(where: str) -> None:
    """Has a temporary directory in *where*, for a minute at most."""
    with tempfile.TemporaryDirectory(dir=where) as folder:
        wait_for_file(str(Path(folder) / "never"), str(Path(folder) / "began"))


def hold_program(where: str) -> None:
    """Runs, as if it were ``kst run``, a program that tidies up when it is asked to end."""
    script = f"trap 'touch {where}/tidied; exit' TERM; touch {where}/began; while :; do sleep 0.1; done"
    runs._until_its_end(["sh", "-c", script])


class Unsendable:
    """No other process can have it."""

    def __reduce__(self) -> str:
        raise ZeroDivisionError("cannot be\nsent")


def unsendable() -> Unsendable:
    return Unsendable()
