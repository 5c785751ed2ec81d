"""A guest under virtme-ng: the only file that knows vng, and how a guest of it comes up."""

from __future__ import annotations

import os
import shlex
import shutil
import socket
import sys
import time
from pathlib import Path

import paramiko
import psutil

from kselftests_py.errors import BootError, HarnessError
from kselftests_py.kernels import KernelImage
from kselftests_py.lab.channel import Channel, ChannelGarbage, ChannelLost, ChannelTimeout
from kselftests_py.machines.guest import PROBE_UP, STARTED, TCG, Guest, GuestOptions, connected
from kselftests_py.machines.guest_root import BootRoot, boot_root
from kselftests_py.machines.keys import RunKeys
from kselftests_py.machines.machine import Enough, MachineInfo, NeverUp
from kselftests_py.machines.ssh import SshConnection
from kselftests_py.machines.stream import StreamChannel

_PORT = "probe.sock"  # QEMU's end of the probe's serial port, in the folder of the boot

_NO_ROOT = (
    "neither 9p nor virtiofs, so it cannot mount the guest root; build it with CONFIG_9P_FS and CONFIG_NET_9P_VIRTIO"
)
_NO_PORT = "no virtio-serial ports, so it cannot reach the probe; build it with CONFIG_VIRTIO_CONSOLE"


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
    # Two nodes of half the memory each (CONFIG_NUMA_EMU), to migrate between; the other is for the capability "guest".
    append = ["numa=fake=2", "kst=functional"]
    if options.accelerator == "tcg":
        # A QEMU that gets no time while the kernel counts its first timer interrupts makes it panic: "IO-APIC +
        # timer doesn't work!". A guest of KVM does not count, either (paravirt_ops_setup(), arch/x86/kernel/kvm.c).
        append += ["no_timer_check"]
        qemu += TCG
        # Without KVM an eventfd only hands a request from one thread of QEMU's to another: a round trip to the probe
        # takes 0.6 ms without, 0.85 ms with it and with 31 ports.
        qemu += ["-global virtio-serial-pci.ioeventfd=off"]
        if options.cpus == 1:
            # A machine that can never have a second CPU runs an atomic read-modify-write as a load and a store, so its
            # page fault is a read's (QEMU drops CF_PARALLEL). One that could have two keeps it whole.
            qemu += ["-smp cpus=1,maxcpus=2"]
        append += ["tsc=reliable"]
        command += ["--disable-kvm"]
    if options.cpus > 1:
        # A kernel without ACPI (lean) reads the BIOS's MP table, and SeaBIOS puts one CPU of each socket into it.
        qemu += [f"-smp cpus={options.cpus},sockets={options.cpus}"]
    virtiofs = image.config_value("CONFIG_VIRTIO_FS") and shutil.which(
        "virtiofsd", path=f"{os.environ['PATH']}:/usr/libexec"
    )
    if not virtiofs:
        command += ["--force-9p"]
    append += ["printk.devkmsg=on"]  # the guest's own lines are never rate-limited away
    command += ["--cpus", str(options.cpus), "--memory", options.memory]
    command += [part for text in qemu for part in (f"--qemu-opts={text}",)]
    command += [part for text in append for part in ("--append", text)]
    return [*command, "--exec", "/kst/start.sh"]


def _probe_port(path: Path) -> socket.socket:
    """The host's end of the probe's port; :raises OSError: nobody listens."""
    stream = connected(path)
    stream.sendall(b"\n")  # start.sh waits for it
    return stream


class VngGuest(Guest):
    """A guest that runs on wall time, on a root that it shares with us."""

    _boot: BootRoot | None = None
    _connection: SshConnection | None = None
    _channel: StreamChannel | None = None

    def _boot_once(self) -> MachineInfo:
        began = time.monotonic()
        deadline = began + self._options.boot_timeout
        self._boot = boot = boot_root(self._image, self._agent, self._note)
        # vng finds virtme-run in PATH, and a virtual environment need not be activated. A vng that is killed leaves
        # its temporary files behind (virtme_ret*), so they are put where the boot's own are removed.
        path = f"{Path(_vng()).parent}:{os.environ.get('PATH', os.defpath)}"
        env = {**os.environ, "PATH": path, "TMPDIR": str(boot.path)}
        self._launch(vng_command(self._image, boot, self._options), boot.path, env)
        self._await_console(STARTED, deadline)
        qemu = self._qemu()
        try:
            self._channel = StreamChannel(_probe_port(boot.path / _PORT))
            self._channel.call(b'{"id":0,"op":"hello"}', PROBE_UP)
        except (OSError, ChannelTimeout, ChannelLost, ChannelGarbage) as error:
            raise NeverUp(
                f"{self._image.spec}: the guest is up, the probe is not: {error} (console: {self._console})"
            ) from None
        took = time.monotonic() - began
        return MachineInfo(self._options.accelerator, "", shlex.join(qemu.cmdline()), took, boot.base_digest)

    def _connect(self, keys: RunKeys) -> SshConnection:
        deadline = time.monotonic() + PROBE_UP
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
                    raise ChannelLost(f"no SSH to the guest within {PROBE_UP:.0f} s: {error}") from None
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

    def stop(self) -> None:
        for connection in (self._channel, self._connection):
            if connection is not None:
                connection.close()
        self._channel = self._connection = None
        super().stop()
        if self._boot is not None:
            self._boot.remove()
            self._boot = None
