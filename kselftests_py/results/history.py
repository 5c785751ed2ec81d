"""Exact figures of kernels measured before: a run folder in the cache for each kernel and each way to measure it.

An exact figure depends on the kernel and on how it was measured, and on nothing else (docs/latency.md): where both are
the same it need not be measured again.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping

import filelock
import msgspec

from kselftests_py.errors import UsageError
from kselftests_py.paths import cache_dir
from kselftests_py.results.manifest import KernelEntry, Manifest
from kselftests_py.results.record import Outcome, Record
from kselftests_py.results.run_folder import RunFolder

_KEPT = (Outcome.PASS, Outcome.DONE, Outcome.SKIP)
_FOLDER = "history"


class Measured(msgspec.Struct, frozen=True):
    """One kernel as it was measured in one way (``how``): its records by test, the last of each."""

    kernel: KernelEntry
    how: dict[str, str]
    when: str
    records: dict[str, Record]


def _folder(digest: str, how: Mapping[str, str]) -> RunFolder:
    key = hashlib.sha256(msgspec.json.encode([digest, sorted(how.items())])).hexdigest()
    return RunFolder(cache_dir() / _FOLDER / key)


def _read(folder: RunFolder) -> Measured:
    manifest = folder.manifest()
    records = {record.id: record for record in folder.records()}
    return Measured(manifest.kernels[0], manifest.options, manifest.started, records)


def recall(digest: str, how: Mapping[str, str]) -> Measured | None:
    """What is known of the kernel with *digest*, measured in this way; None: nothing.

    :raises HarnessError: what is kept cannot be read.
    """
    folder = _folder(digest, how)
    return _read(folder) if folder.manifest().kernels else None


def remember(kernel: KernelEntry, how: Mapping[str, str], when: str, record: Record) -> None:
    """Keep *record*; a failure, a crash or a test that was not run is not kept: it is tried again.

    :raises HarnessError: the cache cannot be written.
    """
    if record.outcome not in _KEPT or record.finding:
        return
    folder = _folder(kernel.digest, how)
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    with filelock.FileLock(f"{folder.path}.lock"):
        if not folder.manifest().kernels:  # new, or of a process that was killed here
            folder.path.mkdir(exist_ok=True)
            (folder.path / "results.jsonl").touch()
            folder.write_manifest(Manifest(started=when, finished=when, kernels=[kernel], options=dict(how)))
        folder.append(record)


def everything() -> list[Measured]:
    """Every kernel and way to measure it, the oldest first; :raises UsageError: none was ever measured."""
    folders = [RunFolder(path) for path in (cache_dir() / _FOLDER).glob("*/")]
    found = [_read(folder) for folder in folders if folder.manifest().kernels]
    if not found:
        raise UsageError("no kernel was measured yet: kst compare, or kst run --suite latency --mode exact, does")
    return sorted(found, key=lambda one: one.when)
