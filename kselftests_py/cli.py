"""The ``kst`` command: parse, call, print."""

from __future__ import annotations

import functools
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click
import msgspec
from rich.console import Console

from kselftests_py import doctor, kernels, reports, run, selftest
from kselftests_py.errors import KstError, UsageError
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import RunFolder, judge
from kselftests_py.results.verdict import counts

_EPILOG = (
    "Exit codes: 0 pass, 1 the kernel failed, 2 usage, 3 the harness or the environment failed, "
    "125 the kernel did not build or boot, 130 interrupted."
)


def _one_line_errors(call: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            call(*args, **kwargs)
        except KstError as error:
            click.echo(f"kst: {error}", err=True)
            sys.exit(error.exit_code)
        except KeyboardInterrupt:
            click.echo("kst: interrupted", err=True)
            sys.exit(run.INTERRUPTED)

    return wrapped


@click.group(epilog=_EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="kselftests-py", prog_name="kst")
def main() -> None:
    """Boots Linux kernels and tells what their userfaultfd read-write protection (RWP) does and what it costs."""


@main.command("run", epilog=_EPILOG)
@click.option(
    "--kernel",
    "kernel_specs",
    multiple=True,
    metavar="SPEC",
    help="Kernel to test (repeatable). Default: debian:7.3, compared with Debian's newest kernel without RWP.",
)
@click.option("--baseline", metavar="SPEC", help="Kernel to compare with, or 'none'.")
@click.option("--suite", "suites", multiple=True, metavar="NAME", help="Suite to run (repeatable). Default: all.")
@click.option("-k", "expression", default="", metavar="EXPR", help="Only tests whose names match, as in pytest.")
@click.option(
    "--accel",
    type=click.Choice(["auto", "kvm", "tcg"]),
    default="auto",
    show_default=True,
    help="Accelerator of the guests; auto proves KVM by one boot.",
)
@click.option(
    "--mode",
    type=click.Choice(["exact", "wall", "both"]),
    default="both",
    show_default=True,
    help="Measure instructions (exact), nanoseconds (wall), or both.",
)
@click.option(
    "--cpus", type=click.IntRange(1, 64), default=2, show_default=True, help="vCPUs of a guest (exact mode: always 1)."
)
@click.option("--memory", default="1G", show_default=True, metavar="SIZE", help="Memory of a guest, as vng takes it.")
@click.option(
    "--out",
    type=click.Path(path_type=Path),
    metavar="DIR",
    help="Run folder; must be new or empty. Default: kst-runs/<time>.",
)
@click.option(
    "--timeout",
    type=click.FloatRange(min=1),
    default=60,
    show_default=True,
    metavar="SECONDS",
    help="Bound of one test.",
)
@click.option(
    "--keep-going/--fail-fast", default=True, show_default=True, help="Go on after a failure, or stop at the first."
)
@click.option(
    "--controls", is_flag=True, help="Run each test under its negative controls: it passes when the lie is noticed."
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON on stdout, everything else on stderr.")
@_one_line_errors
def run_command(
    kernel_specs: tuple[str, ...],
    baseline: str | None,
    suites: tuple[str, ...],
    expression: str,
    accel: str,
    mode: str,
    cpus: int,
    memory: str,
    out: Path | None,
    timeout: float,
    keep_going: bool,
    controls: bool,
    as_json: bool,
) -> None:
    """Boot each kernel, run the suites on it, and compare.

    \b
    SPEC is one of
      debian:7.3  debian:newest  debian:7.3.4    a kernel of Debian's mirror
      image:PATH[,modules=DIR][,config=FILE]     a kernel you built
      host                                       the running kernel, no VM
      ssh:USER@HOST[:PORT]                       a running machine
    """
    if not re.fullmatch(r"[1-9]\d*[KMGkmg]?", memory):
        raise UsageError(f"--memory {memory}: give a number with K, M or G, for example 1G")
    view = TerminalView(Console(stderr=as_json))
    options = run.Options(
        kernel_specs, baseline, suites, expression, accel, mode, cpus, memory, out, timeout, not keep_going, controls
    )
    folder, verdict = run.run(options, view)
    if as_json:
        told = {"verdict": verdict.word, "why": verdict.why, "exit_code": verdict.exit_code, "run": str(folder.path)}
        click.echo(msgspec.json.encode({**told, "counts": counts(folder.records())}))
    sys.exit(verdict.exit_code)


@main.command("report", epilog=_EPILOG)
@click.argument("folder", type=click.Path(path_type=Path))
@_one_line_errors
def report_command(folder: Path) -> None:
    """Rebuild every report of the run in FOLDER and show its summary again; ends as the run did."""
    found = RunFolder.open(folder)
    reports.write_all(found)
    TerminalView(Console()).run_finished(found)
    sys.exit(judge(found.records(), found.manifest()).exit_code)


@main.group("kernels", invoke_without_command=True)
@click.pass_context
@_one_line_errors
def kernels_command(context: click.Context) -> None:
    """List the kernels in the cache; 'kst kernels prune' empties it."""
    if context.invoked_subcommand is None:
        for cached in kernels.list_images():
            state = f"DAMAGED: {cached.problem}" if cached.problem else cached.image.digest[:12]
            click.echo(f"{cached.image.release:32} {cached.size / 1e6:6.0f} MB  {state}  {cached.image.spec}")


@kernels_command.command("prune")
@_one_line_errors
def prune_command() -> None:
    """Remove every cached kernel."""
    removed, kept = kernels.prune()
    click.echo(f"removed {len(removed)} kernels, {sum(one.size for one in removed) / 1e6:.0f} MB")
    for one in kept:
        click.echo(f"kept {one.image.release}: a run is using it")


@main.command("doctor")
@_one_line_errors
def doctor_command() -> None:
    """Show what this machine has and lacks, and which accelerator would be used and why."""
    sys.exit(doctor.run(Console()))


@main.command("test", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@_one_line_errors
def test_command(arguments: tuple[str, ...]) -> None:
    """Run this project's own tests: linters, type checks, C warnings, pytest. ARGUMENTS go to pytest."""
    sys.exit(selftest.run(list(arguments)))
