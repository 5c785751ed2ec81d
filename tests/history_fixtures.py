"""Two kernels that are measured by nobody: what would be booted is told, and fails."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest
from results_factory import HOW, PLUGIN, Tried, made

from kselftests_py.machines.exact import ExactGuest
from kselftests_py.machines.machine import NeverUp
from kselftests_py.pytest_plugin import known, session


@pytest.fixture
def boots(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Tried:
    """What was to be booted; each boot fails."""
    tried: Tried = []

    def start(guest: ExactGuest) -> None:
        tried.append((guest._image.release, tuple(guest._options.qemu)))
        raise NeverUp("no boot here")

    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(session, "resolve", made)
    monkeypatch.setattr(ExactGuest, "start", start)
    station = "kselftests_py.pytest_plugin.station"
    monkeypatch.setattr(f"{station}.agent", lambda: Path("agent"))
    monkeypatch.setattr(f"{station}.check", lambda _images: None)
    monkeypatch.setattr(f"{station}.of_kernel", lambda *_: None)
    monkeypatch.setattr(f"{station}.Watch", lambda _functions: SimpleNamespace(options=PLUGIN, close=lambda: None))
    monkeypatch.setattr(known, "how", lambda memory: HOW | {"memory": memory})
    return tried
