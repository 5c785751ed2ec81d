import json
import math
from pathlib import Path

import jsonschema
import msgspec
import pytest
import results_factory as factory
from results_factory import HOSTILE, record

from kselftests_py.results import Manifest, Metric, Outcome, Record
from kselftests_py.results import schema as results_schema
from kselftests_py.results.record import MAX_LOG, MAX_MESSAGE, cut, encode
from kselftests_py.results.verdict import counts, judge


@pytest.mark.parametrize(
    ("outcome", "finding", "counted", "word"),
    [
        ("PASS", "", False, "PASS"),
        ("DONE", "", False, "DONE"),
        ("FAIL", "", True, "FAIL"),
        ("CRASH", "", True, "CRASH"),
        ("HANG", "", True, "HANG"),
        ("SKIP", "", False, "SKIP"),
        ("ERROR", "", False, "ERROR"),
        ("MISS", "", False, "MISS"),
        ("FAIL", "F001", False, "XFAIL"),
        ("PASS", "F001", True, "XPASS"),
        ("DONE", "F001", True, "XPASS"),
        ("CRASH", "F001", True, "CRASH"),
        ("HANG", "F001", True, "HANG"),
        ("SKIP", "F001", False, "SKIP"),
        ("ERROR", "F001", False, "ERROR"),
    ],
)
def test_what_counts_as_failure(outcome, finding, counted, word):
    one = record(outcome=Outcome(outcome), finding=finding)
    assert one.counts_as_failure is counted
    assert counts([one]) == {word: 1}


NEW, OLD = factory.NEW, factory.OLD


@pytest.mark.parametrize(
    ("outcomes", "fields", "code", "word"),
    [
        # (outcome, finding, kernel) of each record
        ([("PASS", "", NEW)], {}, 0, "PASS"),
        ([("DONE", "", NEW), ("SKIP", "", OLD)], {}, 0, "PASS"),
        ([("PASS", "", NEW), ("FAIL", "F001", NEW)], {}, 0, "PASS"),
        ([("PASS", "", NEW), ("PASS", "F001", NEW)], {}, 1, "FAIL"),
        ([("PASS", "", NEW), ("FAIL", "", NEW)], {}, 1, "FAIL"),
        ([("FAIL", "", NEW), ("CRASH", "", NEW), ("HANG", "", NEW)], {}, 1, "CRASH"),
        ([("FAIL", "", NEW), ("HANG", "", NEW), ("ERROR", "", NEW)], {}, 1, "HANG"),
        ([("PASS", "", NEW), ("ERROR", "", NEW)], {}, 3, "BROKEN"),
        ([("PASS", "", NEW), ("MISS", "", OLD)], {}, 3, "BROKEN"),
        ([("SKIP", "", NEW), ("SKIP", "", OLD)], {}, 3, "NOTHING TESTED"),
        ([("SKIP", "", NEW), ("PASS", "", OLD)], {}, 3, "NOTHING TESTED"),
        ([("FAIL", "F001", NEW)], {}, 3, "NOTHING TESTED"),
        ([], {}, 3, "NOTHING TESTED"),
        ([], {"kernels": []}, 3, "NOTHING TESTED"),
        ([("PASS", "", NEW)], {"finished": ""}, 3, "INCOMPLETE"),
        ([("FAIL", "", NEW)], {"finished": ""}, 1, "FAIL"),
        ([("MISS", "", NEW), ("PASS", "", OLD)], {"boot_failed": "panic at boot"}, 125, "NO BOOT"),
        ([("MISS", "", NEW), ("FAIL", "", OLD)], {"boot_failed": "panic at boot"}, 125, "NO BOOT"),
        ([("CRASH", "", NEW)], {"boot_failed": "no second boot"}, 1, "CRASH"),
        ([("PASS", "", NEW), ("FAIL", "", OLD)], {}, 1, "FAIL"),
    ],
)
def test_verdict(outcomes, fields, code, word):
    records = [
        record(outcome=Outcome(outcome), finding=finding, kernel=kernel) for outcome, finding, kernel in outcomes
    ]
    verdict = judge(records, factory.manifest(**fields))
    assert (verdict.exit_code, verdict.word) == (code, word)
    assert verdict.why
    assert "\n" not in verdict.why


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("where", ["value", "spread", "histogram"])
def test_numbers_that_json_cannot_hold_are_refused(bad, where):
    fields = {"value": 1.0} | {where: {"value": bad, "spread": (0.0, bad), "histogram": [(bad, 1)]}[where]}
    with pytest.raises(ValueError, match="not finite"):
        Metric(name="x", unit="ns", **fields)


def test_text_of_a_guest_is_bounded_and_encodable():
    one = record(message="m" * 10_000, log="begin" + "x" * 1_000_000 + "end", id=HOSTILE).bounded()
    assert len(one.message) <= MAX_MESSAGE
    assert len(one.log) <= MAX_LOG
    assert one.log.startswith("begin")
    assert one.log.endswith("end")
    again = msgspec.json.decode(encode(one), type=Record)
    assert again.id == HOSTILE.replace("\udcff", "\ufffd")
    assert again.log == one.log


@pytest.mark.parametrize("length", [0, 99, 100, 101, 5000])
def test_cut_keeps_its_bound(length):
    text = "a" * length
    assert cut(text, 100) == text if length <= 100 else 98 <= len(cut(text, 100)) <= 100


def test_every_record_and_manifest_fits_the_json_schema():
    check = jsonschema.Draft202012Validator(results_schema.json_schema(Record))
    for one in [*factory.judged(), *factory.measured()]:
        check.validate(json.loads(encode(one.bounded())))
    manifest_check = jsonschema.Draft202012Validator(results_schema.json_schema(Manifest))
    manifest_check.validate(json.loads(encode(factory.manifest())))


@pytest.mark.parametrize(
    "change",
    [
        {"outcome": "OK"},
        {"schema_version": 2},
        {"duration_s": -1},
        {"id": 3},
        {"metrics": [{"name": "x"}]},
        {"metrics": [{"name": "x", "value": 1, "unit": "ns", "mode": "guess"}]},
    ],
)
def test_a_record_that_is_none_is_refused_by_reader_and_schema(change):
    line = json.loads(msgspec.json.encode(record())) | change
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(json.dumps(line), type=Record)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(line, results_schema.json_schema(Record))


def test_the_schema_page_is_that_of_the_structs():
    page = Path(__file__).parent.parent / "docs" / "results-schema.md"
    assert page.read_text() == results_schema.markdown(), "run: python -m kselftests_py.results.schema > docs/..."


def test_every_field_is_documented():
    for struct in results_schema.TABLES:
        properties = results_schema.json_schema(struct)["$defs"][struct.__name__]["properties"]
        assert [name for name, schema in properties.items() if not schema.get("description")] == []
