"""The selftests of tools/testing/selftests/mm, built static from the very source of a kernel; cached by content."""

from __future__ import annotations

import hashlib
import os
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import filelock

from kselftests_py import paths
from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import KernelImage, RunningKernel, build, series, source, store
from kselftests_py.kernels.spec import BuildSpec, parse

PROGRAMS = ("uffd-unit-tests", "uffd-wp-mremap", "uffd-stress", "pagemap_ioctl")
_FOLDER = "tools/testing/selftests/mm"
_PACKAGE = "linux-source-"


class NoSource(UsageError):
    """It is not known which source the kernel was built from."""


def source_of(kernel: KernelImage | RunningKernel) -> BuildSpec:
    """The source that *kernel* was built from; :raises NoSource: nobody says."""
    if isinstance(kernel, RunningKernel):
        raise NoSource(f"{kernel.spec}: the source of a running kernel is not known; give source:, tree: or git:")
    spec = kernel.provenance.get("source") or kernel.spec
    package = next((name for name in kernel.provenance if name.startswith(_PACKAGE)), "")
    if "version" in kernel.provenance:  # Debian's own build
        spec = f"source:{'.'.join(kernel.release.split('.')[:2])}"
    elif spec.startswith("cached:") and package and "series" not in kernel.provenance:
        spec = f"source:{package.removeprefix(_PACKAGE)}"
    wanted = parse(spec)
    if not isinstance(wanted, BuildSpec):
        how = f"name it: {kernel.spec},source=SPEC" if kernel.spec.startswith("image:") else "give its source: or tree:"
        raise NoSource(f"{kernel.spec}: its source is not known; {how}")
    return wanted


@store.disk_errors()
def built(kernel: KernelImage | RunningKernel, progress: Callable[[str], None]) -> dict[str, Path]:
    """The programs of *kernel*'s source that this source has, by name.

    :raises NoSource: its source is not known, or not to be had in its version.
    :raises HarnessError: they do not build, or the disk is full.
    """
    wanted = source_of(kernel)
    with source.opened(wanted, progress) as workspace, source.scratch(workspace.folder) as scratch:
        assert isinstance(kernel, KernelImage)
        tree = workspace.git("rev-parse", f"{workspace.base}^{{tree}}")
        _check_same(kernel, wanted, workspace.provenance, tree)
        patches = build.collect(wanted, scratch, progress)
        parts = [tree, *(series.digest(files) for _, files in patches)]
        key = hashlib.sha256(" ".join([*parts, *PROGRAMS]).encode()).hexdigest()[:24]
        folder = paths.cache_dir().absolute() / "upstream" / key
        folder.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(f"{folder}.lock"):
            if not folder.is_dir():
                progress(f"building the kernel's own selftests from {wanted.spec}")
                began = time.monotonic()
                build.lay_out(wanted, workspace, workspace.base, patches)
                programs = scratch / "programs"
                programs.mkdir()
                _build(workspace.src, scratch / "headers", programs)
                programs.rename(folder)
                progress(f"built them in {time.monotonic() - began:.0f} s")
    return {name: folder / name for name in PROGRAMS if (folder / name).is_file()}


def _check_same(kernel: KernelImage, wanted: BuildSpec, found: dict[str, str], tree: str) -> None:
    """Debian's kernel and its source are two packages, and a directory changes: both must be of one version."""
    if (version := kernel.provenance.get("version")) and (ours := next(iter(found.values())).split()[0]) != version:
        raise NoSource(f"{kernel.spec} is {version} and its source, {wanted.spec}, {ours}: not the same")
    if kernel.provenance.get("tree", tree) != tree:
        raise NoSource(f"{kernel.spec}: its source, {wanted.spec}, is another by now than the one it was built from")


def _build(src: Path, headers: Path, out: Path) -> None:
    there = [name for name in PROGRAMS if (src / _FOLDER / f"{name}.c").is_file()]
    if not there:
        raise HarnessError(f"{_FOLDER}: has none of {', '.join(PROGRAMS)}; this source is too old for --suite upstream")
    # "headers" and not "headers_install", which wants rsync.
    _make(["-C", src, f"O={headers}", "headers"])
    options = [f"OUTPUT={out}", f"KHDR_INCLUDES=-isystem {headers}/usr/include", "EXTRA_CFLAGS=-static"]
    _make(["-C", src / _FOLDER, *options, *(out / name for name in there)])


def _make(arguments: list[str | Path]) -> None:
    command = ["make", f"-j{len(os.sched_getaffinity(0))}", *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, errors="replace", stdin=subprocess.DEVNULL)
    except FileNotFoundError:
        raise HarnessError(
            "make is not on this machine; the kernel's own selftests are built with it: install make and gcc"
        ) from None
    if done.returncode:
        lines = (done.stdout + done.stderr).splitlines()
        first = next((line for line in lines if "error" in line.lower()), (lines or ["make said nothing"])[-1])
        raise HarnessError(f"the kernel's own selftests do not build: {first.strip()[:300]}")
