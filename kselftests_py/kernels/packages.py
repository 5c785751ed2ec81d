"""Debian packages with all that they depend on, for what is built from packages but is no kernel (the guest root)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import apt, store


def download_closure(names: Sequence[str], into: Path, progress: Callable[[str], None]) -> list[Path]:
    """The .deb files of the packages *names* and of what they depend on, in the directory *into*.

    The private apt root counts nothing as installed, so the closure is whole
    whatever this machine has. Raises HarnessError with apt's reason.
    """
    (into / "partial").mkdir(exist_ok=True)
    with store.lock(progress) as root:
        apt.refresh(root / "apt", progress)
        options = ["-y", "-q", "--no-install-recommends", "--download-only", "-o", f"Dir::Cache::archives={into}/"]
        told = apt.call(["apt-get", *options, "install", *names], root=root / "apt")
    if told.returncode:
        raise HarnessError(
            f"cannot fetch {', '.join(names)} for the guest root: {apt.reason_of(told)}; check the network"
        )
    return sorted(into.glob("*.deb"))
