"""``kst compare``: what one kernel costs against another, in instructions, and whether that is too much."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import msgspec

from kselftests_py import run
from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import RunningKernel, newest_without_rwp
from kselftests_py.kernels.spec import BuildSpec, parse
from kselftests_py.reports.changes import in_order
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import RunFolder, Verdict
from kselftests_py.results.regression import Change, changes, missing, of_kernel, pair, regressions
from kselftests_py.results.relation import relation

SUITE = "latency"


class Comparison(msgspec.Struct, frozen=True):
    """Two kernels, path by path: what was measured on both, which paths only the baseline has figures of, what is
    dearer by more than was allowed (nothing if no bound was set), what the two are to each other, and in which
    configuration symbols they differ."""

    kernel: str
    baseline: str
    changes: list[Change] = []
    missing: list[str] = []
    regressions: list[Change] = []
    relation: str = ""
    configs: list[str] = []


def compare(
    options: run.Options, kernel: str, baseline: str, allowed: float | None, view: TerminalView
) -> tuple[RunFolder, Comparison, Verdict]:
    """Measure *kernel* and *baseline* in exact mode; *allowed* is how many instructions an operation may be dearer.

    For such a gate they are counted by function, where that can be had: so one more is told from noise.

    :raises UsageError: the two are the same kernel, or one is none.
    :raises HarnessError: there is nothing to compare.
    """
    asked = replace(
        options, kernels=(kernel,), baseline=baseline, suites=(SUITE,), mode="exact", apart=allowed is not None
    )
    folder, verdict = run.run(asked, view)
    if verdict.exit_code:
        return folder, Comparison(kernel, baseline), verdict
    found = between(folder, allowed)
    return folder, found, decide(found, allowed)


def usual_baseline(kernel: str, note: Callable[[str], None]) -> str:
    """What *kernel* is compared with where the user names nothing: the wp-only twin of one that is built, else the
    newest release without RWP.

    :raises UsageError: there is no usual one.
    """
    wanted = parse(kernel)
    if isinstance(wanted, RunningKernel) or (isinstance(wanted, BuildSpec) and "twin" in wanted.flavours):
        raise UsageError(f"{kernel}: nothing is usually compared with it; name a BASELINE")
    if isinstance(wanted, BuildSpec):
        return f"{kernel}+twin"
    image, said = newest_without_rwp(note)
    if said:
        note(said)
    return image.spec


def between(folder: RunFolder, allowed: float | None) -> Comparison:
    """The comparison of a run of one kernel and one baseline; :raises HarnessError: it is none, or measured nothing."""
    manifest = folder.manifest()
    both = pair(manifest)
    if both is None:
        raise HarnessError(f"{folder.path}: not a run of one kernel and one baseline; give kst run both")
    records = folder.ordered()
    base, head = (of_kernel(records, entry) for entry in both)
    found = in_order(changes(base, head))
    if not found:
        raise HarnessError(
            f"{folder.path}: no path was measured exactly on both kernels; guests only, not host or ssh:"
        )
    too_dear = [] if allowed is None else regressions(found, allowed)
    lacking, configs = missing(base, head), manifest.config_differences
    return Comparison(both[1].label, both[0].label, found, lacking, too_dear, relation(manifest), configs)


def decide(found: Comparison, allowed: float | None) -> Verdict:
    """The gate: dearer than allowed fails; a path that the kernel has no figure of any more is no pass."""
    if found.regressions:
        worst = max(found.regressions, key=lambda change: change.counts)
        why = f"{len(found.regressions)} paths dearer by more than {allowed:g} instructions, most {worst.title}"
        return Verdict("DEARER", f"{why} (+{worst.counts:g})", 1)
    if allowed is not None and found.missing:
        return Verdict("NOT MEASURED", f"{len(found.missing)} paths of the baseline, such as {found.missing[0]}", 3)
    dearer = sum(change.verdict == "dearer" for change in found.changes)
    why = f"{len(found.changes)} paths compared, {dearer} dearer"
    if allowed is not None and (untold := sum(change.untold for change in found.changes)):
        why += f"; {untold} changed within their noise, which was not told by function"
    return Verdict("PASS", why, 0)
