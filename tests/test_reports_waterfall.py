"""Where a sync fault goes: all stages or no row, no nanoseconds of an emulator, nothing under controls."""

import io

import msgspec
import pytest
import results_factory as factory
from results_factory import HOSTILE, record
from rich.console import Console

from kselftests_py.reports import comparison, html, waterfall
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import Metric

COSTS = {"trap": 5545.0, "read": 1199.0, "resolve": 2581.0, "wake": 1274.0, "back": 4591.0}


def fall(protection="rwp", mode="exact", left_out="", **labels):
    labels = {"path": "waterfall", "protection": protection, "kind": "anon", "access": "write", **labels}
    metrics = [
        Metric(name="stage_p50", value=value, unit="ns" if mode == "wall" else "instructions", mode=mode,
               labels={**labels, "stage": stage})
        for stage, value in reversed(COSTS.items())
        if stage != left_out
    ]  # fmt: skip
    return record(id=f"{protection} {mode} {labels}", metrics=metrics)


def test_a_row_has_the_stages_in_their_order_and_their_sum():
    [falls] = waterfall.build([fall("wp"), fall()], factory.manifest())
    assert falls.title == "Exact: instructions"
    assert [row.title.split(" ", 1)[1] for row in falls.rows] == ["WP anon write", "RWP anon write"]
    assert all(row.stages == list(COSTS.values()) and row.total == 15190 for row in falls.rows)


def test_rows_are_in_the_same_order_whichever_record_came_first():
    """WP beside RWP, reads before writes: guests that run at once end their tests as chance has it."""
    cases = [("wp", "write", "anon"), ("rwp", "read", "anon"), ("rwp", "read", "shmem"), ("rwp", "write", "anon")]
    records = [fall(protection, access=access, kind=kind) for protection, access, kind in reversed(cases)]
    [falls] = waterfall.build(records, factory.manifest())
    assert [row.title.split(" ", 1)[1] for row in falls.rows] == [
        f"{protection.upper()} {kind} {access}" for protection, access, kind in cases
    ]


def test_of_several_blocks_the_median_is_shown():
    blocks = [fall(), fall(), fall()]
    for block, trap in zip(blocks, (1.0, 7.0, 5.0), strict=True):
        block.metrics[-1] = msgspec.structs.replace(block.metrics[-1], value=trap)
    [falls] = waterfall.build(blocks, factory.manifest())
    assert falls.rows[0].stages[0] == 5


@pytest.mark.parametrize(
    ("accelerator", "titles"), [("kvm", ["Exact: instructions", "Wall time: ns"]), ("tcg", ["Exact: instructions"])]
)
def test_nanoseconds_only_where_they_mean_something(accelerator, titles):
    falls = waterfall.build([fall(), fall(mode="wall")], factory.manifest(accelerator))
    assert [one.title for one in falls] == titles


def test_without_all_stages_there_is_no_row_and_under_controls_nothing():
    assert waterfall.build([fall(left_out="wake")], factory.manifest()) == []
    assert waterfall.build([fall()], factory.manifest(options={"controls": True})) == []


def test_stages_are_no_rows_of_the_comparison_and_are_in_the_page():
    assert comparison.build([fall()], factory.manifest()) == []
    page = html.render([fall()], factory.manifest())
    assert "Where a sync fault goes" in page
    assert "15,190" in page
    assert page.count("<svg") == 1


def test_the_page_says_what_a_guest_called_things_without_harm():
    page = html.render([fall(kind=HOSTILE)], factory.manifest())
    assert "<script>" not in page


def test_the_terminal_has_the_table_and_counts_the_paths_it_leaves_out(tmp_path):
    path = Metric(name="path_p50", value=9, unit="instructions", mode="exact", labels={"path": "fork", "kind": "anon"})
    folder = factory.run_folder(tmp_path / "run", [fall(), record(metrics=[path])], factory.manifest())
    out = io.StringIO()
    TerminalView(Console(file=out, width=100)).run_finished(folder)
    shown = out.getvalue()
    assert "Where a sync fault goes. Exact: instructions" in shown
    assert "15,190" in shown
    assert "1 path around a fault is in the report" in shown
    assert "fork" not in shown
