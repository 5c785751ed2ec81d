"""``kst presubmit``: the base and each commit tried in turn; then the head's exact figures beside the base's."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import msgspec

from kselftests_py import jobs, kept
from kselftests_py.errors import BootError, HarnessError, UsageError
from kselftests_py.jobs import runs
from kselftests_py.kernels import KernelImage, resolve, warnings
from kselftests_py.kernels.image import file_digest
from kselftests_py.kernels.spec import BuildSpec, parse
from kselftests_py.presubmit.commits import Commit
from kselftests_py.reports.text import one_line
from kselftests_py.results import Record, Verdict
from kselftests_py.results.differences import FAILED, NOT_RUN, PASSED, mended, worse
from kselftests_py.results.regression import Change, changes
from kselftests_py.results.verdict import NOTHING_TESTED, outcome_word

_EXACT = ("--mode", "exact")


class Tried(msgspec.Struct, frozen=True):
    """What became of one commit: *error* if it did not build or boot; *outcomes* of its tests, as reports print them;
    *digest* is its kernel's; *figures* are its exact ones, where they were asked for."""

    sha: str
    warnings: list[str] = []
    error: str = ""
    outcomes: dict[str, str] = {}
    digest: str = ""
    figures: list[Record] = []

    def having(self, *words: str) -> list[str]:
        """The tests with one of these outcomes."""
        return [name for name, word in self.outcomes.items() if word in words]


class Plan(msgspec.Struct, frozen=True):
    """What is tried: the kernel tree, the parts of the spec after the revision, and the suites; *again*: also kernels
    that passed them before; *tests_only*: neither warnings nor figures."""

    tree: str
    parts: str
    suites: Sequence[str]
    again: bool = False
    tests_only: bool = False

    def spec(self, revision: str) -> str:
        return f"git:{self.tree}@{revision}{self.parts}"


def check_parts(parts: str) -> None:
    """:raises UsageError: *parts* are none of a spec."""
    wanted = parse(f"git:.@HEAD{parts}")
    if not isinstance(wanted, BuildSpec) or wanted.revision != "HEAD":
        raise UsageError(f"--parts {parts}: write +series:PATH, +config:FILE or +FLAVOUR, any number of them")


class _Warned(msgspec.Struct, frozen=True):
    config: str
    warnings: list[str]


def run(
    plan: Plan, commits: Sequence[Commit], *, at_once: int, scheduler: str | None, note: Callable[[str], None]
) -> Iterator[Tried]:
    """The base's result, then each commit's, in order.

    :raises HarnessError: the base does not build, boot, or run: nothing can be said of what is based on it.
    """
    base, head = commits[0].parent, commits[-1].sha
    order = [base, *(one.sha for one in commits)]
    # The longest first, so that none of them runs alone in the end. Exact figures do not depend on what runs beside.
    measured = [] if plan.tests_only else [base, head]
    work = [jobs.Job(f"{sha} exact", measure, (plan, sha), exact=True) for sha in measured]
    work.append(jobs.Job(base, attempt, (plan, base, "", ())))
    work += [jobs.Job(one.sha, attempt, (plan, one.sha, one.parent, one.files)) for one in commits]
    done: dict[str, Tried] = {}
    for finished in jobs.run(work, scheduler=scheduler, at_once=at_once, note=note):
        if finished.error is not None:
            raise finished.error
        done[finished.key] = finished.value
        while order and _whole(order[0], measured, done):
            sha = order.pop(0)
            tried = _with_figures(done[sha], done.get(f"{sha} exact"))
            if sha == base and tried.error:
                raise HarnessError(f"the base {base[:12]} cannot be tried: {tried.error}")
            yield tried


def _whole(sha: str, measured: Sequence[str], done: dict[str, Tried]) -> bool:
    return sha in done and (sha not in measured or f"{sha} exact" in done)


def _with_figures(tried: Tried, exact: Tried | None) -> Tried:
    if exact is None:
        return tried
    return msgspec.structs.replace(
        tried, error=tried.error or exact.error, outcomes=tried.outcomes | exact.outcomes, figures=exact.figures
    )


def attempt(plan: Plan, sha: str, parent: str, files: Sequence[str]) -> Tried:
    """Build, boot and test one commit; without *parent* it is the base, whose warnings are its own affair."""
    note = _noting(plan, sha)
    try:
        kernel, told = _built_and_warned(plan, sha, parent, files, note)
    except BootError as error:
        return Tried(sha, error=str(error))
    note(f"tries {', '.join(plan.suites)}")
    return _judged(sha, told, kernel, *runs.run_once(kernel.digest, plan.spec(sha), plan.suites, again=plan.again))


