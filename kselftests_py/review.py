"""``kst review``: a series built on its base, both run, compared, and a reply to the list drafted."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace

from kselftests_py import run
from kselftests_py.errors import BootError, HarnessError, UsageError
from kselftests_py.kernels import KernelImage, resolve
from kselftests_py.kernels.spec import BuildSpec, parse
from kselftests_py.reports import reply
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import RunFolder, Verdict
from kselftests_py.results.differences import Compared, compare, mended, worse
from kselftests_py.results.verdict import unjudged


def review(options: run.Options, series: str, base: str, view: TerminalView) -> tuple[RunFolder, Compared, Verdict]:
    """Build *base* and *base* with *series* (a path or ``msgid:ID``), run both as *options* say, and compare.

    Leaves ``reply.txt`` in the run folder. The verdict is ``judge``'s: dearer paths are told and do not fail.

    :raises UsageError: the base is not built from a source, or the series does not apply.
    :raises BootError: one of the two does not build.
    :raises HarnessError: the series changes nothing of the kernel as it is configured: nothing would be tested.
    """
    if not isinstance(parse(base), BuildSpec):
        raise UsageError(f"--base {base}: a series needs a source: source:SERIES, tree:DIR or git:DIR@REV")
    run.check(options)
    head = f"{base}+series:{series}"
    try:  # the series first: that it does not apply is told at once
        kernels = [resolve(head, view.note)]
    except BootError:
        resolve(base, view.note)  # if that does not build, the series is not at fault
        raise
    kernels.append(resolve(base, view.note))
    digests = {kernel.digest for kernel in kernels if isinstance(kernel, KernelImage)}
    if len(digests) == 1:
        raise HarnessError(
            f"{series}: the kernel is the same, byte for byte, with and without it: nothing to test; "
            "ask for what it changes with +config:FILE or +FLAVOUR in --base"
        )
    folder, ran = run.run(replace(options, kernels=(head,), baseline=base), view)
    seen = between(folder)
    verdict = ran if ran.exit_code == run.INTERRUPTED else judge(folder, seen)
    reply.write_reviewed(folder, command(options, series, base), seen, verdict)
    return folder, seen, verdict


def between(folder: RunFolder) -> Compared:
    """What differs from the baseline of a run to its kernel under test."""
    labels = {entry.role: entry.label for entry in folder.manifest().kernels}
    sides = ([one for one in folder.ordered() if one.kernel == labels[role]] for role in ("baseline", "kernel"))
    return compare(labels["kernel"], *sides)


def judge(folder: RunFolder, seen: Compared) -> Verdict:
    """The verdict of the series: what it made worse, whatever fails on its base.

    What fails on both kernels is no fault of the series, what it mends is none at all, and what passed on the base and
    is skipped with the series is one.
    """
    bad = [one for one in seen.outcomes if worse(one.before, one.after)]
    if bad:
        word = next((one.after for one in bad if one.after in ("CRASH", "HANG")), "FAIL")
        kinds = Counter(f"{one.before} -> {one.after}" for one in bad)
        shown = ", ".join(f"{number} {kind}" for kind, number in kinds.items())
        return Verdict(word, f"worse with the series than on its base: {shown}", 1)
    if (lacking := unjudged(folder.ordered(), folder.manifest())) is not None:
        return lacking
    good = sum(mended(one.before, one.after) for one in seen.outcomes)
    why = f"{seen.tests} tests compared, none worse with the series than on its base"
    return Verdict("PASS", f"{why}, {good} mended" if good else why, 0)


def command(options: run.Options, series: str, base: str) -> Sequence[str]:
    """The command as somebody else would type it: no directory of this machine."""
    defaults = run.Options()
    words = ["kst", "review", reply.portable(series), "--base", reply.portable(base)]
    for name in options.suites:
        words += ["--suite", name]
    words += ["-k", options.expression] if options.expression else []
    for name in ("mode", "accel", "cpus", "memory"):
        if (value := getattr(options, name)) != getattr(defaults, name):
            words += [f"--{name}", str(value)]
    return words
