"""A guest that counts instructions: its clock is their number, and nothing reaches it from outside.

It has no device but a serial port that it writes its log to; its system is in its memory (initramfs.py), and it stands
still while we speak to its probe (stopped.py). So what it does is a function of the kernel, the probe and QEMU, and two
boots are the same to the instruction. It can be saved, and everything begin with that moment again (``rewind``): then a
figure does not depend on what was measured before it.
"""

from __future__ import annotations

import shlex
import shutil
import socket
import subprocess
import time
from pathlib import Path

from kselftests_py.errors import BootError, HarnessError
from kselftests_py.kernels import KernelImage
from kselftests_py.lab.channel import Channel, ChannelError
from kselftests_py.machines import initramfs
from kselftests_py.machines.accelerator import QEMU
from kselftests_py.machines.guest import PROBE_UP, STARTED, TCG, Guest, GuestOptions, connected
from kselftests_py.machines.guest_root import base_root, boot_folder, digest_file
from kselftests_py.machines.machine import Enough, MachineInfo, NeverUp
from kselftests_py.machines.stopped import StoppedChannel

_DEBUGGER = "debugger.sock"  # in the folder of the boot, as the rest; a relative path, see vng.py
_SAVED = "saved.qcow2"
# nokaslr, norandmaps: the same page tables, and the same digits in smaps, in each boot of a kernel. no_timer_check: it
# does not spend a second of ours on seeing whether its timer works, as no guest of KVM's does (arch/x86/kernel/kvm.c).
_APPEND = "console=ttyS0 nokaslr norandmaps tsc=reliable no_timer_check panic=-1 printk.devkmsg=on rdinit=/init"
# QEMU's main loop moves the clock of an idle machine on to its next timer (icount_start_warp_timer()). A CPU is idle
# from do_hlt() on, but what it executed last is counted after that (icount_process_data()): in between the clock is
# moved too far, and the machine is another from there on. 1 boot of 40 was here, and each beside a busy monitor.
# While QEMU records, main loop and CPU take turns (replay_mutex_lock()); what it records is of no use. loadvm waits
# for ever there, if it has to ask the CPU to switch on the APIC's vapic, an aid for old guests. All as of QEMU 7.2.
_IN_TURNS = ["-icount", "shift=0,sleep=off,rr=record,rrfile=/dev/null", "-global", "apic.vapic=off"]
_NO_CROWD = "kst: no crowd"  # on the console, of exact.sh
_NEEDED = {
    "CONFIG_BLK_DEV_INITRD": "no initramfs, so it cannot have its system in memory",
    "CONFIG_DEVTMPFS": "no devtmpfs, so it has no /dev",
    "CONFIG_BINFMT_SCRIPT": "no scripts, so it cannot run what starts the probe",
}


def _make_disk(folder: Path) -> str:
    """Where the machine is saved, made in *folder*: what QEMU's -drive takes.

    :raises HarnessError: there is no qemu-img.
    """
    kind, path = ["-f", "qcow2"], str(folder / _SAVED)
    try:
        subprocess.run(["qemu-img", "create", "-q", *kind, path, "64M"], check=True, capture_output=True)
    except (OSError, subprocess.CalledProcessError) as error:
        raise HarnessError(f"qemu-img does not run ({error}); 'kst doctor' says what to install") from None
    # To rewind takes 34 ms with io_uring, and 110 without; a container may forbid it.
    tried = subprocess.run(
        ["qemu-img", "bench", "-i", "io_uring", "-c", "1", *kind, path], capture_output=True, check=False
    )
    return f"if=none,format=qcow2,file={_SAVED}" + ",aio=io_uring" * (tried.returncode == 0)


