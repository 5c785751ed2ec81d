"""Where a kernel's source comes from: the user's directory and repository are read, never written to."""

from __future__ import annotations

import hashlib
import os
from pathlib import Path

import pytest
from kernels_trees import commit_all, make_tree, user_git

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import source
from kselftests_py.kernels.spec import FLAVOURS, BuildSpec, parse
from kselftests_py.presubmit import commits


@pytest.fixture
def linux(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    return make_tree(tmp_path / "linux")


def laid_out(spec: str, notes: list[str] | None = None) -> tuple[Path, str]:
    """(the source of *spec*, laid out, the name of its git tree)."""
    wanted = parse(spec)
    assert isinstance(wanted, BuildSpec)
    with source.opened(wanted, (notes if notes is not None else []).append) as workspace:
        workspace.lay_out(workspace.base)
        return workspace.src, workspace.git("rev-parse", "HEAD^{tree}")


def contents(folder: Path) -> dict[str, str]:
    """Everything below *folder*, with times, except that of git's objects: git itself marks those still in use."""
    return {
        str(path.relative_to(folder)): f"{'objects' in path.parts or path.lstat().st_mtime_ns} "
        + hashlib.sha256(path.read_bytes()).hexdigest()
        for path in folder.rglob("*")
        if path.is_file()
    }


@pytest.mark.parametrize("kind", ["tree", "git", "tree in git"])
def test_the_users_files_are_never_written_to(linux: Path, kind: str) -> None:
    if "git" in kind:
        commit_all(linux)
    if kind.startswith("tree"):
        (linux / "mm/new.c").write_text("new and not committed\n")
        (linux / "mm/memory.o").write_text("ignored\n")
    before = contents(linux)
    src, _ = laid_out(f"{kind.split()[0]}:{linux}")
    assert contents(linux) == before
    kept = {name for name in before if not name.startswith(".git/") and not name.endswith(".o")}
    assert {str(path.relative_to(src)) for path in src.rglob("*") if path.is_file()} == kept


def test_an_index_in_two_parts_is_read_as_the_one_it_is(linux: Path) -> None:
    commit_all(linux)
    user_git(linux, "config", "core.splitIndex", "true")
    user_git(linux, "update-index", "--split-index")
    assert list((linux / ".git").glob("sharedindex.*"))
    (linux / "mm/memory.c").write_text("changed\n")
    for text in ("changed\n", "again\n"):
        (linux / "mm/memory.c").write_text(text)
        before = contents(linux)
        src, _ = laid_out(f"tree:{linux}")
        assert (src / "mm/memory.c").read_text() == text
        assert contents(linux) == before


def test_a_tree_and_its_commit_are_the_same_source(linux: Path) -> None:
    commit_all(linux)
    assert laid_out(f"tree:{linux}")[1] == laid_out(f"git:{linux}")[1]


def test_each_revision_is_what_it_was(linux: Path) -> None:
    first = commit_all(linux)
    (linux / "mm/memory.c").write_text("second\n")
    commit_all(linux)
    for revision, text in [("HEAD", "second"), (first[:12], "line 1"), ("HEAD~1", "line 1"), ("HEAD@{0}", "second")]:
        src, _ = laid_out(f"git:{linux}@{revision}")
        assert (src / "mm/memory.c").read_text().startswith(text), revision


def test_between_two_states_only_what_differs_is_written(linux: Path) -> None:
    commit_all(linux)
    src, _ = laid_out(f"tree:{linux}")
    before = contents(src)
    (linux / "mm/memory.c").write_text("changed\n")
    src, _ = laid_out(f"tree:{linux}")
    after = contents(src)
    assert {name for name in before if before[name] != after[name]} == {"mm/memory.c"}


def test_what_was_left_in_the_middle_does_no_harm(linux: Path) -> None:
    src, tree = laid_out(f"tree:{linux}")
    (src / "mm/memory.c").unlink()
    (src / "stray.o").write_text("x")
    git_dir = src.parent / "git"
    (git_dir / "index.lock").touch()
    (git_dir / "index-of-theirs.lock").touch()
    (git_dir / "rebase-apply").mkdir()
    (src.parent / ".new-left").mkdir()
    src, again = laid_out(f"tree:{linux}")
    assert again == tree
    assert (src / "mm/memory.c").exists()
    assert not (src / "stray.o").exists()
    assert not (src.parent / ".new-left").exists()


def test_uncommitted_changes_are_no_part_of_a_revision_and_this_is_said(linux: Path) -> None:
    commit_all(linux)
    (linux / "mm/memory.c").write_text("changed\n")
    notes: list[str] = []
    src, _ = laid_out(f"git:{linux}", notes)
    assert (src / "mm/memory.c").read_text().startswith("line 1")
    assert any("uncommitted changes" in note for note in notes)


@pytest.mark.parametrize(
    ("spec", "prepare", "says"),
    [
        ("tree:{0}/nowhere", None, "no such directory"),
        ("git:{0}/nowhere", None, "no such directory"),
        ("tree:{0}", lambda linux: (linux / "mm/Kconfig").unlink(), "is no kernel source"),
        ("git:{0}", None, "tree:"),
        ("git:{0}@v9.9", commit_all, "no revision 'v9.9'; git log"),
        ("git:{0}@HEAD:Kconfig", commit_all, "no revision"),
        ("git:{0}", lambda linux: ((linux / "Kconfig").unlink(), commit_all(linux)), "is no kernel source"),
        ("tree:{0}", lambda linux: ((linux / ".gitignore").unlink(), (linux / ".config").touch()), "make mrproper"),
    ],
)  # fmt: skip
def test_what_is_wrong_with_a_source_is_one_line(linux: Path, spec: str, prepare: object, says: str) -> None:
    if callable(prepare):
        prepare(linux)
    with pytest.raises(UsageError, match=says) as raised:
        laid_out(spec.format(linux))
    assert "\n" not in str(raised.value)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a repository of somebody else")
def test_a_repository_of_another_user_is_told_with_what_to_do(linux: Path) -> None:
    """As a CI job in a container meets it: git refuses it (safe.directory, git-config(1))."""
    sha = commit_all(linux)
    os.chown(linux, 12345, 12345)
    os.chown(linux / ".git", 12345, 12345)
    for ask in (lambda: laid_out(f"git:{linux}"), lambda: commits.series(linux, f"{sha}..HEAD")):
        with pytest.raises(UsageError, match=f"git config --global --add safe.directory {linux}$"):
            ask()


def test_a_partial_clone_that_lacks_files(linux: Path, tmp_path: Path) -> None:
    """As with git clone --filter=blob:none; what is checked out there is there."""
    commit_all(linux)
    user_git(linux, "config", "uploadpack.allowFilter", "true")
    clone = ("clone", "-q", "--filter=blob:none", f"file://{linux}")
    user_git(tmp_path, *clone, "--no-checkout", "partial")
    with pytest.raises(HarnessError, match=r"lacks it .* clone without --filter"):
        laid_out(f"git:{tmp_path / 'partial'}")
    user_git(tmp_path / "partial", "checkout", "-q", "HEAD")
    laid_out(f"git:{tmp_path / 'partial'}")


def test_a_shallow_clone(linux: Path, tmp_path: Path) -> None:
    first = commit_all(linux)
    (linux / "mm/memory.c").write_text("second\n")
    commit_all(linux)
    user_git(tmp_path, "clone", "-q", "--depth=1", f"file://{linux}", "shallow")
    src, _ = laid_out(f"git:{tmp_path / 'shallow'}")
    assert (src / "mm/memory.c").read_text() == "second\n"
    with pytest.raises(UsageError, match="git fetch --unshallow"):
        laid_out(f"git:{tmp_path / 'shallow'}@{first}")


def test_a_cache_where_make_cannot_build(linux: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "my cache"))
    with pytest.raises(HarnessError, match="set KST_CACHE"):
        laid_out(f"tree:{linux}")


