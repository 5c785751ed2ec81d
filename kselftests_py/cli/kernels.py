"""``kst kernels``: the cache."""

from __future__ import annotations

import click

from kselftests_py import kernels, prune
from kselftests_py.cli.errors import one_line_errors


@click.group("kernels", invoke_without_command=True)
@click.pass_context
@one_line_errors
def kernels_command(context: click.Context) -> None:
    """List the kernels in the cache; 'kst kernels prune' empties it."""
    if context.invoked_subcommand is None:
        for cached in kernels.list_images():
            state = f"DAMAGED: {cached.problem}" if cached.problem else cached.image.digest[:12]
            click.echo(f"{cached.image.release:32} {cached.size / 1e6:6.0f} MB  {state}  {cached.image.spec}")


@kernels_command.command("prune")
@one_line_errors
def prune_command() -> None:
    """Remove every cached kernel, what they were built from and in, and what came of them; what is in use stays."""
    done = prune.prune()
    size = sum(one.size for one in done.kernels)
    click.echo(f"removed {len(done.kernels)} kernels, {size / 1e6:.0f} MB, and {done.others / 1e6:.0f} MB of builds")
    for one in done.kernels_in_use:
        click.echo(f"kept {one.image.release}: a run is using it")
    for folder in done.in_use:
        click.echo(f"kept {folder}: another kst is in it")
