"""source:SERIES: Debian's linux-source package, from a mirror of our own."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from kernels_mirror import Mirror
from kernels_trees import make_tree

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage, NoSuchKernel, resolve

pytest_plugins = ["kernels_fixtures"]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """What is in the package; also a file that the source's own .gitignore names, which belongs to it all the same."""
    made = make_tree(tmp_path / "linux-source")
    (made / "mm/shipped.o").write_text("shipped\n")
    return made


def built(spec: str, notes: list[str] | None = None) -> KernelImage:
    kernel = resolve(spec, (notes if notes is not None else []).append)
    assert isinstance(kernel, KernelImage)
    return kernel


def test_the_newest_version_is_fetched_once_and_built(mirror: Mirror, tree: Path, tmp_path: Path) -> None:
    (tree / "mm/memory.c").write_text("older\n")
    mirror.add_source("7.3", "7.3.9-1", tree)
    (tree / "mm/memory.c").write_text("newer\n")
    mirror.add_source("7.3", "7.3.10-1~bpo13+1", tree)
    kernel = built("source:7.3")
    assert b"newer" in kernel.vmlinuz.read_bytes()
    sha256 = kernel.provenance["linux-source-7.3"].removeprefix("7.3.10-1~bpo13+1 sha256:")
    assert len(sha256) == 64
    [src] = (tmp_path / "cache/builds").glob("linux-source-7.3_7.3.10-1_bpo13_1/src")
    assert (src / "mm/shipped.o").read_text() == "shipped\n"
    assert built("source:7.3").digest == kernel.digest
    assert len(mirror.debs_asked()) == 1


def test_flavours_and_series_lie_on_it(mirror: Mirror, tree: Path) -> None:
    mirror.add_source("7.3", "7.3.4-1", tree)
    assert built("source:7.3").digest != built("source:7.3+twin").digest
    assert built("source:7.3+twin").config_value("USERFAULTFD_RWP") in (None, "n")
    assert len(mirror.debs_asked()) == 1


def test_once_fetched_no_network_is_needed(mirror: Mirror, tree: Path) -> None:
    mirror.add_source("7.3", "7.3.4-1", tree)
    kernel = built("source:7.3")
    mirror.stop()
    assert built("source:7.3").digest == kernel.digest


def test_a_series_that_is_not_there_names_those_that_are(mirror: Mirror, tree: Path) -> None:
    mirror.add_source("7.3", "7.3.4-1", tree)
    with pytest.raises(NoSuchKernel, match=r"source:7\.9: not on the mirror; it has the source of 7\.3$"):
        resolve("source:7.9")


def test_a_series_that_came_today_is_asked_for_once_more(mirror: Mirror, tree: Path) -> None:
    mirror.add_source("7.2", "7.2.9-1", tree)
    built("source:7.2")
    mirror.add_source("7.3", "7.3.4-1", tree)
    assert built("source:7.3").provenance["linux-source-7.3"].startswith("7.3.4-1 ")


def test_a_package_of_another_layout_is_one_line_and_the_next_is_taken(mirror: Mirror, tree: Path) -> None:
    mirror.add_source("7.3", "7.3.4-1", tree, folder="opt")
    with pytest.raises(HarnessError, match=r"holds 0 source archives; its layout is not known here"):
        resolve("source:7.3")
    mirror.add_source("7.3", "7.3.4-2", tree)
    for stamp in (tree.parent / "cache/kernels/apt").glob("refreshed"):
        stamp.unlink()
    assert built("source:7.3").release == "7.3.4-tiny"


def test_a_fetch_that_was_interrupted_begins_anew(mirror: Mirror, tree: Path, tmp_path: Path) -> None:
    """What is in the workspace without having been taken into git whole is not taken for the source."""
    mirror.add_source("7.3", "7.3.4-1", tree)
    first = built("source:7.3")
    [folder] = (tmp_path / "cache/builds").glob("*/")
    shutil.rmtree(tmp_path / "cache/kernels")
    shutil.rmtree(folder / "git")
    (folder / "src/mm/half").write_text("x")
    assert built("source:7.3").digest == first.digest
    assert not (folder / "src/mm/half").exists()
