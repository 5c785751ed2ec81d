"""``kst doctor`` and ``kst test``: this machine and this project."""

from __future__ import annotations

import sys

import click
from rich.console import Console

from kselftests_py import doctor, selftest
from kselftests_py.cli.errors import one_line_errors


@click.command("doctor")
@one_line_errors
def doctor_command() -> None:
    """Show what this machine has and lacks, and which accelerator would be used and why."""
    sys.exit(doctor.run(Console()))


@click.command("test", context_settings={"ignore_unknown_options": True, "help_option_names": []})
@click.argument("arguments", nargs=-1, type=click.UNPROCESSED)
@one_line_errors
def test_command(arguments: tuple[str, ...]) -> None:
    """Run this project's own tests: linters, type checks, C warnings, pytest. ARGUMENTS go to pytest."""
    sys.exit(selftest.run(list(arguments)))