def command(image: KernelImage, system: Path, disk: str, options: GuestOptions) -> list[str]:
    """QEMU's command line, to be run in the folder of the boot; :raises BootError: the kernel lacks what it takes."""
    if image.config is not None:
        for symbol, what in _NEEDED.items():
            if not image.config_value(symbol):
                raise BootError(f"{image.spec}: the kernel has {what}; build it with {symbol}")
    return [
        QEMU, "-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-accel", "tcg", "-smp", "1",
        *_IN_TURNS, "-rtc", "base=2026-01-01,clock=vm",
        "-seed", "1",  # of the random numbers that the guest is given: at boot, and by RDRAND
        "-S", "-gdb", f"unix:path={_DEBUGGER},server=on,wait=off",  # it stands still until the debugger is there
        "-drive", disk,  # no device of the guest's: where the machine is saved
        "-chardev", "file,id=console,path=/dev/stdout,append=on", "-serial", "chardev:console",
        *(part for text in TCG for part in text.split()),
        "-m", options.memory, *options.qemu,
        "-kernel", str(image.vmlinuz.resolve()), "-initrd", str(system), "-append", _APPEND,
    ]  # fmt: skip


class ExactGuest(Guest):
    """See above; of the options it takes memory, boot_timeout and qemu."""

    _silent = 60.0  # a kernel without ACPI (lean) measures its timer for 9 s on an idle machine, and says nothing

    _folder: Path | None = None
    _channel: StoppedChannel | None = None

    def _boot_once(self) -> MachineInfo:
        began = time.monotonic()
        deadline = began + self._options.boot_timeout
        self._folder = folder = boot_folder()
        system = initramfs.write(self._image, self._agent, folder, self._note)
        call = command(self._image, system, _make_disk(folder), self._options)
        self._launch(call, folder)
        self._channel = channel = StoppedChannel(self._debugger(folder / _DEBUGGER, deadline))
        channel.start()
        # It may stand still before its console says so: the kernel prints when it has the time.
        self._await_console(STARTED, deadline, channel.has_stopped)
        try:
            channel.await_stop(PROBE_UP)
        except ChannelError as error:
            raise NeverUp(
                f"{self._image.spec}: the guest is up, the probe is not: {error} (console: {self._console})"
            ) from None
        if _NO_CROWD in self._text():
            self._note(f"{self._image.label}: without its users (native_probes/crowd.c); fork and exit are less steady")
        took = time.monotonic() - began
        base = digest_file(base_root(self._note)).read_text()
        return MachineInfo("tcg", "instruction counting needs TCG", shlex.join(call), took, base)

    def _debugger(self, path: Path, deadline: float) -> socket.socket:
        """QEMU's end of its debugger."""
        assert self._process is not None
        while True:
            try:
                return connected(path)
            except OSError as error:
                if self._process.poll() is not None:
                    raise self._boot_failure() from None
                if time.monotonic() > deadline:
                    raise NeverUp(f"{self._image.spec}: no debugger of QEMU's within the bound: {error}") from None
            time.sleep(0.01)

    def _tripped_by_tcg(self) -> bool:
        return False  # that takes two CPUs

    def channel(self) -> Channel:
        assert self._channel is not None, "start() comes first"
        return self._channel

    def save(self) -> None:
        """Keep the machine as it is now, for ``rewind``; :raises ChannelError: it cannot be done."""
        assert self._channel is not None, "start() comes first"
        self._channel.save()

    def rewind(self) -> None:
        """Everything is as it was when the machine was saved; :raises ChannelError: it cannot be done."""
        assert self._channel is not None, "start() comes first"
        self._channel.rewind()

    def run(
        self, command: str, timeout: float, *, quiet: float | None = None, until: Enough | None = None
    ) -> tuple[int, str]:
        raise HarnessError(f"{self._image.label}: a guest that counts instructions has no shell for: {command[:80]}")

    def put(self, file: Path) -> str:
        raise HarnessError(f"{self._image.label}: a guest that counts instructions takes no files ({file.name})")

    def stop(self) -> None:
        if self._channel is not None:
            self._channel.close()
            self._channel = None
        super().stop()
        if self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)
            self._folder = None
