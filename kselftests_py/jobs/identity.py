"""What a machine and its installation have that the result of a job depends on."""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import build
from kselftests_py.lab.build import probe_digest
from kselftests_py.machines.accelerator import qemu_version
from kselftests_py.paths import data_dir

_PACKAGE = Path(__file__).parent.parent


@dataclass(frozen=True)
class Identity:
    """*code*: ``kst``, its probe, its suites and its recipes of guests and kernels, in one digest; its QEMU, and the
    compiler and linker of its kernels (or why there are none)."""

    code: str
    qemu: str
    compiler: str


def identity() -> Identity:
    """The identity of the machine and the installation that this runs in."""
    folders = (_PACKAGE, data_dir("suites"), data_dir("vm_images"))
    code = hashlib.sha256("\n".join([probe_digest(), *(content(each) for each in folders)]).encode())
    return Identity(code.hexdigest()[:16], _told(qemu_version), _told(build.compiler_used))


def _told(ask: Callable[[], str]) -> str:
    try:
        return ask()
    except HarnessError as error:
        return str(error)


def content(folder: Path) -> str:
    """SHA-256 over the names and contents of the files below *folder*, without what Python and pytest leave there, and
    without ``_data``, which an installed package has and a checkout has not: the same on any machine."""
    digest = hashlib.sha256()
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder)
        if path.is_file() and not any(part.startswith(".") or part in ("__pycache__", "_data") for part in name.parts):
            body = path.read_bytes()
            digest.update(f"{name.as_posix()} {len(body)}\n".encode() + body)
    return digest.hexdigest()
