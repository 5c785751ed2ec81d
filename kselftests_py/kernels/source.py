"""Kernel sources: whatever a spec names becomes one git tree, laid out in a directory of our own.

Each origin (a Debian package, a user's directory) has a workspace in the cache: ``git``, a repository that borrows
the objects of the user's; ``src``, where one state after the other is laid out; and the build directories beside it.
Going from one state to the next rewrites only the files that differ, so that make builds no more than these need.
The user's directory and repository are only ever read.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

from kselftests_py import paths
from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import apt, debian, git, locks, store
from kselftests_py.kernels.spec import BuildSpec

_BASE = "refs/kst/base"


@dataclass(frozen=True)
class Workspace:
    """The workspace of one origin, held by us: ``base`` is the commit of what the spec names, before any series."""

    folder: Path
    base: str
    provenance: dict[str, str]

    @property
    def src(self) -> Path:
        """Where the source is laid out."""
        return self.folder / "src"

    @property
    def env(self) -> dict[str, str]:
        """What makes git work on ``src``."""
        return _env(self.folder)

    def git(self, *arguments: str | Path) -> str:
        """Run git on ``src``; gives what it prints. Raises HarnessError if it fails."""
        return git.output(*arguments, cwd=self.src, env=self.env)

    def lay_out(self, commit: str) -> None:
        """Make ``src`` exactly *commit*, whatever it was."""
        self.git("reset", "--quiet", "--hard", commit)
        self.git("clean", "-ffdxq")


def _env(folder: Path, work_tree: Path | None = None, index: str = "index") -> dict[str, str]:
    places = {"GIT_DIR": folder / "git", "GIT_WORK_TREE": work_tree or folder / "src"}
    return {name: str(place) for name, place in places.items()} | {"GIT_INDEX_FILE": str(folder / "git" / index)}


def builds() -> Path:
    """Where the workspaces are."""
    folder = paths.cache_dir().absolute() / "builds"
    if re.search(r"[\s:]", str(folder)):
        raise HarnessError(
            f"{folder}: a kernel cannot be built in a path with spaces or colons; set KST_CACHE to another"
        )
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def told(wanted: BuildSpec, progress: Callable[[str], None]) -> tuple[str, dict[str, str]] | None:
    """(tree, provenance) of what *wanted* names, if its workspace need not be held to know: somebody may build in it.

    None where only the workspace can tell, also of what is wrong. Raises UsageError if Debian has no such source.
    """
    if wanted.kind == "source":
        package = _package(wanted.want, progress)
        folder = builds() / _name(wanted, package)
        if not (folder / "git" / "HEAD").exists():
            return None
        found = git.run("rev-parse", "--verify", "--quiet", f"{_BASE}^{{tree}}", cwd=folder, env=_env(folder))
        return None if found.returncode else (found.stdout.strip(), _of_package(package))
    if wanted.kind == "git" and Path(wanted.want).is_dir():
        names = (f"{wanted.revision}^{{commit}}", f"{wanted.revision}^{{tree}}")
        commit, tree = (git.run("rev-parse", "--verify", "--quiet", name, cwd=Path(wanted.want)) for name in names)
        if not commit.returncode and not tree.returncode:
            return tree.stdout.strip(), _of_repository(wanted, commit.stdout.strip())
    return None


def _name(wanted: BuildSpec, package: debian.Package | None) -> str:
    if package:
        name = f"{package.name}_{package.version}"
    else:
        name = f"{Path(wanted.want).name}_{hashlib.sha256(wanted.want.encode()).hexdigest()[:12]}"
    return re.sub(r"[^A-Za-z0-9._-]", "_", name)


def _of_package(package: debian.Package) -> dict[str, str]:
    return {package.name: f"{package.version} sha256:{package.sha256}"}


def _of_repository(wanted: BuildSpec, commit: str) -> dict[str, str]:
    return {"repository": wanted.want, "commit": commit}


@contextlib.contextmanager
def opened(wanted: BuildSpec, progress: Callable[[str], None]) -> Iterator[Workspace]:
    """The workspace of *wanted*, alone in it; ``src`` is not laid out yet.

    Raises UsageError if what the spec names is not there or no kernel's source, HarnessError if it cannot be had.
    """
    package = _package(wanted.want, progress) if wanted.kind == "source" else None
    if not package:
        _check_is_kernel(wanted)
    folder = builds() / _name(wanted, package)
    folder.mkdir(exist_ok=True)
    with locked(folder, progress):
        _sweep(folder)
        if not (folder / "git" / "HEAD").exists():
            git.output("init", "--quiet", "--bare", folder / "git", cwd=folder, env={"GIT_DIR": str(folder / "git")})
            git.output("config", "core.bare", "false", cwd=folder, env={"GIT_DIR": str(folder / "git")})
        (folder / "src").mkdir(exist_ok=True)
        if package:
            base = _imported(folder, package, progress)
            yield Workspace(folder, base, _of_package(package))
        elif wanted.kind == "git":
            commit, base = _revision(folder, wanted, progress)
            yield Workspace(folder, base, _of_repository(wanted, commit))
        else:
            yield Workspace(folder, _snapshot(folder, Path(wanted.want), progress), {"directory": wanted.want})


def _sweep(folder: Path) -> None:
    """Remove what a killed kst, or its git, was in the middle of."""
    for left in [*folder.glob(".new-*"), folder / "git" / "rebase-apply"]:
        shutil.rmtree(left, ignore_errors=True)
    for left in [*(folder / "git").glob("*.lock"), *(folder / "git").glob("sharedindex.*")]:
        left.unlink()


@contextlib.contextmanager
def scratch(folder: Path) -> Iterator[Path]:
    """A directory of the workspace *folder* for as long as it is needed."""
    with tempfile.TemporaryDirectory(prefix=".new-", dir=folder) as temporary:
        yield Path(temporary)


def locked(folder: Path, progress: Callable[[str], None]) -> contextlib.AbstractContextManager[None]:
    """Hold the workspace *folder*, alone."""
    return locks.held(folder.with_name(f"{folder.name}.lock"), 4, "is building from the same source", progress)


def _package(series: str, progress: Callable[[str], None]) -> debian.Package:
    with store.lock(progress) as root:
        asked = apt.refresh(root / "apt", progress)
        try:
            return debian.source_package(root / "apt", series)
        except debian.NoSuchKernel:
            if asked:
                raise
            apt.refresh(root / "apt", progress, force=True)
            return debian.source_package(root / "apt", series)


def _imported(folder: Path, package: debian.Package, progress: Callable[[str], None]) -> str:
    """The commit of Debian's source; fetched, unpacked and taken into git the first time."""
    env = _env(folder)
    known = git.run("rev-parse", "--verify", "--quiet", _BASE, cwd=folder, env=env)
    if known.returncode == 0:
        return known.stdout.strip()
    src = folder / "src"
    shutil.rmtree(src)
    src.mkdir()
    with scratch(folder) as temporary:
        with store.lock(progress) as root:
            progress(f"fetching {package.name} {package.version}, {package.size / 1e6:.0f} MB")
            apt.download(root / "apt", [(package.name, package.version)], temporary)
        progress(f"unpacking {package.name}")
        _unpack(["dpkg-deb", "-x", str(next(temporary.glob("*.deb"))), str(temporary / "files")], package.name)
        tarballs = list(temporary.glob("files/usr/src/linux-source-*.tar.*"))
        if len(tarballs) != 1:
            raise HarnessError(f"{package.name}: holds {len(tarballs)} source archives; its layout is not known here")
        _unpack(["tar", "-xf", str(tarballs[0]), "-C", str(src), "--strip-components=1"], package.name)
    progress(f"taking {package.name} into git")
    # Streamed into one pack: a tenth of the time that 95,000 files of their own take.
    options = ("-c", "core.bigFileThreshold=1", "-c", "core.compression=1")
    git.output(*options, "add", "--all", "--force", cwd=src, env=env)
    commit = _commit(folder, git.output("write-tree", cwd=src, env=env))
    git.output("update-ref", _BASE, commit, cwd=src, env=env)
    return commit


