"""The guest root: from the same packages the same tree, small, with what it needs and nothing of this machine."""

from __future__ import annotations

from pathlib import Path

import pytest

from kselftests_py.kernels.packages import download_closure
from kselftests_py.machines import guest_root


@pytest.mark.network
def test_same_packages_give_the_same_tree(tmp_path: Path) -> None:
    (tmp_path / "debs").mkdir()
    packages = download_closure(guest_root._recipe_lines("packages.txt"), tmp_path / "debs", print)
    roots = []
    for order, given in enumerate((packages, packages[::-1])):
        root, scratch = tmp_path / f"root{order}", tmp_path / f"scratch{order}"
        root.mkdir()
        scratch.mkdir()
        guest_root._unpack(root, given, scratch)
        guest_root._lay_out(root)
        roots.append(root)
    assert guest_root.tree_digest(roots[0]) == guest_root.tree_digest(roots[1])
    size = sum(path.stat().st_size for path in roots[0].rglob("*") if path.is_file() and not path.is_symlink())
    assert size < 50e6
    for name in ("bin/sh", "bin/insmod", "usr/sbin/dropbear", "lib64/ld-linux-x86-64.so.2"):
        assert (roots[0] / name).exists(), name


@pytest.mark.parametrize("change", ["content", "mode", "name", "link"])
def test_digest_sees_every_change(tmp_path: Path, change: str) -> None:
    (tmp_path / "root").mkdir()
    file, link = tmp_path / "root" / "file", tmp_path / "root" / "link"
    file.write_text("one")
    link.symlink_to("file")
    before = guest_root.tree_digest(tmp_path / "root")
    if change == "content":
        file.write_text("two")
    elif change == "mode":
        file.chmod(0o700)
    elif change == "name":
        file.rename(file.with_name("other"))
    else:
        link.unlink()
        link.symlink_to("elsewhere")
    assert guest_root.tree_digest(tmp_path / "root") != before
