"""Fixtures of the tests of kernels: a mirror of our own in the place of the machine's, and an empty cache."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from kernels_mirror import WITH_RWP, Archive, Key, Mirror


@pytest.fixture(scope="session")
def signing_key() -> Iterator[Key]:
    """A key of this run; skipped where apt or gpg is missing."""
    for tool in ("gpg", "apt-get", "dpkg-deb"):
        if not shutil.which(tool):
            pytest.skip(f"needs {tool}")
    # Not below tmp_path: the agent's socket must have a short name.
    with tempfile.TemporaryDirectory() as home:
        key = Key(Path(home))
        yield key
        key.end()


@pytest.fixture(scope="session")
def archive(signing_key: Key, tmp_path_factory: pytest.TempPathFactory) -> Archive:
    """Three series: 7.3 with RWP, 7.2 and (in the old layout) 6.12 without; and a cloud kernel."""
    made = Archive(tmp_path_factory.mktemp("archive"), signing_key)
    made.add("7.3.4+deb13-amd64", "7.3.4-1~bpo13+1", config=WITH_RWP)
    made.add("7.2.9+deb13-amd64", "7.2.9-1")
    made.add("7.2.12+deb13-amd64", "7.2.12-1")
    made.add("6.12.107+deb13-amd64", "6.12.107-1", old_layout=True)
    made.add("7.9.1+deb13-cloud-amd64", "7.9.1-1")
    return made


@pytest.fixture
def mirror(tmp_path: Path, signing_key: Key, monkeypatch: pytest.MonkeyPatch) -> Iterator[Mirror]:
    """An empty mirror that is this machine's Debian mirror, and an empty cache."""
    (tmp_path / "mirror").mkdir()
    made = Mirror(tmp_path / "mirror", signing_key)
    made.publish()
    monkeypatch.setenv("KST_DEBIAN_MIRROR", made.url)
    monkeypatch.setenv("KST_DEBIAN_KEYRING", str(signing_key.keyring))
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    yield made
    made.stop()


@pytest.fixture
def kernels_mirror(mirror: Mirror, archive: Archive) -> Mirror:
    """The mirror with the kernels of *archive*."""
    shutil.copytree(archive.folder, mirror.folder, dirs_exist_ok=True)
    return mirror
