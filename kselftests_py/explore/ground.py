"""The machine that is explored: its probe, its log, and a fresh boot of it."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from kselftests_py.explore.offer import Offer
from kselftests_py.kernels import RunningKernel
from kselftests_py.lab import Lab
from kselftests_py.machines.kernel_log import Splat
from kselftests_py.pytest_plugin import session
from kselftests_py.pytest_plugin.judge import check_log
from kselftests_py.pytest_plugin.station import Settings, Station, Target
from kselftests_py.results import RunFolder

Note = Callable[[str], None]


class _Told(session.Silent):
    """Hands on what is noted, and nothing else happens here."""

    def __init__(self, note: Note) -> None:
        self._note = note

    def note(self, text: str) -> None:
        self._note(text)


class Ground:
    """One kernel, booted when it is first needed and again after each loss, with its consoles in *folder*."""

    def __init__(
        self,
        spec: str,
        folder: RunFolder,
        settings: Settings,
        note: Note,
        options: dict[str, str],
        seed: int | None = None,
    ) -> None:
        listener = _Told(note)
        (self._target,) = session.targets([spec], [], listener)
        self._station: Station | None = None
        self._run = session.begin(folder, [self._target], settings, listener, dict(options), controls=False)
        if seed is not None:
            self._run.manifest.seeds["kst explore"] = seed
            folder.write_manifest(self._run.manifest)

    @property
    def target(self) -> Target:
        return self._target

    @property
    def label(self) -> str:
        return self._target.label

    @property
    def folder(self) -> Path:
        return self._run.folder.path

    @property
    def boots(self) -> bool:
        """Whether a fresh boot can be had."""
        return not isinstance(self._target.kernel, RunningKernel)

    @property
    def _here(self) -> Station:
        self._station = self._run.bench.station(self._target, "functional")
        return self._station

    @property
    def lab(self) -> Lab:
        """The probe; :raises BootError: the kernel does not come up."""
        lab = self._here.lab
        assert lab is not None
        return lab

    @property
    def one_cpu(self) -> bool:
        """Whether the threads of a sequence share a CPU: under TCG a wake-up from one CPU to another is dear.

        It costs no race, as a sequence has none: each step, and all that it sets going, is waited for.
        """
        return self._target.entry.emulated

    def offer(self) -> Offer:
        """What can be tried on this kernel."""
        assert self.lab  # it has told what it can by then
        assert self._target.capabilities is not None
        return Offer.of(self._target.capabilities)

    def splat(self) -> Splat | None:
        """What the kernel wrote to its log since the last look, if it tells of a broken kernel."""
        return check_log(self._here)

    def renew(self) -> None:
        """Stop the machine, or forget one that is gone: the next use boots it anew (a running kernel: a new probe)."""
        if self._station is not None:
            self._run.bench.lost(self._station)
            self._station = None

    def close(self, *, complete: bool) -> None:
        self._run.finish(complete)
