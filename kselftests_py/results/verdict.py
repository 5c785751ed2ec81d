"""From records to one verdict and one exit code."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Sequence

import msgspec

from kselftests_py.results.manifest import Manifest
from kselftests_py.results.record import Outcome, Record

NOTHING_TESTED = "NOTHING TESTED"
"""The word of a run that skipped all: it says nothing of the kernel, neither good nor bad."""


class Verdict(msgspec.Struct, frozen=True):
    """What the run says: a word, why in one sentence, and what the process ends with."""

    word: str
    why: str
    exit_code: int


def counts(records: Iterable[Record]) -> dict[str, int]:
    """How many records of each outcome, worst first; `XFAIL` are the failures that a finding explains, `XPASS` the
    passes that contradict one."""
    found = Counter(outcome_word(record) for record in records)
    order = ["CRASH", "HANG", "FAIL", "XPASS", "ERROR", "MISS", "XFAIL", "SKIP", "DONE", "PASS"]
    return {word: found[word] for word in order if found[word]}


def outcome_word(record: Record) -> str:
    """The outcome as reports print it: XFAIL and XPASS where a finding changes what it means."""
    if record.expected_failure:
        return "XFAIL"
    return "XPASS" if record.unexpected_pass else str(record.outcome)


_SUCCEEDED = (Outcome.PASS, Outcome.DONE)


def judge(records: Sequence[Record], manifest: Manifest) -> Verdict:
    """The verdict of a run whose manifest has its last state (`finished` set).

    A kernel under test that failed outranks one that did not boot, which outranks a baseline that failed, which
    outranks a harness that broke. A kernel under test on which nothing passed or was measured has not passed.
    """
    baselines = manifest.labels("baseline")
    failed = [record for record in records if record.counts_as_failure]
    if any(record.kernel not in baselines for record in failed):
        return Verdict(_worst(failed), _sentence(failed, "failed"), 1)
    if manifest.boot_failed:
        return Verdict("NO BOOT", manifest.boot_failed, 125)
    if failed:
        return Verdict(_worst(failed), _sentence(failed, "failed, on the baseline only"), 1)
    if (lacking := unjudged(records, manifest)) is not None:
        return lacking
    succeeded = [record for record in records if record.outcome in _SUCCEEDED]
    why = _sentence(succeeded, "passed or measured, none failed")
    expected = [record for record in records if record.expected_failure]
    if expected:
        why += f"; {_sentence(expected, 'failed as their written findings say')}"
    return Verdict("PASS", why, 0)


def of_commit(records: Sequence[Record], manifest: Manifest) -> Verdict:
    """The verdict of the kernel under test alone, for a bisection: nothing of its baseline, and a test that passes
    against its finding passes, as the commits from the one on that mended it are not bad for it."""
    baselines = manifest.labels("baseline")
    ours = [record for record in records if record.kernel not in baselines]
    return judge([msgspec.structs.replace(one, finding="") if one.unexpected_pass else one for one in ours], manifest)


def unjudged(records: Sequence[Record], manifest: Manifest) -> Verdict | None:
    """Why nothing can be said of a kernel under test, whatever of it failed: the run broke off, or a test of it was
    lost, or nothing passed; None if something can."""
    if manifest.boot_failed:
        return Verdict("NO BOOT", manifest.boot_failed, 125)
    if not manifest.finished:
        return Verdict("INCOMPLETE", f"the run did not finish; {_many(len(records), 'result')} were written", 3)
    broken = [record for record in records if record.outcome in (Outcome.ERROR, Outcome.MISS)]
    if broken:
        return Verdict("BROKEN", _sentence(broken, "could not be judged"), 3)
    baselines = manifest.labels("baseline")
    under_test = manifest.labels("kernel")
    tested = {record.kernel for record in records if record.outcome in _SUCCEEDED}.difference(baselines)
    untested = [label for label in under_test if label not in tested]
    if untested or not tested:
        why = "every test was skipped" if records else "no test ran"
        where = f" on {', '.join(untested)}" if untested else ""
        return Verdict(NOTHING_TESTED, f"{why}{where}: that is not a pass", 3)
    return None


def exit_code(records: Sequence[Record], manifest: Manifest) -> int:
    """0 pass, 1 the kernel failed, 3 the harness failed or nothing was tested, 125 the kernel did not boot."""
    return judge(records, manifest).exit_code


def _worst(failed: Sequence[Record]) -> str:
    outcomes = {record.outcome for record in failed}
    return next((str(worst) for worst in (Outcome.CRASH, Outcome.HANG) if worst in outcomes), "FAIL")


def _sentence(records: Sequence[Record], what: str) -> str:
    kernels = Counter(record.kernel for record in records)
    where = ", ".join(f"{number} on {kernel}" for kernel, number in kernels.items())
    return f"{_many(len(records), 'test')} {what} ({where})"


def _many(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"
