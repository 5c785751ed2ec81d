"""A guest under virtme-ng: the only file that knows vng, QEMU's command line, and how a guest of ours comes up."""

from __future__ import annotations

import functools
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import paramiko
import psutil

from kselftests_py.errors import BootError, HarnessError, KstError
from kselftests_py.kernels import KernelImage
from kselftests_py.lab.channel import Channel, ChannelGarbage, ChannelLost, ChannelTimeout
from kselftests_py.machines.guest_root import BootRoot, boot_root
from kselftests_py.machines.kernel_log import clean, find_splat, lost_code_patch
from kselftests_py.machines.keys import RunKeys
from kselftests_py.machines.machine import BootPanic, Enough, Loss, MachineInfo, MachineLost, NeverUp
from kselftests_py.machines.ssh import SshConnection
from kselftests_py.machines.stream import StreamChannel

_STARTED = "kst: probe"
_SILENT = 20.0  # seconds without a byte on the console, before the guest is up: frozen
_PROBE_UP = 20.0  # seconds for the probe's first reply, once it is started; and for SSH's
_PORT = "probe.sock"  # QEMU's end of the probe's serial port, in the folder of the boot
_ATTEMPTS = 3  # boots, when QEMU is to blame: see _NotTheKernel
_TAIL = 262_144  # bytes of the console read back for a diagnosis


_NO_ROOT = (
    "neither 9p nor virtiofs, so it cannot mount the guest root; build it with CONFIG_9P_FS and CONFIG_NET_9P_VIRTIO"
)
_NO_PORT = "no virtio-serial ports, so it cannot reach the probe; build it with CONFIG_VIRTIO_CONSOLE"


@dataclass(frozen=True)
class GuestOptions:
    """What a guest is made of."""

    cpus: int = 2
    memory: str = "1G"
    exact: bool = False  # guest time is instructions retired: QEMU icount, one vCPU, nokaslr, norandmaps
    accelerator: str = "tcg"  # "tcg" or "kvm"
    boot_timeout: float = 120.0
    qemu: tuple[str, ...] = ()  # further options of QEMU's


class _NotTheKernel(Exception):
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


def _vng() -> str:
    beside = Path(sys.executable).parent / "vng"
    found = str(beside) if beside.exists() else shutil.which("vng")
    if found is None:
        raise HarnessError("vng is not installed: pip install virtme-ng")
    return found


