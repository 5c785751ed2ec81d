"""``reply.txt``: what a run saw, as a paragraph for a mail to a kernel list. Plain text, at most 72 columns.

It says what was run, on what, and what was seen, and no more. The ``Tested-by:`` line is offered only when all passed,
and has no name in it: a person puts one there, or removes the line.
"""

from __future__ import annotations

import re
import shlex
import textwrap
from collections.abc import Iterable, Sequence
from pathlib import Path

from kselftests_py.reports.changes import beside_noise
from kselftests_py.reports.text import one_line
from kselftests_py.results import KernelEntry, Manifest, Record, RunFolder, Verdict, judge
from kselftests_py.results.capsule import Capsule
from kselftests_py.results.differences import Compared, Reproduction
from kselftests_py.results.regression import Change
from kselftests_py.results.verdict import counts

NAME = "reply.txt"
WIDTH = 72
UNSIGNED = "Tested-by: (not signed: put your name <address> here, or remove me)"
_WORDS = {
    "FAIL": "failed",
    "SKIP": "skipped",
    "DONE": "measured",
    "PASS": "passed",
    "XFAIL": "failed as known findings say",
    "XPASS": "passed against a finding",
    "CRASH": "crashed the kernel",
    "HANG": "hung",
    "ERROR": "broke",
    "MISS": "could not be run",
}
_SHOWN = 20
_SKIPS_SHOWN = 5


def portable(spec: str) -> str:
    """A spec or path without the directories of this machine."""
    parts = re.split(r"(?=\+series:|\+config:)", spec)
    return "".join(re.sub(r"^((?:\+?[a-z]+:)?)~?(?:[^@]*/)([^/])", r"\1\2", part.rstrip("/")) for part in parts)


def write_reviewed(folder: RunFolder, command: Sequence[str], seen: Compared, verdict: Verdict) -> Path:
    """The reply of ``kst review``, of a run of one baseline (the base) and one kernel (the base with the series)."""
    manifest, records = folder.manifest(), folder.ordered()
    lines = [*_wrapped("I built this series, and its base without it, and ran on both:"), "", *_command(command), ""]
    lines += [*_machines(manifest, {"baseline": "base", "kernel": "base with the series"}), ""]
    for entry in manifest.kernels:
        lines += _wrapped(f"{_role(entry)}: {_counts(_of(records, entry))}.")
    lines += [
        "",
        *_failures(manifest, records, "on the base", " with the series"),
        *_skips(manifest, records),
        *_figures(seen.changed, seen),
    ]
    # What fails on both kernels is not the series' fault, but nothing to put one's name under.
    failed = {record.kernel for record in records if record.failed}
    return _write(folder, lines, verdict, sign=failed.isdisjoint(manifest.labels("kernel")))


def write_reproduced(folder: RunFolder, read: Capsule, seen: Reproduction, verdict: Verdict) -> Path:
    """The reply of ``kst reproduce``."""
    manifest, records = folder.manifest(), folder.ordered()
    lines = _wrapped(f"I ran again, from its capsule, the run of {read.manifest.started} (kst reproduce).")
    lines += _wrapped(f"Suites: {_suites(manifest)}; mode {manifest.options.get('mode')}.")
    lines += ["", *_machines(manifest, {"baseline": "baseline", "kernel": "kernel"}), ""]
    for again in seen.kernels:
        how = "the same bytes as in the capsule" if again.same_bytes else f"NOT the same bytes: {again.why}"
        lines += _wrapped(f"{again.kernel}: {how if again.digest else 'the running kernel, of the same release'}.")
    if seen.foreign:
        lines += _wrapped(f"My kst is another than the capsule's in {', '.join(seen.foreign)}.")
    lines += ["", *_wrapped(f"Outcome: {verdict.word}: {verdict.why}."), ""]
    for one in seen.compared:
        for each in one.outcomes[:_SHOWN]:
            lines += _item(f"{one.kernel}: {each.before} then, {each.after} now: {each.id}: {each.message}")
        lines += _more(one.outcomes)
        lines += [*_wrapped(f"{one.kernel}:"), *_figures(one.changed, one)] if one.figures or one.missing else []
    lines += [*_failures(manifest, records, "on the baseline", ""), *_skips(manifest, records)]
    # The same failure, or nothing tested, twice: a result, but nothing to put one's name under.
    ours = judge(records, manifest)
    return _write(folder, lines, ours if verdict.exit_code == 0 else verdict)


