"""``kst compare --mode wall``: what one kernel costs against another in nanoseconds, with an interval, where the
machine is fit to say so."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

import msgspec

from kselftests_py import run
from kselftests_py.compare import SUITE
from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage, RunningKernel, resolve
from kselftests_py.measure.shift import FASTER, LEAST, SLOWER
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import RunFolder, Verdict, wall
from kselftests_py.results.relation import relation
from kselftests_py.results.wall import Wall

BOOTS = 7
"""Of each kernel, unless asked otherwise."""
BLOCKS = 12
"""The same where nothing is booted: a block takes seconds."""


class WallComparison(msgspec.Struct, frozen=True):
    """What was compared, what the two are to each other, what else differs (configuration symbols, how the probe was
    built), and the figures; no ``wall``: a kernel broke."""

    kernel: str
    baseline: str
    relation: str = ""
    configs: list[str] = []
    probes: str = ""
    wall: Wall | None = None


def compare_wall(
    options: run.Options, kernel: str, baseline: str, allowed: float | None, view: TerminalView
) -> tuple[RunFolder, WallComparison, Verdict]:
    """Measure both in wall time, taking turns; *allowed* is how many nanoseconds a path may be slower.

    ``options.blocks`` 0 means as many as is usual. A kernel may be compared with itself: that tries the comparison.

    :raises UsageError: one is no kernel.
    :raises HarnessError: there is nothing to compare.
    """
    kernels = [resolve(spec, view.note) for spec in (kernel, baseline)]
    blocks = options.blocks or (BOOTS if any(isinstance(one, KernelImage) for one in kernels) else BLOCKS)
    if blocks < LEAST:
        view.note(f"fewer than {LEAST} replicates a side: no verdict can come of it")
    asked = replace(options, kernels=(kernel,), baseline=baseline, suites=(SUITE,), mode="wall", blocks=blocks)
    folder, verdict = run.run(asked, view)
    manifest = folder.manifest()
    found = WallComparison(kernel, baseline, relation(manifest), manifest.config_differences, _probes(kernels))
    if verdict.exit_code:
        return folder, found, verdict
    compared = wall.of_run(folder.records(), manifest)
    if compared is None or not compared.changes:
        raise HarnessError(f"{folder.path}: no path was measured in wall time on both kernels")
    told = noticed(compared) if options.lie else decide(compared, allowed)
    return folder, msgspec.structs.replace(found, wall=compared), told


def _probes(kernels: Sequence[object]) -> str:
    """What is told when the two are not measured by one build of the probe; empty if they are."""
    hosts = [isinstance(one, RunningKernel) and one.kind == "host" for one in kernels]
    if all(hosts) or not any(hosts):
        return ""
    return (
        "host is measured by the probe inside a Python process, the other by its static program: one source, two builds"
    )


def decide(compared: Wall, allowed: float | None) -> Verdict:
    """The gate: what is surely slower by more than the margin and more than *allowed* fails.

    An unfit machine measures and decides nothing.
    """
    count = len(compared.changes)
    if compared.unfit:
        return Verdict("DONE", f"{count} paths measured; the machine decides nothing ({'; '.join(compared.unfit)})", 0)
    if allowed is not None:
        slower = [one for one in compared.changes if one.beyond(compared.margin, allowed)]
        if slower:
            worst = max(slower, key=lambda one: one.shift.low)
            bound = f"more than {100 * compared.margin:g} % and {allowed:g} ns"
            why = f"{len(slower)} of {count} paths by {bound}, most {worst.title} (at least +{worst.shift.low:.0f} ns)"
            return Verdict("SLOWER", why, 1)
        if compared.missing:
            return Verdict("NOT MEASURED", f"{len(compared.missing)} paths, such as {compared.missing[0]}", 3)
    words = Counter(one.verdict for one in compared.changes)
    told = ", ".join(f"{number} {word}" for word, number in words.most_common())
    return Verdict("PASS", f"{count} paths compared: {told}", 0)


def noticed(compared: Wall) -> Verdict:
    """The verdict on the comparison itself, whose kernel was measured with a lie that makes it slower: seen or not."""
    slower = [one for one in compared.changes if one.found == SLOWER]
    faster = sum(one.found == FASTER for one in compared.changes)
    told = f"{len(slower)} of {len(compared.changes)} paths found slower, {faster} faster"
    return Verdict("NOTICED", told, 0) if slower else Verdict("NOT NOTICED", told, 1)
