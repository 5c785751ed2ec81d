"""One run, as the plugin holds it: kernels resolved, manifest, run folder, stations, and who listens."""

from __future__ import annotations

import os
import platform
import shlex
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib import metadata
from typing import Any, Protocol

import psutil
import pytest

from kselftests_py.errors import BootError, HarnessError, KstError, UsageError
from kselftests_py.kernels import KernelImage, config, resolve
from kselftests_py.kernels.image import file_digest
from kselftests_py.kernels.spec import parse
from kselftests_py.lab.build import probe_digest
from kselftests_py.machines.accelerator import qemu_version
from kselftests_py.machines.machine import MachineInfo
from kselftests_py.pytest_plugin.station import Bench, Settings, Target
from kselftests_py.results import Host, KernelEntry, Manifest, Record, RunFolder


class Listener(Protocol):
    """Who is told what happens: the terminal view, or nobody."""

    def note(self, text: str) -> None: ...
    def test_started(self, test_id: str, kernel: str) -> None: ...
    def test_finished(self, record: Record) -> None: ...


class Silent:
    """Nobody listens: plain pytest shows its own progress."""

    def note(self, text: str) -> None:
        pass

    def test_started(self, test_id: str, kernel: str) -> None:
        pass

    def test_finished(self, record: Record) -> None:
        pass


@dataclass
class Run:
    """Everything that lives as long as the pytest session."""

    folder: RunFolder
    manifest: Manifest
    bench: Bench
    listener: Listener
    controls: bool
    fail_fast: bool = False  # stop at the first failure; not pytest's -x, which stops at an expected one as well
    blocks: int = 0  # how often each wall test is run, the kernels taking turns; 0: once, one kernel after the other
    seed: int = 0  # added to the seed of each test that draws at random
    reuse: bool = False  # exact figures measured before are taken, not measured again
    guests: int = 1  # how many may run at once, where they count instructions
    publish: Callable[[Target, list[Record]], None] = lambda _target, _records: None  # what is done with results
    stopped: KstError | None = None  # why the run could not go on

    def finish(self, complete: bool) -> None:
        """Stop the machines and write the manifest's last state; a run that was interrupted has no `finished`."""
        self.bench.close()
        self.bench.judge_noise()
        under_test = [one for one in self.bench.targets if one.entry.role == "kernel"]
        failed = [str(one.broken) for one in under_test if isinstance(one.broken, BootError)]
        self.manifest.boot_failed = failed[0] if failed else ""
        self.manifest.finished = _now() if complete else ""
        self.folder.write_manifest(self.manifest)


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")


def _versions() -> dict[str, str]:
    found = {"python": platform.python_version(), "pytest": pytest.__version__}
    found["virtme-ng"] = metadata.version("virtme-ng")
    try:
        found["qemu"] = qemu_version()
    except HarnessError as error:  # host and ssh runs need none
        found["qemu"] = str(error)
    return found


def targets(specs: Sequence[str], baselines: Sequence[str], listener: Listener, *, twice: bool = False) -> list[Target]:
    """The kernels of a run, baselines first.

    :raises UsageError: two of them are the same kernel, unless *twice*: that is how a comparison is tried itself.
    """
    for spec in (*baselines, *specs):
        parse(spec)  # a slip in the last one is told before the first is built
    found: list[Target] = []
    for role, given in (("baseline", baselines), ("kernel", specs)):
        for spec in given:
            kernel = resolve(spec, listener.note)
            entry = KernelEntry(label="", spec=spec, role="baseline" if role == "baseline" else "kernel")
            if isinstance(kernel, KernelImage):
                entry.label, entry.release = kernel.label, kernel.release
                entry.digest, entry.provenance = kernel.digest, dict(kernel.provenance)
                entry.config_digest = file_digest(kernel.config) if kernel.config else ""
            else:
                entry.label = kernel.label
                entry.release = platform.release() if kernel.kind == "host" else ""
            same = [
                one for one in found if (entry.digest and one.entry.digest == entry.digest) or one.label == entry.label
            ]
            if same and twice:
                entry.label = f"{entry.label} again"
            elif same:
                raise UsageError(
                    f"{spec} and {same[0].entry.spec} are the same kernel ({entry.release}); name two different ones"
                )
            found.append(Target(kernel, entry))
    return found


def _config_differences(compared: Sequence[Target]) -> list[str]:
    """The symbols that two kernels do not agree on: then more is compared than their source."""
    paths = [one.kernel.config for one in compared if isinstance(one.kernel, KernelImage) and one.kernel.config]
    two = len(paths) == len(compared) == len({one.entry.role for one in compared}) == 2
    return config.differing(*paths) if two else []


def begin(
    folder: RunFolder,
    kernels: list[Target],
    settings: Settings,
    listener: Listener,
    options: dict[str, Any],
    controls: bool,
) -> Run:
    """The run's manifest is written at once, so that a killed run tells what it was."""
    manifest = Manifest(
        kst_version=metadata.version("kselftests-py"),
        started=_now(),
        host=Host(
            uname=" ".join(platform.uname()._replace(node="")).replace("  ", " "),
            cpus=len(os.sched_getaffinity(0)),
            memory=psutil.virtual_memory().total,
        ),
        kernels=[one.entry for one in kernels],
        config_differences=_config_differences(kernels),
        probe_digest=probe_digest(),
        versions=_versions(),
        options=options,
        argv=[shlex.quote(one) for one in sys.argv],
    )
    folder.write_manifest(manifest)

    def changed() -> None:
        folder.write_manifest(manifest)

    def up(entry: KernelEntry, info: MachineInfo) -> None:
        entry.boot_s.append(round(info.boot_s, 2))
        if info.guest_root:
            manifest.versions["guest root"] = info.guest_root
        if info.command and info.command not in entry.qemu_cmdlines:
            entry.qemu_cmdlines.append(info.command)
        entry.accelerator = entry.accelerator or info.accelerator
        entry.accelerator_reason = entry.accelerator_reason or info.accelerator_reason
        changed()

    bench = Bench(kernels, settings, folder, listener.note, up, changed)
    return Run(folder, manifest, bench, listener, controls)
