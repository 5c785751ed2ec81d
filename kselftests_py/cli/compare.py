"""``kst compare``."""

from __future__ import annotations

import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from kselftests_py import compare, run
from kselftests_py.cli.errors import EPILOG, one_line_errors
from kselftests_py.reports import changes
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.reports.text import one_line

_NAMED = 8


@click.command("compare", epilog=EPILOG)
@click.argument("kernel", metavar="KERNEL")
@click.argument("baseline", metavar="BASELINE")
@click.option(
    "--max-regression",
    "allowed",
    type=click.FloatRange(min=0),
    metavar="N",
    help="Fail (1) if a path became dearer by more than N instructions. Default: only tell.",
)
@click.option("-k", "expression", default="", metavar="EXPR", help="Only paths whose tests' names match, as in pytest.")
@click.option("--memory", default="1G", show_default=True, metavar="SIZE", help="Memory of a guest, as vng takes it.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run folder; must be new or empty. Default: kst-runs/<time>.",
)
@click.option("--again", is_flag=True, help="Measure both, even if the same figures were measured before.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON on stdout, the rest on stderr.")
@one_line_errors
def compare_command(
    kernel: str,
    baseline: str,
    allowed: float | None,
    expression: str,
    memory: str,
    out: Path | None,
    again: bool,
    as_json: bool,
) -> None:
    """Measure KERNEL and BASELINE in exact mode, and tell for each path how many instructions it became dearer.

    Both are specs as for 'kst run --kernel'. A path with one thread is exact: one instruction more is told. What was
    measured before with the same probe, suites and QEMU is not measured again.
    """
    view = TerminalView(Console(stderr=as_json))
    options = run.Options(expression=expression, memory=memory, out=out, reuse=not again)
    folder, found, verdict = compare.compare(options, kernel, baseline, allowed, view)
    if found.changes:
        view.console.print()
        view.console.print(changes.table(found.changes, found.baseline, found.kernel), highlight=False)
    for text in _notes(found):
        view.note(text)
    view.console.print(one_line(f"{verdict.word}: {verdict.why}."), highlight=False, markup=False)
    if as_json:
        told = {"verdict": verdict.word, "why": verdict.why, "exit_code": verdict.exit_code, "run": str(folder.path)}
        click.echo(msgspec.json.encode(told | msgspec.to_builtins(found)))
    sys.exit(verdict.exit_code)


def _notes(found: compare.Comparison) -> list[str]:
    notes = []
    if found.configs:
        named = ", ".join(found.configs[:_NAMED]) + (", ..." if len(found.configs) > _NAMED else "")
        notes.append(f"the configurations differ in {len(found.configs)} symbols ({named}): not the source alone")
    if found.missing:
        notes.append(f"{len(found.missing)} paths were measured on {found.baseline} only, such as {found.missing[0]}")
    return notes