def _write(folder: RunFolder, lines: Iterable[str], verdict: Verdict, *, sign: bool = True) -> Path:
    lines = list(lines)
    if verdict.exit_code == 0 and sign:
        lines += ["", UNSIGNED]
    elif not any(line.startswith("Outcome:") for line in lines):
        lines += ["", *_wrapped(f"Outcome: {verdict.word}: {verdict.why}.")]
    text = re.sub(r"\n{3,}", "\n\n", "\n".join(lines)).strip("\n") + "\n"
    return folder.write_file(NAME, text.encode("ascii"))


def _plain(text: str) -> str:
    """On one line, in ASCII. A guest's text must not read as a trailer of the mail; where the console lies on this
    machine is for who sits at it."""
    told = one_line(re.sub(r" \(console: [^)]*\)", "", text), 400)
    plain = told.replace("\u2026", "...").encode("ascii", "replace").decode()
    return re.sub(r"(?i)-by:", "-by;", plain)


def _wrapped(text: str, first: str = "", later: str = "") -> list[str]:
    return textwrap.wrap(
        _plain(text), WIDTH, initial_indent=first, subsequent_indent=later, break_on_hyphens=False
    )  # fmt: skip


def _item(text: str) -> list[str]:
    return _wrapped(text.rstrip(": "), "  - ", "    ")


def _more(found: Sequence[object]) -> list[str]:
    return [f"  ... and {len(found) - _SHOWN} more"] if len(found) > _SHOWN else []


def _command(words: Sequence[str]) -> list[str]:
    # A word with spaces in it stays on one line, if it has room there.
    text = " ".join(_plain(shlex.quote(word)).replace(" ", "\xa0") for word in words)
    wrapped = textwrap.wrap(text, WIDTH - 6, break_on_hyphens=False, subsequent_indent="    ")
    lines = [f"    {line}" + (" \\" if number < len(wrapped) else "") for number, line in enumerate(wrapped, 1)]
    return [line.replace("\xa0", " ") for line in lines]


def _role(entry: KernelEntry) -> str:
    return "Base" if entry.role == "baseline" else "With the series"


def _machines(manifest: Manifest, names: dict[str, str]) -> list[str]:
    lines = ["On:", ""]
    for entry in manifest.kernels:
        lines += _item(f"{names[entry.role]}: {portable(entry.spec) if entry.spec[:7] != 'cached:' else entry.label}")
        made = [f"kernel sha256 {entry.digest[:12]}"] if entry.digest else [entry.release or "release not known"]
        made += [f"config sha256 {entry.config_digest[:12]}"] if entry.config_digest else []
        made += [f"series sha256 {' '.join(_digests(entry))}"] if "series" in entry.provenance else []
        made += [entry.provenance["compiler"]] if "compiler" in entry.provenance else []
        lines += _wrapped(", ".join(made), "    ", "    ")
    options = manifest.options
    accelerators = sorted({entry.accelerator or "none booted" for entry in manifest.kernels})
    guest = f"{options.get('cpus', '?')} vCPUs, {options.get('memory', '?')} of memory"
    where = "no guest" if accelerators == ["none"] else f"guests: QEMU, {' and '.join(accelerators)}, {guest}"
    exact = "; exact figures are instructions retired, on 1 vCPU" if options.get("mode") != "wall" else ""
    return [*lines, "", *_wrapped(f"{where}{exact}; kst {manifest.kst_version}, probe {manifest.probe_digest[:12]}.")]


def _digests(entry: KernelEntry) -> list[str]:
    return [one.removeprefix("sha256:")[:12] for one in entry.provenance["series"].split()]


def _of(records: Sequence[Record], entry: KernelEntry) -> list[Record]:
    return [record for record in records if record.kernel == entry.label]


