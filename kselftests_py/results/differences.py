"""Two sets of records of the same tests: in which tests, and in which exact figures, they do not say the same."""

from __future__ import annotations

from collections.abc import Sequence

import msgspec

from kselftests_py.results.record import Outcome, Record
from kselftests_py.results.regression import Change, changes, missing
from kselftests_py.results.verdict import outcome_word

NOT_RUN = "not run"
_UNJUDGED = (str(Outcome.ERROR), str(Outcome.MISS))
FAILED = ("FAIL", "CRASH", "HANG")
PASSED = ("PASS", "DONE", "XPASS")
"""Outcomes, as ``outcome_word`` has them, of tests that the kernel failed, and that it passed."""


def worse(before: str, after: str) -> bool:
    """Whether a test whose outcomes these are, on a kernel and on a changed one, accuses the change.

    It fails and did not; it takes the kernel down and only failed; or it passed and is skipped now, or fails as its
    finding says. What fails on both accuses nobody, and a test that passes against its finding is a finding mended.
    """
    if after in FAILED:
        return before not in FAILED or (before == "FAIL" and after != "FAIL")
    return before in PASSED and after in ("SKIP", "XFAIL")


def mended(before: str, after: str) -> bool:
    """Whether the change made a failing test pass."""
    return before in (*FAILED, "XFAIL") and after in PASSED


class Difference(msgspec.Struct, frozen=True):
    """One test: its outcome before and after (``NOT_RUN`` where it has none), and what it said after, in one line."""

    id: str
    before: str
    after: str
    message: str = ""

    @property
    def judged(self) -> bool:
        """Whether both sides came to a verdict: else the harness or the environment is what differs."""
        return self.before not in _UNJUDGED and self.after not in _UNJUDGED


class Compared(msgspec.Struct, frozen=True):
    """One kernel's records on both sides: ``tests`` and ``figures`` (exact) that both have, and what differs."""

    kernel: str
    tests: int
    outcomes: list[Difference]
    figures: list[Change]
    missing: list[str]

    @property
    def changed(self) -> list[Change]:
        """The exact figures that are not the same."""
        return [change for change in self.figures if change.verdict != "same"]

    @property
    def same(self) -> bool:
        """Nothing differs."""
        return not (self.outcomes or self.changed or self.missing)


class Again(msgspec.Struct, frozen=True):
    """A kernel that was had again: whether it is the same bytes, and if not, why as far as is known."""

    kernel: str
    spec: str
    digest: str
    same_bytes: bool
    why: str = ""


class Reproduction(msgspec.Struct, frozen=True):
    """What was had again, in what this kst differs from the capsule's, and kernel by kernel what was seen."""

    kernels: list[Again]
    foreign: list[str]
    compared: list[Compared]


def compare(kernel: str, before: Sequence[Record], after: Sequence[Record]) -> Compared:
    """Compare the records of one kernel with those of the same, or of another, from the same tests."""
    old, new = ({record.id: record for record in records} for records in (before, after))
    found = []
    for name in dict.fromkeys([*old, *new]):
        was, now = (outcome_word(side[name]) if name in side else NOT_RUN for side in (old, new))
        if was != now:
            found.append(Difference(name, was, now, new[name].message if name in new else ""))
    return Compared(kernel, len(old.keys() & new.keys()), found, changes(before, after), missing(before, after))
