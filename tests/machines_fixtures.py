"""What tests of guests share: a kernel to boot, and programs that play the probe."""

from __future__ import annotations

import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from kselftests_py.kernels import KernelImage, resolve


@pytest.fixture(scope="session")
def image() -> KernelImage:
    """Debian's 7.3."""
    found = resolve("debian:7.3")
    assert isinstance(found, KernelImage)
    return found


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Makes of a file of data/ a program, static, so that it runs in any guest."""

    def build(source: str) -> Path:
        program = tmp_path_factory.mktemp("fake") / "agent"
        path = Path(__file__).parent / "data" / source
        subprocess.run(["gcc", "-static", "-Wall", "-Wextra", "-Werror", "-o", program, path], check=True)
        return program

    return build
