"""What every kind of machine can do, and the ways in which one is lost.

A machine runs one kernel. The suites reach it through the probe's channel
only; its own shell is for set-up. A machine that is lost says why: that
decides between CRASH, HANG and MISS (docs/architecture.md).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Protocol

from kselftests_py.errors import BootError, HarnessError
from kselftests_py.lab.channel import Channel

Enough = Callable[[bytes], object]
"""Asked of a command's output so far: true if no more of it is wanted."""
LEFT = -2
"""The exit code of a command that was left before its end; -1 is that of a session that ended without one."""


class Loss(StrEnum):
    """Why a machine or its probe stopped answering."""

    PANIC = "panic"  # the kernel panicked, or QEMU ended by itself
    OOPS = "oops"  # the kernel oopsed, and the probe is gone
    HANG = "hang"  # the machine runs and answers nothing
    LOST = "lost"  # the machine runs, the connection broke
    GARBAGE = "garbage"  # the probe's channel carried something that is no reply


@dataclass(frozen=True)
class MachineInfo:
    """What made the numbers of a machine: for the manifest, nothing is derived from it."""

    accelerator: str  # "kvm", "tcg", or "none" for a machine that is not a VM of ours
    accelerator_reason: str
    command: str = ""  # the command line of QEMU as it ran
    boot_s: float = 0.0  # from start() to the probe's first reply
    guest_root: str = ""  # SHA-256 of the guest's root file system, as built from its recipe


class NeverUp(BootError):
    """The kernel did not reach the probe's first reply within the bound."""


class BootPanic(BootError):
    """The kernel panicked before the probe's first reply."""


class MachineLost(HarnessError):
    """The machine or its probe stopped answering; *loss* says how."""

    def __init__(self, loss: Loss, message: str, log: str = "") -> None:
        super().__init__(message)
        self.loss = loss
        self.log = log


class Machine(Protocol):
    """One kernel, running."""

    def start(self) -> MachineInfo:
        """Bring it up to the probe's first reply.

        :raises BootError: the kernel did not come up.
        :raises HarnessError: the machine cannot be reached.
        """
        ...

    def channel(self) -> Channel:
        """The probe's channel (opened by :meth:`start`)."""
        ...

    def run(
        self, command: str, timeout: float, *, quiet: float | None = None, until: Enough | None = None
    ) -> tuple[int, str]:
        """Run a shell command on it; the exit code and at most 64 KiB of output.

        A command that says nothing for *quiet* seconds hangs; one whose output is *until* enough is left alone, with
        ``LEFT`` as its code. The host's own shell knows neither.
        """
        ...

    def put(self, file: Path) -> str:
        """Bring an executable *file* to it; its path there."""
        ...

    def diagnose(self, error: Exception) -> MachineLost:
        """What a failed call on the channel means, told from the machine's own state."""
        ...

    def stop(self) -> None:
        """End it and everything it started; harmless when it is not running."""
        ...
