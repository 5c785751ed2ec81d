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
    top = _git(tree, "rev-parse", "--show-toplevel")
    if top is None:
        raise UsageError(f"{tree}: is no git repository; run it in a kernel tree, or name one with --tree")
    limits = wanted if ".." in wanted else f"{_upstream(tree)}..{wanted or 'HEAD'}"
    found = _git(tree, "rev-list", "--reverse", f"--max-count={_MOST + 1}", limits, "--")
    if found is None:
        shallow = _git(tree, "rev-parse", "--is-shallow-repository") == "true"
        advice = "it is a shallow clone: git fetch --unshallow" if shallow else "git log shows what there is"
        raise UsageError(f"{limits}: {tree} has no such commits; {advice}")
    if not found:
        raise UsageError(f"{limits}: has no commits; name a range such as origin/master..HEAD")
    shas = found.splitlines()
    if len(shas) > _MOST:
        raise UsageError(f"{limits}: more than {_MOST} commits; name a shorter range")
    return [_commit(tree, sha) for sha in shas]


def pushed(lines: str) -> list[str]:
    """The ranges that a pre-push hook is told of on its standard input (githooks(5)); deletions are none."""
    ranges = []
    for line in lines.splitlines():
        fields = line.split()
        if len(fields) != 4:
            raise UsageError(f"--pre-push: {line[:80]!r} is no line of git's pre-push hook; call it from that hook")
        _, local, _, remote = fields
        if local != NOWHERE:
            ranges.append(local if remote == NOWHERE else f"{remote}..{local}")
    return ranges


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
    return Commit(sha, parents.strip(), subject.strip(), tuple(name for name in files.split("\0") if name))


def _git(tree: Path, *arguments: str) -> str | None:
    told = git.run(*arguments, cwd=tree)
    return None if told.returncode else told.stdout.strip()