def test_without_git_one_line_says_so(linux: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(HarnessError, match="install the package git"):
        laid_out(f"tree:{linux}")


def spec_of(kind: str, want: str, **parts: object) -> tuple[object, ...]:
    values = {"revision": "HEAD", "series": (), "configs": (), "flavours": ("lean",)} | parts
    return (kind, want, *values.values())


@pytest.mark.parametrize(
    ("spec", "meant"),
    [
        ("source:7.3", spec_of("source", "7.3")),
        ("source:7.3+lean", spec_of("source", "7.3")),
        ("source:7.3+allmm+debug", spec_of("source", "7.3", flavours=("lean", "debug", "allmm"))),
        ("tree:/a+b/c", spec_of("tree", "/a+b/c")),
        ("tree:/a+b+kasan", spec_of("tree", "/a+b", flavours=("lean", "kasan"))),
        ("git:/a@v1", spec_of("git", "/a", revision="v1")),
        ("git:/a@HEAD@{1}", spec_of("git", "/a", revision="HEAD@{1}")),
        ("git:/a", spec_of("git", "/a")),
        ("git:/a@topic@home", spec_of("git", "/a", revision="topic@home")),
        ("git:{0}/job@2/linux", spec_of("git", "{0}/job@2/linux")),
        ("git:{0}/job@2/linux@v1", spec_of("git", "{0}/job@2/linux", revision="v1")),
        ("git:{0}/job@2/linux@HEAD@{{1}}", spec_of("git", "{0}/job@2/linux", revision="HEAD@{1}")),
        ("git:{0}/job@topic@home", spec_of("git", "{0}/job", revision="topic@home")),
        (
            "git:/a@v1+series:/s+1/+series:msgid:x@y+config:/c",
            spec_of("git", "/a", revision="v1", series=("/s+1", "msgid:x@y"), configs=(Path("/c"),)),
        ),
    ],
)  # fmt: skip
def test_each_form_of_a_kernel_to_build_is_read(spec: str, meant: tuple[object, ...], tmp_path: Path) -> None:
    (tmp_path / "job@2/linux").mkdir(parents=True)  # as Jenkins names the workspace of a second build
    (tmp_path / "job").mkdir()
    wanted = parse(spec.format(tmp_path) if "{0}" in spec else spec)
    assert isinstance(wanted, BuildSpec)
    found = (wanted.kind, wanted.want, wanted.revision, wanted.series, wanted.configs, wanted.flavours)
    assert found == tuple(one.replace("{0}", str(tmp_path)) if isinstance(one, str) else one for one in meant)


@pytest.mark.parametrize(
    ("spec", "says"),
    [
        ("source:", "accepted"),
        ("source:seven", "is no series of kernels"),
        ("source:7.3+kasam", "did you mean"),
        ("source:7.3+nonsense", f"known: .*{FLAVOURS[-1]}"),
        ("tree:/nowhere+kasam", "did you mean"),
        ("source:7.3+series:", "names nothing"),
        ("source:7.3+series:msgid:", "names nothing"),
        ("source:7.3+config:", "names nothing"),
        ("source:7.3+kasan+kcsan", "not both"),
        ("git:/a@--output=x", "is no revision"),
        ("gti:/a", "did you mean git:/a"),
        ("/", "did you mean tree:/"),
    ],
)
def test_what_is_wrong_with_a_spec_is_one_line(spec: str, says: str) -> None:
    with pytest.raises(UsageError, match=says) as raised:
        parse(spec)
    assert "\n" not in str(raised.value)
