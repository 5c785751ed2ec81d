"""The kernel's own selftests are built once from the kernel's source, and what is in the way is one line."""

from __future__ import annotations

import errno
import os
import shutil
from pathlib import Path

import pytest
from kernels_trees import commit_all, make_tree, user_git

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage, RunningKernel
from kselftests_py.kernels.spec import BuildSpec, parse
from kselftests_py.upstream import programs

# As the kernel's: "headers" at the top, and lib.mk's OUTPUT below.
HEADERS = "headers:\n\t@mkdir -p $(O)/usr/include\n"
SELFTESTS = """\
$(OUTPUT)/%: %.c
\t@! grep -h SYNTAX $< || { echo "$<:2:1: error: expected ';'" >&2; exit 2; }
\t@! grep -q FULL $< || { echo 'cc1: fatal error: $@: No space left on device' >&2; exit 2; }
\t@cp $< $@
"""


@pytest.fixture
def tree(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    made = make_tree(tmp_path / "tree")
    with (made / "Makefile").open("a") as file:
        file.write(HEADERS)
    mm = made / "tools/testing/selftests/mm"
    mm.mkdir(parents=True)
    (mm / "Makefile").write_text(SELFTESTS)
    for name in ("uffd-unit-tests", "pagemap_ioctl"):
        (mm / f"{name}.c").write_text(f"{name}\n")
    commit_all(made)
    return made


def kernel(spec: str, **provenance: str) -> KernelImage:
    return KernelImage(spec, "7.3.4", Path("vmlinuz"), None, None, "a" * 64, provenance)


def source(tree: Path, name: str = "uffd-unit-tests") -> Path:
    return tree / f"tools/testing/selftests/mm/{name}.c"


def test_they_are_built_once_and_that_is_told(tree: Path) -> None:
    notes: list[str] = []
    built = programs.built(kernel(f"tree:{tree}"), notes.append)
    assert {name: path.read_text() for name, path in built.items()} == {
        "uffd-unit-tests": "uffd-unit-tests\n", "pagemap_ioctl": "pagemap_ioctl\n",
    }  # fmt: skip
    assert notes[0] == f"building the kernel's own selftests from tree:{tree}"
    assert notes[1].startswith("built them in ")
    notes.clear()
    assert programs.built(kernel("image:x", source=f"tree:{tree}"), notes.append) == built
    assert notes == []


def test_another_source_is_built_anew(tree: Path) -> None:
    before = programs.built(kernel(f"tree:{tree}"), lambda text: None)
    source(tree).write_text("changed\n")
    after = programs.built(kernel(f"tree:{tree}"), lambda text: None)
    assert after["uffd-unit-tests"].read_text() == "changed\n"
    assert before["uffd-unit-tests"].read_text() == "uffd-unit-tests\n"


def test_no_make(tree: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "bin").mkdir()
    git = shutil.which("git")
    assert git
    (tmp_path / "bin/git").symlink_to(git)
    monkeypatch.setenv("PATH", str(tmp_path / "bin"))
    with pytest.raises(HarnessError, match=r"^make is not on this machine; .* install make and gcc$"):
        programs.built(kernel(f"tree:{tree}"), lambda text: None)


@pytest.mark.parametrize(
    ("text", "told"),
    [("int x\nSYNTAX", r"uffd-unit-tests\.c:2:1: error: expected"), ("FULL", r"No space left on device$")],
)
def test_what_does_not_build_is_told_and_not_kept(tree: Path, text: str, told: str) -> None:
    source(tree).write_text(text)
    with pytest.raises(HarnessError, match=told) as raised:
        programs.built(kernel(f"tree:{tree}"), lambda text: None)
    assert len(str(raised.value).splitlines()) == 1
    source(tree).write_text("mended\n")
    built = programs.built(kernel(f"tree:{tree}"), lambda text: None)
    assert built["uffd-unit-tests"].read_text() == "mended\n"


def test_a_full_disk_of_ours(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(folder: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), str(target))

    monkeypatch.setattr(Path, "rename", full)
    with pytest.raises(HarnessError, match="No space left on device; free some space"):
        programs.built(kernel(f"tree:{tree}"), lambda text: None)


def test_a_source_without_them(tree: Path) -> None:
    for name in ("uffd-unit-tests", "pagemap_ioctl"):
        source(tree, name).unlink()
    with pytest.raises(HarnessError, match="this source is too old for --suite upstream"):
        programs.built(kernel(f"tree:{tree}"), lambda text: None)


def test_a_source_that_changed_since_is_not_its_source(tree: Path) -> None:
    before = user_git(tree, "rev-parse", "HEAD^{tree}")
    source(tree).write_text("changed\n")
    with pytest.raises(programs.NoSource, match="is another by now than the one it was built from"):
        programs.built(kernel(f"tree:{tree}", tree=before), lambda text: None)
    user_git(tree, "checkout", "-q", ".")
    assert programs.built(kernel(f"tree:{tree}", tree=before), lambda text: None)


def test_debians_kernel_and_source_of_two_versions() -> None:
    wanted = parse("source:7.3")
    assert isinstance(wanted, BuildSpec)
    with pytest.raises(
        programs.NoSource, match=r"debian:7\.3 is 7\.3\.5-1 and its source, source:7\.3, 7\.3\.4-1: not"
    ):
        programs._check_same(kernel("debian:7.3", version="7.3.5-1"), wanted, BUILT, "00")
    programs._check_same(kernel("debian:7.3", version="7.3.4-1"), wanted, BUILT, "00")


DEBIAN = {"version": "7.3.4-1"}
BUILT = {"linux-source-7.3": "7.3.4-1 sha256:00", "tree": "00"}


@pytest.mark.parametrize(
    ("given", "spec"),
    [
        (kernel("debian:7.3", **DEBIAN), "source:7.3"),
        (kernel("debian:newest", **DEBIAN), "source:7.3"),
        (kernel("cached:aaaaaaa", **DEBIAN), "source:7.3"),
        (kernel("source:7.3+kasan", **BUILT), "source:7.3+kasan"),
        (kernel("cached:aaaaaaa", **BUILT), "source:7.3"),
        (kernel("image:x", source="git:y@z"), "git:y@z"),
    ],
)
def test_where_its_source_is(given: KernelImage, spec: str) -> None:
    """A kernel of the cache is run again by its digest (kst reproduce); it still knows what it was built from."""
    assert programs.source_of(given).spec == spec


@pytest.mark.parametrize(
    ("given", "told"),
    [
        (kernel("cached:aaaaaaa", **BUILT, series="sha256:00"), "its source is not known; give its source: or tree:"),
        (RunningKernel("host", "host"), "the source of a running kernel is not known"),
        (kernel("image:x"), "image:x: its source is not known; name it: image:x,source=SPEC"),
        (kernel("cached:" + "a" * 64), "its source is not known"),
    ],
)
def test_nobody_says_what_it_was_built_from(given: KernelImage | RunningKernel, told: str) -> None:
    with pytest.raises(programs.NoSource, match=told):
        programs.built(given, lambda text: None)