def _unpack(command: list[str], name: str) -> None:
    told = subprocess.run(command, capture_output=True, text=True, errors="replace", check=False)
    if told.returncode:
        reason = (told.stderr.strip().splitlines() or [f"it ended with {told.returncode}"])[-1]
        raise HarnessError(f"cannot unpack {name}: {command[0]}: {reason[:200]}; check the free space of the cache")


def _commit(folder: Path, tree: str) -> str:
    """A commit of *tree* without parents: the same tree gives the same commit."""
    return git.output("commit-tree", tree, "-m", "what the spec names", cwd=folder, env=_env(folder))


def _check_is_kernel(wanted: BuildSpec) -> None:
    folder = Path(wanted.want)
    if not folder.is_dir():
        raise UsageError(f"{wanted.spec}: {folder}: no such directory; give the directory of a kernel's source")
    if wanted.kind == "tree":
        if not all((folder / name).exists() for name in ("Kconfig", "Kbuild", "mm/Kconfig")):
            raise UsageError(f"{wanted.spec}: {folder}: is no kernel source (no Kconfig, Kbuild, mm/Kconfig)")
        if not (folder / ".gitignore").exists() and any(
            (folder / name).exists() for name in (".config", "include/config")
        ):
            raise UsageError(f"{wanted.spec}: {folder}: has been built in place; run make mrproper in it")


