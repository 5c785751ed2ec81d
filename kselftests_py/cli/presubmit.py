"""``kst presubmit``."""

from __future__ import annotations

import sys
import time
from collections.abc import Sequence
from pathlib import Path

import click
from rich.console import Console
from rich.text import Text

from kselftests_py.cli.errors import EPILOG, one_line_errors
from kselftests_py.presubmit import choice, flow
from kselftests_py.presubmit.commits import Commit, pushed, series
from kselftests_py.reports import changes
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.reports.text import one_line

_SHOWN = 40


@click.command("presubmit", epilog=EPILOG)
@click.argument("wanted", metavar="[BASE..HEAD]", default="")
@click.option(
    "--tree",
    type=click.Path(path_type=Path, file_okay=False, exists=True),
    default=".",
    metavar="DIR",
    help="The kernel tree. Default: where you are.",
)
@click.option("--all", "everything", is_flag=True, help="Run all suites, whatever files are touched.")
@click.option(
    "--parts", default="", metavar="PARTS", help="Added to each kernel's spec, for example +debug+config:FILE."
)
@click.option("--jobs", type=click.IntRange(1, 64), default=1, show_default=True, help="Commits tried at once.")
@click.option("--scheduler", metavar="ADDRESS", help="Run on the workers of this Dask scheduler (docs/scale.md).")
@click.option("--again", is_flag=True, help="Try all, also a kernel that passed the same suites before.")
@click.option("--out", type=click.Path(path_type=Path), metavar="DIR", help="Where presubmit.json goes.")
@click.option("--pre-push", is_flag=True, help="Read the ranges as git's pre-push hook gives them on standard input.")
@one_line_errors
def presubmit_command(
    wanted: str,
    tree: Path,
    everything: bool,
    parts: str,
    jobs: int,
    scheduler: str | None,
    again: bool,
    out: Path | None,
    pre_push: bool,
) -> None:
    """Try each commit of a series in a kernel tree: it builds without new warnings in the files it touches, boots, and
    passes the suites that its files ask for; then the head is compared with the base in exact instructions.

    Without a range: from the upstream branch on. Your tree is not written to, and what is not committed is no part. A
    kernel that passed before, byte for byte the same, with this probe and these suites, is not booted again.
    """
    view = TerminalView(Console())
    tree = tree.resolve()
    for one in pushed(sys.stdin.read()) if pre_push else [wanted]:
        commits = series(tree, one)
        code = _try(view, tree, commits, everything, parts, jobs, scheduler, again, out)
        if code:
            sys.exit(code)


def _try(
    view: TerminalView,
    tree: Path,
    commits: Sequence[Commit],
    everything: bool,
    parts: str,
    at_once: int,
    scheduler: str | None,
    again: bool,
    out: Path | None,
) -> int:
    why = choice.reasons(name for commit in commits for name in commit.files)
    suites = choice.ordered(choice.ALL if everything else why)
    for suite in suites:
        view.note(f"suite {suite}: {'--all' if everything else f'{why[suite]} is touched'}")
    if not suites:
        view.note("no file asks for a suite: commits are built, and the head is measured")
    began = time.monotonic()
    plan = flow.Plan(str(tree), parts, suites, again)
    results = flow.run(plan, commits, at_once=at_once, scheduler=scheduler, note=view.note)
    base = next(results)
    counted = f"{len(base.passed)} tests passed, {len(base.failed)} failed, {len(base.skipped)} skipped"
    view.note(f"base {base.sha[:12]}: {base.verdict}, {counted}")
    tried = []
    by_sha = {commit.sha: commit for commit in commits}
    last = base
    for one in results:
        tried.append(one)
        view.console.print(_line(by_sha[one.sha], one, base, last), highlight=False, soft_wrap=True)
        last = one
    verdict = flow.judge(base, tried)
    if found := [change for change in flow.costs(base, tried[-1]) if change.verdict != "same"]:
        view.console.print(changes.table(found[:_SHOWN], f"base {base.sha[:7]}", f"head {tried[-1].sha[:7]}"))
    else:
        view.note(f"no exact figure differs between base and head ({len(flow.costs(base, tried[-1]))} compared)")
    folder = out or Path("kst-runs") / f"presubmit-{time.strftime('%Y%m%dT%H%M%SZ', time.gmtime())}"
    path = flow.write(folder, base, tried, verdict)
    view.note(f"{path}; {time.monotonic() - began:.0f} s")
    view.console.print(one_line(f"{verdict.word}: {verdict.why}."), highlight=False, markup=False)
    return verdict.exit_code


def _line(commit: Commit, tried: flow.Tried, base: flow.Tried, last: flow.Tried) -> Text:
    said = [f"{len(tried.warnings)} new warnings"] if tried.warnings else ["builds without new warnings"]
    if tried.error:
        said = [tried.error]
    elif tried.digest == last.digest:
        said.append("the same kernel as before it")
    failed = flow.broken(base, tried)
    if failed:
        said.append(f"{len(failed)} tests fail or are skipped: {failed[0]}")
    elif tried.passed:
        said.append(f"{len(tried.passed)} tests pass")
    good = not (tried.error or tried.warnings or failed)
    text = Text.assemble(("ok    " if good else "BAD   ", "green" if good else "bold red"), commit.short, " ")
    return text.append(one_line(f"{commit.subject[:60]}: {'; '.join(said)}"))
