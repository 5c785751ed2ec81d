"""This host as a machine: the probe in this process, on the running kernel, without a VM and without SSH."""

from __future__ import annotations

import subprocess
import time
from pathlib import Path

from kselftests_py.lab.channel import Channel, ChannelTimeout
from kselftests_py.lab.native import NativeChannel
from kselftests_py.machines.machine import Enough, Loss, MachineInfo, MachineLost


class LocalHost:
    """The running kernel. The probe is the cffi build of the same library that the agent is."""

    def __init__(self) -> None:
        self._channel: NativeChannel | None = None

    def start(self) -> MachineInfo:
        began = time.monotonic()
        self._channel = NativeChannel()
        return MachineInfo("none", "the running kernel, no VM", boot_s=time.monotonic() - began)

    def channel(self) -> Channel:
        assert self._channel is not None, "start() comes first"
        return self._channel

    def run(
        self, command: str, timeout: float, *, quiet: float | None = None, until: Enough | None = None
    ) -> tuple[int, str]:
        done = subprocess.run(["sh", "-c", command], capture_output=True, text=True, timeout=timeout, check=False)
        return done.returncode, (done.stdout + done.stderr)[:65_536]

    def put(self, file: Path) -> str:
        return str(file)

    def diagnose(self, error: Exception) -> MachineLost:
        return MachineLost(Loss.HANG if isinstance(error, ChannelTimeout) else Loss.LOST, f"host: {error}")

    def stop(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
