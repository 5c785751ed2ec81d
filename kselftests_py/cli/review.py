"""``kst review`` and ``kst reproduce``: the reviewer's commands."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import click
import msgspec
from rich.console import Console

from kselftests_py import reproduce, review, run
from kselftests_py.cli.errors import EPILOG, one_line_errors
from kselftests_py.cli.run import checked_memory
from kselftests_py.reports import reply
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.reports.text import one_line
from kselftests_py.results import RunFolder, Verdict
from kselftests_py.results.differences import Compared

_OUT = click.option(
    "--out", type=click.Path(path_type=Path), metavar="DIR", help="Run folder, new or empty. Default: kst-runs/<time>."
)
_JSON = click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON on stdout, the rest on stderr.")
_SHOWN = 30


@click.command("review", epilog=EPILOG)
@click.argument("series", metavar="SERIES")
@click.option("--base", required=True, metavar="SPEC", help="What it applies to: source:7.3, tree:DIR or git:DIR@REV.")
@click.option(
    "--suite", "suites", multiple=True, metavar="NAME", help="Suite to run (repeatable). Default: all but upstream."
)
@click.option("-k", "expression", default="", metavar="EXPR", help="Only tests whose names match, as in pytest.")
@click.option("--accel", type=click.Choice(["auto", "kvm", "tcg"]), default="auto", show_default=True)
@click.option("--mode", type=click.Choice(["exact", "wall", "both"]), default="exact", show_default=True)
@click.option("--cpus", type=click.IntRange(1, 64), default=2, show_default=True, help="vCPUs of a guest.")
@click.option("--memory", default="1G", show_default=True, metavar="SIZE", help="Memory of a guest, as vng takes it.")
@click.option("--timeout", type=click.FloatRange(min=1), default=60, show_default=True, metavar="SECONDS")
@_OUT
@_JSON
@one_line_errors
def review_command(
    series: str,
    base: str,
    suites: tuple[str, ...],
    expression: str,
    mode: str,
    timeout: float,
    accel: str,
    cpus: int,
    memory: str,
    out: Path | None,
    as_json: bool,
) -> None:
    """Build the base and the base with SERIES, run the suites on both, compare, and draft a reply to the list.

    SERIES is a patch, an mbox, a directory of patches, or msgid:ID, applied as git am does.
    """
    view = TerminalView(Console(stderr=as_json))
    options = run.Options(
        suites=suites, expression=expression, accel=accel, mode=mode, cpus=cpus, memory=checked_memory(memory),
        timeout=timeout, out=out,
    )  # fmt: skip
    folder, seen, verdict = review.review(options, series, base, view)
    _tell(view, folder, [seen], verdict, msgspec.to_builtins(seen) if as_json else None)


@click.command(
    "reproduce",
    epilog="Exit codes: 0 the same, 1 not the same, 2 usage, 3 cannot be reproduced or told, 130 interrupted.",
)
@click.argument("run_or_capsule", type=click.Path(path_type=Path))
@click.option("--source", type=click.Path(path_type=Path, file_okay=False), metavar="DIR",
              help="A clone of the kernel, for one that was built from a commit.")  # fmt: skip
@click.option(
    "--trust", is_flag=True, help="Build patches and configurations out of the capsule: their build may run anything."
)
@_OUT
@_JSON
@one_line_errors
def reproduce_command(run_or_capsule: Path, source: Path | None, trust: bool, out: Path | None, as_json: bool) -> None:
    """Get the kernels of a run again, run its tests again, and tell whether they say the same.

    RUN_OR_CAPSULE is a run folder, or the capsule.kst of one. The probe and the suites are those of this kst, never
    those of the capsule; where they differ is told.
    """
    view = TerminalView(Console(stderr=as_json))
    folder, seen, verdict = reproduce.reproduce(run_or_capsule, out, source, trust, view)
    _tell(view, folder, seen.compared, verdict, msgspec.to_builtins(seen) if as_json else None)


def _tell(
    view: TerminalView, folder: RunFolder, seen: Sequence[Compared], verdict: Verdict, found: dict[str, object] | None
) -> None:
    for one in seen:
        texts = [f"{each.before} -> {each.after}  {one.kernel}  {each.id}" for each in one.outcomes]
        texts += [f"{each.base:g} -> {each.head:g} {each.unit}  {one.kernel}  {each.title}" for each in one.changed]
        for text in texts[:_SHOWN]:
            view.note(text)
        if len(texts) > _SHOWN:
            view.note(f"... and {len(texts) - _SHOWN} more")
    view.note(f"Reply: {folder.path / reply.NAME}")
    view.console.print(one_line(f"{verdict.word}: {verdict.why}."), highlight=False, markup=False)
    if found is not None:
        told = {"verdict": verdict.word, "why": verdict.why, "exit_code": verdict.exit_code, "run": str(folder.path)}
        click.echo(msgspec.json.encode(told | found))
    sys.exit(verdict.exit_code)