def vng_command(image: KernelImage, boot: BootRoot, options: GuestOptions) -> list[str]:
    """The vng command line that boots *image* on *boot*.

    :raises BootError: the kernel can mount no root of ours, or has no port for the probe.
    """
    missing = [
        (not any(image.config_value(name) for name in ("CONFIG_9P_FS", "CONFIG_VIRTIO_FS")), _NO_ROOT),
        (not image.config_value("CONFIG_VIRTIO_CONSOLE"), _NO_PORT),
    ]
    if image.config is not None and (why := next((text for lacks, text in missing if lacks), "")):
        raise BootError(f"{image.spec}: the kernel has {why}")
    qemu = ["-netdev user,id=kst,restrict=on,hostfwd=tcp:127.0.0.1:0-:22", "-device virtio-net-pci,netdev=kst"]
    # A relative path: that of a socket ends after 107 bytes, and QEMU is started in the boot's folder.
    qemu += [f"-chardev socket,id=kst-probe,path={_PORT},server=on,wait=off"]
    # vng adds six such devices, and each has queues for 31 ports: QEMU's main loop polled 400 eventfds at each turn.
    qemu += ["-global virtio-serial-pci.max_ports=2"]
    qemu += ["-device virtio-serial-pci,id=kst-serial"]
    qemu += ["-device virtserialport,bus=kst-serial.0,chardev=kst-probe,name=kst.probe"]
    qemu += options.qemu
    append = []
    command = [
        _vng(),
        "--run",
        str(boot.vmlinuz),
        "--root",
        str(boot.root),
        "--verbose",
        "--disable-microvm",
        "--no-dhcp",
    ]
    if options.exact:
        # The seed is that of the random numbers that the guest is given: at boot, and by RDRAND.
        qemu += ["-icount shift=0,sleep=off", "-rtc base=2026-01-01,clock=vm", "-seed 1"]
        append += ["nokaslr", "norandmaps"]  # the same page tables, and the same digits in smaps, on each boot
    else:
        # Two nodes of half the memory each (CONFIG_NUMA_EMU), to migrate between; and swap, see start.sh.
        append += ["numa=fake=2", "kst=functional"]
        if options.accelerator == "tcg":
            # A QEMU that gets no time while the kernel counts its first timer interrupts makes it panic: "IO-APIC +
            # timer doesn't work!". A guest of KVM does not count, either (paravirt_ops_setup(), arch/x86/kernel/kvm.c).
            append += ["no_timer_check"]
    if options.exact or options.accelerator == "tcg":
        # Under TCG with two vCPUs QEMU 7.2 froze boots around the HPET; with the TSC trusted and no HPET it did not.
        qemu += ["-machine hpet=off"]
        # QEMU makes each byte of "rep stosb" an instruction: without ERMS the kernel clears and copies pages by words.
        qemu += ["-cpu max,-erms,-fsrm"]
        # Without KVM an eventfd only hands a request from one thread of QEMU's to another: a round trip to the probe
        # takes 0.6 ms without, 0.85 ms with it and with 31 ports.
        qemu += ["-global virtio-serial-pci.ioeventfd=off"]
        if not options.exact and options.cpus == 1:
            # A machine that can never have a second CPU runs an atomic read-modify-write as a load and a store, so its
            # page fault is a read's (QEMU drops CF_PARALLEL). One that could have two keeps it whole.
            qemu += ["-smp cpus=1,maxcpus=2"]
        append += ["tsc=reliable"]
        command += ["--disable-kvm"]
    if not options.exact and options.cpus > 1:
        # A kernel without ACPI (lean) reads the BIOS's MP table, and SeaBIOS puts one CPU of each socket into it.
        qemu += [f"-smp cpus={options.cpus},sockets={options.cpus}"]
    virtiofs = image.config_value("CONFIG_VIRTIO_FS") and shutil.which(
        "virtiofsd", path=f"{os.environ['PATH']}:/usr/libexec"
    )
    if not virtiofs:
        command += ["--force-9p"]
    append += ["printk.devkmsg=on"]  # the guest's own lines are never rate-limited away
    command += ["--cpus", "1" if options.exact else str(options.cpus), "--memory", options.memory]
    command += [part for text in qemu for part in (f"--qemu-opts={text}",)]
    command += [part for text in append for part in ("--append", text)]
    return [*command, "--exec", "/kst/start.sh"]


def _connected(path: Path) -> socket.socket:
    """The host's end of the probe's port: the socket at *path*, however long that is.

    :raises OSError: nobody listens.
    """
    folder = os.open(path.parent, os.O_PATH)
    stream = socket.socket(socket.AF_UNIX)
    try:
        stream.connect(f"/proc/self/fd/{folder}/{path.name}")
        stream.sendall(b"\n")  # start.sh waits for it
    except OSError:
        stream.close()
        raise
    finally:
        os.close(folder)
    return stream


