"""``kst sabotage``: each defect built, booted and tried by the suites; who noticed it, and how fast.

A verdict is kept as soon as it is there, under what it was made of (source, configuration and defect; for our suites
also the probe and the suites), so a campaign that was stopped goes on where it was, and one whose tests were changed
tries only those again.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from kselftests_py import jobs, kept
from kselftests_py.errors import BootError, HarnessError, UsageError
from kselftests_py.jobs import runs
from kselftests_py.kernels import source
from kselftests_py.kernels.spec import BuildSpec, parse
from kselftests_py.lab.build import probe_digest
from kselftests_py.machines.guest_root import tree_digest
from kselftests_py.paths import data_dir
from kselftests_py.results import Outcome, Record
from kselftests_py.results.regression import changes, regressions
from kselftests_py.sabotage import bench
from kselftests_py.sabotage.defects import Defect

OURS = ("trapping", "eviction", "idle")
UPSTREAM = ("upstream",)
LATENCY = ("latency",)
_VERDICTS = "sabotage/verdicts"
TEST_BOUND = 30
"""Seconds of one test: a kernel that hangs costs so much and no more."""


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


@dataclass(frozen=True)
class Campaign:
    """What is to be tried: *spec* of the kernel, the defects, and whether the kernel's own tests run beside ours."""

    spec: str
    defects: Sequence[Defect]
    upstream: bool = True

    def keys(self, defect: Defect, base: str) -> dict[str, str]:
        """Names all that a verdict of ours, and of upstream's, depends on."""
        made_of = [base, parse_kernel(self.spec).flavour, msgspec.json.encode(defect).decode()]
        ours = [*made_of, probe_digest(), tree_digest(data_dir("suites"))]
        parts = {"ours": ours, "upstream": [*made_of, "upstream"]}
        wanted = ("ours", "upstream") if self.upstream else ("ours",)
        return {name: kept.key(parts[name]) for name in wanted}


def parse_kernel(spec: str) -> BuildSpec:
    """The kernel to break; :raises UsageError: it is none that we build."""
    wanted = parse(spec)
    if not isinstance(wanted, BuildSpec):
        raise UsageError(f"--kernel {spec}: a kernel is broken in its source; give source:, tree: or git:")
    if wanted.series:
        raise UsageError(f"--kernel {spec}: defects and a series do not go together; commit the series, give git:")
    return wanted


def run(
    campaign: Campaign, *, at_once: int, scheduler: str | None, note: Callable[[str], None]
) -> Iterator[tuple[Tried, bool]]:
    """Every defect's verdict as it comes, and whether it was known already; the clean kernel is tried first and last.

    :raises HarnessError: the clean kernel does not pass, so nothing that is noticed would mean anything.
    """
    with source.opened(parse_kernel(campaign.spec), note) as workspace:
        base = workspace.git("rev-parse", f"{workspace.base}^{{tree}}")
    keys = {defect.name: campaign.keys(defect, base) for defect in campaign.defects}
    known = {name: {which: kept.recall(_VERDICTS, key, Seen) for which, key in of.items()} for name, of in keys.items()}
    left = [defect for defect in campaign.defects if None in known[defect.name].values()]
    for name in [defect.name for defect in campaign.defects if defect not in left]:
        yield _put_together(name, known[name]), True
    if not left:
        return
    figures = _clean(campaign, "before", note)
    work = [
        jobs.Job(
            defect.name,
            attempt,
            (campaign.spec, defect, figures, [w for w, seen in known[defect.name].items() if seen is None]),
            exact=defect.kind == "cost",
        )
        for defect in left
    ]
    for finished in jobs.run(work, scheduler=scheduler, at_once=at_once, note=note):
        if finished.error is not None:
            yield Tried(finished.key, error=f"not tried: {finished.error}"), False
            continue
        tried: Tried = finished.value
        found, tried_by = known[tried.name], {"ours": tried.ours, "upstream": tried.upstream}
        for which in [which for which, seen in found.items() if seen is None]:
            found[which] = tried_by[which]
            if not tried.error:
                kept.remember(_VERDICTS, keys[tried.name][which], tried_by[which])
        yield _put_together(tried.name, found, tried), False
    _clean(campaign, "after", note)


