"""Debian's kernels, from a mirror of our own: which one is meant, and what the cache makes of it."""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

import pytest
from kernels_mirror import WITH_RWP, Key, Mirror

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage, NoSuchKernel, newest_without_rwp, resolve

pytest_plugins = ["kernels_fixtures"]


def get(spec: str, notes: list[str] | None = None) -> KernelImage:
    kernel = resolve(spec, (notes if notes is not None else []).append)
    assert isinstance(kernel, KernelImage)
    return kernel


@pytest.mark.parametrize(
    ("spec", "release"),
    [
        ("debian:7.3", "7.3.4+deb13-amd64"),
        ("debian:newest", "7.3.4+deb13-amd64"),
        ("debian:7.2", "7.2.12+deb13-amd64"),
        ("debian:7.2.9", "7.2.9+deb13-amd64"),
        ("debian:7.2.9-1", "7.2.9+deb13-amd64"),
        ("debian:7.2.9+deb13", "7.2.9+deb13-amd64"),
        ("debian:7.2.9+deb13-amd64", "7.2.9+deb13-amd64"),
        ("debian:6.12", "6.12.107+deb13-amd64"),
    ],
)
def test_a_spec_means_one_kernel_whole(kernels_mirror: Mirror, spec: str, release: str) -> None:
    kernel = get(spec)
    assert (kernel.spec, kernel.release, kernel.label) == (spec, release, release)
    assert kernel.modules is not None
    assert kernel.modules.parts[-3:] == ("lib", "modules", release)
    assert "kernel/net/9p.ko" in (kernel.modules / "modules.dep").read_text()
    assert kernel.config_value("CONFIG_USERFAULTFD") == "y"
    assert kernel.provenance["suites"] == "sid"
    assert "sha256:" in kernel.provenance[f"linux-image-{release}"]


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("debian:9.9", "there are 7.3, 7.2, 6.12"),
        ("debian:7", "there are 7.3, 7.2, 6.12"),
        ("debian:7.2.99", "it has 7.2.12-1, 7.2.9-1"),
        ("debian:7.9", "there are 7.3"),  # the cloud flavour is not offered
    ],
)
def test_a_kernel_that_does_not_exist(kernels_mirror: Mirror, spec: str, says: str) -> None:
    with pytest.raises(NoSuchKernel, match=says) as raised:
        resolve(spec)
    assert raised.value.exit_code == 2


def test_the_same_kernel_from_files_has_the_same_digest(kernels_mirror: Mirror) -> None:
    kernel = get("debian:7.3")
    again = get(f"image:{kernel.vmlinuz},modules={kernel.modules},config={kernel.config}")
    assert again.digest == kernel.digest


def test_the_second_time_the_mirror_is_not_asked(kernels_mirror: Mirror) -> None:
    first = get("debian:7.3")
    kernels_mirror.asked.clear()
    assert get("debian:7.3") == first
    assert get("debian:newest").digest == first.digest
    assert kernels_mirror.asked == []


def test_a_kernel_published_since_the_last_question_is_found(kernels_mirror: Mirror) -> None:
    get("debian:7.2")
    kernels_mirror.add("7.4.1+deb13-amd64", "7.4.1-1", config=WITH_RWP)
    assert get("debian:7.4").release == "7.4.1+deb13-amd64"


def test_an_index_of_yesterday_is_asked_anew(kernels_mirror: Mirror, tmp_path: Path) -> None:
    get("debian:7.2")
    kernels_mirror.add("7.2.13+deb13-amd64", "7.2.13-1")
    assert get("debian:7.2").release == "7.2.12+deb13-amd64"
    yesterday = (tmp_path / "cache/kernels/apt/refreshed").stat().st_mtime - 25 * 3600
    os.utime(tmp_path / "cache/kernels/apt/refreshed", (yesterday, yesterday))
    assert get("debian:7.2").release == "7.2.13+deb13-amd64"


def test_the_baseline_is_7_2_while_there_is_one(kernels_mirror: Mirror) -> None:
    kernel, sentence = newest_without_rwp()
    assert (kernel.release, sentence) == ("7.2.12+deb13-amd64", "")


