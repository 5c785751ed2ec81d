"""Locks between processes: waited for with a bound, and with a word about it; and what nobody holds, removed."""

from __future__ import annotations

import contextlib
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import filelock

from kselftests_py.errors import HarnessError

_DAY = 24 * 3600.0


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


def remove_unheld(root: Path, but: str = "") -> tuple[int, list[Path]]:
    """Remove each directory of *root*, not that called *but*, whose lock (``NAME.lock`` beside it) nobody holds.

    Gives the bytes freed and the directories that are held.

    What somebody is making (``.new-*``) goes when it is a day old: no lock tells whether it is still being made.
    """
    freed, in_use = 0, []
    for folder in sorted(path for path in root.glob("*/") if not path.is_symlink() and path.name != but):
        if folder.name.startswith(".new-"):
            if time.time() - folder.stat().st_mtime > _DAY:
                freed += removed(folder)
            continue
        holder = filelock.FileLock(folder.with_name(f"{folder.name}.lock"))
        try:
            with holder.acquire(timeout=0):
                freed += removed(folder)
        except filelock.Timeout:
            in_use.append(folder)
    return freed, in_use


def removed(folder: Path) -> int:
    """Remove a directory and all in it, if it is there; gives its bytes. Another process may be removing it too."""
    freed = 0
    for path in folder.rglob("*"):
        with contextlib.suppress(FileNotFoundError):
            freed += path.lstat().st_size
    shutil.rmtree(folder, ignore_errors=True)
    return freed
