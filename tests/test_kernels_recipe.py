"""Recipes: a kernel that was built here is built again elsewhere, the same bytes, without a path of this machine."""

from __future__ import annotations

import shutil
from pathlib import Path

import msgspec
import pytest
from kernels_trees import change, commit_all, mail, make_tree, new_file, user_git

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import KernelImage, recipe, resolve
from kselftests_py.kernels.recipe import Recipe


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    return make_tree(tmp_path / "linux")


def built(spec: str) -> KernelImage:
    kernel = resolve(spec)
    assert isinstance(kernel, KernelImage)
    return kernel


def elsewhere(kernel: KernelImage, linux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> KernelImage:
    """*kernel* from its recipe alone, with an empty cache and a clone; what it was built from is gone."""
    found, files = recipe.of(kernel.spec, kernel.provenance)
    clone, scratch = tmp_path / "clone", tmp_path / "scratch"
    user_git(tmp_path, "clone", "-q", str(linux), str(clone))
    shutil.rmtree(linux)
    for each in tmp_path.glob("*.patch"):
        each.unlink()
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache2"))
    scratch.mkdir()
    again = msgspec.json.decode(msgspec.json.encode(found), type=Recipe)
    assert str(tmp_path / "linux") not in str(again)
    return built(recipe.spec_of(again, files, scratch, clone))


@pytest.mark.parametrize("kind", ["tree", "git"])
def test_a_commit_with_two_series_a_configuration_and_flavours(
    linux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    commit_all(linux)
    (tmp_path / "a.patch").write_text(mail(change()))
    folder = tmp_path / "v2"
    folder.mkdir()
    (folder / "0001-b.patch").write_text(mail(change("line five", "line 5b")))
    (folder / "0002-c.patch").write_text(mail(change("line 5b", "line 5c")))
    (tmp_path / "c.config").write_text("CONFIG_KSM=y\n")
    parts = f"+series:{tmp_path / 'a.patch'}+series:{folder}+config:{tmp_path / 'c.config'}+twin"
    kernel = built(f"{kind}:{linux}{parts}")
    assert recipe.of(kernel.spec, kernel.provenance)[0].patches == 3
    shutil.rmtree(folder)
    again = elsewhere(kernel, linux, tmp_path, monkeypatch)
    assert again.digest == kernel.digest
    assert b"line 5c" in again.vmlinuz.read_bytes()


def test_local_changes_of_a_tree_go_with_it(linux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Also what is no text, and what git does not know yet; under the series, which was made for it."""
    commit_all(linux)
    (linux / "mm/memory.c").write_bytes((linux / "mm/memory.c").read_bytes().replace(b"line 5", b"line f\xefve \0"))
    (linux / "new.c").write_text("new\n")
    (tmp_path / "a.patch").write_text(mail(new_file("mm/more.c", "more")))
    plain = built(f"git:{linux}+series:{tmp_path / 'a.patch'}")
    kernel = built(f"tree:{linux}+series:{tmp_path / 'a.patch'}")
    assert plain.digest != kernel.digest
    assert elsewhere(kernel, linux, tmp_path, monkeypatch).digest == kernel.digest


def test_a_series_changed_later_is_the_one_that_was_built(linux: Path, tmp_path: Path) -> None:
    commit_all(linux)
    (tmp_path / "a.patch").write_text(mail(change()))
    kernel = built(f"git:{linux}+series:{tmp_path / 'a.patch'}")
    (tmp_path / "a.patch").write_text(mail(change(new="line FIVE")))
    files = recipe.of(kernel.spec, kernel.provenance)[1]
    assert files == {"series/0/0000.patch": mail(change()).encode()}


@pytest.mark.parametrize("group", [["a.patch"], ["cur/a", "new/b"]])
def test_the_files_of_a_series_keep_their_order(linux: Path, tmp_path: Path, group: list[str]) -> None:
    commit_all(linux)
    box = tmp_path / "box"
    for number, name in enumerate(group):
        (box / name).parent.mkdir(parents=True, exist_ok=True)
        (box / name).write_text(mail(change(*[("line 5", "l2"), ("l2", "l3")][number])))
    kernel = built(f"git:{linux}+series:{box}")
    files = recipe.of(kernel.spec, kernel.provenance)[1]
    assert [b"l3" in body for _, body in sorted(files.items())] == [False, True][: len(group)]


def test_a_directory_without_a_repository_cannot_go_elsewhere(linux: Path, tmp_path: Path) -> None:
    kernel = built(f"tree:{linux}")
    found, files = recipe.of(kernel.spec, kernel.provenance)
    assert "no git repository" in found.problem
    with pytest.raises(HarnessError, match="no git repository"):
        recipe.spec_of(found, files, tmp_path, None)
    assert recipe.spec_of(found, files, tmp_path, linux) == f"tree:{linux}"


def test_what_was_pruned_says_so(linux: Path) -> None:
    kernel = built(f"tree:{linux}")
    shutil.rmtree(recipe.root())
    assert "not in the cache any more" in recipe.of(kernel.spec, kernel.provenance)[0].problem


def test_too_many_patches_are_left_out_and_that_is_told(
    linux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(recipe, "MAX_PATCHES", 10)
    commit_all(linux)
    (tmp_path / "a.patch").write_text(mail(change()))
    kernel = built(f"git:{linux}+series:{tmp_path / 'a.patch'}")
    found, files = recipe.of(kernel.spec, kernel.provenance)
    assert (found.patches, files) == (0, {})
    assert "patches" in found.problem


def test_a_commit_needs_a_clone(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="give --source DIR"):
        recipe.spec_of(Recipe("git", "a" * 40), {}, tmp_path, None)


@pytest.mark.parametrize(
    ("kind", "want"),
    [
        ("source", "7.3+config:x"),
        ("source", "7.3/../x"),
        ("git", "HEAD"),
        ("git", "--upload-pack=x"),
        ("debian", "-o=x"),
        ("debian", "7.3 x"),
        ("host", "a b"),
        ("image", "/etc/shadow"),
        ("nonsense", ""),
    ],
)
def test_a_strangers_recipe_is_nothing_but_a_name(kind: str, want: str) -> None:
    with pytest.raises(msgspec.ValidationError):
        msgspec.convert({"kind": kind, "want": want}, Recipe)


def test_a_flavour_that_is_none() -> None:
    assert msgspec.convert({"kind": "source", "want": "7.3", "flavours": ["lean", "twin"]}, Recipe)
    with pytest.raises(msgspec.ValidationError, match="is no flavour"):
        msgspec.convert({"kind": "source", "want": "7.3", "flavours": ["lean", "twin+config:x"]}, Recipe)


def test_names_of_files_that_are_none_of_a_recipe_are_not_laid_out(tmp_path: Path) -> None:
    files = {"series/0/../../x": b"", "series/evil/1": b"", "other": b"", "series/1/0000.patch": b"mail"}
    assert recipe.spec_of(Recipe("source", "7.3"), files, tmp_path, None) == f"source:7.3+series:{tmp_path / '1'}"
    assert [path.name for path in tmp_path.rglob("*")] == ["1", "0000.patch"]


def test_a_kernel_of_the_cache_by_its_digest(linux: Path) -> None:
    kernel = built(f"tree:{linux}")
    again = built(f"cached:{kernel.digest[:12]}")
    assert (again.digest, again.label) == (kernel.digest, kernel.label)
    for spec, told in (("cached:0000000", "kst kernels lists"), ("cached:abc", "at least 7 digits")):
        with pytest.raises(UsageError, match=told):
            resolve(spec)


def test_another_kst_that_keeps_the_same_recipe_first(
    linux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It comes between our looking and our writing: a directory that is not empty is in the way, and is as good."""
    kernel = built(f"tree:{linux}")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/recipe.json").write_text("{}")
    monkeypatch.setattr(recipe.shutil, "rmtree", lambda *_, **__: None)
    recipe.keep(tmp_path / "mine", kernel.provenance["build"])
    assert recipe.of(kernel.spec, kernel.provenance)[0].kind == "tree"
