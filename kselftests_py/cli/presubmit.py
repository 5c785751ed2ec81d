"""``kst presubmit``."""

from __future__ import annotations

import os
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from kselftests_py.cli import bisect
from kselftests_py.cli.errors import EPILOG, one_line_errors
from kselftests_py.errors import UsageError
from kselftests_py.presubmit import choice, commits, flow
from kselftests_py.presubmit.commits import Commit
from kselftests_py.reports import changes
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.reports.text import one_line
from kselftests_py.results import Verdict
from kselftests_py.results.differences import PASSED
from kselftests_py.results.run_folder import default_root
from kselftests_py.results.verdict import NOTHING_TESTED

_SHOWN = 40
_MARKS = {0: ("ok    ", "green"), 3: ("?     ", "bold yellow")}


@click.command("presubmit", cls=bisect.Bisectable, epilog=f"{EPILOG} {bisect.EPILOG}")
@click.argument("wanted", metavar="[BASE..HEAD]", default="")
@click.option(
    "--tree",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    metavar="DIR",
    help="The kernel tree. Default: where you are.",
)
@click.option("--all", "everything", is_flag=True, help="Run trapping, eviction and idle, whatever files are touched.")
@click.option(
    "--parts", default="", metavar="PARTS", help="Added to each kernel's spec, for example +debug+config:FILE."
)
@click.option(
    "--jobs", type=click.IntRange(1, 64), metavar="N", help="Kernels tried at once. Default: as many as there are CPUs."
)
@click.option("--scheduler", metavar="ADDRESS", help="Run on the workers of this Dask scheduler (docs/scale.md).")
@click.option("--again", is_flag=True, help="Try all, also a kernel that passed the same suites before.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where presubmit.json goes.")
@click.option("--pre-push", is_flag=True, help="Read the ranges as git's pre-push hook gives them on standard input.")
@click.option(
    "--bisect",
    "bisecting",
    is_flag=True,
    help="Try the last commit only, beside BASE, by its tests; exit codes as 'git bisect run' reads them.",
)
@one_line_errors
def presubmit_command(
    wanted: str,
    tree: Path,
    everything: bool,
    parts: str,
    jobs: int | None,
    scheduler: str | None,
    again: bool,
    out: Path | None,
    pre_push: bool,
    bisecting: bool,
) -> None:
    """Try each commit of a series in a kernel tree: it builds without new warnings in the files it touches, boots, and
    passes the suites that the series' files ask for; then the head is compared with the base in exact instructions.

    Without a range: from the upstream branch on. Your tree is not written to, and what is not committed is no part. A
    kernel that passed before, byte for byte the same, with this probe and these suites, is not booted again.
    """
    if pre_push and bisecting:
        raise UsageError("--pre-push is told its commits by git, --bisect tries one; give one of them")
    flow.check_parts(parts)
    if out:
        flow.made(out)  # and not when all is tried
    view = TerminalView(Console())
    tree = tree.resolve()
    if pre_push:
        each = commits.pushed(tree, sys.stdin.read())
    else:
        each = [[commits.ends(tree, wanted)] if bisecting else commits.series(tree, wanted)]
    if not each:
        view.note("nothing that no remote has yet: nothing to try")
    if commits.uncommitted(tree):
        view.note(f"{tree} has uncommitted changes: they are no part of what is tried")
    at_once = jobs or len(os.sched_getaffinity(0))
    for number, found in enumerate(each, 1):
        suites = _suites(view, found, everything)
        plan = flow.Plan(str(tree), parts, suites, again, bisecting)
        into = out / str(number) if out and number > 1 else out
        verdict = _try(view, plan, found, at_once, scheduler, into)
        if verdict.exit_code:
            sys.exit(bisect.SKIP if bisecting and verdict.word == NOTHING_TESTED else verdict.exit_code)


def _suites(view: TerminalView, found: Sequence[Commit], everything: bool) -> Sequence[str]:
    why = choice.reasons(name for commit in found for name in commit.files)
    suites = choice.ordered({*why, *(choice.ALL if everything else ())})
    for suite in suites:
        view.note(f"suite {suite}: {f'{why[suite]} is touched' if suite in why else '--all'}")
    if not suites:
        view.note(f"no file asks for a suite: {' '.join(choice.LEAST)}, as each commit must boot")
    return suites or choice.LEAST


def _try(
    view: TerminalView,
    plan: flow.Plan,
    found: Sequence[Commit],
    at_once: int,
    scheduler: str | None,
    out: Path | None,
) -> Verdict:
    began = time.monotonic()
    results = flow.run(plan, found, at_once=at_once, scheduler=scheduler, note=view.note)
    base = next(results)
    counted = ", ".join(f"{number} {word}" for word, number in Counter(base.outcomes.values()).items())
    view.note(f"base {base.sha[:12]}: {counted}")
    tried = []
    by_sha = {commit.sha: commit for commit in found}
    last = base
    for one in results:
        tried.append(one)
        view.console.print(_line(by_sha[one.sha], one, base, last), highlight=False, soft_wrap=True)
        last = one
    verdict = flow.judge(base, tried)
    if not plan.tests_only:
        _show_costs(view, base, tried[-1])
    folder = out or default_root() / f"presubmit-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    path = flow.write(folder, base, tried, verdict)
    view.note(f"{path}; {time.monotonic() - began:.0f} s")
    view.console.print(one_line(f"{verdict.word}: {verdict.why}."), highlight=False, markup=False)
    return verdict


def _show_costs(view: TerminalView, base: flow.Tried, head: flow.Tried) -> None:
    costs = flow.costs(base, head)
    if found := [change for change in costs if change.verdict != "same"]:
        view.console.print(changes.table(found[:_SHOWN], f"base {base.sha[:7]}", f"head {head.sha[:7]}"))
    else:
        view.note(f"no exact figure differs between base and head ({len(costs)} compared)")


def _line(commit: Commit, tried: flow.Tried, base: flow.Tried, last: flow.Tried) -> Text:
    said = [f"{len(tried.warnings)} new warnings"] if tried.warnings else ["builds without new warnings"]
    if tried.error:
        said = [tried.error]
    elif tried.digest == last.digest:
        said.append("the same kernel as before it")
    failed = flow.broken(base, tried)
    if failed:
        said.append(f"{len(failed)} tests fail or are skipped: {failed[0]}")
    elif passed := tried.having(*PASSED):
        said.append(f"{len(passed)} tests pass")
    if repaired := flow.repaired(base, tried):
        said.append(f"{len(repaired)} that failed on the base pass: {repaired[0]}")
    mark, style = _MARKS.get(flow.judge(base, [tried]).exit_code, ("BAD   ", "bold red"))
    text = Text.assemble((mark, style), commit.short, " ")
    return text.append(one_line(f"{commit.subject[:60]}: {'; '.join(said)}"))
