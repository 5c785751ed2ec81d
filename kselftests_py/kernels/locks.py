"""A lock between processes that is waited for with a bound, and with a word about it."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from kselftests_py.errors import HarnessError


@contextlib.contextmanager
def held(file: Path, hours: float, what: str, progress: Callable[[str], None]) -> Iterator[None]:
    """Hold *file*, alone. If another holds it, *progress* is told that we wait for another kst that *what*.

    :raises HarnessError: it is still held after *hours*.
    """
    holder = filelock.FileLock(file)
    try:
        holder.acquire(timeout=0)
    except filelock.Timeout:
        progress(f"waiting for another kst that {what}")
        try:
            holder.acquire(timeout=hours * 3600)
        except filelock.Timeout:
            raise HarnessError(f"{file}: another kst {what}, and still is after {hours:g} hours; end it") from None
    try:
        yield
    finally:
        holder.release()
