"""A bench breaks a source and mends it, whatever ended in between; and never builds from another than was pinned."""

from __future__ import annotations

import errno
import shutil
from pathlib import Path

import pytest
from kernels_trees import commit_all, make_tree

from kselftests_py.errors import HarnessError
from kselftests_py.sabotage import bench
from kselftests_py.sabotage.defects import Defect, Edit

CODE = "int arm(int page)\n{\n\treturn 0;\n}\n\nint disarm(int page)\n{\n\treturn 1;\n}\n"
BROKEN = CODE.replace("return 0", "return 7")
DEFECT = Defect(
    name="a",
    breaks="I1",
    shows="something goes wrong",
    edit=[
        Edit(file="mm/memory.c", function="arm", match="return 0;", replace="return 7;"),
        Edit(file="mm/other.c", function="arm", match="return 0;", replace="return 7;"),
    ],
)


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    tree = make_tree(tmp_path / "linux")
    (tree / "mm/memory.c").write_text(CODE)
    (tree / "mm/other.c").write_text(CODE)
    return tree


def pin(spec: str) -> bench.Pinned:
    return bench.pinned(spec, lambda _: None)


def built(pinned: bench.Pinned, defect: Defect | None, into: Path) -> str:
    into.mkdir(exist_ok=True)
    with bench.taken(pinned) as place:
        place.kernel(defect, into)
        assert (place.src / "mm/memory.c").read_text() == (place.src / "mm/other.c").read_text() == CODE
    return (into / "bzImage").read_bytes().decode("latin-1")


def test_a_kernel_is_broken_and_mended(linux: Path, tmp_path: Path) -> None:
    pinned = pin(f"tree:{linux}")
    assert BROKEN in built(pinned, DEFECT, tmp_path / "broken")
    assert CODE in built(pinned, None, tmp_path / "clean")


def test_a_disk_that_fills_while_the_source_is_kept_leaves_it_whole(
    linux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The copy that was cut short is not taken for the source as it was."""
    pinned, copy = pin(f"tree:{linux}"), shutil.copyfile

    def full(source: Path, target: Path) -> None:
        if target.suffix == ".c" and target.is_relative_to(tmp_path / "cache" / "sabotage"):
            target.write_text("int a")
            raise OSError(errno.ENOSPC, "No space left on device")
        copy(source, target)

    with bench.taken(pinned) as place, monkeypatch.context() as during:
        during.setattr(bench.shutil, "copyfile", full)
        with pytest.raises(OSError, match="No space"):
            place.kernel(DEFECT, tmp_path)
    assert BROKEN in built(pinned, DEFECT, tmp_path / "broken")


def test_a_source_left_broken_is_mended(linux: Path, tmp_path: Path) -> None:
    """Who broke it was killed."""
    pinned = pin(f"tree:{linux}")
    with bench.taken(pinned) as place:
        place._keep({"mm/memory.c"})
        (place.src / "mm/memory.c").write_text(BROKEN)
    assert CODE in built(pinned, None, tmp_path / "clean")


def test_a_disk_that_is_full_when_a_bench_is_made_is_one_line(linux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    pinned = pin(f"tree:{linux}")
    fake = linux.parent / "bin" / "cp"
    fake.parent.mkdir()
    fake.write_text("#!/bin/sh\necho 'cp: writing: No space left on device' >&2; exit 1\n")
    fake.chmod(0o755)
    with monkeypatch.context() as during:
        during.setenv("PATH", f"{fake.parent}:/usr/bin:/bin")
        with pytest.raises(HarnessError, match="No space left on device") as error:
            built(pinned, None, linux.parent / "clean")
    assert "\n" not in str(error.value)
    with bench.taken(pinned) as place:  # the lock is free again, and nothing half made is taken for a bench
        assert (place.src / "mm/memory.c").read_text() == CODE


def test_a_branch_that_moves_is_pinned(linux: Path, tmp_path: Path) -> None:
    commit = commit_all(linux)
    pinned = pin(f"git:{linux}")
    assert pinned.spec == f"git:{linux}@{commit}"
    (linux / "mm/memory.c").write_text("int later;\n")
    commit_all(linux, "later")
    assert CODE in built(pinned, None, tmp_path / "clean")


def test_the_pinned_spec_keeps_its_parts(linux: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.config"
    more.write_text("CONFIG_KSM=y\n")
    commit = commit_all(linux)
    pinned = pin(f"git:{linux}+debug+config:{more}")
    wanted = bench.parse_kernel(pinned.spec)
    assert (wanted.revision, wanted.flavours, wanted.configs) == (commit, ("lean", "debug"), (more,))
    assert "CONFIG_KSM=y\n" in pinned.symbols


def test_a_tree_that_changes_is_refused(linux: Path, tmp_path: Path) -> None:
    pinned = pin(f"tree:{linux}")
    (linux / "mm/memory.c").write_text("int later;\n")
    with pytest.raises(HarnessError, match="its source is not what it was") as error:
        built(pinned, None, tmp_path)
    assert "\n" not in str(error.value)
    with pytest.raises(HarnessError, match="its source is not what it was"):
        bench.check(pinned)


def test_a_configuration_that_changes_is_refused(linux: Path, tmp_path: Path) -> None:
    more = tmp_path / "more.config"
    more.write_text("CONFIG_KSM=y\n")
    pinned = pin(f"tree:{linux}+config:{more}")
    more.write_text("CONFIG_KSM=n\n")
    with pytest.raises(HarnessError, match="its configuration is not what it was"):
        built(pinned, None, tmp_path / "clean")
