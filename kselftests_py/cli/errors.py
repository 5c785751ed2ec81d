"""What every command shares: the exit codes of its help, and errors told in one line."""

from __future__ import annotations

import errno
import functools
import sys
import traceback
from collections.abc import Callable
from typing import Any

import click

from kselftests_py.errors import HarnessError, KstError
from kselftests_py.reports.text import one_line
from kselftests_py.run import INTERRUPTED, sigterm_as_interrupt

EPILOG = (
    "Exit codes: 0 pass, 1 the kernel failed, 2 usage, 3 the harness or the environment failed, "
    "125 the kernel did not build or boot, 130 interrupted."
)


def one_line_errors(call: Callable[..., None]) -> Callable[..., None]:
    @functools.wraps(call)
    def wrapped(*args: Any, **kwargs: Any) -> None:
        try:
            with sigterm_as_interrupt():
                call(*args, **kwargs)
        except KstError as error:
            click.echo(f"kst: {one_line(str(error), 2000)}", err=True)  # it may quote a guest, or a stranger's file
            sys.exit(error.exit_code)
        except OSError as error:
            if error.errno == errno.EPIPE:  # click knows what to do: nobody reads us any more
                raise
            full = error.errno in (errno.ENOSPC, errno.EDQUOT)
            where = f"{error.filename}: " if error.filename else ""
            advice = "; free some space" if full else ""
            click.echo(f"kst: {one_line(f'{where}{error.strerror or error}{advice}', 2000)}", err=True)
            sys.exit(HarnessError.exit_code)
        except Exception:  # Python would end with 1, as if the kernel had failed
            traceback.print_exc()
            click.echo("kst: this is a mistake of kst's own, not the kernel's: please report it", err=True)
            sys.exit(HarnessError.exit_code)
        except KeyboardInterrupt:
            click.echo("kst: interrupted", err=True)
            sys.exit(INTERRUPTED)

    return wrapped
