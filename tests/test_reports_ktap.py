"""``ktap.txt`` read back twice: by a strict reader written here from Documentation/dev-tools/ktap.rst, and, level by
level, by tap.py, whose authors never saw this project (no package reads nested KTAP)."""

import re
from dataclasses import dataclass, field

import pytest
import results_factory as factory
from results_factory import HOSTILE, NEW, OLD, record
from tap.parser import Parser

from kselftests_py.reports import ktap
from kselftests_py.results import Metric, Outcome
from kselftests_py.results.verdict import outcome_word

RESULT = re.compile(r"(ok|not ok) (\d+) ([^#\n]*?)(?: # (?:(SKIP|TODO|XFAIL|TIMEOUT|ERROR)\b ?)?(.*))?")


@dataclass
class Result:
    ok: bool
    name: str
    directive: str | None
    data: str
    children: list["Result"] = field(default_factory=list)
    diagnostics: list[str] = field(default_factory=list)


def read_ktap(lines: list[str]) -> list[Result]:
    """The results of one nesting level, everything that ktap.rst demands asserted; consumes the lines."""
    assert lines.pop(0) == "KTAP version 1"
    plan = re.fullmatch(r"1\.\.(\d+)", lines.pop(0))
    assert plan
    results, nested, diagnostics = [], [], []
    while lines:
        line = lines.pop(0)
        if line.startswith("  "):
            nested.append(line[2:])
        elif line.startswith("# "):
            diagnostics.append(line[2:])
        else:
            match = RESULT.fullmatch(line)
            assert match, line
            ok, number, name, directive, data = match.groups()
            assert int(number) == len(results) + 1
            assert directive not in ("TIMEOUT", "ERROR") or ok == "not ok"
            results.append(Result(ok == "ok", name, directive, data or "", diagnostics=diagnostics))
            if nested:
                results[-1].children = read_ktap(nested)
                assert results[-1].ok == all(child.ok for child in results[-1].children), "failures bubble up"
            nested, diagnostics = [], []
    assert not nested, "a nested level must end with its parent's result"
    assert len(results) == int(plan[1])
    return results


def level(lines: list[str]) -> list[str]:
    return [line for line in lines if not line.startswith("  ")]


def tap_results(lines: list[str]) -> list[tuple[bool, str, bool]]:
    parsed = [line for line in Parser().parse_text("\n".join(level(lines))) if line.category == "test"]
    return [(one.ok, one.description.strip(), one.skip) for one in parsed]


@pytest.fixture
def realistic():
    return [*factory.judged(), *factory.measured()]


def test_the_whole_run_reads_back(realistic):
    lines = ktap.lines(realistic, factory.manifest())
    kernels = read_ktap(list(lines))
    assert [kernel.name for kernel in kernels] == [OLD, NEW]
    assert [kernel.ok for kernel in kernels] == [True, False]
    found = {
        (kernel.name, suite.name, test.name): test
        for kernel in kernels
        for suite in kernel.children
        for test in suite.children
    }
    assert len(found) == len(realistic)
    for one in realistic:
        if "hostile" not in one.id:
            test = found[one.kernel, one.suite, one.id]
            assert test.ok == (outcome_word(one) in ("PASS", "DONE", "SKIP", "XFAIL"))


def test_a_second_reader_agrees_at_every_level(realistic):
    def walk(lines: list[str], expected: list[Result]) -> int:
        assert tap_results(lines) == [(one.ok, one.name, one.directive == "SKIP") for one in expected]
        seen = len(expected)
        body = iter(lines[2:])
        for one in expected:
            nested = []
            for line in body:
                if line.startswith("  "):
                    nested.append(line[2:])
                elif not line.startswith("#"):
                    break
            if one.children:
                seen += walk(nested, one.children)
        return seen

    lines = ktap.lines(realistic, factory.manifest())
    assert walk(lines, read_ktap(list(lines))) == len(realistic) + 2 + 7  # tests, kernels, suites


@pytest.mark.parametrize(
    ("outcome", "finding", "ok", "directive", "data"),
    [
        ("PASS", "", True, None, ""),
        ("DONE", "", True, None, ""),
        ("SKIP", "", True, "SKIP", "why"),
        ("FAIL", "", False, None, ""),
        ("HANG", "", False, "TIMEOUT", "why"),
        ("ERROR", "", False, "ERROR", "why"),
        ("CRASH", "", False, "ERROR", "CRASH: why"),
        ("MISS", "", False, "ERROR", "MISS: why"),
        ("FAIL", "F001", True, "XFAIL", "F001"),
        ("PASS", "F001", False, None, "XPASS finding F001 says that it fails"),
        ("CRASH", "F001", False, "ERROR", "CRASH: why"),
    ],
)
def test_each_outcome(outcome, finding, ok, directive, data):
    one = record(outcome=Outcome(outcome), finding=finding, message="why", log="because\nof this")
    [kernel] = read_ktap(ktap.lines([one], factory.manifest()))
    [suite] = kernel.children
    [test] = suite.children
    assert (test.ok, test.directive, test.data) == (ok, directive, data)
    assert ("| because" in test.diagnostics) == (outcome not in ("PASS", "DONE", "SKIP"))


@pytest.mark.parametrize(
    "text",
    [
        HOSTILE,
        "x # SKIP not me",
        "ok 1 fake\nnot ok 2 fake",
        "1..9",
        "KTAP version 1",
        "Subtest: x",
        "",
        "  ",
        "Bail out!",
    ],
)
def test_a_guest_cannot_write_results(text):
    one = record(id=text, kernel=text, suite=text, outcome=Outcome.FAIL, message=text, log=text)
    lines = ktap.lines([one], factory.manifest())
    [kernel] = read_ktap(list(lines))
    [suite] = kernel.children
    [test] = suite.children
    assert not test.ok
    assert test.directive is None
    assert tap_results(lines) == [(False, kernel.name, False)]


def test_a_group_whose_tests_were_all_skipped_is_skipped():
    [kernel] = read_ktap(ktap.lines([record(outcome=Outcome.SKIP)], factory.manifest()))
    assert (kernel.ok, kernel.directive) == (True, "SKIP")


def test_measurements_have_one_shape_and_no_wall_time_under_tcg():
    shape = re.compile(r"[A-Za-z0-9_.:/-]+=-?[\d.e+-]+ \S+")
    for accelerator, wall in (("tcg", 0), ("kvm", 16)):
        kernels = read_ktap(ktap.lines(factory.measured(), factory.manifest(accelerator)))
        tests = [test for kernel in kernels for suite in kernel.children for test in suite.children]
        measurements = [line for test in tests for line in test.diagnostics]
        assert all(shape.fullmatch(line) for line in measurements)
        assert sum(line.endswith(" ns") for line in measurements) == wall
    assert "read_hot_pages_evicted_by_wp_only/idle/anon=57 pages" in measurements
    assert any(line.startswith("fault_p50/fault/rwp/async/anon/read=") for line in measurements)


def test_a_hostile_metric_stays_one_diagnostic_line():
    one = record(metrics=[Metric(name="a\nok 1", value=1, unit="p\nq", labels={"path": "x#y", "z z": "\x1b[1m"})])
    [kernel] = read_ktap(ktap.lines([one], factory.manifest()))
    assert len(kernel.children[0].children[0].diagnostics) == 1


def test_the_file_is_utf8_and_ends_with_a_newline(tmp_path):
    path = ktap.write(factory.run_folder(tmp_path / "run", factory.judged()))
    assert path.name == "ktap.txt"
    assert path.read_bytes().decode().endswith("\n")
