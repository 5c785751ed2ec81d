"""Exact figures that need no boot, since the same kernel was measured in the same way before (results/history.py)."""

from __future__ import annotations

import functools
import hashlib
from collections.abc import Sequence
from pathlib import Path

import msgspec
import pytest

from kselftests_py.kernels.image import file_digest
from kselftests_py.lab.build import agent
from kselftests_py.machines import exact, guest, initramfs, stopped
from kselftests_py.machines.accelerator import qemu_version
from kselftests_py.paths import data_dir
from kselftests_py.pytest_plugin.names import test_id
from kselftests_py.pytest_plugin.session import Run
from kselftests_py.pytest_plugin.station import Need, Target
from kselftests_py.results import Outcome, Record, history
from kselftests_py.results.noise import of_path
from kselftests_py.where import made_by

SUITE = "latency"


@functools.cache
def how(memory: str) -> dict[str, str]:
    """All that an exact figure depends on beside the kernel; *memory* is the guest's, as QEMU takes it.

    The probe is the program as it was compiled here; the guest is its root's recipe and the code that boots it.
    """
    recipe = data_dir("vm_images") / "guest_root"
    code = [Path(str(one.__file__)) for one in (exact, guest, initramfs, stopped)]
    parts = {"suites": [*(data_dir("suites") / SUITE).glob("*.py")], "guest": [*code, *recipe.iterdir()]}
    digests = {
        name: hashlib.sha256("".join(f"{path.name} {file_digest(path)}\n" for path in sorted(files)).encode())
        for name, files in parts.items()
    }
    return {
        "probe": file_digest(agent()),
        **{name: digest.hexdigest() for name, digest in digests.items()},
        "qemu": qemu_version(),
        "memory": memory,
    }


def _exact(run: Run, target: Target, record: Record) -> bool:
    return record.profile == "exact" and record.suite == SUITE and not run.controls and bool(target.entry.digest)


def remember(run: Run, target: Target, record: Record) -> None:
    """Keep an exact figure of the latency suite for the next comparison."""
    if _exact(run, target, record):
        memory = run.bench.settings.memory
        history.remember(target.entry, how(memory), run.manifest.started, record)


def _told_apart(record: Record, need: Need) -> bool:
    """Whether it is known which functions its instructions are in, by what tells them apart now, as far as needed."""
    if need == "no" or record.outcome is Outcome.SKIP:
        return True
    if need == "try" and not any(of_path(metric.labels).functions for metric in record.metrics):
        return True
    return bool(record.where) and all(one.by == made_by() for one in record.where.values())


def recall(run: Run, wanted: Sequence[tuple[pytest.Item, Target]]) -> list[pytest.Item]:
    """Write to the run's folder what is known of *wanted*, exact tests and their kernels; gives the tests written.

    :raises HarnessError: the history cannot be read, or the folder not written.
    """
    written = []
    for target in {target.label: target for _, target in wanted}.values():
        items = [item for item, of in wanted if of is target]
        before = history.recall(target.entry.digest, how(run.bench.settings.memory))
        if before is None:
            continue
        known = [
            (item, record)
            for item in items
            if (record := before.records.get(test_id(item, target.label)))
            and _told_apart(record, run.bench.settings.where)
        ]
        if not known:
            continue
        for item, record in known:
            # Nothing may be told by function only because it was once: a verdict would depend on the cache.
            where = record.where if run.bench.settings.where != "no" else {}
            run.folder.append(msgspec.structs.replace(record, kernel=target.label, where=where))
            written.append(item)
        _tell(run, target, before, f"{len(known)} of {len(items)}")
    return written


def _tell(run: Run, target: Target, before: history.Measured, share: str) -> None:
    """What the run did not see itself is said to be so, in the terminal and in the manifest."""
    entry = target.entry
    entry.capabilities = entry.capabilities or before.kernel.capabilities
    entry.accelerator = entry.accelerator or before.kernel.accelerator
    entry.qemu_cmdlines = entry.qemu_cmdlines or list(before.kernel.qemu_cmdlines)
    text = f"{share} tests, measured before ({before.when})"
    entry.provenance["exact figures"] = text
    run.listener.note(f"{target.label}: takes the exact figures of {text}")
