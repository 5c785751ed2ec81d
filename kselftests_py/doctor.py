"""``kst doctor``: what this machine has of what kst needs, how to get the rest, and which accelerator it would use."""

from __future__ import annotations

import platform
import sys
from collections.abc import Callable
from typing import Protocol

from rich.console import Console
from rich.text import Text

from kselftests_py import requirements
from kselftests_py.errors import HarnessError, KstError
from kselftests_py.requirements import Requirement

_STYLES = {"found": "green", "missing": "bold red", "optional": "yellow"}


class Accelerator(Protocol):
    """What :func:`kselftests_py.machines.accelerator.choose` returns, as far as the doctor reads it."""

    @property
    def name(self) -> str: ...
    @property
    def reason(self) -> str: ...


def run(console: Console, choose: Callable[[], Accelerator] | None = None) -> int:
    """Print one line a requirement and the accelerator; return 0 if all that is required is there, else 3.

    *choose* picks the accelerator (default: ``machines.accelerator.choose``, which may boot a guest to prove it).
    Requirements of need ``setup`` are what ``./kst`` makes its virtual environment with: this Python runs
    already, so a missing one is told and does not count.
    """
    table = requirements.load()
    versions = requirements.versions([row.package for row in table if row.package])
    lacking = []
    for row in table:
        where = requirements.find(row.check)
        if where is None:
            lacking.append(row)
        _print_row(console, row, where, versions)

    missing = [row for row in lacking if row.need == "required"]
    _print_remedy(console, "to get what is missing", _packages(missing))
    optional = _packages([row for row in lacking if row.need != "required"])
    known = requirements.known_to_apt(optional)  # one name that apt does not know, and it installs none of the others
    _print_remedy(console, "to get the optional ones", known)
    if unknown := [name for name in optional if name not in known]:
        _print(console, "not known to apt here", f"{' '.join(unknown)} (apt-get update?)")
    _print(console, "accelerator", _accelerator(choose or _choose, missing))
    return HarnessError.exit_code if missing else 0


def _print_row(console: Console, row: Requirement, where: str | None, versions: dict[str, str]) -> None:
    name = row.package or row.check
    if where is None:
        state = "missing" if row.need == "required" else "optional"
        _print(console, state, f"{name:<23} missing: {row.check}: {row.why}")
        return
    # What the package did not bring (/usr/local, pyenv) does not have the package's version: say where it is.
    packaged = where.startswith(("/usr/", "/bin/", "/sbin/")) and not where.startswith("/usr/local/")
    version = versions.get(row.package or "", where) if packaged else where
    if where == "built-in":
        version = f"{platform.python_version()} ({sys.executable})"
    _print(console, "found", f"{name:<23} {version}: {row.why}")


def _packages(rows: list[Requirement]) -> list[str]:
    return [name for row in rows if (name := requirements.debian_name(row))]


def _print_remedy(console: Console, title: str, packages: list[str]) -> None:
    if packages:
        _print(console, title, "apt-get install " + " ".join(packages))


def _accelerator(choose: Callable[[], Accelerator], missing: list[Requirement]) -> str:
    if any(row.check.startswith("qemu") for row in missing):
        return "none: QEMU is missing"
    try:
        chosen = choose()
    except KstError as error:
        return f"cannot tell: {error}"
    return f"{chosen.name}: {chosen.reason}"


def _choose() -> Accelerator:
    # Here and not above: proving an accelerator pulls in the whole machine room.
    from kselftests_py.machines.accelerator import choose

    return choose("auto")


def _print(console: Console, head: str, text: str) -> None:
    """One line, never wrapped, so that it can be searched and copied."""
    line = Text.assemble((f"{head:<8}", _STYLES.get(head, "bold")), "  ", text)
    console.print(line, soft_wrap=True)
