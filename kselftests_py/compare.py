"""``kst compare``: what one kernel costs against another, in instructions, and whether that is too much."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import msgspec

from kselftests_py import run
from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage, config, resolve
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import RunFolder, Verdict
from kselftests_py.results.regression import Change, changes, missing, of_kernel, pair, regressions

SUITE = "latency"


class Comparison(msgspec.Struct, frozen=True):
    """Two kernels, path by path: what was measured on both, which paths only the baseline has figures of, in which
    configuration symbols they differ, and what is dearer by more than was allowed (nothing if no bound was set)."""

    kernel: str
    baseline: str
    changes: list[Change]
    missing: list[str]
    configs: list[str]
    regressions: list[Change]


def compare(
    options: run.Options, kernel: str, baseline: str, allowed: float | None, view: TerminalView
) -> tuple[RunFolder, Comparison, Verdict]:
    """Measure *kernel* and *baseline* in exact mode; *allowed* is how many instructions an operation may be dearer.

    :raises UsageError: the two are the same kernel, or one is none.
    :raises HarnessError: there is nothing to compare.
    """
    configs = differing(*(resolve(spec, view.note) for spec in (kernel, baseline)))
    asked = replace(options, kernels=(kernel,), baseline=baseline, suites=(SUITE,), mode="exact")
    folder, verdict = run.run(asked, view)
    if verdict.exit_code:
        return folder, Comparison(kernel, baseline, [], [], configs, []), verdict
    found = between(folder, allowed, configs)
    return folder, found, decide(found, allowed)


def between(folder: RunFolder, allowed: float | None, configs: Sequence[str] = ()) -> Comparison:
    """The comparison of a run of one kernel and one baseline; :raises HarnessError: it is none, or measured nothing."""
    both = pair(folder.manifest())
    if both is None:
        raise HarnessError(f"{folder.path}: not a run of one kernel and one baseline; give kst run both")
    base, head = (of_kernel(folder.records(), entry) for entry in both)
    found = changes(base, head)
    if not found:
        raise HarnessError(
            f"{folder.path}: no path was measured exactly on both kernels; guests only, not host or ssh:"
        )
    too_dear = [] if allowed is None else regressions(found, allowed)
    return Comparison(both[1].label, both[0].label, found, missing(base, head), list(configs), too_dear)


def decide(found: Comparison, allowed: float | None) -> Verdict:
    """The gate: dearer than allowed fails; a path that the kernel has no figure of any more is no pass."""
    if found.regressions:
        worst = max(found.regressions, key=lambda change: change.more)
        why = f"{len(found.regressions)} paths dearer by more than {allowed:g} instructions, most {worst.title}"
        return Verdict("DEARER", f"{why} (+{worst.more:g})", 1)
    if allowed is not None and found.missing:
        return Verdict("NOT MEASURED", f"{len(found.missing)} paths of the baseline, such as {found.missing[0]}", 3)
    dearer = sum(change.verdict == "dearer" for change in found.changes)
    return Verdict("PASS", f"{len(found.changes)} paths compared, {dearer} dearer", 0)


def differing(*kernels: object) -> list[str]:
    """The symbols whose values differ: two kernels that are configured differently compare more than their source."""
    paths = [one.config for one in kernels if isinstance(one, KernelImage) and one.config]
    if len(paths) != 2:
        return []
    return config.differing(*paths)
