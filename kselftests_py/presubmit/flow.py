"""``kst presubmit``: the base and each commit tried in turn; then the head's exact figures beside the base's."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from kselftests_py import jobs
from kselftests_py.errors import BootError, HarnessError, UsageError
from kselftests_py.jobs import runs
from kselftests_py.kernels import KernelImage, resolve, warnings
from kselftests_py.kernels.spec import BuildSpec, parse
from kselftests_py.presubmit.commits import Commit
from kselftests_py.results import Outcome, Record, Verdict
from kselftests_py.results.regression import Change, changes

_EXACT = ("--mode", "exact")


class Tried(msgspec.Struct, frozen=True):
    """What became of one commit: *error* if it did not build or boot; *failed* are its failed tests, by name; *passed*
    and *skipped* are others; *digest* is its kernel's; *figures* are its exact ones, where they were asked for."""

    sha: str
    warnings: list[str] = []
    error: str = ""
    verdict: str = ""
    failed: list[str] = []
    passed: list[str] = []
    skipped: list[str] = []
    digest: str = ""
    figures: list[Record] = []


class Plan(msgspec.Struct, frozen=True):
    """What is tried: the kernel tree, the parts of the spec after the revision, and the suites; *again*: also kernels
    that passed them before."""

    tree: str
    parts: str
    suites: Sequence[str]
    again: bool = False

    def spec(self, revision: str) -> str:
        return f"git:{self.tree}@{revision}{self.parts}"


def run(
    plan: Plan, commits: Sequence[Commit], *, at_once: int, scheduler: str | None, note: Callable[[str], None]
) -> Iterator[Tried]:
    """The base's result, then each commit's, in order.

    :raises HarnessError: the base does not build, boot, or run: nothing can be said of what is based on it.
    """
    base = commits[0].parent
    exact = {base, commits[-1].sha}
    work = [jobs.Job(base, attempt, (plan, base, "", (), True))]
    work += [
        jobs.Job(one.sha, attempt, (plan, one.sha, one.parent, one.files, one.sha in exact), exact=one.sha in exact)
        for one in commits
    ]
    waiting = {job.key: job for job in work}
    done: dict[str, Tried] = {}
    for finished in jobs.run(work, scheduler=scheduler, at_once=at_once, note=note):
        if finished.error is not None:
            raise finished.error
        done[finished.key] = finished.value
        while waiting and (key := next(iter(waiting))) in done:
            del waiting[key]
            if key == base and done[key].error:
                raise HarnessError(f"the base {base[:12]} cannot be tried: {done[key].error}")
            yield done[key]


def attempt(plan: Plan, sha: str, parent: str, files: Sequence[str], exact: bool) -> Tried:
    """Build, boot and test one commit; without *parent* it is the base, whose warnings are its own affair."""
    spec = plan.spec(sha)
    wanted = parse(spec)
    if not isinstance(wanted, BuildSpec):
        raise UsageError(f"{spec}: is no commit to build")
    try:
        kernel = resolve(spec, _quiet)
        told = warnings.new(wanted, parent, files, _quiet) if parent else []
    except BootError as error:
        return Tried(sha, error=str(error))
    assert isinstance(kernel, KernelImage)
    verdict: runs.Told | None = None
    records: list[Record] = []
    if plan.suites:
        verdict, records = runs.run_once(kernel.digest, spec, plan.suites, again=plan.again)
    if verdict is not None and verdict.exit_code == 125:
        return Tried(sha, told, verdict.why, verdict.verdict, digest=kernel.digest)
    if verdict is not None and verdict.exit_code == 3:
        raise HarnessError(f"{sha[:12]}: {verdict.why}")
    figures: list[Record] = []
    if exact:
        measured, figures = runs.run_once(kernel.digest, spec, ["latency"], _EXACT, again=plan.again)
        if measured.exit_code == 125:
            return Tried(sha, told, measured.why, measured.verdict, digest=kernel.digest)
        if measured.exit_code == 3:
            raise HarnessError(f"{sha[:12]}: {measured.why}")
    everything = [*records, *figures]
    failed = [record.id for record in everything if record.counts_as_failure]
    word = "FAIL" if failed else verdict.verdict if verdict else "BUILT"
    passed = [record.id for record in everything if record.outcome in (Outcome.PASS, Outcome.DONE)]
    skipped = [record.id for record in everything if record.outcome is Outcome.SKIP]
    return Tried(sha, told, "", word, failed, passed, skipped, kernel.digest, figures)


def _quiet(_text: str) -> None:
    pass


def broken(base: Tried, tried: Tried) -> list[str]:
    """The tests that fail on the commit and did not on the base, and those that passed there and are skipped now."""
    lost = set(base.passed).intersection(tried.skipped)
    return [*(name for name in tried.failed if name not in base.failed), *sorted(lost)]


def costs(base: Tried, head: Tried) -> list[Change]:
    """The head's exact figures beside the base's."""
    return changes(base.figures, head.figures)


def judge(base: Tried, tried: Sequence[Tried]) -> Verdict:
    """The verdict of the series: that of its first bad commit."""
    for one in tried:
        if one.error:
            return Verdict("NO BUILD", f"{one.sha[:12]}: {one.error}", 125)
        if failed := broken(base, one):
            return Verdict(
                "FAIL", f"{one.sha[:12]}: {len(failed)} tests fail or are skipped, unlike on the base: {failed[0]}", 1
            )
        if one.warnings:
            return Verdict("WARNS", f"{one.sha[:12]}: {len(one.warnings)} new warnings, {one.warnings[0]}", 1)
    return Verdict("PASS", f"{len(tried)} commits build without new warnings, boot and pass", 0)


def write(folder: Path, base: Tried, tried: Sequence[Tried], verdict: Verdict) -> Path:
    """``presubmit.json``: everything, for a program. :raises HarnessError: it cannot be written."""
    path = folder / "presubmit.json"
    told = {"verdict": verdict, "base": base, "commits": list(tried)}
    try:
        folder.mkdir(parents=True, exist_ok=True)
        path.write_bytes(msgspec.json.format(msgspec.json.encode(told)))
    except OSError as error:
        raise HarnessError(f"{path}: {error.strerror}; name another folder with --out") from None
    return path
