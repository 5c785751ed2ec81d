"""The ``kst`` command: parse, call, print. A file here is one command, or a few that belong together."""

from __future__ import annotations

import click

from kselftests_py.cli.compare import compare_command
from kselftests_py.cli.errors import EPILOG
from kselftests_py.cli.explore import explore_command
from kselftests_py.cli.history import history_command
from kselftests_py.cli.kernels import kernels_command
from kselftests_py.cli.presubmit import presubmit_command
from kselftests_py.cli.review import reproduce_command, review_command
from kselftests_py.cli.run import report_command, run_command
from kselftests_py.cli.sabotage import sabotage_command
from kselftests_py.cli.setup import doctor_command, test_command


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 120})
@click.version_option(package_name="kselftests-py", prog_name="kst")
def main() -> None:
    """Boots Linux kernels and tells what their userfaultfd read-write protection (RWP) does and what it costs."""


for command in (
    run_command,
    compare_command,
    history_command,
    explore_command,
    review_command,
    reproduce_command,
    report_command,
    presubmit_command,
    sabotage_command,
    kernels_command,
    doctor_command,
    test_command,
):
    main.add_command(command)
