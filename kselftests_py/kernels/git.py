"""Git as we use it: with nothing of the user's configuration, and results that depend on contents alone."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path

from kselftests_py.errors import HarnessError

FULL = re.compile(r"(?:No space left on device|Out of diskspace|Disk quota exceeded)\.?$", re.MULTILINE)
"""How a line ends in which git, the compiler or the linker says that the disk is full."""

_SOMEBODY = {
    f"GIT_{role}_{what}": value
    for role in ("AUTHOR", "COMMITTER")
    for what, value in (("NAME", "kst"), ("EMAIL", "kst@localhost"), ("DATE", "2000-01-01T00:00:00Z"))
}
_NO_CONFIG = {"GIT_CONFIG_GLOBAL": os.devnull, "GIT_CONFIG_NOSYSTEM": "1", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}


def run(*arguments: str | Path, cwd: Path, env: dict[str, str] | None = None) -> subprocess.CompletedProcess[str]:
    """Run git in *cwd*; it does not fail for us. Raises HarnessError if there is no git.

    With *env* (GIT_DIR and the like) it works on a repository of ours and ignores the user's configuration.
    """
    inherited = {name: value for name, value in os.environ.items() if not name.startswith("GIT_")}
    ours = _NO_CONFIG | _SOMEBODY | env if env else {"LC_ALL": "C"}
    try:
        return subprocess.run(
            ["git", *map(str, arguments)], cwd=cwd, env=inherited | ours, stdin=subprocess.DEVNULL,
            capture_output=True, text=True, errors="replace", check=False,
        )  # fmt: skip
    except FileNotFoundError:
        raise HarnessError("git is not on this machine; kernels are built with it: install the package git") from None


def refusal(told: subprocess.CompletedProcess[str], folder: Path, advice: str) -> str:
    """Why git says nothing of the user's *folder*, and what to do: *advice*, or that this user is to trust it."""
    reason = (told.stderr.splitlines() or ["git cannot read it"])[0]
    if "dubious ownership" in reason:
        advice = f"if you trust its owner: git config --global --add safe.directory {folder}"
    return f"{folder}: {reason[:200]}; {advice}"


def output(*arguments: str | Path, cwd: Path, env: dict[str, str]) -> str:
    """What git prints, on a repository of ours. Raises HarnessError with git's reason if it fails."""
    told = run(*arguments, cwd=cwd, env=env)
    if told.returncode:
        lines = [line for line in told.stderr.splitlines() if line.startswith(("fatal:", "error:"))]
        reason = (lines or told.stderr.splitlines() or [f"it ended with {told.returncode}"])[0]
        advice = "free some space" if FULL.search(told.stderr) else "remove the directory and try again"
        if "unable to read" in reason:  # borrowed objects that are not there
            advice = "the clone lacks it (a partial one?): check that commit out there once, or clone without --filter"
        raise HarnessError(f"{env['GIT_DIR']}: git {arguments[0]}: {reason[:200]}; {advice}")
    return told.stdout.strip()
