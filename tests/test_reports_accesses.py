"""The table of accesses by the kernel: one word for a cell, both kinds where they differ, nothing under controls."""

import results_factory as factory
from results_factory import NEW, OLD, record

from kselftests_py.reports import accesses, comparison, html
from kselftests_py.results import Metric


def seen(how, by="vmsplice", kernel=NEW, kind="anon", protection="rwp", delivery="sync"):
    labels = {"path": "kernel_access", "by": by, "access": "read", "how": how}
    labels |= {"kind": kind, "protection": protection, "delivery": delivery}
    value = float(how in ("trapped", "reported"))
    return record(id=f"{by} {kind}", kernel=kernel, metrics=[Metric(name="seen", value=value, unit="1", labels=labels)])


RECORDS = [
    seen("trapped"),
    seen("trapped", kind="shmem"),
    seen("unseen", protection="wp", kernel=OLD),
    seen("refused", by="ptrace_peek"),
    seen("lost", by="ptrace_peek", kind="shmem"),
]


def test_a_row_for_each_way_in_and_a_column_for_each_delivery() -> None:
    table = accesses.build(RECORDS, factory.manifest())
    assert [heading.split(" ", 1)[1] for heading in table.headings] == ["WP sync", "RWP sync"]
    assert table.rows == [
        ("vmsplice (read)", ["unseen", "trapped"]),
        ("ptrace_peek (read)", [comparison.NOTHING, "anon refused, shmem lost"]),
    ]


def test_the_words_are_in_no_table_of_numbers_and_in_the_page() -> None:
    assert comparison.build(RECORDS, factory.manifest()) == []
    page = html.render(RECORDS, factory.manifest())
    assert accesses.TITLE in page
    assert "anon refused, shmem lost" in page


def test_nothing_is_said_of_a_probe_that_was_told_to_lie() -> None:
    assert accesses.build(RECORDS, factory.manifest(options={"controls": True})).rows == []


def test_what_a_guest_writes_is_made_printable() -> None:
    table = accesses.build([seen(factory.HOSTILE, by=factory.HOSTILE)], factory.manifest())
    assert "\x1b" not in repr(table.rows).encode().decode("unicode_escape")
