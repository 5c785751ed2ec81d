"""The errors a user of ``kst`` sees, and the exit codes they end with.

Exit codes: 0 pass, 1 the kernel failed, 2 usage, 3 the harness or the
environment failed, 125 the kernel did not build or boot (what ``git bisect
run`` takes as "skip this commit").
"""

from __future__ import annotations


class KstError(Exception):
    """One clear line: what went wrong, where, and what to do about it."""

    exit_code = 3


class UsageError(KstError):
    """The command line asks for something that cannot be."""

    exit_code = 2


class HarnessError(KstError):
    """The harness or its environment failed; says nothing about the kernel."""

    exit_code = 3


class BootError(KstError):
    """The kernel did not build or did not boot to the probe's first reply."""

    exit_code = 125
