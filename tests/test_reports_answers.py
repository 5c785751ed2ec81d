"""The sentences on top of a report: each from numbers that are in the records, none without them."""

import pytest
import results_factory as factory
from results_factory import NEW, OLD, record

from kselftests_py.reports.answers import answers
from kselftests_py.reports.comparison import TIMES
from kselftests_py.results import Metric, Outcome


def counts(test, path, protection, kernel=NEW, outcome=Outcome.PASS, **values):
    labels = {"path": path, "protection": protection, "kind": "anon"}
    metrics = [Metric(name=name, value=value, unit="pages", labels=labels) for name, value in values.items()]
    return record(id=test, kernel=kernel, metrics=metrics, outcome=outcome)


def idle(test, protection, hot, found, evicted, read_only_evicted, kernel=NEW):
    return counts(
        test, "idle", protection, kernel, hot_pages=hot, found_pages=found, hot_pages_evicted=evicted,
        read_only_hot_pages_evicted=read_only_evicted,
    )  # fmt: skip


def evict(protection, **changes):
    values = {"evicted": 10, "writes": 2000, "lost_writes": 0, "damaged": 0, "asleep": 0, "hot_evicted": 0}
    return counts("evict", "evict", protection, **values | changes)


def cost(value, protection, kernel=NEW, **labels):
    where = {"path": "fault", "delivery": "async", "kind": "anon", "access": "write", "protection": protection} | labels
    metric = Metric(name="p50", value=value, unit="instructions", mode="exact", labels=where)
    return record(id=f"cost {where}", kernel=kernel, metrics=[metric])


WP = [idle("w1", "wp", 90, 32, 58, 58), idle("w2", "wp", 89, 32, 57, 57)]
LOST_BY_WP = "tracking by write protection would have evicted 115 of 179 hot pages (all 115 of them only read)"


@pytest.mark.parametrize(
    ("records", "texts"),
    [
        (
            [*WP, idle("r1", "rwp", 90, 90, 0, 0), idle("r2", "rwp", 89, 89, 0, 0)],
            [f"On {NEW} trapping reads matters: {LOST_BY_WP}; RWP found all 179 (precision 1, recall 1)."],
        ),
        (
            [*WP, idle("r1", "rwp", 90, 100, 10, 10)],  # RWP that misses hot pages and calls cold ones hot
            [f"Idle pages on {NEW}: {LOST_BY_WP}; RWP found 80 of 90 (precision 0.8, recall 0.889)."],
        ),
        (WP, [f"Idle pages on {NEW}: {LOST_BY_WP}."]),
        ([idle("r1", "rwp", 90, 0, 90, 9)], [f"Idle pages on {NEW}: RWP found 0 of 90 (precision 1, recall 0)."]),
        (
            [idle("w1", "wp", 5, 5, 0, 0), idle("r1", "rwp", 5, 5, 0, 0)],  # nothing was only read: nothing matters
            [
                (
                    f"Idle pages on {NEW}: tracking by write protection would have evicted 0 of 5 hot pages; "
                    "RWP found all 5 (precision 1, recall 1)."
                ),
            ],
        ),
        (
            [evict("rwp"), evict("wp", hot_evicted=256, lost_writes=1, asleep=2)],
            [
                (
                    f"The documented eviction loop (RWP) on {NEW}: 10 evictions against 2,000 racing writes: "
                    "0 writes lost, 0 pages damaged, 0 threads left asleep, 0 pages evicted that had just been read."
                ),
                (
                    f"The wp-only eviction loop on {NEW}: 10 evictions against 2,000 racing writes: 1 write lost, "
                    "0 pages damaged, 2 threads left asleep, 256 pages evicted that had just been read."
                ),
            ],
        ),
        (
            [
                cost(2000, "wp", OLD), cost(3000, "wp"), cost(1500, "rwp"), cost(90, "wp", path="scan"),
                cost(180, "rwp", path="scan"), cost(0, "wp", access="read", trapped="no"),
                cost(1400, "rwp", access="read"), cost(9000, "rwp", access="read", delivery="sync"),
                cost(0, "wp", access="read", delivery="sync", trapped="no"),
            ],
            [
                f"{NEW} WP against {OLD} WP, in instructions: a fault 1.50{TIMES}.",
                f"{NEW} RWP against {NEW} WP, in instructions: a fault 0.50{TIMES}, scanning 2.00{TIMES}.",
                f"A trapped read under {NEW} RWP costs 9,000 sync, 1,400 async (instructions); WP traps no read.",
            ],
        ),
        ([counts("x", "idle", "wp", hot_pages=3), counts("y", "evict", "rwp", evicted=3), record()], []),
    ],
)  # fmt: skip
def test_sentences(records, texts):
    assert [answer.text for answer in answers(records, factory.manifest())] == texts


def test_each_sentence_names_its_records():
    [answer] = answers([*WP, idle("r1", "rwp", 9, 9, 0, 0), record(id="other"), *WP], factory.manifest())
    assert answer.sources == ["r1", "w1", "w2"]


def test_the_baseline_comes_after_the_kernel_under_test():
    found = answers([idle("w", "wp", 5, 4, 1, 1, OLD), idle("w", "wp", 5, 3, 2, 2)], factory.manifest())
    assert [answer.text.split(":")[1] for answer in found] == [NEW.split(":")[1], OLD.split(":")[1]]


def test_what_a_failing_test_measured_counts():
    [answer] = answers(
        [evict("rwp"), counts("bad", "evict", "rwp", outcome=Outcome.FAIL, lost_writes=3)], factory.manifest()
    )
    assert "3 writes lost" in answer.text


def test_a_probe_told_to_lie_answers_nothing():
    assert answers(WP, factory.manifest(options={"controls": True})) == []
