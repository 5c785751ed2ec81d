"""The commits of a range, oldest first, and the files that each touches."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from kselftests_py.errors import UsageError
from kselftests_py.kernels import git

_MOST = 200
NOWHERE = "0" * 40
"""What git calls a ref that is not there, as on a pre-push hook's standard input."""


@dataclass(frozen=True)
class Commit:
    """One commit of the user's repository."""

    sha: str
    parent: str
    subject: str
    files: tuple[str, ...]

    @property
    def short(self) -> str:
        return self.sha[:12]


def series(tree: Path, wanted: str) -> list[Commit]:
    """The commits of *wanted* (``BASE..HEAD``; "": from the upstream branch on; one revision: what it adds to that).

    :raises UsageError: *tree* is no repository, the range is none, empty, or has merges.
    """
    limits = _limits(tree, wanted)
    shas = _listed(tree, limits, limits)
    if not shas:
        raise UsageError(f"{limits}: has no commits; name a range such as origin/master..HEAD")
    return [_commit(tree, sha) for sha in shas]


def ends(tree: Path, wanted: str) -> Commit:
    """The last commit of *wanted* as one change of its base: what ``git bisect`` has checked out, beside what is good.

    :raises UsageError: *tree* is no repository, or the range is none.
    """
    limits = _limits(tree, wanted)
    base, _, head = limits.partition("..")
    shas = [_git(tree, "rev-parse", "--verify", "--quiet", f"{one or 'HEAD'}^{{commit}}") for one in (base, head)]
    if not (shas[0] and shas[1]):
        raise _no_such(tree, limits)
    files = _git(tree, "diff", "-z", "--name-only", *filter(None, shas)) or ""
    return Commit(shas[1], shas[0], _git(tree, "show", "--no-patch", "--format=%s", shas[1]) or "", _names(files))


def pushed(tree: Path, lines: str) -> list[list[Commit]]:
    """The commits that a pre-push hook is told of on its standard input (githooks(5)), a list for each ref.

    They are those that no remote has as far as *tree* knows, and no ref before it: of a branch pushed for the first
    time what was done here, of one that was rebased nothing of what it was rebased to. There are none for a ref that
    goes away, one that goes back, and one that is no commit.
    :raises UsageError: *lines* are none of git's, or there are merges among the commits.
    """
    _top(tree)
    found, known = [], []
    for line in lines.splitlines():
        fields = line.split()
        if len(fields) != 4:
            raise UsageError(f"--pre-push: {line[:80]!r} is no line of git's pre-push hook; call it from that hook")
        name, local, _, remote = fields
        if local == NOWHERE or not _is_commit(tree, local):
            continue
        if remote != NOWHERE and _is_commit(tree, remote):
            known.append(f"^{remote}")
        shas = _listed(tree, f"{name}: what no remote has", local, *known, "--not", "--remotes")
        if shas:
            found.append([_commit(tree, sha) for sha in shas])
        known.append(f"^{local}")
    return found


def uncommitted(tree: Path) -> bool:
    """Whether tracked files of *tree* differ from its commit."""
    return bool(_git(tree, "--no-optional-locks", "status", "--porcelain", "-uno"))


def _top(tree: Path) -> None:
    told = git.run("rev-parse", "--show-toplevel", cwd=tree)
    if told.returncode:
        raise UsageError(git.refusal(told, tree, "run it in a kernel tree, or name one with --tree"))


def _limits(tree: Path, wanted: str) -> str:
    _top(tree)
    if "..." in wanted:
        raise UsageError(f"{wanted}: commits of both sides, one after another, are no series; name BASE..HEAD")
    return wanted if ".." in wanted else f"{_upstream(tree)}..{wanted or 'HEAD'}"


def _listed(tree: Path, told: str, *limits: str) -> list[str]:
    """The commits of *limits*, oldest first; *told* is how an error names them."""
    found = _git(tree, "rev-list", "--reverse", "--topo-order", f"--max-count={_MOST + 1}", *limits, "--")
    if found is None:
        raise _no_such(tree, told)
    shas = found.splitlines()
    if len(shas) > _MOST:
        raise UsageError(f"{told}: more than {_MOST} commits; name a shorter range: kst presubmit BASE..HEAD")
    return shas


def _no_such(tree: Path, told: str) -> UsageError:
    shallow = _git(tree, "rev-parse", "--is-shallow-repository") == "true"
    advice = "it is a shallow clone: git fetch --unshallow" if shallow else "git log shows what there is"
    return UsageError(f"{told}: {tree} has no such commits; {advice}")


def _is_commit(tree: Path, sha: str) -> bool:
    return _git(tree, "rev-parse", "--verify", "--quiet", f"{sha}^{{commit}}") is not None


def _upstream(tree: Path) -> str:
    found = _git(tree, "rev-parse", "--abbrev-ref", "--symbolic-full-name", "@{upstream}")
    if not found:
        raise UsageError("the branch has no upstream to start from; name a range: kst presubmit BASE..HEAD")
    return found


def _commit(tree: Path, sha: str) -> Commit:
    told = _git(tree, "show", "--no-patch", "--format=%P%n%s", sha) or ""
    parents, _, subject = told.partition("\n")
    if len(parents.split()) != 1:
        what = "is a merge" if parents.split() else "has no parent here (a shallow clone? git fetch --unshallow)"
        raise UsageError(f"{sha[:12]} ({subject[:60]}): {what}; name a range of plain commits")
    files = _git(tree, "diff-tree", "-r", "-z", "--name-only", "--no-commit-id", sha) or ""
    return Commit(sha, parents.strip(), subject.strip(), _names(files))


def _names(told: str) -> tuple[str, ...]:
    return tuple(name for name in told.split("\0") if name)


def _git(tree: Path, *arguments: str) -> str | None:
    told = git.run(*arguments, cwd=tree)
    return None if told.returncode else told.stdout.strip()
