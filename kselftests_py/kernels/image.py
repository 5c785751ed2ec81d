"""A kernel in files: what it is made of, what it says of itself, and the hash of its contents."""

from __future__ import annotations

import hashlib
import os
import re
import struct
from dataclasses import dataclass
from pathlib import Path

from kselftests_py.errors import UsageError
from kselftests_py.kernels.spec import ImageSpec

Facts = dict[str, tuple[int, str]]
"""Canonical name of a file (relative to lib/modules/<release>) -> its size in bytes and its sha256."""

# What a build writes. depmod's own output depends on the machine's kmod and is kept out of the digest.
_BUILT = re.compile(r"vmlinuz|config|modules\.order|modules\.builtin(\.modinfo)?|.*\.ko(\.(xz|zst|gz))?")
_MODULES_APART = {"vmlinuz", "config", "System.map"}


@dataclass(frozen=True)
class KernelImage:
    """A kernel that can be booted.

    ``modules`` is the lib/modules/<release> directory (with modules.dep), or None for a kernel without
    modules; ``config`` the build configuration, if known; ``digest`` the sha256 over the contents of all
    of them, the same wherever the same build is found; ``provenance`` says where it came from.
    """

    spec: str
    release: str
    vmlinuz: Path
    modules: Path | None
    config: Path | None
    digest: str
    provenance: dict[str, str]

    @property
    def label(self) -> str:
        """Short name for reports: the release, with the start of the digest when the user built it."""
        return self.release if self.spec.startswith("debian:") else f"{self.release}#{self.digest[:7]}"

    def config_value(self, name: str) -> str | None:
        """Value of *name* ("CONFIG_X" or "X") in the configuration: "y", "m", a number or a text.

        None if it is not set, or if there is no configuration (``config`` is None).
        """
        if self.config is None:
            return None
        name = "CONFIG_" + name.removeprefix("CONFIG_")
        text = self.config.read_text(encoding="utf-8", errors="replace")
        found = re.search(rf"^{re.escape(name)}=(.*)$", text, re.MULTILINE)
        return found[1].strip().strip('"') if found else None


def read_release(vmlinuz: Path) -> str:
    """The release string in the header of an x86 bzImage.

    Layout: Documentation/arch/x86/boot.rst of the kernel. Raises UsageError if the file is not a whole one.
    """

    def wrong(what: str) -> UsageError:
        return UsageError(f"{vmlinuz}: {what}; give the bzImage of an x86-64 kernel (arch/x86/boot/bzImage, vmlinuz)")

    if vmlinuz.is_dir():
        raise wrong("is a directory")
    if not vmlinuz.exists():
        raise wrong("no such file")
    if not vmlinuz.is_file():
        raise wrong("is not a regular file")
    try:
        with vmlinuz.open("rb") as file:
            head = file.read(0x20000)
            size = os.fstat(file.fileno()).st_size
    except OSError as error:
        raise UsageError(f"{vmlinuz}: cannot be read: {error.strerror}; check its permissions") from error
    if head.startswith(b"\x7fELF"):
        raise wrong("is an ELF file (an uncompressed vmlinux?)")
    if head[0x202:0x206] != b"HdrS" or len(head) < 0x264:
        raise wrong("is not a Linux kernel (no boot header)")
    sectors = head[0x1F1] or 4
    (paragraphs,) = struct.unpack_from("<I", head, 0x1F4)
    if size < (sectors + 1) * 512 + paragraphs * 16:
        raise wrong(f"is cut short: {size} bytes where its header promises more")
    (offset,) = struct.unpack_from("<H", head, 0x20E)
    words = head[offset + 0x200 : offset + 0x280].split(b"\0")[0].split()
    release = words[0].decode("ascii", "replace") if offset and words else ""
    # The release becomes part of paths: nothing but what a kernel's own build allows.
    if not re.fullmatch(r"[0-9][A-Za-z0-9._+~-]{0,63}", release):
        raise wrong("has no release string in its header")
    return release


def measure(vmlinuz: Path, config: Path | None, modules: Path | None) -> Facts:
    """Size and sha256 of every file of a kernel; depmod's files included, links followed to files only."""
    files = {"vmlinuz": vmlinuz}
    if config:
        files["config"] = config
    if modules:
        for folder, _, names in os.walk(modules):
            for path in (Path(folder, name) for name in names):
                name = str(path.relative_to(modules))
                if name not in _MODULES_APART and path.is_file():
                    files[name] = path
    return {name: (path.stat().st_size, file_digest(path)) for name, path in sorted(files.items())}


def file_digest(path: Path) -> str:
    """sha256 of a file's contents, in hexadecimal."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def digest(facts: Facts) -> str:
    """sha256 over what the build wrote, in hexadecimal: names and contents, no times, no paths."""
    lines = [f"{sha256}  {name}\n" for name, (_, sha256) in sorted(facts.items()) if _BUILT.fullmatch(name)]
    return hashlib.sha256("".join(lines).encode()).hexdigest()


def from_files(wanted: ImageSpec) -> KernelImage:
    """The kernel of an ``image:`` spec, used where it lies. Raises UsageError if the files do not fit."""
    release = read_release(wanted.vmlinuz)
    modules = _modules_of(wanted.modules, release) if wanted.modules else None
    config = wanted.config
    if config and not config.is_file():
        raise UsageError(f"{config}: no such file; config= wants the kernel's configuration (.config)")
    if config is None:
        guesses = [wanted.vmlinuz.with_name(f"config-{release}")] + ([modules / "config"] if modules else [])
        config = next((guess for guess in guesses if guess.is_file()), None)
    try:
        facts = measure(wanted.vmlinuz, config, modules)
    except OSError as error:
        raise UsageError(f"{error.filename}: cannot be read: {error.strerror}; check its permissions") from error
    provenance = {"vmlinuz": str(wanted.vmlinuz)}
    provenance |= {name: str(path) for name, path in (("modules", modules), ("config", config)) if path}
    provenance |= {"source": wanted.source} if wanted.source else {}
    return KernelImage(wanted.spec, release, wanted.vmlinuz, modules, config, digest(facts), provenance)


def _modules_of(folder: Path, release: str) -> Path:
    """The modules directory of *release* at *folder*, or below it where ``make modules_install`` puts it."""
    for place in (folder, folder / release, folder / "lib/modules" / release, folder / "usr/lib/modules" / release):
        if place.name == release and place.is_dir():
            if not (place / "modules.dep").is_file():
                raise UsageError(f"{place}: has no modules.dep; run depmod -b {place.parents[2]} {release}")
            return place
    raise UsageError(f"{folder}: has no modules of {release}, the kernel's release; give lib/modules/{release}")
