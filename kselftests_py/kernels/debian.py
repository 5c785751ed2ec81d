"""Debian's kernel packages: which there are, which one is meant, and how their files become one kernel."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from debian.deb822 import Packages
from debian.debian_support import Version

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import apt

# The plain flavour only: the cloud flavour has no 9p, the rt flavour is another kernel to measure.
_IMAGE = re.compile(rf"linux-image-(?P<release>[0-9][^-]*(-[0-9]+)?-{apt.ARCHITECTURE})")


class NoSuchKernel(UsageError):
    """The mirror answers, and has no kernel of that name."""


@dataclass(frozen=True)
class Package:
    """One binary package of the index: ``size`` in bytes, ``sha256`` of the .deb in hexadecimal."""

    name: str
    version: str
    size: int
    sha256: str


@dataclass(frozen=True)
class DebianKernel:
    """A kernel on the mirror: its release, its Debian version, and the names of the packages it needs."""

    release: str
    version: str
    image: Package
    parts: tuple[str, ...]

    @property
    def upstream(self) -> str:
        """The upstream version, as "7.3.4"."""
        return str(Version(self.version).upstream_version)

    @property
    def series(self) -> str:
        """The first two numbers of the upstream version, as "7.3"."""
        return ".".join(self.upstream.split(".")[:2])

    @property
    def names(self) -> set[str]:
        """What a user may call it when exactly this kernel is meant."""
        return {self.version, self.upstream, self.release, self.release.removesuffix(f"-{apt.ARCHITECTURE}")}


def kernels(root: Path) -> list[DebianKernel]:
    """Every kernel in the index of the apt root, the newest first."""
    wanted = [name for name in apt.names(root, "linux-image-") if _IMAGE.fullmatch(name)]
    found = []
    for record in apt.show(root, wanted):
        match = _IMAGE.fullmatch(record["Package"])
        if not match or "SHA256" not in record:
            continue
        # Since 7.x the image package is empty and depends on linux-{base,binary,modules}-<release>.
        release = match["release"]
        depends = [choice["name"] for group in (record.relations["depends"] or []) for choice in group]
        parts = tuple(name for name in depends if name.endswith(f"-{release}"))
        found.append(DebianKernel(release, record["Version"], _package(record), parts))
    return sorted(found, key=lambda kernel: Version(kernel.version), reverse=True)


def _package(record: Packages) -> Package:
    return Package(record["Package"], record["Version"], int(record["Size"]), record["SHA256"])


def choose(found: list[DebianKernel], want: str) -> DebianKernel:
    """The kernel of *found* (the newest first) that *want* means: newest, a series, a version or a release.

    Raises NoSuchKernel, naming what there is.
    """
    for kernel in found:
        if want in ("newest", kernel.series) or want in kernel.names:
            return kernel
    there = list(dict.fromkeys(kernel.series for kernel in found))
    near = [kernel.version for kernel in found if want.startswith(kernel.series + ".")]
    if near:
        raise NoSuchKernel(f"debian:{want}: not on the mirror; of this series it has {', '.join(near)}")
    if not there:
        raise NoSuchKernel(f"debian:{want}: the mirror has no kernel at all for {apt.ARCHITECTURE}; check the mirror")
    raise NoSuchKernel(f"debian:{want}: not on the mirror; there are {', '.join(there)} (write debian:{there[0]})")


def packages_of(root: Path, kernel: DebianKernel) -> list[Package]:
    """The packages that hold the files of *kernel*. Raises HarnessError if the index lacks one."""
    records = [_package(record) for record in apt.show(root, kernel.parts)]
    parts = {package.name: package for package in records if package.version == kernel.version}
    missing = set(kernel.parts) - set(parts)
    if missing:
        raise HarnessError(f"{min(missing)} {kernel.version}: not on the mirror although {kernel.image.name} needs it")
    return [kernel.image, *(parts[name] for name in sorted(parts))]


def source_package(root: Path, series: str) -> Package:
    """The package with the source of the *series* ("7.3"), in its newest version. Raises NoSuchKernel."""
    prefix = "linux-source-"
    found = [_package(record) for record in apt.show(root, [prefix + series])]
    if not found:
        there = sorted(
            name.removeprefix(prefix) for name in apt.names(root, prefix) if name[len(prefix) :][:1].isdigit()
        )
        raise NoSuchKernel(
            f"source:{series}: not on the mirror; it has the source of {', '.join(there) or 'no kernel'}"
        )
    return max(found, key=lambda package: Version(package.version))


def unpack(root: Path, packages: list[Package], release: str, entry: Path, progress: Callable[[str], None]) -> Path:
    """Download *packages* and lay their kernel out as ``entry/lib/modules/<release>``, which is returned.

    It then holds vmlinuz, config and the modules, as built: depmod is still to be run.
    """
    files, debs = entry / "files", entry / "debs"
    files.mkdir()
    debs.mkdir()
    megabytes = sum(package.size for package in packages) / 1e6
    progress(f"fetching {release}: {len(packages)} packages, {megabytes:.0f} MB")
    fetched = apt.download(root, [(package.name, package.version) for package in packages], debs)
    progress(f"unpacking {release}")
    for deb in fetched:
        _run(["dpkg-deb", "-x", str(deb), str(files)], "dpkg", f"cannot unpack {deb.name}")
    shutil.rmtree(debs)
    modules = _arrange(files, release, entry)
    shutil.rmtree(files)
    return modules


def _arrange(files: Path, release: str, entry: Path) -> Path:
    """Move the kernel from the layout of the packages (before or since 7.x) to the one of the cache."""
    places = [files / top / release for top in ("usr/lib/modules", "lib/modules")]
    source = next((place for place in places if place.is_dir()), None)
    if source is None:
        raise HarnessError(f"the packages of {release} hold no modules directory; their layout is not known here")
    modules = entry / "lib" / "modules" / release
    modules.parent.mkdir(parents=True)
    source.replace(modules)
    for name in ("vmlinuz", "config"):
        old = files / "boot" / f"{name}-{release}"
        if old.is_file():
            old.replace(modules / name)
        if not (modules / name).is_file():
            raise HarnessError(f"the packages of {release} hold no {name}; their layout is not known here")
    return modules


def depmod(entry: Path, release: str) -> None:
    """Make modules.dep and its like for the modules of *release* below *entry*; Debian's packages lack them."""
    _run(["depmod", "-b", str(entry), release], "kmod", f"cannot index the modules of {release}")


def _run(command: list[str], package: str, failure: str) -> None:
    # A user's PATH on Debian has no sbin.
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    tool = shutil.which(command[0], path=path)
    if not tool:
        raise HarnessError(f"{command[0]} is not on this machine; install the package {package}")
    told = subprocess.run([tool, *command[1:]], capture_output=True, text=True, errors="replace", check=False)
    if told.returncode:
        reason = (told.stderr.strip().splitlines() or [f"it ended with {told.returncode}"])[-1]
        raise HarnessError(f"{failure}: {command[0]}: {reason}; check the free space of the cache")
