"""Recipes: how a kernel is had again, elsewhere too. What of the user's own went into a build is kept in the cache,
``recipes/<build>``, since a directory changes, a series is edited, and mails fetched by b4 were never a file."""

from __future__ import annotations

import errno
import platform
import re
import shutil
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec

from kselftests_py import paths
from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import config, git
from kselftests_py.kernels.source import Workspace
from kselftests_py.kernels.spec import FLAVOURS, BuildSpec

MAX_PATCHES = 16 << 20  # bytes, all patches of a kernel
USER_CONFIG = "user.config"
_LOCAL = "local"
_WANT = {"debian": r"[A-Za-z0-9][A-Za-z0-9.+~:-]*", "source": r"\d+(\.\d+)*", "git": r"[0-9a-f]{40,64}"}

Files = dict[str, bytes]
"""Name (``series/local/0001.patch``, ``user.config``) -> contents."""


class Recipe(msgspec.Struct, frozen=True):
    """Where a kernel comes from, without a path of the machine that built it.

    ``want`` is Debian's version (debian), its series (source), a commit (git) or a release (host); ``patches`` is the
    number of patch files that go on top; ``problem`` says why it cannot be had elsewhere ("": it can).
    """

    kind: Literal["debian", "source", "git", "tree", "image", "host", "ssh", "lost"]
    want: Annotated[str, msgspec.Meta(max_length=128)] = ""
    flavours: tuple[str, ...] = FLAVOURS[:1]
    patches: int = 0
    problem: Annotated[str, msgspec.Meta(max_length=1000)] = ""

    def __post_init__(self) -> None:
        # A recipe may come from a stranger, and becomes part of a spec.
        if not re.fullmatch(_WANT.get(self.kind, r"[\w.+~-]*"), self.want):
            raise ValueError(f"{self.want!r} names no {self.kind} kernel")
        if unknown := set(self.flavours) - set(FLAVOURS):
            raise ValueError(f"{min(unknown)!r} is no flavour")


def root() -> Path:
    """Where the recipes are."""
    folder = paths.cache_dir() / "recipes"
    folder.mkdir(exist_ok=True)
    return folder


def write(
    folder: Path, wanted: BuildSpec, workspace: Workspace, series: Sequence[Sequence[Path]], users: config.Symbols
) -> None:
    """Write down the recipe of the build of *wanted* in *folder*; ``keep`` takes it into the cache.

    *series* are the files of each ``+series:``, in order, and *users* what the ``+config:`` files ask for.
    """
    folder.mkdir()
    kind, want, problem = wanted.kind, wanted.want, ""
    if kind == "git":
        want = workspace.provenance["commit"]
    elif kind == "tree":
        kind, want, problem = _local_changes(workspace, Path(wanted.want), folder)
    for number, files in enumerate(series):
        place = folder / "series" / str(number)
        place.mkdir(parents=True)
        mails = [mail for each in files for mail in ([each] if each.is_file() else sorted(each.rglob("*")))]
        for count, mail in enumerate(each for each in mails if each.is_file()):
            shutil.copyfile(mail, place / f"{count:04}.patch")
    if users:
        (folder / USER_CONFIG).write_text(config.text(users))
    found = sorted(folder.glob("series/*/*"))
    if sum(each.stat().st_size for each in found) > MAX_PATCHES:
        problem = f"its patches are more than {MAX_PATCHES >> 20} MiB"
        shutil.rmtree(folder / "series")
        found = []
    recipe = Recipe(kind, want, wanted.flavours, len(found), problem)  # type: ignore[arg-type]
    (folder / "recipe.json").write_bytes(msgspec.json.encode(recipe))


def keep(folder: Path, build: str) -> None:
    """Take the recipe in *folder* into the cache, under its *build*, by which ``of`` finds it."""
    entry = root() / build
    shutil.rmtree(entry, ignore_errors=True)
    try:
        folder.rename(entry)
    except OSError as error:
        if error.errno not in (errno.EEXIST, errno.ENOTEMPTY):
            raise
        # Another kst was faster: what it kept is the same.


