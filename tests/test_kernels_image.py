"""Kernels in files of the user's own."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from kernels_mirror import bzimage

from kselftests_py.errors import UsageError
from kselftests_py.kernels import KernelImage, resolve
from kselftests_py.kernels.image import read_release

RELEASE = "7.3.0-rc1+"


@pytest.fixture
def build(tmp_path: Path) -> Path:
    """What "make install modules_install" leaves."""
    (tmp_path / "bzImage").write_bytes(bzimage(RELEASE))
    (tmp_path / ".config").write_text('CONFIG_A=y\n# CONFIG_B is not set\nCONFIG_C="a text"\nCONFIG_AB=m\n')
    modules = tmp_path / "lib/modules" / RELEASE
    (modules / "kernel").mkdir(parents=True)
    (modules / "kernel/x.ko").write_bytes(b"x")
    (modules / "modules.dep").write_text("kernel/x.ko:\n")
    return tmp_path


def image_of(build: Path, extra: str = "") -> KernelImage:
    kernel = resolve(f"image:{build}/bzImage{extra}")
    assert isinstance(kernel, KernelImage)
    return kernel


def test_the_release_is_the_one_in_the_header(build: Path) -> None:
    kernel = image_of(build)
    assert (kernel.release, kernel.modules, kernel.config) == (RELEASE, None, None)
    assert kernel.provenance == {"vmlinuz": str(build / "bzImage")}
    assert kernel.label.startswith(f"{RELEASE}#")


@pytest.mark.parametrize("below", ["", "lib/modules", f"lib/modules/{RELEASE}"])
def test_modules_are_found_where_the_build_puts_them(build: Path, below: str) -> None:
    assert image_of(build, f",modules={build}/{below}").modules == build / "lib/modules" / RELEASE


@pytest.mark.parametrize(
    ("name", "value"),
    [("CONFIG_A", "y"), ("A", "y"), ("CONFIG_B", None), ("CONFIG_C", "a text"), ("CONFIG_AB", "m"), ("CONFIG_Z", None)],
)
def test_config_values_are_those_of_the_file(build: Path, name: str, value: str | None) -> None:
    assert image_of(build, f",config={build}/.config").config_value(name) == value


def test_without_a_configuration_nothing_is_set(build: Path) -> None:
    assert image_of(build).config_value("CONFIG_A") is None


def digests(build: Path) -> str:
    return image_of(build, f",modules={build},config={build}/.config").digest


@pytest.mark.parametrize("name", ["bzImage", ".config", f"lib/modules/{RELEASE}/kernel/x.ko"])
def test_the_digest_changes_with_each_part(build: Path, name: str) -> None:
    before = digests(build)
    with (build / name).open("ab") as file:
        file.write(b"\n")
    assert digests(build) != before


def test_the_digest_knows_neither_times_nor_places_nor_depmod(build: Path, tmp_path: Path) -> None:
    before = digests(build)
    os.utime(build / "bzImage", (1, 1))
    (build / "lib/modules" / RELEASE / "modules.dep").write_text("kernel/x.ko: \n")
    (build / "lib/modules" / RELEASE / "build").symlink_to(build)
    (build / "bzImage").rename(build / "other")
    assert resolve(f"image:{build}/other,modules={build},config={build}/.config").digest == before  # type: ignore[union-attr]


GOOD = bzimage(RELEASE)


@pytest.mark.parametrize(
    ("data", "says"),
    [
        (b"", "is not a Linux kernel"),
        (b"hello" * 1000, "is not a Linux kernel"),
        (b"\x7fELF" + bytes(5000), "ELF"),
        (GOOD[:-100], "cut short"),
        (GOOD[:0x206], "is not a Linux kernel"),
        (bzimage(""), "no release string"),
        (bzimage("../../etc"), "no release string"),
        (bzimage("7.3\x1b[31m"), "no release string"),
        (bzimage("7" * 100), "no release string"),
    ],
)
def test_a_file_that_is_no_kernel_is_refused(tmp_path: Path, data: bytes, says: str) -> None:
    (tmp_path / "bzImage").write_bytes(data)
    with pytest.raises(UsageError, match=says) as raised:
        read_release(tmp_path / "bzImage")
    assert str(tmp_path / "bzImage") in str(raised.value)


@pytest.mark.parametrize(
    ("extra", "says"),
    [
        (",modules={0}/nowhere", "has no modules of"),
        (",modules={0}/wrong", "has no modules of"),
        (",config={0}/nowhere", "no such file"),
    ],
)
def test_parts_that_do_not_fit_are_refused(build: Path, extra: str, says: str) -> None:
    (build / "wrong/6.1").mkdir(parents=True)
    with pytest.raises(UsageError, match=says):
        image_of(build, extra.format(build))


def test_modules_without_an_index_are_refused(build: Path) -> None:
    (build / "lib/modules" / RELEASE / "modules.dep").unlink()
    with pytest.raises(UsageError, match="run depmod -b"):
        image_of(build, f",modules={build}")


@pytest.mark.parametrize(
    ("name", "says"), [("nowhere", "no such file"), ("lib", "is a directory"), ("pipe", "regular")]
)
def test_what_is_no_file_is_refused(build: Path, name: str, says: str) -> None:
    os.mkfifo(build / "pipe")
    with pytest.raises(UsageError, match=says):
        resolve(f"image:{build}/{name}")
