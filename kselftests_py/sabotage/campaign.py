"""``kst sabotage``: each defect built, booted and tried by the suites; who noticed it, and how fast.

A verdict is kept as soon as it is there, under what it was made of (source, configuration, defect, tools; for our
suites also the probe and the suites), so a campaign that was stopped goes on where it was, and one whose tests were
changed tries only those again. It counts for good once the clean kernel has passed after it, too.
"""

from __future__ import annotations

import itertools
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kselftests_py import jobs, kept, upstream
from kselftests_py.errors import BootError, HarnessError, UsageError
from kselftests_py.jobs import runs
from kselftests_py.jobs.identity import Identity, content, identity
from kselftests_py.kernels.store import disk_errors
from kselftests_py.lab.build import probe_digest
from kselftests_py.paths import data_dir
from kselftests_py.results import Outcome, Record
from kselftests_py.results.regression import changes, regressions
from kselftests_py.sabotage import bench
from kselftests_py.sabotage.defects import Defect

OURS = ("trapping", "eviction", "idle")
UPSTREAM = ("upstream",)
LATENCY = ("latency",)
_VERDICTS = "sabotage/verdicts"
CLEAN_BOUND = 30
"""Seconds of one test on the clean kernel, which runs alone."""
TEST_BOUND = 2 * CLEAN_BOUND
"""Seconds of one test on a broken kernel, which runs beside others: one that hangs costs so much and no more."""


class Seen(msgspec.Struct, frozen=True):
    """What one set of suites said of a broken kernel: *by* which test it was noticed ("boot": it did not come up; "" if
    it was not), as which *outcome*, and after how many *seconds*, the boot with them."""

    by: str = ""
    outcome: str = ""
    message: str = ""
    seconds: float = 0.0


class Tried(msgspec.Struct, frozen=True):
    """One defect: *error* if it did not build or could not be tried; else what our suites and the kernel's own saw."""

    name: str
    error: str = ""
    ours: Seen = Seen()
    upstream: Seen = Seen()
    seconds: float = 0.0


class Attempt(msgspec.Struct, frozen=True):
    """What a job says of a defect: what each set of suites saw (*seen*), without those that could not try it, which
    *error* is of; and whose verdicts these are."""

    error: str
    seen: dict[str, Seen]
    seconds: float
    by: Identity


class _Kept(msgspec.Struct, frozen=True):
    """*confirmed*: the clean kernel has passed after it."""

    seen: Seen
    confirmed: bool = False


@dataclass(frozen=True)
class Campaign:
    """What is to be tried: *spec* of the kernel, the defects, and whether the kernel's own tests run beside ours."""

    spec: str
    defects: Sequence[Defect]
    upstream: bool = True

    def keys(self, pin: bench.Pinned, ours: Identity) -> dict[str, dict[str, str]]:
        """By defect: names of all that a verdict of ours, and of upstream's, depends on."""
        tools = [ours.qemu, ours.compiler, content(data_dir("vm_images"))]
        made_of = [pin.tree, bench.parse_kernel(pin.spec).flavour, pin.symbols, *tools]
        tests = {"ours": [probe_digest(), content(data_dir("suites"))]}
        if self.upstream:
            reads = Path(upstream.__file__).parent
            tests["upstream"] = [content(data_dir("suites") / "upstream"), content(reads)]
        return {
            defect.name: {
                which: kept.key([*made_of, msgspec.json.encode(defect).decode(), which, *parts])
                for which, parts in tests.items()
            }
            for defect in self.defects
        }


def run(
    campaign: Campaign, *, at_once: int, scheduler: str | None, note: Callable[[str], None]
) -> Iterator[tuple[Tried, bool]]:
    """Every defect's verdict as it comes, and whether it was known already; the clean kernel is tried first and last.

    :raises HarnessError: the clean kernel does not pass, so nothing that is noticed would mean anything.
    """
    pin = bench.pinned(campaign.spec, note)
    ours = identity()
    keys = campaign.keys(pin, ours)
    found = {name: {which: _recall(key) for which, key in of.items()} for name, of in keys.items()}
    left = [defect for defect in campaign.defects if None in found[defect.name].values()]
    for name in [defect.name for defect in campaign.defects if defect not in left]:
        yield _put_together(name, found[name]), True
    figures: list[Record] = []
    if left:
        figures = _clean(campaign, pin, left, "before", note)
    work = [
        jobs.Job(
            defect.name,
            attempt,
            (pin, defect, figures, [which for which, known in found[defect.name].items() if known is None]),
            exact=defect.kind == "cost",
            vms=_cpus(defect) if scheduler is None else 1,
        )
        for defect in sorted(left, key=lambda defect: defect.kind == "race")
    ]
    for finished in jobs.run(work, scheduler=scheduler, at_once=at_once, note=note):
        if finished.error is not None:
            yield Tried(finished.key, error=f"not tried: {finished.error}"), False
            continue
        tried: Attempt = finished.value
        for which, seen in tried.seen.items():
            found[finished.key][which] = _Kept(seen)
            if (tried.by.qemu, tried.by.compiler) == (ours.qemu, ours.compiler):  # the key names ours
                _remember(keys[finished.key][which], _Kept(seen))
        yield _put_together(finished.key, found[finished.key], tried), False
    doubted = [
        defect for defect in campaign.defects if any(one and not one.confirmed for one in found[defect.name].values())
    ]
    if doubted:
        _clean(campaign, pin, doubted, "after", note)
        for key in [key for of in keys.values() for key in of.values()]:
            if verdict := _recall(key):
                _remember(key, _Kept(verdict.seen, confirmed=True))


