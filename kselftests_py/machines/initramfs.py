"""The whole system of a guest that counts instructions, in memory: it has no device to read a file from."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from virtme.cpiowriter import CpioWriter

from kselftests_py.kernels import KernelImage
from kselftests_py.machines.guest_root import SWAP, base_root, module_tree, show_depends
from kselftests_py.paths import data_dir

_CONSOLE = (5, 1)  # the device number of /dev/console, of which the kernel makes the first program's output


def write(image: KernelImage, agent: Path, folder: Path, progress: Callable[[str], None]) -> Path:
    """The initramfs for *image*, in *folder*. The same kernel, probe and packages give the same bytes."""
    scripts, busybox = data_dir("vm_images") / "guest_root", base_root(progress) / "usr" / "bin" / "busybox"
    modules = module_tree(image)
    drivers = dict.fromkeys(file for name in SWAP for file in show_depends(modules, image.release, name))
    programs = {"bin/busybox": busybox, "kst/agent": agent, "init": scripts / "exact.sh"}
    path = folder / "initramfs"
    with path.open("wb") as file:
        archive = CpioWriter(file)
        for name in ("bin", "dev", "kst", "kst/modules", "proc", "sys", "tmp"):
            archive.mkdir(name.encode(), 0o755)
        archive.mkchardev(b"dev/console", _CONSOLE, 0o600)
        archive.symlink(b"busybox", b"bin/sh")
        for name, source in programs.items():
            archive.write_file(name.encode(), source.read_bytes(), 0o755)
        for source in drivers:
            archive.write_file(f"kst/modules/{source.name}".encode(), source.read_bytes(), 0o644)
        archive.write_file(b"kst/modules/order", "".join(f"{source.name}\n" for source in drivers).encode(), 0o644)
        archive.write_trailer()
    return path
