"""``kst compare``."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any, NoReturn

import click
import msgspec
from rich.console import Console
from rich.text import Text

from kselftests_py import compare, compare_wall, run
from kselftests_py.cli.errors import EPILOG, one_line_errors
from kselftests_py.cli.run import checked_memory, guests_option
from kselftests_py.errors import UsageError
from kselftests_py.reports import changes, shifts
from kselftests_py.reports import where as functions
from kselftests_py.reports.comparison import is_emulated
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.reports.text import one_line
from kselftests_py.results import RunFolder, Verdict
from kselftests_py.results.regression import Change

_SHOWN = 10  # samples whose functions are shown


@click.command("compare", epilog=EPILOG)
@click.argument("kernel", metavar="KERNEL")
@click.argument("baseline", metavar="[BASELINE]", required=False)
@click.option(
    "--mode",
    type=click.Choice(["exact", "wall"]),
    default="exact",
    show_default=True,
    help="Compare instructions, or nanoseconds: where the machine is fit for it, else nothing is decided.",
)
@click.option(
    "--boots",
    "blocks",
    type=click.IntRange(1, 1000),
    metavar="N",
    help="Wall: boots of each kernel, taking turns; on host and ssh: blocks. "
    f"Default: {compare_wall.BOOTS} boots, {compare_wall.BLOCKS} blocks.",
)
@click.option(
    "--margin",
    type=click.FloatRange(0, 100),
    default=3.0,
    show_default=True,
    metavar="PERCENT",
    help="Wall: a change within this is the same.",
)
@click.option(
    "--lie",
    type=click.Choice(["slow_resolve"]),
    default=None,
    help="Wall: measure KERNEL with this negative control of the probe; 0 if the comparison notices, 1 if not.",
)
@click.option(
    "--max-regression",
    "allowed",
    type=click.FloatRange(min=0),
    metavar="N",
    help="Fail (1) if a path became dearer by more than N instructions, counted by function, as with --where; "
    "or surely slower by more than N ns and the margin. Default: only tell.",
)
@click.option("-k", "expression", default="", metavar="EXPR", help="Only paths whose tests' names match, as in pytest.")
@click.option("--memory", default="1G", show_default=True, metavar="SIZE", help="Memory of a guest, as vng takes it.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run folder; must be new or empty. Default: kst-runs/<time>.",
)
@guests_option
@click.option(
    "--where", is_flag=True, help="Exact: tell also which functions changed. Takes half as long again; give -k, too."
)
@click.option("--again", is_flag=True, help="Measure both, even if the same figures were measured before.")
@click.option("--json", "as_json", is_flag=True, help="Print the comparison as JSON on stdout, the rest on stderr.")
@one_line_errors
def compare_command(
    kernel: str,
    baseline: str | None,
    mode: str,
    blocks: int | None,
    margin: float,
    lie: str | None,
    allowed: float | None,
    expression: str,
    memory: str,
    out: Path | None,
    guests: int | None,
    where: bool,
    again: bool,
    as_json: bool,
) -> None:
    """Measure KERNEL and BASELINE, and tell for each path what it became dearer by.

    Both are specs as for 'kst run --kernel'. Without BASELINE a kernel that is built is compared with its wp-only
    twin (the same without RWP), any other with Debian's newest without RWP. In exact mode, instructions: of a path with
    one thread one more is told (of fork, exit and huge pages with --max-regression or --where only, and then of sync
    faults, too), and what was measured before with the same probe, suites and QEMU is not measured again. In wall mode,
    nanoseconds on guests with KVM, ssh: hosts and host: the kernels take turns, boot by boot, and a kernel may be
    compared with itself.
    """
    if mode == "exact" and (blocks is not None or lie is not None):
        raise UsageError("--boots and --lie are for --mode wall: an exact figure needs no second boot")
    view = TerminalView(Console(stderr=as_json))
    if mode == "wall" and where:
        raise UsageError("--where is for --mode exact: it tells where instructions are")
    memory = checked_memory(memory)
    options = run.Options(expression=expression, memory=memory, out=out, guests=guests or 0)
    baseline = baseline or compare.usual_baseline(kernel, view.note)
    if mode == "wall":
        options = replace(options, blocks=blocks or 0, margin=margin / 100, lie=lie or "")
        folder, shifted, verdict = compare_wall.compare_wall(options, kernel, baseline, allowed, view)
        _show_wall(shifted, folder, view)
        _end(folder, msgspec.to_builtins(shifted), verdict, view, as_json)
    options = replace(options, reuse=not again, where=where)
    folder, found, verdict = compare.compare(options, kernel, baseline, allowed, view)
    if found.changes:
        view.console.print()
        view.console.print(changes.table(found.changes, found.baseline, found.kernel), highlight=False)
    changed = functions.changed(folder.ordered(), folder.manifest()) if where and found.changes else []
    moved = functions.moved(changed)
    for one in moved[:_SHOWN]:
        view.console.print()
        view.console.print(Text(one.title, "bold"))  # as a table's it would be folded to the table's width
        view.console.print(functions.table(one, found.baseline, found.kernel), highlight=False)
    if len(moved) > _SHOWN:
        view.note(f"{len(moved) - _SHOWN} more changed samples, smaller: choose with -k, or see the report or --json")
    if lost := [new.id for old, new in changed if not old.where.keys() & new.where.keys()]:
        view.note(f"{len(lost)} changed paths whose sample was not found, such as {lost[0]}")
    for text in _notes(found):
        view.note(text)
    told: dict[str, Any] = {
        "changes": [_told(one) for one in found.changes],
        "regressions": [_told(one) for one in found.regressions],
    }
    if where:
        told["where"] = msgspec.to_builtins(moved)
    _end(folder, msgspec.to_builtins(found) | told, verdict, view, as_json)


def _told(change: Change) -> dict[str, Any]:
    """Nobody who reads it need know what is noise."""
    told: dict[str, Any] = msgspec.to_builtins(change)
    return told | {name: getattr(change, name) for name in ("title", "more", "counts", "untold", "verdict")}


def _end(folder: RunFolder, found: dict[str, Any], verdict: Verdict, view: TerminalView, as_json: bool) -> NoReturn:
    view.console.print(one_line(f"{verdict.word}: {verdict.why}.", 1000), highlight=False, markup=False)
    if as_json:
        told = {"verdict": verdict.word, "why": verdict.why, "exit_code": verdict.exit_code, "run": str(folder.path)}
        click.echo(msgspec.json.encode(told | found))
    sys.exit(verdict.exit_code)


def _show_wall(found: compare_wall.WallComparison, folder: RunFolder, view: TerminalView) -> None:
    compared = found.wall
    if compared is not None:
        manifest = folder.manifest()
        relative = any(is_emulated(label, manifest) for label in (compared.base, compared.head))
        heads = (compared.base, compared.head)
        tables = [shifts.table(compared.changes, compared, heads, relative=relative)]
        for label, beside in compared.protections.items():
            tables.append(shifts.table(beside, compared, (f"{label} WP", "RWP"), relative=relative))
        if not relative and (tails := shifts.tails_table(compared.changes, heads)) is not None:
            tables.append(tails)
        for table in tables:
            view.console.print()
            view.console.print(table, highlight=False)
        for entry in manifest.kernels:
            view.note(f"{entry.label}: {', '.join(f'{name} {value}' for name, value in entry.noise.items())}")
    for text in [*_origins(found.relation, found.configs), *([found.probes] if found.probes else [])]:
        view.note(text)


def _origins(relation: str, configs: list[str]) -> list[str]:
    return [text for text in (relation, changes.configurations(configs)) if text]


def _notes(found: compare.Comparison) -> list[str]:
    notes = _origins(found.relation, found.configs)
    if found.missing:
        notes.append(f"{len(found.missing)} paths were measured on {found.baseline} only, such as {found.missing[0]}")
    return notes
