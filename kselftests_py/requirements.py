"""The table of what kst needs from the machine, and a look at what of it is there.

The table is ``debian-packages.txt`` beside this module (``$KST_REQUIREMENTS`` names another one); its head
explains the columns. The bootstrap script ``./kst`` reads the same file with the same meaning.
"""

from __future__ import annotations

import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
from dataclasses import dataclass
from pathlib import Path

from kselftests_py.errors import HarnessError

NEEDS = ("setup", "required", "optional")

# depmod is in /usr/sbin, which an ordinary user's PATH on Debian leaves out.
_EXTRA_PATH = ("/usr/sbin", "/sbin")


@dataclass(frozen=True)
class Requirement:
    """One line of the table: ``package`` (None if no package brings it), ``need``, ``check`` and ``why``."""

    package: str | None
    need: str
    check: str
    why: str


def table_path() -> Path:
    """The table in force."""
    override = os.environ.get("KST_REQUIREMENTS")
    return Path(override) if override else Path(__file__).with_name("debian-packages.txt")


def load(path: Path | None = None) -> list[Requirement]:
    """Read the table at *path* (default: the one in force).

    Raises HarnessError, with the file and the line, if it cannot be read or a line is not four columns.
    """
    path = path or table_path()
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise HarnessError(f"cannot read the table of requirements {path}: {error}; unset KST_REQUIREMENTS") from None
    table = []
    for number, line in enumerate(lines, start=1):
        if not line.strip() or line.startswith("#"):
            continue
        columns = line.split(maxsplit=3)
        if len(columns) < 4 or columns[1] not in NEEDS:
            raise HarnessError(f"{path}:{number}: want 'package need check why', need one of {', '.join(NEEDS)}")
        package, need, check, why = columns
        table.append(Requirement(None if package == "-" else package, need, check, why.strip()))
    return table


def find(check: str) -> str | None:
    """Where the thing that *check* names is: a path (``built-in`` for a module without one), None if not there."""
    kind, _, name = check.partition(":")
    if kind == "module":
        spec = importlib.util.find_spec(name)
        return (spec.origin or "built-in") if spec else None
    if kind == "include":
        header = Path(sysconfig.get_path("include"), name)
        return str(header) if header.exists() else None
    if check.startswith("/"):
        return next((str(path) for path in sorted(Path("/").glob(check[1:]))), None)
    return shutil.which(check, path=os.pathsep.join([os.environ.get("PATH", os.defpath), *_EXTRA_PATH]))


def debian_name(requirement: Requirement) -> str | None:
    """Its package for the Python in use: where that is not the distribution's own, python3.12-dev for python3-dev."""
    base = Path(getattr(sys, "_base_executable", sys.executable)).name
    if requirement.package and requirement.check.startswith(("module:", "include:")) and base.startswith("python3"):
        return base + requirement.package.removeprefix("python3")
    return requirement.package


def versions(packages: list[str]) -> dict[str, str]:
    """Version of each of these Debian packages that is installed; empty on a machine without dpkg."""
    if not packages or not shutil.which("dpkg-query"):
        return {}
    query = subprocess.run(
        ["dpkg-query", "--show", "--showformat=${db:Status-Status} ${Package} ${Version}\n", *packages],
        capture_output=True,
        text=True,
        timeout=60,
        check=False,  # it fails as soon as one package is unknown, and still prints the others
    )
    rows = (line.split(maxsplit=2) for line in query.stdout.splitlines())
    return {row[1]: row[2] for row in rows if len(row) == 3 and row[0] == "installed"}


def known_to_apt(packages: list[str]) -> list[str]:
    """Those of these packages that apt on this machine can install; none on a machine without apt."""
    if not packages or not shutil.which("apt-cache"):
        return []
    query = subprocess.run(
        ["apt-cache", "policy", *packages],
        env=os.environ | {"LC_ALL": "C"},
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    # apt-cache(8): a name that only other packages mention is told, too, with the candidate "(none)".
    found = re.findall(r"^(\S+):\n  Installed: .*\n  Candidate: (?!\(none\))", query.stdout, re.MULTILINE)
    return [name for name in packages if name in found]
