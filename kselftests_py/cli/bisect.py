"""``--bisect``: a command under ``git bisect run``, which takes 1 to 127 as "bad", but for 125, "skip"."""

from __future__ import annotations

import sys
import traceback
from typing import Any

import click

SKIP = 125
STOP = 128
"""Git stops, and the commit stays unjudged: what is at fault is the command line, the machine, or kst."""
EPILOG = (
    f"With --bisect, for 'git bisect run': 0 good, 1 bad, {SKIP} skip (no build, no boot, or all tests are skipped), "
    f"{STOP} stop (usage, the harness, the environment)."
)


class Bisectable(click.Command):
    """A command with a flag *bisecting*: with it, nothing but a verdict of the kernel ends as good or bad."""

    def make_context(
        self, info_name: str | None, args: list[str], parent: click.Context | None = None, **extra: Any
    ) -> click.Context:
        asked = "--bisect" in args  # the parser takes them out
        try:
            return super().make_context(info_name, args, parent, **extra)
        except click.ClickException as error:
            if not asked:
                raise
            error.show()
            sys.exit(STOP)

    def invoke(self, ctx: click.Context) -> Any:
        if not ctx.params["bisecting"]:
            return super().invoke(ctx)
        try:
            return super().invoke(ctx)
        except SystemExit as ended:
            sys.exit(STOP if ended.code in (2, 3) else ended.code)
        except Exception:  # Python would end with 1, and git would call the commit bad for it
            traceback.print_exc()
            sys.exit(STOP)
