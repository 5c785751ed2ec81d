"""``junit.xml``: one suite for each kernel and suite.

JUnit has no standard; this writes what pytest's ``xunit2`` family has in common, with metrics as properties of the
suite. CRASH, HANG, ERROR and MISS are ``error``, never ``failure``: a dead machine did not fail an assertion.
"""

from __future__ import annotations

from itertools import groupby
from pathlib import Path

from junit_xml import TestCase, TestSuite, to_xml_report_string

from kselftests_py.reports.changes import beside_noise
from kselftests_py.reports.comparison import is_emulated, may_print
from kselftests_py.reports.text import one_line, printable
from kselftests_py.results import Manifest, Outcome, Record, RunFolder, wall
from kselftests_py.results.regression import changes_of_run
from kselftests_py.results.relation import relation

LOG_EXCERPT = 16_384  # what KCIDB allows; a CI that takes JUnit wants small files too


def write(run: RunFolder) -> Path:
    """Writes ``junit.xml``; returns its path."""
    manifest = run.manifest()
    records = sorted(run.ordered(), key=lambda record: (record.kernel, record.suite))
    more = {
        one_line(f"more:{one.name} {one.title} [{one.unit}]", 1000): f"{one.more:+.10g} {beside_noise(one)}".rstrip()
        for one in changes_of_run(records, manifest)
    }
    more |= _shifts(records, manifest)
    suites = [
        _suite(kernel, suite, list(group), manifest, more)
        for (kernel, suite), group in groupby(records, key=lambda record: (record.kernel, record.suite))
    ]
    return run.write_file("junit.xml", to_xml_report_string(suites, encoding="utf-8").encode())


def _shifts(records: list[Record], manifest: Manifest) -> dict[str, str]:
    """Each path's shift in wall time with its interval and verdict, if the run compared; not under emulation."""
    compared = wall.of_run(records, manifest)
    if compared is None or any(is_emulated(one, manifest) for one in (compared.base, compared.head)):
        return {}
    told = {}
    for change in compared.changes:
        shift = change.shift
        name = one_line(f"shift:{change.name} {change.title} [ns]", 1000)
        told[name] = f"{shift.more:+.10g} ({shift.low:+.10g} to {shift.high:+.10g}) {change.verdict}"
    return told


def _suite(kernel: str, suite: str, records: list[Record], manifest: Manifest, more: dict[str, str]) -> TestSuite:
    entry = manifest.kernel(kernel)
    properties = {"kernel": one_line(kernel)}
    if entry is not None:
        properties |= {"release": one_line(entry.release), "accelerator": one_line(entry.accelerator)}
    for record in records:
        for metric in record.metrics:
            if may_print(metric, kernel, manifest):
                labels = ",".join(f"{key}={value}" for key, value in sorted(metric.labels.items()))
                name = one_line(f"{record.id}:{metric.name}{{{labels}}} [{metric.unit}]", 1000)
                properties[name] = f"{metric.value:.10g}"
    if entry is not None and entry.role == "kernel" and suite == "latency":
        properties |= more
        if more:
            properties["compared"] = one_line(relation(manifest), 1000)
    return TestSuite(
        one_line(f"{kernel}/{suite}"),
        [_case(record) for record in records],
        hostname=one_line(kernel),
        timestamp=one_line(manifest.started),
        properties=properties,
    )


def _case(record: Record) -> TestCase:
    case = TestCase(
        one_line(record.id, 1000),
        classname=one_line(f"{record.kernel}.{record.suite}"),
        elapsed_sec=record.duration_s,
        status=str(record.outcome),
    )
    message = one_line(record.message) or str(record.outcome)
    log = printable(record.log)
    if len(log) > LOG_EXCERPT:
        log = "[... cut, see results.jsonl ...]\n" + log[-LOG_EXCERPT:]
    if record.unexpected_pass:
        case.add_failure_info(f"passes although finding {one_line(record.finding)} says that it fails", log, "XPASS")
    elif record.expected_failure:
        case.add_skipped_info(f"expected failure, finding {one_line(record.finding)}: {message}", log)
    elif record.outcome is Outcome.FAIL:
        case.add_failure_info(message, log, "FAIL")
    elif record.outcome is Outcome.SKIP:
        case.add_skipped_info(message, log)
    elif record.outcome not in (Outcome.PASS, Outcome.DONE):
        case.add_error_info(f"{record.outcome}: {message}", log, str(record.outcome))
    return case