class VngGuest:
    """One kernel image in a guest; can be started again after a loss.

    *consoles* names a new file for each boot: QEMU truncates the one it is given.
    """

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
        self._boot: BootRoot | None = None
        self._connection: SshConnection | None = None
        self._channel: StreamChannel | None = None

    def start(self) -> MachineInfo:
        why = ""
        for attempt in range(1, _ATTEMPTS + 1):
            try:
                return self._boot_once()
            except _NotTheKernel as failure:
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

    def _boot_once(self) -> MachineInfo:
        began = time.monotonic()
        deadline = began + self._options.boot_timeout
        self._boot = boot = boot_root(self._image, self._agent, self._note)
        command = [*_leash(), *vng_command(self._image, boot, self._options)]
        self._console = self._consoles()
        # vng finds virtme-run in PATH, and a virtual environment need not be activated. A vng that is killed leaves
        # its temporary files behind (virtme_ret*), so they are put where the boot's own are removed.
        path = f"{Path(_vng()).parent}:{os.environ.get('PATH', os.defpath)}"
        env = {**os.environ, "PATH": path, "TMPDIR": str(boot.path)}
        with self._console.open("ab") as console:
            self._process = subprocess.Popen(
                command, stdin=subprocess.DEVNULL, stdout=console, stderr=console, env=env, cwd=boot.path,
                start_new_session=True,
            )  # fmt: skip
        self._await_console(_STARTED, deadline)
        qemu = self._qemu()
        try:
            self._channel = StreamChannel(_connected(boot.path / _PORT))
            self._channel.call(b'{"id":0,"op":"hello"}', _PROBE_UP)
        except (OSError, ChannelTimeout, ChannelLost, ChannelGarbage) as error:
            raise NeverUp(
                f"{self._image.spec}: the guest is up, the probe is not: {error} (console: {self._console})"
            ) from None
        accelerator = "tcg" if self._options.exact else self._options.accelerator
        reason = "instruction counting needs TCG" if self._options.exact else ""
        return MachineInfo(accelerator, reason, shlex.join(qemu.cmdline()), time.monotonic() - began, boot.base_digest)

    def _text(self) -> str:
        """The console of this boot, its last part, safe to print."""
        with self._console.open("rb") as file:
            end = file.seek(0, os.SEEK_END)
            file.seek(max(0, end - _TAIL))
            return clean(file.read(_TAIL))

    def _await_console(self, mark: str, deadline: float) -> None:
        assert self._process is not None
        size, heard = -1, time.monotonic()
        while mark not in (text := self._text()):
            if "Kernel panic - not syncing" in text or self._process.poll() is not None:
                self._wait_exit(5)
                if self._tripped_by_tcg():
                    raise _NotTheKernel("TCG ran stale code: Oops: int3")
                raise self._boot_failure()
            now, new_size = time.monotonic(), self._console.stat().st_size
            if new_size != size:
                size, heard = new_size, now
            elif now - heard > _SILENT and re.search(r"\[ +\d+\.\d+\]", text):
                raise _NotTheKernel(f"console silent for {_SILENT:.0f} s while waiting for '{mark}'")
            if now > deadline:
                last = text.rstrip().rpartition("\n")[2][:200]
                told = f"its last line: {last}" if last else "it said nothing at all"
                raise NeverUp(
                    f"{self._image.spec}: no '{mark}' on the console within {self._options.boot_timeout:.0f} s; "
                    f"{told} (console: {self._console})"
                )
            time.sleep(0.05)

    def _tripped_by_tcg(self) -> bool:
        return self._options.accelerator == "tcg" and not self._options.exact and lost_code_patch(self._text())

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

    def _connect(self, keys: RunKeys) -> SshConnection:
        deadline = time.monotonic() + _PROBE_UP
        qemu = self._qemu()
        while True:
            try:
                # QEMU chose the port itself (hostfwd port 0), so two runs can never choose the same one.
                found = [one.laddr.port for one in qemu.net_connections("tcp4") if one.status == psutil.CONN_LISTEN]
                if not found:
                    raise OSError("QEMU forwards no port to the guest")
                return SshConnection.open(
                    found[0], keys.client, keys.host, timeout=max(1.0, deadline - time.monotonic())
                )
            except (OSError, paramiko.SSHException, EOFError) as error:
                if time.monotonic() > deadline or not qemu.is_running():
                    raise ChannelLost(f"no SSH to the guest within {_PROBE_UP:.0f} s: {error}") from None
                time.sleep(0.05)  # until dropbear listens

    def channel(self) -> Channel:
        assert self._channel is not None, "start() comes first"
        return self._channel

    def run(
        self, command: str, timeout: float, *, quiet: float | None = None, until: Enough | None = None
    ) -> tuple[int, str]:
        assert self._boot is not None, "start() comes first"
        if self._connection is None:  # most tests need no shell, and the handshake takes half a second without KVM
            self._connection = self._connect(self._boot.keys)
        return self._connection.run(command, timeout, quiet=quiet, until=until)

    def put(self, file: Path) -> str:
        assert self._boot is not None, "start() comes first"
        shutil.copy(file, self._boot.root / "kst" / file.name)  # 9p and virtiofs show it at once
        return f"/kst/{file.name}"

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
        for connection in (self._channel, self._connection):
            if connection is not None:
                connection.close()
        self._channel = self._connection = None
        if self._process is not None:
            self._process.kill()  # the leash: everything below dies with it
            self._process.wait()
            self._process = None
        if self._boot is not None:
            self._boot.remove()
            self._boot = None
