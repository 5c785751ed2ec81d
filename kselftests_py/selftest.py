"""``kst test``: this project's own checks and tests, from a checkout."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from pathlib import Path

from kselftests_py.errors import HarnessError

_ROOT = Path(__file__).resolve().parent.parent


def checks(scratch: str) -> dict[str, list[str]]:
    """The static checks: a name and the command of each, run in the checkout; what they make goes to *scratch*."""
    return {
        "ruff check": [sys.executable, "-m", "ruff", "check", "."],
        "ruff format": [sys.executable, "-m", "ruff", "format", "--check", "."],
        "mypy": [sys.executable, "-m", "mypy"],
        "C warnings": ["make", "--directory=native_probes", "--silent", "agent", f"O={scratch}"],  # -Werror
    }


def run(args: list[str], root: Path = _ROOT) -> int:
    """Run every check, then pytest with *args* added, and return 0 if all passed, else pytest's code or 1.

    A failed check does not keep the rest from running. Pytest comes last, so that its closing line ends the output.
    A tool that is not installed is a failed check. Raises HarnessError where there is no checkout (``pip install .``).
    """
    if not (root / "pyproject.toml").is_file():
        raise HarnessError(f"no tests beside {root}: 'kst test' needs a checkout of the project, run ./kst test there")
    with tempfile.TemporaryDirectory() as scratch:  # empty, so that the probe is compiled whatever was built before
        failed = [name for name, command in checks(scratch).items() if not _passes(name, command, root)]
    print(f"checks: {'FAILED: ' + ', '.join(failed) if failed else 'all passed'}; now pytest", flush=True)
    status = subprocess.run([sys.executable, "-m", "pytest", *args], cwd=root, check=False).returncode
    return status or int(bool(failed))


def _passes(name: str, command: list[str], root: Path) -> bool:
    try:
        done = subprocess.run(
            command, cwd=root, check=False, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, timeout=600
        )
    except FileNotFoundError:
        print(f"FAILED  {name}: {command[0]} is not installed, see 'kst doctor'", flush=True)
        return False
    except subprocess.TimeoutExpired:
        print(f"FAILED  {name}: no end after 600 s: {' '.join(command)}", flush=True)
        return False
    print(f"{'ok' if done.returncode == 0 else 'FAILED':<7} {name}", flush=True)
    if done.returncode:
        print(done.stdout, flush=True)
    return done.returncode == 0
