"""``kst run`` and ``kst report``."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import click
import msgspec
from rich.console import Console

from kselftests_py import reports, run
from kselftests_py.cli import bisect
from kselftests_py.cli.errors import EPILOG, one_line_errors
from kselftests_py.errors import UsageError
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import RunFolder, judge
from kselftests_py.results.verdict import NOTHING_TESTED, counts, of_commit


def checked_memory(size: str) -> str:
    """*size*, as --memory has it; :raises UsageError: it is none."""
    if not re.fullmatch(r"[1-9]\d*[KMGkmg]?", size):
        raise UsageError(f"--memory {size}: give a number with K, M or G, for example 1G")
    return size


guests_option = click.option(
    "--jobs",
    "guests",
    type=click.IntRange(1, 64),
    metavar="N",
    help="Guests of exact tests at once: no figure depends on it. Default: as many as there are CPUs and memory for.",
)


@click.command("run", cls=bisect.Bisectable, epilog=f"{EPILOG} {bisect.EPILOG}")
@click.option(
    "--kernel",
    "kernel_specs",
    multiple=True,
    metavar="SPEC",
    help="Kernel to test (repeatable). Default: debian:7.3, compared with Debian's newest kernel without RWP.",
)
@click.option("--baseline", metavar="SPEC", help="Kernel to compare with, or 'none'.")
@click.option(
    "--suite",
    "suites",
    multiple=True,
    metavar="NAME",
    help="Suite to run (repeatable). Default: all but upstream, the kernel's own selftests.",
)
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
@click.option(
    "--reuse", is_flag=True, help="Take exact figures measured before, of the same kernel in the same way, as they are."
)
@guests_option
@click.option(
    "--bisect",
    "bisecting",
    is_flag=True,
    help="Exit codes as 'git bisect run' reads them; a test that passes against its finding is no failure.",
)
@click.option(
    "--seed",
    type=click.IntRange(0, run.MAX_SEED),
    default=0,
    show_default=True,
    metavar="N",
    help="Other instants in races, other pages touched; the same for the same N.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the verdict as JSON on stdout, everything else on stderr.")
@one_line_errors
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
    reuse: bool,
    guests: int | None,
    bisecting: bool,
    seed: int,
    as_json: bool,
) -> None:
    """Boot each kernel, run the suites on it, and compare.

    \b
    SPEC is one of
      debian:7.3  debian:newest  debian:7.3.4    a kernel of Debian's mirror
      image:PATH[,modules=DIR][,config=FILE]     a kernel you built (,source=SPEC: for --suite upstream)
      source:7.3  tree:DIR  git:DIR@REV          built; with +series:..., +config:FILE, +FLAVOUR (docs/kernels.md)
      cached:DIGEST                              a kernel of the cache (kst kernels)
      host                                       the running kernel, no VM
      ssh:USER@HOST[:PORT]                       a running machine
    """
    memory = checked_memory(memory)
    view = TerminalView(Console(stderr=as_json))
    options = run.Options(
        kernel_specs, baseline, suites, expression, accel, mode, cpus, memory, out, timeout, not keep_going, controls,
        reuse=reuse, seed=seed, guests=guests or 0,
    )  # fmt: skip
    folder, verdict = run.run(options, view)
    if bisecting and verdict.exit_code == 1:
        verdict = of_commit(folder.ordered(), folder.manifest())
    if as_json:
        told = {"verdict": verdict.word, "why": verdict.why, "exit_code": verdict.exit_code, "run": str(folder.path)}
        click.echo(msgspec.json.encode({**told, "counts": counts(folder.records())}))
    all_skipped = verdict.word == NOTHING_TESTED and folder.records()
    sys.exit(bisect.SKIP if bisecting and all_skipped else verdict.exit_code)


@click.command("report", epilog=EPILOG)
@click.argument("folder", type=click.Path(path_type=Path))
@one_line_errors
def report_command(folder: Path) -> None:
    """Rebuild every report of the run in FOLDER and show its summary again; ends as the run did."""
    found = RunFolder.open(folder)
    reports.write_all(found)
    TerminalView(Console()).run_finished(found)
    sys.exit(judge(found.ordered(), found.manifest()).exit_code)