def _suites(manifest: Manifest) -> str:
    chosen = ", ".join(manifest.options.get("suites") or []) or "all"
    expression = manifest.options.get("expression")
    return f"{chosen}, of these '{expression}'" if expression else chosen


def _counts(records: Sequence[Record]) -> str:
    return ", ".join(f"{number} {_WORDS.get(word, word)}" for word, number in counts(records).items()) or "no test ran"


def _failures(manifest: Manifest, records: Sequence[Record], base: str, head: str) -> list[str]:
    """Every failure by name, told apart from what fails on the baseline too; *base* and *head* name the two."""
    baselines = manifest.labels("baseline")
    failed = [record for record in records if record.failed]
    before = {record.id for record in failed if record.kernel in baselines}
    now = [record for record in failed if record.kernel not in baselines]
    lines: list[str] = []
    for title, found in (
        (f"Failed{head}, and not {base}:" if baselines else "Failed:", [
            record for record in now if record.id not in before
        ]),
        ("Failed on both:", [record for record in now if record.id in before]),
        (f"Failed {base} only:", [
            record for record in failed
            if record.kernel in baselines and record.id not in {one.id for one in now}
        ]),
        (f"Passed{head}, although a finding says that it fails:", [
            record for record in records if record.unexpected_pass and record.kernel not in baselines
        ]),
    ):  # fmt: skip
        if found:
            lines += [title, ""]
            for record in found[:_SHOWN]:
                said = f"finding {record.finding}" if record.unexpected_pass else record.message
                lines += _item(f"{record.outcome} {record.id}: {said}")
            lines += [*_more(found), ""]
    return lines if failed else ["No test failed.", "", *lines]


def _skips(manifest: Manifest, records: Sequence[Record]) -> list[str]:
    """What was not tested, and why: a skip is not a pass."""
    under_test = manifest.labels("kernel")
    reasons: dict[str, int] = {}
    for record in records:
        if record.kernel in under_test and record.outcome in ("SKIP", "MISS", "ERROR"):
            text = f"{record.outcome}: {record.message or 'no reason given'}"
            reasons[text] = reasons.get(text, 0) + 1
    if not reasons:
        return []
    lines = ["Not tested:", ""]
    for text, number in sorted(reasons.items(), key=lambda item: -item[1])[:_SKIPS_SHOWN]:
        lines += _item(f"{number} {text}")
    return [*lines, *([f"  ... for {len(reasons) - _SKIPS_SHOWN} more reasons"] * (len(reasons) > _SKIPS_SHOWN)), ""]


def _figures(changed: Sequence[Change], seen: Compared) -> list[str]:
    """The exact figures that changed, each with its spread on both sides."""
    if not seen.figures:
        return ["No exact figure was measured on both sides.", ""]
    head = f"Paths compared by exact figures: {len(seen.figures)}"
    if not changed:
        lines = _wrapped(f"{head}. No difference.")
    else:
        lines = [*_wrapped(f"{head}. Different: {len(changed)} (before, after, p10 to p90 of each where sampled):"), ""]
    for change in changed[:_SHOWN]:
        share = beside_noise(change) or (f"{100 * change.more / change.base:+.2f} %" if change.base else "")
        spreads = " | ".join(_spread(one) for one in (change.base_spread, change.head_spread) if one)
        figures = f"{_exact(change.base)} -> {_exact(change.head)} {change.unit}"
        told = f"{change.more:+g}{share and ', '}{share}{spreads and '; '}{spreads}"
        lines += _item(f"{change.title}: {figures} ({told})")
    lines += _more(changed)
    if seen.missing:
        lines += _wrapped(f"{len(seen.missing)} paths have a figure on one side only, such as {seen.missing[0]}.")
    return [*lines, ""]


def _spread(spread: tuple[float, float]) -> str:
    return " to ".join(_exact(bound) for bound in spread)


def _exact(value: float) -> str:
    """Unrounded as far as it matters: a loop over pages tells one instruction a call as a fraction of one."""
    return f"{value:,.4f}".rstrip("0").rstrip(".")
