"""KVM or TCG: decided by one bounded boot, remembered, and always with the reason.

``/dev/kvm`` can be there and yet run no stock kernel (QEMU aborts on an MSR,
fails in emulation, or hangs), so its presence proves nothing.
"""

from __future__ import annotations

import hashlib
import os
import platform
import subprocess
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import msgspec
from filelock import FileLock

from kselftests_py.errors import HarnessError, KstError, UsageError
from kselftests_py.paths import cache_dir

KVM = Path("/dev/kvm")
QEMU = "qemu-system-x86_64"


@dataclass(frozen=True)
class Accelerator:
    """The accelerator in use (``kvm`` or ``tcg``) and why."""

    name: str
    reason: str


class _Remembered(msgspec.Struct):
    works: bool
    reason: str


def qemu_version() -> str:
    """First line of ``qemu --version``; :raises HarnessError: there is none."""
    try:
        return subprocess.run([QEMU, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError):
        raise HarnessError(f"{QEMU} does not run; 'kst doctor' says what to install") from None


def _memory() -> Path:
    """Where the answer for this host is kept: a new host kernel, CPU or QEMU asks again."""
    host = f"{platform.release()} {platform.version()} {platform.processor()} {qemu_version()}"
    return cache_dir() / f"accelerator-{hashlib.sha256(host.encode()).hexdigest()[:16]}.json"


def choose(request: str = "auto", prove: Callable[[], None] | None = None) -> Accelerator:
    """The accelerator for *request* (``auto``, ``kvm``, ``tcg``).

    *prove* boots a guest with KVM and raises :class:`KstError` when that
    fails; without it only a remembered answer counts.
    :raises HarnessError: KVM was asked for and does not work.
    """
    if request not in {"auto", "kvm", "tcg"}:
        raise UsageError(f"--accel {request}: use auto, kvm or tcg")
    if request == "tcg":
        return Accelerator("tcg", "asked for")
    works, reason = _kvm(prove)
    if works:
        return Accelerator("kvm", reason)
    if request == "kvm":
        raise HarnessError(f"--accel kvm: {reason}; use --accel auto or tcg")
    return Accelerator("tcg", reason)


def _kvm(prove: Callable[[], None] | None) -> tuple[bool, str]:
    if not KVM.exists():
        return False, f"there is no {KVM}"
    if not os.access(KVM, os.R_OK | os.W_OK):
        return False, f"no permission for {KVM} (is this user in the group 'kvm'?)"
    memory = _memory()
    with FileLock(f"{memory}.lock"):
        if memory.exists():
            known = msgspec.json.decode(memory.read_bytes(), type=_Remembered)
            return known.works, known.reason
        if prove is None:
            return False, f"{KVM} is there, but no boot has proved it yet (the first run does)"
        try:
            prove()
            known = _Remembered(True, "a guest booted with KVM")
        except KstError as error:
            known = _Remembered(False, f"{KVM} is there, but a guest does not boot with it: {error}")
        memory.write_bytes(msgspec.json.encode(known))
    return known.works, known.reason
