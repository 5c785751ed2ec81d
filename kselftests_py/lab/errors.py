"""What can go wrong between a test and the kernel under test, each told apart."""

from __future__ import annotations

import errno as errno_codes

from kselftests_py.errors import HarnessError, KstError

MAX_SHOWN = 400
ERRNOS: dict[str, int] = {name: getattr(errno_codes, name) for name in dir(errno_codes) if name.startswith("E")}
ERRNOS |= {"EHWPOISON": 133}
"""Numbers by name; the one that Python's module lacks is from include/uapi/asm-generic/errno.h."""


def printable(text: str, limit: int = MAX_SHOWN) -> str:
    """*text* from the guest on one line: control characters escaped, cut at *limit* characters."""
    shown = text[:limit].encode("unicode_escape").decode("ascii")
    return shown if len(text) <= limit else f"{shown}... ({len(text)} characters)"


class ProbeError(HarnessError):
    """The request was wrong, or the reply is not one of the protocol. Says nothing about the kernel."""


class KernelRefused(OSError):
    """The kernel answered an operation with an errno.

    ``errno`` is the number, ``name`` its name, ``op`` the operation; ``fields``
    is what the kernel left in the argument's struct, where the probe reports it.
    """

    def __init__(self, name: str, op: str, message: str = "", fields: dict[str, int] | None = None) -> None:
        number = ERRNOS.get(name)
        if number is None:
            raise ProbeError(f"the probe answered {op} with an errno that does not exist: {printable(name, 40)}")
        super().__init__(number, f"{op} refused: {name} ({printable(message)})")
        self.name = name
        self.op = op
        self.fields = fields or {}


class SubjectGone(KstError):
    """The subject process is no more; ``op`` is what it was asked when it went."""

    def __init__(self, message: str, op: str) -> None:
        super().__init__(message)
        self.op = op


class SubjectDied(SubjectGone):
    """The subject was killed by a signal or exited while it worked on an operation."""


class SubjectHung(SubjectGone):
    """The subject gave no answer within its bound; the probe has killed it."""


class NoFault(AssertionError):
    """A userfault that was claimed did not come within its bound."""