def _cpus(defect: Defect) -> int:
    """CPUs of the guests that try *defect*. Nothing races on one; but two guests of two CPUs on two of ours took three
    times as long as two of one (194 and 62 s under TCG, 25 November 2026), and nothing races there either."""
    return 2 if defect.kind == "race" else 1


def _recall(key: str) -> _Kept | None:
    return kept.recall(_VERDICTS, key, _Kept)


@disk_errors()
def _remember(key: str, verdict: _Kept) -> None:
    kept.remember(_VERDICTS, key, verdict)


def _put_together(name: str, found: dict[str, _Kept | None], now: Attempt | None = None) -> Tried:
    seen = {which: verdict.seen if verdict else Seen() for which, verdict in found.items()}
    error, seconds = (now.error, now.seconds) if now else ("", 0.0)
    return Tried(name, error, seen["ours"], seen.get("upstream", Seen()), seconds)


@disk_errors()
def attempt(pin: bench.Pinned, defect: Defect, figures: list[Record], which: Sequence[str]) -> Attempt:
    """Build the kernel with *defect* and try it by *which* suites; *figures* are the clean kernel's exact ones."""
    began = time.monotonic()
    seen: dict[str, Seen] = {}
    error = ""
    with tempfile.TemporaryDirectory(prefix="kst-sabotage-") as scratch:
        try:
            with bench.taken(pin) as place:
                kernel = f"{place.kernel(defect, Path(scratch))},source={pin.spec}"
        except (BootError, UsageError) as problem:
            return Attempt(str(problem), {}, 0.0, identity())
        for part in which:
            try:
                if part == "upstream":
                    found = noticed(kernel, UPSTREAM, _cpus(defect))
                    bench.check(pin)  # its programs were built from what the spec names now
                elif defect.kind == "cost":
                    found = _dearer(kernel, figures)
                else:
                    found = noticed(kernel, OURS, _cpus(defect))
                seen[part] = found
            except HarnessError as problem:
                error = error or f"not tried: {problem}"
    return Attempt(error, seen, round(time.monotonic() - began, 1), identity())


def noticed(kernel: str, suites: Sequence[str], cpus: int) -> Seen:
    """The first test of *suites* that fails on *kernel* in a guest of so many *cpus*.

    :raises HarnessError: none failed, and one broke or was not run: so nothing is known.
    """
    began = time.monotonic()
    options = ("--cpus", str(cpus), "--timeout", str(TEST_BOUND))
    told, records = runs.run(kernel, suites, ["--fail-fast", *options])
    if told.exit_code not in (0, 125) and _first(records) is None:  # a test that broke or was not run ended it
        told, records = runs.run(kernel, suites, options)
    seconds = round(time.monotonic() - began, 1)
    if told.exit_code == 125:
        return Seen("boot", "NO BOOT", told.why, seconds)
    if first := _first(records):
        return Seen(first.id, str(first.outcome), first.message, seconds)
    if told.exit_code not in (0, 1) or any(record.outcome in (Outcome.ERROR, Outcome.MISS) for record in records):
        raise HarnessError(f"{' '.join(suites)}: {told.verdict}: {told.why}")
    return Seen(seconds=seconds)


def _first(records: Sequence[Record]) -> Record | None:
    """The first that failed; a test that passes against its finding noticed nothing."""
    return next((record for record in records if record.failed), None)


def _dearer(kernel: str, figures: list[Record]) -> Seen:
    """The path that became dearest by the exact comparison with the clean kernel, if one did by one instruction; or the
    first test that failed, of those that compare two paths of one kernel.

    :raises HarnessError: none failed, and not all could be measured.
    """
    began = time.monotonic()
    told, records = runs.run(kernel, LATENCY, ["--mode", "exact"])
    seconds = round(time.monotonic() - began, 1)
    if first := _first(records):
        return Seen(first.id, str(first.outcome), first.message, seconds)
    if told.exit_code:
        raise HarnessError(f"latency: {told.verdict}: {told.why}")
    found = regressions(changes(figures, records), 0)
    if not found:
        return Seen(seconds=seconds)
    worst = max(found, key=lambda change: change.counts / max(change.base, 1))
    message = f"{worst.title}: {worst.base:g} became {worst.head:g} {worst.unit}, and {len(found) - 1} more paths"
    return Seen("kst compare", "DEARER", message, seconds)


@disk_errors()
def _clean(
    campaign: Campaign, pin: bench.Pinned, defects: Sequence[Defect], when: str, note: Callable[[str], None]
) -> list[Record]:
    """The clean kernel passes all that *defects* are tried by; its exact figures, where these are to be compared."""
    with tempfile.TemporaryDirectory(prefix="kst-sabotage-") as scratch:
        note(f"{campaign.spec}: builds the clean kernel, and tries it {when} the broken ones")
        with bench.taken(pin) as place:
            kernel = f"{place.kernel(None, Path(scratch))},source={pin.spec}"
        suites_of = (OURS, *([UPSTREAM] if campaign.upstream else []))
        for cpus, suites in itertools.product(sorted({_cpus(defect) for defect in defects}), suites_of):
            told, records = runs.run(kernel, suites, ["--cpus", str(cpus), "--timeout", str(CLEAN_BOUND)])
            if told.exit_code:
                bad = ", ".join(record.id for record in records if record.counts_as_failure) or told.why
                raise HarnessError(
                    f"{campaign.spec}: the clean kernel does not pass {when} the broken ones, "
                    f"so nothing can be said of them: {bad}"
                )
        if when == "after" or not any(defect.kind == "cost" for defect in defects):
            return []
        told, records = runs.run(kernel, LATENCY, ["--mode", "exact"])
        if told.exit_code:
            raise HarnessError(f"{campaign.spec}: the clean kernel does not pass latency: {told.why}")
        return records