def _borrow(folder: Path, theirs: str) -> None:
    (folder / "git" / "objects" / "info" / "alternates").write_text(f"{theirs}\n")


def _revision(folder: Path, wanted: BuildSpec, progress: Callable[[str], None]) -> tuple[str, str]:
    """(the user's commit, the commit of ours with its tree)."""
    where = Path(wanted.want)
    told = git.run(
        "rev-parse", "--path-format=absolute", "--is-shallow-repository", "--git-path", "objects", cwd=where
    )  # fmt: skip
    if told.returncode:
        why = git.refusal(told, where, f"give a git repository, or write tree:{where}")
        raise UsageError(f"{wanted.spec}: {why}")
    shallow, objects = told.stdout.split("\n")[:2]
    found = git.run("rev-parse", "--verify", "--quiet", f"{wanted.revision}^{{commit}}", cwd=where)
    if found.returncode:
        advice = "it is a shallow clone: git fetch --unshallow" if shallow == "true" else "git log shows what there is"
        raise UsageError(f"{wanted.spec}: {where}: has no revision {wanted.revision!r}; {advice}")
    note_uncommitted(wanted, progress)
    _borrow(folder, objects)
    commit = found.stdout.strip()
    names = git.output("ls-tree", "--name-only", commit, cwd=folder, env=_env(folder)).splitlines()
    if not {"Kconfig", "Kbuild", "mm"} <= set(names):
        raise UsageError(f"{wanted.spec}: {where}: {commit[:12]} is no kernel source (no Kconfig, Kbuild, mm)")
    return commit, _commit(folder, git.output("rev-parse", f"{commit}^{{tree}}", cwd=folder, env=_env(folder)))


def note_uncommitted(wanted: BuildSpec, progress: Callable[[str], None]) -> None:
    """Say so if the repository of *wanted*, a ``git:``, has changes that its commit has not."""
    status = ("--no-optional-locks", "status", "--porcelain", "-uno")
    if wanted.kind == "git" and git.run(*status, cwd=Path(wanted.want)).stdout.strip():
        progress(f"{wanted.want} has uncommitted changes: they are no part of {wanted.spec}")


def commit_of(workspace: Workspace, tree: str) -> str:
    """A commit of ours with *tree*."""
    return _commit(workspace.folder, tree)


def _snapshot(folder: Path, theirs: Path, progress: Callable[[str], None]) -> str:
    """A commit of what is in the user's directory now, uncommitted and new files too, ignored ones not."""
    told = git.run(
        "rev-parse", "--path-format=absolute", "--show-toplevel", "--git-path", "objects", "--git-path", "index",
        cwd=theirs,
    )  # fmt: skip
    env = _env(folder, theirs, "index-of-theirs")
    lines = told.stdout.split("\n")
    if told.returncode == 0 and Path(lines[0]) == theirs.resolve() and Path(lines[2]).exists():
        _borrow(folder, lines[1])
        # With their index git reads only what changed since they last asked; a split one has its larger part beside it.
        shutil.copyfile(lines[2], env["GIT_INDEX_FILE"])
        for part in Path(lines[2]).parent.glob("sharedindex.*"):
            shutil.copyfile(part, folder / "git" / part.name)
    else:
        progress(f"looking at every file of {theirs}")
    quick = ("-c", "core.fsmonitor=false", "-c", "core.splitIndex=false", "-c", "core.compression=1")
    git.output(*quick, "add", "--all", cwd=theirs, env=env)
    return _commit(folder, git.output("write-tree", cwd=theirs, env=env))
