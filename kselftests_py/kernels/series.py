"""A series of patches, applied as git am does: from a file, a directory, an mbox, or (by b4) from the lists."""

from __future__ import annotations

import hashlib
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from kselftests_py.errors import HarnessError, KstError, UsageError
from kselftests_py.kernels import git
from kselftests_py.kernels.source import Workspace

_SUFFIXES = (".patch", ".mbox", ".mbx", ".eml")
_MSGID = re.compile(r"<?[A-Za-z0-9][A-Za-z0-9._%+=~@/:-]*>?")


def collect(wanted: str, scratch: Path, progress: Callable[[str], None]) -> list[Path]:
    """The files (or one Maildir) that make up the series *wanted*, in order; *scratch* takes what b4 fetches.

    Raises UsageError if there is none, HarnessError if b4 is wanted and cannot fetch it.
    """
    if wanted.startswith("msgid:"):
        return [_fetched(wanted.removeprefix("msgid:"), scratch, progress)]
    path = Path(wanted)
    if path.is_file():
        return [path]
    if not path.is_dir():
        raise UsageError(f"+series:{path}: no such file or directory; give a patch, an mbox or a directory of patches")
    if (path / "cur").is_dir():
        return [path]
    found = sorted(each for each in path.iterdir() if each.suffix in _SUFFIXES and each.is_file())
    if not found:
        raise UsageError(f"+series:{path}: holds no {', '.join(_SUFFIXES)}; make them with git format-patch")
    return found


def _fetched(msgid: str, scratch: Path, progress: Callable[[str], None]) -> Path:
    if not _MSGID.fullmatch(msgid):
        raise UsageError(f"+series:msgid:{msgid}: is no Message-ID; copy it from the mail's header")
    beside = Path(sys.executable).parent / "b4"
    b4 = str(beside) if beside.exists() else shutil.which("b4")
    if not b4:
        raise HarnessError(f"+series:msgid:{msgid}: needs b4, which is not here; pip install b4, or save the mails")
    progress(f"fetching the series {msgid} with b4")
    try:
        told = subprocess.run(
            [b4, "am", "--no-cover", "--outdir", str(scratch), "--mbox-name", "series", msgid], cwd=scratch,
            env=os.environ | {"LC_ALL": "C"}, stdin=subprocess.DEVNULL, capture_output=True, text=True,
            errors="replace", timeout=600, check=False,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise HarnessError(f"+series:msgid:{msgid}: b4 did not end within 10 minutes; check the network") from None
    found = sorted(scratch.glob("series*"))
    if told.returncode or not found:
        lines = [line.strip() for line in (told.stdout + told.stderr).splitlines() if line.strip()]
        reason = lines[-1][:200] if lines else f"it ended with {told.returncode}"
        raise HarnessError(f"+series:msgid:{msgid}: b4: {reason}; check the Message-ID and the network")
    return found[0]


def digest(series: list[Path]) -> str:
    """sha256 over the contents of the files, in order, in hexadecimal."""
    total = hashlib.sha256()
    for path in series:
        for each in [path] if path.is_file() else sorted(path.rglob("*")):
            if each.is_file():
                total.update(hashlib.sha256(each.read_bytes()).digest())
    return total.hexdigest()


def apply(workspace: Workspace, name: str, series: list[Path]) -> None:
    """Apply *series* (called *name* in errors) on what is laid out in the workspace.

    Raises UsageError naming the patch and the hunk that does not apply, or what of the series is refused. git itself
    refuses paths outside the tree and behind symbolic links; symbolic links that lead outside are refused here.
    Raises HarnessError if the disk is full.
    """
    before, leading_out = workspace.git("rev-parse", "HEAD"), _leading_out(workspace)
    options = ("--quiet", "--no-gpg-sign", "--empty=drop", "--whitespace=nowarn")
    told = git.run("am", *options, *series, cwd=workspace.src, env=workspace.env)
    if told.returncode:
        raise _refusal(name, told.stdout + told.stderr)
    if workspace.git("rev-parse", "HEAD") == before:
        raise UsageError(f"{name}: holds no patch (only mails without one); make them with git format-patch")
    for path, target, _ in sorted(_leading_out(workspace) - leading_out):
        raise UsageError(f"{name}: {path} is a link to {target[:100]!r}, outside the tree; refused")


def _refusal(name: str, text: str) -> KstError:
    lines = [line for line in text.splitlines() if line.startswith(("error:", "fatal:"))]
    if any(git.FULL.search(line) for line in lines):
        return HarnessError(f"{name}: cannot be applied: the disk of the cache is full; free some space")
    if "Patch format detection failed" in text:
        return UsageError(f"{name}: holds no mails with patches; make them with git format-patch")
    patch = re.search(r"^Patch failed at (\d+) (.*)$", text, re.MULTILINE)
    which = f"patch {int(patch[1])} ({patch[2][:100]})" if patch else "a patch"
    if hunk := re.search(r"^error: patch failed: (.+):(\d+)$", text, re.MULTILINE):
        return UsageError(f"{name}: {which} does not apply: the hunk at {hunk[1]}:{hunk[2]}; rebase it on this source")
    reason = lines[0].partition(":")[2].strip()[:200] if lines else "git am refused it"
    if re.search(r"^invalid path|beyond a symbolic link$", reason):
        return UsageError(f"{name}: {which} leads out of the tree: {reason}; refused")
    mangled = "corrupt patch" in reason
    advice = "a mail program has changed it, take it from the list's archive" if mangled else "rebase it on this source"
    return UsageError(f"{name}: {which} does not apply: {reason}; {advice}")


def _leading_out(workspace: Workspace) -> set[tuple[str, str, str]]:
    """(path, target, where it ends) of each link of the source, as it is laid out, that leads out of it.

    An absolute target does, wherever it ends: the source may be laid out elsewhere the next time. A relative one is
    followed through the other links that are there, the ones that were there before included.
    """
    src = workspace.src.resolve()
    found = set()
    for entry in workspace.git("ls-files", "--stage", "-z").split("\0"):
        mode, _, path = entry.partition("\t")
        if mode.startswith("120000"):
            target, ends = (src / path).readlink(), Path(os.path.realpath(src / path))
            if target.is_absolute() or not ends.is_relative_to(src):
                found.add((path, str(target), str(ends)))
    return found
