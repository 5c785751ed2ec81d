"""``ktap.txt``: KTAP version 1 (Documentation/dev-tools/ktap.rst), nested kernel, suite, test.

Measurements are diagnostic lines of the one shape ``# key=value unit``; logs are diagnostic lines that begin with
``# |``, so that nothing a guest wrote can look like a result.
"""

from __future__ import annotations

import re
from itertools import groupby
from pathlib import Path

from kselftests_py.reports.comparison import LABELS, may_print
from kselftests_py.reports.text import one_line, printable
from kselftests_py.results import Manifest, Metric, Outcome, Record, RunFolder


def write(run: RunFolder) -> Path:
    """Writes ``ktap.txt``; returns its path."""
    return run.write_file("ktap.txt", ("\n".join(lines(run.ordered(), run.manifest())) + "\n").encode())


def lines(records: list[Record], manifest: Manifest) -> list[str]:
    """The report's lines."""
    ordered = sorted(records, key=lambda record: (record.kernel, record.suite))
    kernels = [(kernel, list(group)) for kernel, group in groupby(ordered, key=lambda record: record.kernel)]
    out = ["KTAP version 1", f"1..{len(kernels)}"]
    for number, (kernel, of_kernel) in enumerate(kernels, start=1):
        suites = [(suite, list(group)) for suite, group in groupby(of_kernel, key=lambda record: record.suite)]
        inner = ["KTAP version 1", f"1..{len(suites)}"]
        for place, (suite, of_suite) in enumerate(suites, start=1):
            tests = ["KTAP version 1", f"1..{len(of_suite)}"]
            for index, record in enumerate(of_suite, start=1):
                tests += _test(index, record, manifest)
            inner += [*_indented(tests), _group(place, suite, of_suite)]
        out += [*_indented(inner), _group(number, kernel, of_kernel)]
    return out


def _test(number: int, record: Record, manifest: Manifest) -> list[str]:
    out = [_measurement(metric) for metric in record.metrics if may_print(metric, record.kernel, manifest)]
    if record.outcome is Outcome.FAIL and record.message:  # the other outcomes have it in their directive
        out.append(f"# | {one_line(record.message)}")
    if record.outcome not in (Outcome.PASS, Outcome.DONE, Outcome.SKIP):
        out += [f"# | {line}" for line in printable(record.log).splitlines()]
    ok, directive = _result(record)
    return [*out, f"{_ok(ok)} {number} {_name(record.id)}{directive}"]


def _result(record: Record) -> tuple[bool, str]:
    """Whether the line says ok, and its directive. kselftest says ok for an XFAIL that failed."""
    why = one_line(record.message).replace("#", "%23")
    finding = one_line(record.finding).replace("#", "%23")
    if record.unexpected_pass:
        return False, f" # XPASS finding {finding} says that it fails"
    if record.expected_failure:
        return True, f" # XFAIL {finding}"
    match record.outcome:
        case Outcome.PASS | Outcome.DONE:
            return True, ""
        case Outcome.SKIP:
            return True, f" # SKIP {why}".rstrip()
        case Outcome.HANG:
            return False, f" # TIMEOUT {why}".rstrip()
        case Outcome.ERROR:
            return False, f" # ERROR {why}".rstrip()
        case Outcome.CRASH | Outcome.MISS:
            return False, f" # ERROR {record.outcome}: {why}".rstrip()
        case _:
            return False, ""


def _group(number: int, name: str, records: list[Record]) -> str:
    """A parent fails if a child does; it is skipped if all its children are."""
    skipped = all(record.outcome is Outcome.SKIP for record in records)
    ok = all(_result(record)[0] for record in records)
    return f"{_ok(ok)} {number} {_name(name)}{' # SKIP all tests skipped' if skipped else ''}"


def _measurement(metric: Metric) -> str:
    labels = [metric.labels[label] for label in ("path", "protection", *LABELS[1:]) if label in metric.labels]
    known = {"protection", *LABELS}
    labels += [f"{key}:{value}" for key, value in sorted(metric.labels.items()) if key not in known]
    key = re.sub(r"[^A-Za-z0-9_.:/-]", "_", "/".join([metric.name, *labels]))
    return f"# {key}={metric.value:.10g} {_name(metric.unit)}"


def _name(text: str) -> str:
    """A description: KTAP allows any string without a hash or a newline, and has no escape for them."""
    return one_line(text, 1000).replace("#", "%23") or "unnamed"


def _ok(ok: bool) -> str:
    return "ok" if ok else "not ok"


def _indented(block: list[str]) -> list[str]:
    return [f"  {line}" for line in block]
