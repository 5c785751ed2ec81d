"""The root file system of a guest: built without root rights from Debian packages, then laid out for one boot.

The recipe is ``vm_images/guest_root``. The base (what the packages give) is
cached by recipe and packages; each boot gets its own copy, made of hard links
where the file system allows, with the keys and modules of that boot.
"""

from __future__ import annotations

import fnmatch
import hashlib
import lzma
import os
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import psutil
from filelock import FileLock

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage
from kselftests_py.kernels.packages import download_closure
from kselftests_py.machines.keys import RunKeys
from kselftests_py.paths import cache_dir, data_dir

_NIC = "virtio_net"
SWAP = ("lz4", "lzo", "lzo-rle", "zram")
"""The modules of swap to compressed memory."""
_LOADED = (_NIC, *SWAP)
_KVM = ("kvm-amd", "kvm-intel")  # loaded when a test wants virtual machines in the guest; TCG plays an AMD
# What a guest may load: vng's own initramfs takes the file systems and virtio, the start script most of the rest.
_FIRST = ("9p", "9pnet_virtio", "virtiofs", "virtio_pci", "virtio_mmio", "virtio_console", "overlay")
_MODULES = (*_FIRST, *_LOADED, *_KVM)
_DIRECTORIES = (
    *("bin", "dev", "etc", "home", "kst", "lib64", "opt", "proc", "root", "run"),
    *("sbin", "srv", "sys", "tmp", "usr/bin", "usr/sbin", "var"),
)
_ETC = {
    "passwd": "root:x:0:0:root:/root:/bin/sh\n",
    "group": "root:x:0:\n",
    "shadow": "root:*:1::::::\n",
    "shells": "/bin/sh\n",
}


def _recipe_lines(name: str) -> list[str]:
    text = (data_dir("vm_images") / "guest_root" / name).read_text()
    return [line for line in text.splitlines() if line and not line.startswith("#")]


def tree_digest(root: Path) -> str:
    """SHA-256 over paths, modes and contents below *root*: the same inputs give the same digest."""
    digest = hashlib.sha256()
    for path in sorted(root.rglob("*")):
        name = path.relative_to(root).as_posix()
        if path.is_symlink():
            digest.update(f"l {name} {path.readlink()}\n".encode())
        elif path.is_file():
            body = path.read_bytes()
            digest.update(f"f {name} {path.stat().st_mode & 0o777:o} {len(body)}\n".encode() + body)
        else:
            digest.update(f"d {name}\n".encode())
    return digest.hexdigest()


def _unpack(root: Path, packages: list[Path], scratch: Path) -> None:
    for package in packages:
        subprocess.run(["dpkg-deb", "-x", package, scratch], check=True, capture_output=True)
    keep = _recipe_lines("keep.txt")
    for path in sorted(scratch.rglob("*")):
        name = path.relative_to(scratch).as_posix()
        if path.is_file() and any(fnmatch.fnmatch(name, pattern) for pattern in keep):
            target = root / name
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path.resolve(), target)  # a library's version link becomes the library
            target.chmod(0o755)


def _lay_out(root: Path) -> None:
    for name in _DIRECTORIES:
        (root / name).mkdir(parents=True, exist_ok=True)
    for name, text in _ETC.items():
        (root / "etc" / name).write_text(text)
    (root / "lib").symlink_to("usr/lib")
    loader = "ld-linux-x86-64.so.2"
    (root / "lib64" / loader).symlink_to(f"../usr/lib/x86_64-linux-gnu/{loader}")
    busybox = root / "usr/bin/busybox"
    if not busybox.is_file():
        raise HarnessError("the guest root has no busybox: does keep.txt fit the packages?")
    applets = subprocess.run([busybox, "--list"], capture_output=True, text=True, check=True).stdout.split()
    for applet in {*applets, "busybox"}:
        (root / "bin" / applet).symlink_to("../usr/bin/busybox")


def base_root(progress: Callable[[str], None]) -> Path:
    """The guest root's base, built on first use; :raises HarnessError: the packages are not to be had."""
    recipe = hashlib.sha256("\n".join(_recipe_lines("packages.txt") + _recipe_lines("keep.txt")).encode()).hexdigest()[
        :16
    ]
    final = cache_dir() / "guest-root" / recipe
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{final}.lock"):
        if not final.is_dir():
            progress("building the guest root (busybox, dropbear) from Debian packages")
            with tempfile.TemporaryDirectory(dir=final.parent) as scratch:
                root, unpacked, debs = (Path(scratch) / name for name in ("root", "unpacked", "debs"))
                for directory in (root, unpacked, debs):
                    directory.mkdir()
                _unpack(root, download_closure(_recipe_lines("packages.txt"), debs, progress), unpacked)
                _lay_out(root)
                digest_file(final).write_text(tree_digest(root))
                root.rename(final)
    return final


def digest_file(base: Path) -> Path:
    return base.with_name(f"{base.name}.sha256")


