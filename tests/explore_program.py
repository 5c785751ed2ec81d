"""Helper of tests/test_explore_cprogram.py: sequences to make programs of, compiled and run on the running kernel."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest

from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Claim
from kselftests_py.explore.cprogram import render

WP = ("PAGEFAULT_FLAG_WP",)


def compiled(text: str, folder: Path) -> Path:
    source, program = folder / "program.c", folder / "program"
    source.write_text(text)
    flags = ["-std=gnu11", "-Wall", "-Wextra", "-Werror", "-O2", "-pthread"]
    done = subprocess.run(["gcc", *flags, "-o", str(program), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return program


def run(sequence: s.Sequence, claim: Claim, folder: Path) -> tuple[int, str]:
    """The exit status and the output; skips where this machine cannot try it."""
    program = compiled(render(sequence, claim), folder)
    done = subprocess.run([str(program)], capture_output=True, text=True, check=False, timeout=100)
    if done.returncode == 4:
        pytest.skip(f"not to be tried on the running kernel: {done.stdout.strip()}")
    return done.returncode, done.stdout


def protected(*steps: s.Step, features: tuple[s.Feature, ...] = WP, pages: int = 4) -> s.Sequence:
    """Pages of anonymous memory, 100 and so on in them, the first two write-protected; then *steps*."""
    return s.Sequence(
        steps=(
            s.Map(kind="anon", pages=pages),
            s.Populate(region=0, first=0, count=pages, value=100),
            s.Open(features=features),
            s.Register(uffd=0, region=0, first=0, count=pages, mode=("wp",)),
            s.Protect(uffd=0, ioctl="writeprotect", region=0, first=0, count=2),
            *steps,
        )
    )


WRITE = (s.Thread(), s.Access(actor=0, how="write", region=0, page=1, value=7))
READ = (s.Thread(), s.Access(actor=0, how="read", region=0, page=1))