def measure(plan: Plan, sha: str) -> Tried:
    """Build one commit and take its exact figures, or those that were measured of the same kernel before."""
    note = _noting(plan, sha)
    try:
        kernel = _build(plan, sha, note)
    except BootError as error:
        return Tried(sha, error=str(error))
    note("tries latency, in instructions")
    options = _EXACT if plan.again else (*_EXACT, "--reuse")
    told, records = runs.run_once(kernel.digest, plan.spec(sha), ["latency"], options, again=plan.again)
    tried = _judged(sha, [], kernel, told, records)
    return msgspec.structs.replace(tried, figures=records)


def _judged(sha: str, warned: list[str], kernel: KernelImage, told: runs.Told, records: list[Record]) -> Tried:
    if told.exit_code == 125:
        return Tried(sha, warned, told.why, digest=kernel.digest)
    skipped = told.verdict == NOTHING_TESTED and records
    if told.exit_code not in (0, 1) and not skipped:
        raise HarnessError(f"{sha[:12]}: {told.why}")
    return Tried(sha, warned, "", {record.id: outcome_word(record) for record in records}, kernel.digest)


def _build(plan: Plan, sha: str, note: Callable[[str], None]) -> KernelImage:
    kernel = resolve(plan.spec(sha), note)
    if not isinstance(kernel, KernelImage):
        raise UsageError(f"{plan.spec(sha)}: is no commit to build")
    return kernel


def _built_and_warned(
    plan: Plan, sha: str, parent: str, files: Sequence[str], note: Callable[[str], None]
) -> tuple[KernelImage, list[str]]:
    """The commit's kernel and its new warnings: those that were found before if the configuration, which names the
    compiler too, is the same. Else they are looked for first, as the source is the parent's then: it goes on to the
    commit once, and not back and forth."""
    if not parent or plan.tests_only:
        return _build(plan, sha, note), []
    name = kept.key(["warnings", sha, parent, plan.parts])
    before = None if plan.again else kept.recall("runs", name, _Warned)
    wanted = parse(plan.spec(sha))
    assert isinstance(wanted, BuildSpec)
    found = [] if before else warnings.new(wanted, parent, files, note)
    kernel = _build(plan, sha, note)
    config = file_digest(kernel.config) if kernel.config else ""
    if before and before.config == config:
        return kernel, before.warnings
    if before:
        found = warnings.new(wanted, parent, files, note)
    kept.remember("runs", name, _Warned(config, found))
    return kernel, found


def _noting(plan: Plan, sha: str) -> Callable[[str], None]:
    """Tells what a commit's build does, from whichever process it is in: a worker's standard error is our user's, or,
    on another machine, that worker's log."""

    def note(text: str) -> None:
        if not text.endswith(f"are no part of {plan.spec(sha)}"):  # told once, by the command
            print(f"{sha[:12]}: {one_line(text)}", file=sys.stderr, flush=True)

    return note


def broken(base: Tried, tried: Tried) -> list[str]:
    """The tests that are worse on the commit than on the base."""
    return [name for name, word in tried.outcomes.items() if worse(base.outcomes.get(name, NOT_RUN), word)]


def repaired(base: Tried, tried: Tried) -> list[str]:
    """The tests that failed on the base, as a finding says or not, and pass on the commit."""
    return [name for name, word in tried.outcomes.items() if mended(base.outcomes.get(name, NOT_RUN), word)]


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
        if not one.having(*PASSED):
            return Verdict(NOTHING_TESTED, f"{one.sha[:12]}: no test passed or was measured: that is not a pass", 3)
    return Verdict("PASS", f"{len(tried)} commits build without new warnings, boot and pass", 0)


def write(folder: Path, base: Tried, tried: Sequence[Tried], verdict: Verdict) -> Path:
    """``presubmit.json``: everything, for a program. :raises HarnessError: it cannot be written."""
    path = made(folder) / "presubmit.json"
    each = [msgspec.to_builtins(one) | {"failed": one.having(*FAILED)} for one in (base, *tried)]
    told = {"verdict": verdict, "base": each[0], "commits": each[1:]}
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(told)))
    except OSError as error:
        raise HarnessError(f"{path}: {error.strerror}; name another folder with --out") from None
    return path


def made(folder: Path) -> Path:
    """*folder*, made if it is not there; :raises HarnessError: it cannot be."""
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise HarnessError(f"{folder}: {error.strerror}; name another folder with --out") from None
    return folder