def _link_tree(source: Path, target: Path) -> None:
    def link(one: str, other: str) -> None:
        try:
            os.link(one, other, follow_symlinks=False)
        except OSError:  # another file system, or a cache owned by someone else
            shutil.copy2(one, other, follow_symlinks=False)

    shutil.copytree(source, target, symlinks=True, copy_function=link)


@dataclass(frozen=True)
class BootRoot:
    """What one boot uses: the guest's root, the kernel with its modules laid out as vng looks for them, the keys."""

    path: Path
    keys: RunKeys
    base_digest: str  # of the guest root without what this boot added

    @property
    def root(self) -> Path:
        return self.path / "root"

    @property
    def vmlinuz(self) -> Path:
        return self.path / "kernel" / "vmlinuz"

    def remove(self) -> None:
        """Take it off the disk; harmless when it is gone."""
        shutil.rmtree(self.path, ignore_errors=True)


def show_depends(tree: Path, release: str, name: str) -> list[Path]:
    """The files to insmod for module *name* of the tree, dependencies first; none when it is built in or not there."""
    command = ["modprobe", "-d", str(tree), "-S", release, "--show-depends", name]
    shown = subprocess.run(command, capture_output=True, text=True, check=False).stdout.splitlines()
    return [Path(line.split()[1]) for line in shown if line.startswith("insmod ")]


def _unpack_module(source: Path, folder: Path) -> None:
    name = source.name.removesuffix(".xz").removesuffix(".zst")
    if source.suffix == ".xz":
        (folder / name).write_bytes(lzma.decompress(source.read_bytes()))
    elif source.suffix == ".zst":
        subprocess.run(["zstd", "-qdf", source, "-o", folder / name], check=True)
    else:
        shutil.copyfile(source, folder / name)


def module_tree(image: KernelImage) -> Path:
    """A tree with ``lib/modules/<release>`` that holds just what a guest loads, unpacked: without KVM a guest takes
    half a second to unpack them itself. Made once for each kernel."""
    key = hashlib.sha256(f"{image.digest} {_MODULES}".encode()).hexdigest()[:24]
    final = cache_dir() / "guest-modules" / key
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{final}.lock"):
        if not final.is_dir():
            with tempfile.TemporaryDirectory(dir=final.parent) as scratch:
                whole, small = Path(scratch) / "whole", Path(scratch) / "small"
                folder = small / "lib" / "modules" / image.release
                (folder / "kernel").mkdir(parents=True)
                (whole / "lib" / "modules").mkdir(parents=True)
                if image.modules is not None:
                    (whole / "lib" / "modules" / image.release).symlink_to(image.modules.resolve())
                    for name in ("modules.builtin", "modules.builtin.modinfo", "modules.order"):
                        if (image.modules / name).exists():
                            shutil.copyfile(image.modules / name, folder / name)
                    for name in _MODULES:
                        for source in show_depends(whole, image.release, name):
                            _unpack_module(source, folder / "kernel")
                    subprocess.run(["depmod", "-b", small, image.release], check=True, capture_output=True)
                small.rename(final)
    return final


def _put_modules(tree: Path, release: str, target: Path) -> None:
    """What the start script loads, the NIC's driver and swap to compressed memory, in ``order``; KVM in ``kvm``."""
    target.mkdir()
    for list_name, names in (("order", _LOADED), ("kvm", _KVM)):
        files = dict.fromkeys(source for name in names for source in show_depends(tree, release, name))
        for source in files:
            shutil.copyfile(source, target / source.name)
        (target / list_name).write_text("".join(f"{source.name}\n" for source in files))


def _remove_stale(boots: Path) -> None:
    """Boots whose owner is gone (killed) leave their root behind; the next boot takes it away."""
    for path in boots.iterdir():
        owner = path.name.partition("-")[0]
        if owner.isdigit() and not psutil.pid_exists(int(owner)):
            shutil.rmtree(path, ignore_errors=True)


def boot_folder() -> Path:
    """A new folder for the files of one boot; the caller removes it."""
    boots = (cache_dir() / "boots").absolute()  # QEMU is started elsewhere
    boots.mkdir(parents=True, exist_ok=True)
    _remove_stale(boots)
    return Path(tempfile.mkdtemp(dir=boots, prefix=f"{os.getpid()}-"))


def boot_root(image: KernelImage, agent: Path, progress: Callable[[str], None]) -> BootRoot:
    """Everything one boot of *image* needs on disk; the caller removes it."""
    base, path = base_root(progress), boot_folder()
    _link_tree(base, path / "root")
    share = path / "root" / "kst"
    shutil.copyfile(agent, share / "agent")
    shutil.copyfile(data_dir("vm_images") / "guest_root" / "start.sh", share / "start.sh")
    for program in ("agent", "start.sh"):
        (share / program).chmod(0o755)
    modules = module_tree(image)
    (path / "kernel" / "lib").mkdir(parents=True)
    (path / "kernel" / "vmlinuz").symlink_to(image.vmlinuz.resolve())
    if image.modules is not None:
        (path / "kernel" / "lib" / "modules").symlink_to(modules / "lib" / "modules")
    _put_modules(modules, image.release, share / "modules")
    return BootRoot(path, RunKeys.make(share), digest_file(base).read_text())
