"""``kst history``."""

from __future__ import annotations

from pathlib import Path

import click
import msgspec
from rich.console import Console

from kselftests_py import history
from kselftests_py.cli.errors import EPILOG, one_line_errors
from kselftests_py.cli.run import checked_memory


@click.command("history", epilog=EPILOG)
@click.option(
    "-k", "words", default="", metavar="WORDS", help="Only paths with all of these words, as 'rwp fault anon'."
)
@click.option("--memory", default="1G", show_default=True, metavar="SIZE", help="Memory of the guests measured.")
@click.option(
    "--out",
    type=click.Path(path_type=Path, dir_okay=False),
    metavar="FILE",
    help="Draw it there, too: .svg, .png, .pdf.",
)
@click.option("--json", "as_json", is_flag=True, help="Print the figures as JSON.")
@one_line_errors
def history_command(words: str, memory: str, out: Path | None, as_json: bool) -> None:
    """Tell what each path cost, in instructions, on the kernels measured so far. Boots nothing.

    Kernels are measured by 'kst compare' and by 'kst run' of the latency suite. Only figures of the probe, suite and
    QEMU that are installed now are shown: others are not comparable.
    """
    # Here and not above: matplotlib takes a second to import.
    from kselftests_py.reports import history as report

    found = history.gather(words, checked_memory(memory))
    rows = [(path.title, path.figures) for path in found.paths]
    if as_json:
        click.echo(msgspec.json.encode(found))
    else:
        Console().print(report.table(found.kernels, rows), highlight=False)
        if found.others:
            click.echo(f"{found.others} more kernels were measured with another probe, suite, QEMU or memory.")
    if out is not None:
        report.plot(found.kernels, rows, out)
