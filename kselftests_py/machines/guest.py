"""What guests have in common: QEMU on a leash, a console to read, several tries to boot, and why one is lost."""

from __future__ import annotations

import functools
import os
import re
import socket
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil

from kselftests_py.errors import HarnessError, KstError
from kselftests_py.kernels import KernelImage
from kselftests_py.lab.channel import Channel, ChannelGarbage, ChannelTimeout
from kselftests_py.machines.kernel_log import clean, find_splat, lost_code_patch
from kselftests_py.machines.machine import BootPanic, Loss, MachineInfo, MachineLost, NeverUp

STARTED = "kst: probe"
"""What a guest writes to its console when the probe is about to start."""
_ENDED = "kst: the probe ended"  # ... and when it has ended by itself, where the guest ends with it
TCG = (
    # Under TCG with two vCPUs QEMU 7.2 froze boots around the HPET; with the TSC trusted and no HPET it did not.
    "-machine hpet=off",
    # QEMU makes each byte of "rep stosb" an instruction: without ERMS the kernel clears and copies pages by words.
    "-cpu max,-erms,-fsrm",
)
"""Options of QEMU's for each machine that it emulates."""
PROBE_UP = 20.0
"""For the probe's first reply, once it is started; and for SSH's. In seconds."""
_ATTEMPTS = 3  # boots, when QEMU is to blame: see NotTheKernel
_TAIL = 262_144  # bytes of the console read back for a diagnosis


@dataclass(frozen=True)
class GuestOptions:
    """What a guest is made of; one that counts instructions has one CPU and no choice of accelerator."""

    cpus: int = 2
    memory: str = "1G"
    accelerator: str = "tcg"  # "tcg" or "kvm"
    boot_timeout: float = 120.0
    qemu: tuple[str, ...] = ()  # further options of QEMU's


class NotTheKernel(Exception):
    """The boot failed by the environment's fault: QEMU runs and the guest does nothing, or TCG lost a code patch."""


