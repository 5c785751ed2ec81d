"""Where the Debian mirror and its keyring come from: the machine's own apt."""

from __future__ import annotations

from pathlib import Path

import pytest

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import apt

MAIN = """\
# A comment of its own.

Types: deb
URIs: http://mirror.test/debian http://other.test/debian
Suites: bookworm bookworm-updates
Components: main
Signed-By: {keyring}

Types: deb
URIs: http://mirror.test/debian-security
Suites: bookworm-security
Components: main
Signed-By:
 -----BEGIN PGP PUBLIC KEY BLOCK-----
 .
 abc
 -----END PGP PUBLIC KEY BLOCK-----
"""


@pytest.fixture
def etc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """/etc/apt of a machine that never ran apt-get update."""
    conf = tmp_path / "apt.conf"
    parts = tmp_path / "etc/sources.list.d"
    parts.mkdir(parents=True)
    (tmp_path / "state/lists/partial").mkdir(parents=True)
    conf.write_text(f'Dir::Etc "{tmp_path}/etc";\nDir::State "{tmp_path}/state";\nDir::State::status "/dev/null";\n')
    monkeypatch.setenv("APT_CONFIG", str(conf))
    monkeypatch.delenv("KST_DEBIAN_MIRROR", raising=False)
    monkeypatch.delenv("KST_DEBIAN_KEYRING", raising=False)
    return parts


def test_mirrors_suites_and_keys_are_the_machines(etc: Path, tmp_path: Path) -> None:
    keyring = tmp_path / "key.gpg"
    keyring.touch()
    (etc / "debian.sources").write_text(MAIN.format(keyring=keyring))
    (etc / "else.list").write_text(f"deb [arch=amd64 signed-by={keyring}] http://third.test/debian trixie main\n")
    (etc / "foreign.list").write_text("deb http://foreign.test/tools stable main\n")
    found = {source.uri: source for source in apt.sources(tmp_path / "cache")}
    assert set(found) == {
        "http://mirror.test/debian/",
        "http://other.test/debian/",
        "http://mirror.test/debian-security/",
        "http://third.test/debian/",
    }
    main, security = found["http://mirror.test/debian/"], found["http://mirror.test/debian-security/"]
    assert main.signed_by == found["http://third.test/debian/"].signed_by == str(keyring)
    assert main.suites[:2] == ("bookworm", "bookworm-updates")
    assert {"trixie", "trixie-updates", "trixie-backports", "forky", "sid"} <= set(main.suites)
    assert "BEGIN PGP" in security.signed_by
    assert set(security.suites) == {"bookworm-security", "trixie-security", "forky-security"}


def test_a_machine_that_knows_no_debian_takes_the_one_its_distribution_names(
    etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    info = tmp_path / "Debian.info"
    info.write_text(
        "Suite: {series}\nBaseURI: http://named.test/debian/\n\nSuite: {series}-security\nBaseURI: http://no.test/\n"
    )
    monkeypatch.setattr(apt, "_DEBIAN_INFO", info)
    (etc / "ubuntu.list").write_text("deb http://ubuntu.test/ubuntu noble main\n")
    assert [source.uri for source in apt.sources(tmp_path / "cache")] == ["http://named.test/debian/"]


def test_a_machine_with_no_debian_at_all_is_told_what_to_set(
    etc: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(apt, "_DEBIAN_INFO", tmp_path / "nowhere")
    with pytest.raises(HarnessError, match="KST_DEBIAN_MIRROR"):
        apt.sources(tmp_path / "cache")


def test_a_machine_without_apt_is_told_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("KST_DEBIAN_MIRROR", raising=False)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HarnessError, match="apt-get is not on this machine"):
        apt.sources(tmp_path / "cache")