def test_without_7_2_the_baseline_is_the_newest_that_lacks_rwp(kernels_mirror: Mirror) -> None:
    kernels_mirror.remove("7.2.9+deb13-amd64")
    kernels_mirror.remove("7.2.12+deb13-amd64")
    kernels_mirror.add("7.1.8+deb13-amd64", "7.1.8-1")
    kernel, sentence = newest_without_rwp()
    assert kernel.release == "7.1.8+deb13-amd64"
    assert "no 7.2 any more" in sentence
    assert "7.1.8+deb13-amd64" in sentence


def test_a_mirror_where_all_have_rwp_has_no_baseline(mirror: Mirror) -> None:
    mirror.add("7.3.4+deb13-amd64", "7.3.4-1", config=WITH_RWP)
    with pytest.raises(HarnessError, match="--baseline"):
        newest_without_rwp()


def test_a_mirror_that_answers_with_rubbish(kernels_mirror: Mirror) -> None:
    kernels_mirror.mode = "rubbish"
    with pytest.raises(HarnessError, match="no usable Debian index") as raised:
        resolve("debian:7.3")
    assert "\n" not in str(raised.value)
    kernels_mirror.mode = "serve"
    assert get("debian:7.3").release == "7.3.4+deb13-amd64"


def test_a_mirror_signed_by_somebody_else(
    kernels_mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "k").mkdir()
    stranger = Key(tmp_path / "k")
    stranger.end()
    monkeypatch.setenv("KST_DEBIAN_KEYRING", str(stranger.keyring))
    with pytest.raises(HarnessError, match="debian-archive-keyring"):
        resolve("debian:7.3")


def test_a_package_that_is_not_the_signed_one(kernels_mirror: Mirror, tmp_path: Path) -> None:
    [deb] = (kernels_mirror.folder / "pool").glob("linux-binary-7.3.4*.deb")
    data = bytearray(deb.read_bytes())
    data[-600] ^= 1
    deb.write_bytes(data)
    with pytest.raises(HarnessError, match=r"cannot fetch linux-image-7\.3\.4"):
        resolve("debian:7.3")
    assert {path.name for path in (tmp_path / "cache/kernels").iterdir()} <= {"lock", "apt"}


@pytest.mark.parametrize(
    ("variable", "value", "says"),
    [("KST_DEBIAN_MIRROR", "nonsense", "is no URI"), ("KST_DEBIAN_KEYRING", "/nowhere", "no such file")],
)
def test_settings_that_cannot_be(
    mirror: Mirror, monkeypatch: pytest.MonkeyPatch, variable: str, value: str, says: str
) -> None:
    monkeypatch.setenv(variable, value)
    with pytest.raises(HarnessError, match=says):
        resolve("debian:7.3")


def test_hooks_of_the_machines_apt_are_not_run(
    kernels_mirror: Mirror, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooks = tmp_path / "hooks.conf"
    hooks.write_text(
        "".join(f'APT::Update::{when} {{ "touch {tmp_path}/hook"; }};\n' for when in ("Pre-Invoke", "Post-Invoke"))
    )
    monkeypatch.setenv("APT_CONFIG", str(hooks))
    # The hooks are such that apt would run them: its own private root with them does.
    conf = f'#include "{hooks}";\nDir::State "{tmp_path}/s";\nDir::Cache "{tmp_path}/c";\nDir::Etc "{tmp_path}/e";\n'
    (tmp_path / "plain.conf").write_text(conf)
    for folder in ("s/lists/partial", "c/archives/partial", "e"):
        (tmp_path / folder).mkdir(parents=True)
    subprocess.run(["apt-get", "-c", str(tmp_path / "plain.conf"), "update"], check=False, capture_output=True)
    assert (tmp_path / "hook").exists()
    (tmp_path / "hook").unlink()
    get("debian:7.3")
    assert not (tmp_path / "hook").exists()


@pytest.mark.network
def test_the_real_mirror_has_kernels_with_and_without_rwp(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KST_CACHE", str(tmp_path))
    with pytest.raises(NoSuchKernel, match=r"there are .*7\.3.*6\.12"):
        resolve("debian:1.0")
