from xml.etree import ElementTree

import pytest
import results_factory as factory
from junitparser import Error, Failure, JUnitXml, Skipped
from results_factory import HOSTILE, NEW, record

from kselftests_py.reports import junit
from kselftests_py.results import Metric, Outcome


def written(tmp_path, records, manifest=None):
    path = junit.write(factory.run_folder(tmp_path / "run", records, manifest))
    ElementTree.parse(path)  # expat: any character that XML forbids is an error
    return JUnitXml.fromfile(str(path))


@pytest.mark.parametrize(
    ("outcome", "finding", "element", "kind"),
    [
        ("PASS", "", None, None),
        ("DONE", "", None, None),
        ("FAIL", "", Failure, "FAIL"),
        ("CRASH", "", Error, "CRASH"),
        ("HANG", "", Error, "HANG"),
        ("ERROR", "", Error, "ERROR"),
        ("MISS", "", Error, "MISS"),
        ("SKIP", "", Skipped, None),
        ("FAIL", "F001", Skipped, None),
        ("PASS", "F001", Failure, "XPASS"),
        ("CRASH", "F001", Error, "CRASH"),
    ],
)
@pytest.mark.parametrize("message", ["why", ""])
def test_each_outcome(tmp_path, outcome, finding, element, kind, message):
    one = record(outcome=Outcome(outcome), finding=finding, message=message, log="line 1\nline 2")
    [suite] = written(tmp_path, [one])
    [case] = suite
    assert (case.name, case.classname, case.time) == (one.id, f"{NEW}.trapping", 0.1)
    if element is None:
        assert case.result == []
    else:
        [result] = case.result
        assert type(result) is element
        assert result.text == "line 1\nline 2"
        assert kind is None or result.type == kind
        assert (finding if kind == "XPASS" else message) in result.message


def test_one_suite_for_each_kernel_and_suite_with_counts_that_add_up(tmp_path):
    records = [*factory.judged(), *factory.measured()]
    document = written(tmp_path, records)
    groups = {f"{one.kernel}/{one.suite}" for one in records}
    assert sorted(suite.name for suite in document) == sorted(groups)
    assert sum(suite.tests for suite in document) == len(records)
    assert (
        sum(suite.failures for suite in document)
        == sum(one.outcome == "FAIL" and not one.finding for one in records) + 1
    )
    assert sum(suite.errors for suite in document) == 4
    assert sum(suite.skipped for suite in document) == sum(one.outcome == "SKIP" for one in records) + 1
    crash = next(case for suite in document for case in suite if case.name == "trapping/test_fork")
    assert "mrwprotect_range+0x52" in crash.result[0].text
    assert crash.result[0].message.startswith("CRASH")


@pytest.mark.parametrize(
    "text", [HOSTILE, "]]>", "\x00", b"\xff\xfe".decode("utf-8", "surrogateescape"), "<&\"'>", "\U0001ffff"]
)
def test_hostile_text_everywhere(tmp_path, text):
    metric = Metric(name=text, value=1, unit=text, labels={text: text})
    one = record(
        id=text, suite=text, kernel=text, outcome=Outcome.FAIL, message=text, log=text, claim=text, metrics=[metric]
    )
    [suite] = written(tmp_path, [one])
    [case] = suite
    assert case.is_failure
    assert "[31m" not in case.result[0].text
    if "]]>" in text:
        assert "]]>" in case.result[0].text


def test_metrics_are_properties_but_not_wall_time_under_tcg(tmp_path):
    for accelerator, wall in (("tcg", 0), ("kvm", 16)):
        document = written(tmp_path / accelerator, factory.measured(), factory.manifest(accelerator))
        names = [one.name for suite in document for one in suite.properties()]
        assert sum(name.endswith("[ns]") for name in names) == wall
        changed = sum(name.startswith("more:") for name in names)
        assert changed == 6  # of the paths that both kernels have
        assert sum(name.endswith("[instructions]") for name in names) == 22 + changed
    [pages] = [one for suite in document for one in suite.properties() if one.name.endswith("[pages]")][:1]
    assert pages.value == "57"


def test_a_long_log_is_cut_to_its_end(tmp_path):
    one = record(outcome=Outcome.CRASH, log="x" * 60_000 + "panic")
    [suite] = written(tmp_path, [one])
    text = next(iter(suite)).result[0].text
    assert len(text) < 17_000
    assert text.endswith("panic")


def test_an_empty_run_is_a_document(tmp_path):
    assert list(written(tmp_path, [])) == []