def _put_together(name: str, seen: dict[str, Seen | None], now: Tried | None = None) -> Tried:
    now = now or Tried(name)
    return Tried(name, now.error, seen["ours"] or Seen(), seen.get("upstream") or Seen(), now.seconds)


def attempt(spec: str, defect: Defect, figures: list[Record], which: Sequence[str]) -> Tried:
    """Build the kernel with *defect* and try it by *which* suites; *figures* are the clean kernel's exact ones."""
    began = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="kst-sabotage-") as scratch:
        try:
            with bench.taken(parse_kernel(spec)) as place:
                kernel = f"{place.kernel(defect, Path(scratch))},source={spec}"
        except (BootError, UsageError) as error:
            return Tried(defect.name, error=str(error))
        ours = theirs = Seen()
        if "ours" in which:
            ours = _dearer(kernel, figures) if defect.kind == "cost" else noticed(kernel, OURS)
        if "upstream" in which:
            theirs = noticed(kernel, UPSTREAM)
    return Tried(defect.name, "", ours, theirs, round(time.monotonic() - began, 1))


def noticed(kernel: str, suites: Sequence[str]) -> Seen:
    """The first test of *suites* that fails on *kernel*; a test that broke, or was not run, notices nothing."""
    began = time.monotonic()
    told, records = runs.run(kernel, suites, ["--fail-fast", "--timeout", str(TEST_BOUND)])
    if told.exit_code == 3 and any(record.outcome in (Outcome.ERROR, Outcome.MISS) for record in records):
        told, records = runs.run(kernel, suites, ["--timeout", str(TEST_BOUND)])
    seconds = round(time.monotonic() - began, 1)
    if told.exit_code == 125:
        return Seen("boot", "NO BOOT", told.why, seconds)
    # A test that passes against its finding noticed nothing.
    first = next((record for record in records if record.counts_as_failure and not record.unexpected_pass), None)
    return Seen(first.id, str(first.outcome), first.message, seconds) if first else Seen(seconds=seconds)


def _dearer(kernel: str, figures: list[Record]) -> Seen:
    """The path that became dearest by the exact comparison with the clean kernel, if one did by one instruction."""
    began = time.monotonic()
    told, records = runs.run(kernel, LATENCY, ["--mode", "exact"])
    seconds = round(time.monotonic() - began, 1)
    if told.exit_code:
        raise HarnessError(f"the latency suite did not pass on a kernel that is only slow: {told.why}")
    found = regressions(changes(figures, records), 0)
    if not found:
        return Seen(seconds=seconds)
    worst = max(found, key=lambda change: change.more / max(change.base, 1))
    message = f"{worst.title}: {worst.base:g} became {worst.head:g} {worst.unit}, and {len(found) - 1} more paths"
    return Seen("kst compare --max-regression 0", "DEARER", message, seconds)


def _clean(campaign: Campaign, when: str, note: Callable[[str], None]) -> list[Record]:
    """The clean kernel passes all that the broken ones are tried by; its exact figures."""
    wanted = parse_kernel(campaign.spec)
    with tempfile.TemporaryDirectory(prefix="kst-sabotage-") as scratch:
        note(f"{campaign.spec}: builds the clean kernel, and tries it {when} the broken ones")
        with bench.taken(wanted) as place:
            kernel = f"{place.kernel(None, Path(scratch))},source={campaign.spec}"
        for suites in (OURS, *([UPSTREAM] if campaign.upstream else [])):
            told, records = runs.run(kernel, suites, [])
            if told.exit_code:
                bad = ", ".join(record.id for record in records if record.counts_as_failure) or told.why
                raise HarnessError(
                    f"{campaign.spec}: the clean kernel does not pass {when} the broken ones, "
                    f"so nothing can be said of them: {bad}"
                )
        if when == "after" or all(defect.kind != "cost" for defect in campaign.defects):
            return []
        told, records = runs.run(kernel, LATENCY, ["--mode", "exact"])
        if told.exit_code:
            raise HarnessError(f"{campaign.spec}: the clean kernel does not pass latency: {told.why}")
        return records