@functools.cache
def _leash() -> tuple[str, ...]:
    """A command prefix that makes QEMU, and all that vng started, die with this process, whatever kills it.

    A PID namespace dies with its first process; that dies with ``unshare``
    (--kill-child); that dies with us (--pdeathsig, which watches the thread
    that started it: guests are started from the main thread).
    """
    pid_namespace = ["unshare", "--pid", "--fork", "--kill-child=KILL"]
    if os.geteuid() != 0:
        pid_namespace[1:1] = ["--user", "--map-current-user"]
    try:
        subprocess.run([*pid_namespace, "true"], check=True, capture_output=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ("setpriv", "--pdeathsig", "KILL")
    return ("setpriv", "--pdeathsig", "KILL", *pid_namespace)


def connected(path: Path) -> socket.socket:
    """The socket of QEMU's at *path*, however long that is; :raises OSError: nobody listens."""
    folder, stream = os.open(path.parent, os.O_PATH), socket.socket(socket.AF_UNIX)
    try:
        stream.connect(f"/proc/self/fd/{folder}/{path.name}")
    except OSError:
        stream.close()
        raise
    finally:
        os.close(folder)
    return stream


class Guest:
    """One kernel image in a guest; can be started again after a loss.

    *consoles* names a new file for each boot.
    """

    _silent = 20.0  # seconds without a byte on the console, before the guest is up: frozen

    def __init__(
        self,
        image: KernelImage,
        agent: Path,
        consoles: Callable[[], Path],
        options: GuestOptions,
        note: Callable[[str], None],
    ) -> None:
        self._image, self._agent, self._consoles, self._options, self._note = image, agent, consoles, options, note
        self._console = Path()
        self._process: subprocess.Popen[bytes] | None = None

    def _boot_once(self) -> MachineInfo:
        raise NotImplementedError

    def channel(self) -> Channel:
        raise NotImplementedError

    def start(self) -> MachineInfo:
        why = ""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._boot_once()
            except NotTheKernel as failure:
                self.stop()
                why = str(failure)
                self._note(
                    f"{self._image.label}: boot {attempt} of {_ATTEMPTS} failed by no fault of the kernel: {why}"
                )
            except BaseException:
                self.stop()
                raise
        raise NeverUp(
            f"{self._image.spec}: {_ATTEMPTS} boots failed in QEMU; the last: {why} (console: {self._console})"
        )

    def _launch(self, command: list[str], cwd: Path, env: dict[str, str] | None = None) -> None:
        """Start QEMU, or what starts it; it ends with us."""
        self._console = self._consoles()
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                [*_leash(), *command], stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=env, cwd=cwd,
                start_new_session=True,
            )  # fmt: skip

    def _text(self) -> str:
        """The console of this boot, its last part, safe to print."""
        with self._console.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _TAIL))
            return clean(file.read(_TAIL))

    def _await_console(self, mark: str, deadline: float, otherwise: Callable[[], bool] = lambda: False) -> None:
        """Return when *mark* is there, or *otherwise* is true."""
        assert self._process is not None
        size, heard = -1, time.monotonic()
        while mark not in (text := self._text()) and not otherwise():
            if "Kernel panic - not syncing" in text or self._process.poll() is not None:
                self._wait_exit(5)
                if self._tripped_by_tcg():
                    raise NotTheKernel("TCG ran stale code: Oops: int3")
                raise self._boot_failure()
            now, new_size = time.monotonic(), self._console.stat().st_size
            if new_size != size:
                size, heard = new_size, now
            elif now - heard > self._silent and re.search(r"\[ +\d+\.\d+\]", text):
                raise NotTheKernel(f"console silent for {self._silent:.0f} s while waiting for '{mark}'")
            if now > deadline:
                last = text.rstrip().rpartition("\n")[2][:200]
                told = f"its last line: {last}" if last else "it said nothing at all"
                raise NeverUp(
                    f"{self._image.spec}: no '{mark}' on the console within {self._options.boot_timeout:.0f} s; "
                    f"{told} (console: {self._console})"
                )
            time.sleep(0.05)

    def _tripped_by_tcg(self) -> bool:
        return self._options.accelerator == "tcg" and lost_code_patch(self._text())

    def _boot_failure(self) -> KstError:
        text = self._text()
        where = f"(console: {self._console})"
        if "Failed to mount real root" in text:
            return NeverUp(f"{self._image.spec}: the kernel could not mount the guest root over 9p or virtiofs {where}")
        if panic := re.search(r"Kernel panic - not syncing.*", text):
            return BootPanic(f"{self._image.spec}: {panic.group()[:200]} {where}")
        lines = [line for line in text.splitlines() if line.strip()]
        told = next(
            (line for line in lines if re.match(r"qemu-system|virtme|vng|.*rror:", line)),
            lines[-1] if lines else "no output",
        )
        if "icount" in told:  # "cannot configure icount, TCG support not available", and the like
            return HarnessError(f"this QEMU cannot count instructions ({told.strip()[:200]}); exact mode needs TCG")
        return NeverUp(f"{self._image.spec}: QEMU ended before the guest was up: {told.strip()[:200]} {where}")

    def _qemu(self) -> psutil.Process:
        assert self._process is not None
        deadline = time.monotonic() + 5
        while self._process.poll() is None and time.monotonic() < deadline:
            for child in psutil.Process(self._process.pid).children(recursive=True):
                if child.name().startswith("qemu-system"):
                    return child
            time.sleep(0.05)  # psutil compares start times and may leave out a child for a moment
        raise NeverUp(f"{self._image.spec}: the guest spoke and QEMU is gone (console: {self._console})")

    def _wait_exit(self, seconds: float) -> bool:
        assert self._process is not None
        try:
            self._process.wait(seconds)
        except subprocess.TimeoutExpired:
            return False
        return True

    def diagnose(self, error: Exception) -> MachineLost:
        # A panic ends QEMU (panic=-1, -no-reboot) a moment after the channel broke; a hang does not.
        ended = self._wait_exit(5)
        splat = find_splat(self._text().splitlines())
        label = self._image.label
        if splat and self._tripped_by_tcg():
            return MachineLost(
                Loss.LOST, f"{label}: TCG ran stale code, the kernel is not to blame: {splat.line}", splat.excerpt
            )
        if splat and splat.kind == "panic":
            return MachineLost(Loss.PANIC, f"{label}: {splat.line}", splat.excerpt)
        if ended and not splat and _ENDED in self._text():
            return MachineLost(Loss.LOST, f"{label}: the probe ended by itself", self._text()[-4000:])
        if ended:
            return MachineLost(
                Loss.PANIC, f"{label}: QEMU ended: {splat.line if splat else error}", self._text()[-4000:]
            )
        if splat:
            return MachineLost(Loss.OOPS, f"{label}: {splat.line}", splat.excerpt)
        hang, garbage = isinstance(error, ChannelTimeout), isinstance(error, ChannelGarbage)
        loss = Loss.HANG if hang else Loss.GARBAGE if garbage else Loss.LOST
        return MachineLost(loss, f"{label}: {error}", self._text()[-4000:])

    def stop(self) -> None:
        if self._process is not None:
            self._process.kill()  # the leash: everything below dies with it
            self._process.wait()
            self._process = None
