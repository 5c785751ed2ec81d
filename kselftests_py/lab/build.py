"""Builds the native probe: once for each content of its sources, shared by every run of this user."""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

from filelock import FileLock

from kselftests_py.errors import HarnessError
from kselftests_py.paths import cache_dir, data_dir


def probe_digest() -> str:
    """SHA-256 over the probe's sources: two equal digests are the same probe."""
    digest = hashlib.sha256()
    for path in sorted(data_dir("native_probes").iterdir()):
        if path.suffix in {".c", ".h", ".py"} or path.name == "Makefile":
            body = path.read_bytes()
            digest.update(f"{path.name} {len(body)}\n".encode() + body)
    return digest.hexdigest()


def _compiler() -> str:
    name = os.environ.get("CC") or "gcc"
    try:
        return subprocess.run([name, "--version"], capture_output=True, text=True, check=True).stdout.splitlines()[0]
    except (OSError, subprocess.CalledProcessError):
        raise HarnessError(
            f"no working C compiler '{name}' to build the probe with; 'kst doctor' says what to install"
        ) from None


def _built(name: str, command: list[str]) -> Path:
    """The file *name* (a shell pattern) that *command* makes, from the cache when it is there."""
    key = hashlib.sha256(f"{probe_digest()} {_compiler()} {command}".encode()).hexdigest()[:24]
    final = cache_dir() / "probe" / key
    final.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{final}.lock"):
        if not final.is_dir():
            with tempfile.TemporaryDirectory(dir=final.parent) as scratch:
                sources = Path(scratch) / "src"
                shutil.copytree(data_dir("native_probes"), sources, ignore=shutil.ignore_patterns("build", "*.o"))
                out = Path(scratch) / "out"
                out.mkdir()
                done = subprocess.run([*command, f"O={out}"], cwd=sources, capture_output=True, text=True, check=False)
                if done.returncode != 0:
                    log = final.parent / "build.log"
                    log.write_text(done.stdout + done.stderr)
                    first = next((line for line in done.stderr.splitlines() if "error" in line.lower()), "see the log")
                    raise HarnessError(f"the probe does not build: {first.strip()[:300]} (whole log: {log})")
                out.rename(final)
    return next(final.glob(name))


def agent() -> Path:
    """The static ``agent`` program."""
    return _built("agent", ["make", "-s", "agent"])


def native_module() -> Path:
    """The cffi module's shared object."""
    return _built("_kst_native*.so", ["make", "-s", "cffi", f"PYTHON={sys.executable}"])
