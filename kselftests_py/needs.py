"""What the suites want of a kernel's configuration, named before the boot; what the kernel can do is probed in it."""

from __future__ import annotations

from collections.abc import Iterable

import msgspec

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage
from kselftests_py.paths import data_dir

_NOTHING = "!"


def missing(kernel: KernelImage, suites: Iterable[str]) -> list[tuple[str, str, bool]]:
    """(symbol, what is lost, whether nothing can run) of each symbol that *suites* want and *kernel* is built without.

    Nothing if its configuration is not known. Source: ``suites/needs.toml``.
    """
    if kernel.config is None:
        return []
    path = data_dir("suites") / "needs.toml"
    try:
        table = msgspec.toml.decode(path.read_bytes(), type=dict[str, dict[str, str]])
    except (OSError, msgspec.MsgspecError) as error:
        raise HarnessError(f"{path}: {error}; check out that file again") from None
    wanted: dict[str, str] = {}
    for name in ("all", *suites):
        for symbol, lost in table.get(name, {}).items():
            wanted.setdefault(symbol, lost)
    return [
        (f"CONFIG_{symbol}", lost.lstrip("! "), lost.startswith(_NOTHING))
        for symbol, lost in wanted.items()
        if kernel.config_value(symbol) not in ("y", "m")
    ]


def tell(kernel: KernelImage, suites: Iterable[str]) -> list[str]:
    """One line for each symbol that is missing; :raises HarnessError: one without which nothing can run."""
    lines = []
    for symbol, lost, nothing_runs in missing(kernel, suites):
        if nothing_runs:
            raise HarnessError(f"{kernel.spec}: is built without {symbol}: {lost}; nothing would be tested")
        lines.append(f"{kernel.label}: is built without {symbol}: {lost}")
    return lines