def _local_changes(workspace: Workspace, theirs: Path, folder: Path) -> tuple[str, str, str]:
    """(kind, want, problem) of a directory: the commit it is at, and as a patch what differs from that."""
    told = git.run("rev-parse", "--verify", "--quiet", "HEAD^{commit}", cwd=theirs)
    top = git.run("rev-parse", "--show-toplevel", cwd=theirs)
    head = told.stdout.strip()
    here = Path(top.stdout.strip()) == theirs.resolve()
    if told.returncode or not here or git.run("cat-file", "-e", head, cwd=theirs, env=workspace.env).returncode:
        return "tree", "", "it was built from a directory that is no git repository, of which there is no copy"
    tree = workspace.git("rev-parse", f"{workspace.base}^{{tree}}")
    if workspace.git("rev-parse", f"{head}^{{tree}}") != tree:
        changed = workspace.git("commit-tree", tree, "-p", head, "-m", "local changes")
        options = ("--quiet", "--binary", "--full-index", "--no-signature", "--zero-commit")
        workspace.git("format-patch", *options, "-o", folder / "series" / _LOCAL, "-1", changed)
    return "git", head, ""


def _read(folder: Path) -> Recipe:
    if not (folder / "recipe.json").exists():
        return Recipe("lost", problem="how it was built is not in the cache any more")
    return msgspec.json.decode((folder / "recipe.json").read_bytes(), type=Recipe)


def of(spec: str, provenance: Mapping[str, str]) -> tuple[Recipe, Files]:
    """The recipe of a kernel of a run, and the files that belong to it, from what the manifest says of it."""
    if "build" in provenance:
        folder = root() / Path(provenance["build"]).name
        recipe = _read(folder)
        names = [each for each in sorted(folder.rglob("*")) if each.is_file() and each.name != "recipe.json"]
        return recipe, {str(each.relative_to(folder)): each.read_bytes() for each in names}
    if "version" in provenance:
        return Recipe("debian", provenance["version"]), {}
    if "vmlinuz" in provenance:
        return Recipe("image", problem="it came in files of the user's own, of which there is no copy"), {}
    if spec == "host":
        return Recipe("host", platform.release()), {}
    return Recipe("ssh", problem="it ran on a machine of the user's"), {}


def kept(wanted: BuildSpec, provenance: Mapping[str, str]) -> bool:
    """Whether the cache has the recipe that ``write`` would write for this build of *wanted*, a source: or git:."""
    found = _read(root() / provenance["build"])
    return (found.kind, found.want, found.problem) == (wanted.kind, provenance.get("commit", wanted.want), "")


def spec_of(recipe: Recipe, files: Files, scratch: Path, source: Path | None) -> str:
    """The spec by which ``resolve`` makes the kernel again; its *files* are laid out in *scratch* under our own names.

    *source* is a clone of the kernel that has the commit. Raises UsageError if there is none, and HarnessError if the
    kernel cannot be had.
    """
    if recipe.kind == "debian":
        return f"debian:{recipe.want}"
    if recipe.kind == "host":
        return "host"
    if recipe.kind == "tree" and source:
        base = f"tree:{source.absolute()}"
    elif recipe.problem:
        raise HarnessError(f"the kernel cannot be had again: {recipe.problem}")
    elif recipe.kind == "git":
        if source is None:
            raise UsageError(f"the kernel is built from commit {recipe.want}: give --source DIR, a clone that has it")
        base = f"git:{source.absolute()}@{recipe.want}"
    else:
        base = f"source:{recipe.want}"
    parts = [f"+{name}" for name in recipe.flavours[1:]]
    groups: dict[str, list[bytes]] = {}
    for name, body in files.items():
        if match := re.fullmatch(r"series/(local|\d+)/[\w.+-]+", name):
            groups.setdefault(match[1], []).append(body)
    # What the user's directory had beyond its commit lies under every series.
    for group in sorted(groups, key=lambda name: -1 if name == _LOCAL else int(name)):
        place = scratch / group
        place.mkdir()
        for number, body in enumerate(groups[group]):
            (place / f"{number:04}.patch").write_bytes(body)
        parts.append(f"+series:{place}")
    if USER_CONFIG in files:
        (scratch / USER_CONFIG).write_bytes(files[USER_CONFIG])
        parts.append(f"+config:{scratch / USER_CONFIG}")
    return base + "".join(parts)
