"""``kst sabotage``."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path

import click
from rich.console import Console

from kselftests_py.cli.errors import one_line_errors
from kselftests_py.errors import HarnessError, KstError
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.reports.text import one_line
from kselftests_py.results import Verdict
from kselftests_py.sabotage import campaign, score
from kselftests_py.sabotage.defects import chosen, load

_EPILOG = (
    "Exit codes: 0 each was noticed that can be, 1 one was not, 2 usage, 3 the clean kernel does not pass, a defect "
    "could not be tried, the harness or the environment failed, 125 the clean kernel does not build, 130 interrupted."
)


@click.command("sabotage", epilog=_EPILOG)
@click.option("--kernel", "spec", metavar="SPEC", default="source:7.3", show_default=True, help="Kernel to break.")
@click.option("-k", "expression", default="", metavar="WORDS", help="Only defects with one of these words in the name.")
@click.option(
    "--jobs", type=click.IntRange(1, 64), metavar="N", help="Defects tried at once. Default: as many as there are CPUs."
)
@click.option("--scheduler", metavar="ADDRESS", help="Run on the workers of this Dask scheduler (docs/scale.md).")
@click.option(
    "--upstream/--no-upstream", default=True, show_default=True, help="The kernel's own selftests beside ours."
)
@click.option(
    "--out", type=click.Path(path_type=Path, dir_okay=False), metavar="FILE", help="Write the score there as JSON, too."
)
@click.option("--list", "only_list", is_flag=True, help="Only name the defects.")
@one_line_errors
def sabotage_command(
    spec: str,
    expression: str,
    jobs: int | None,
    scheduler: str | None,
    upstream: bool,
    out: Path | None,
    only_list: bool,
) -> None:
    """Break a kernel in many small ways, one at a time, and count how many of them the suites notice.

    The clean kernel must pass before and after. A campaign that was stopped goes on where it was.
    """
    defects = chosen(load(), expression)
    if only_list:
        for defect in defects:
            click.echo(f"{defect.name:32} {defect.breaks:5} {defect.kind:14} {defect.shows}")
        return
    view = TerminalView(Console())
    began = time.monotonic()
    by_name = {defect.name: defect for defect in defects}
    asked = campaign.Campaign(spec, defects, upstream)
    lines: list[score.Line] = []
    failed: KstError | None = None
    at_once = jobs or len(os.sched_getaffinity(0))
    try:
        for tried, known in campaign.run(asked, at_once=at_once, scheduler=scheduler, note=view.note):
            line = score.judge(by_name[tried.name], tried)
            lines.append(line)
            view.console.print(score.row(line).append("  (known)" if known else ""), highlight=False, soft_wrap=True)
    except KstError as error:
        if not lines:
            raise
        failed = error  # what was found until then is told all the same
    text, verdict = score.total(lines, upstream)
    if failed is not None:
        verdict = Verdict("BROKEN", f"{text}; {one_line(str(failed), 2000)}", failed.exit_code)
    view.console.print(score.table(lines, upstream), highlight=False)
    view.console.print(f"{spec}: {text}; {(time.monotonic() - began) / 60:.0f} minutes", highlight=False, markup=False)
    if out is not None:
        try:
            out.write_bytes(score.document(lines, spec, verdict))
        except OSError as error:
            raise HarnessError(f"{out}: {error.strerror}; name a file that can be written") from None
    view.console.print(f"{verdict.word}: {verdict.why}.", highlight=False, markup=False)
    sys.exit(verdict.exit_code)
