import msgspec
import pytest
import results_factory as factory
from results_factory import NEW, OLD, record

from kselftests_py.reports import comparison
from kselftests_py.reports.comparison import NOT_TRAPPED, NOTHING, TIMES, format_number, format_ratio
from kselftests_py.results import KernelEntry, Metric


def fault(value: float, protection: str, mode: str = "exact", **labels: str) -> Metric:
    unit = "instructions" if mode == "exact" else "ns"
    where = {"path": "fault", "delivery": "async", "kind": "anon", "access": "write", "protection": protection}
    return Metric(name="p50", value=value, unit=unit, mode=mode, labels=where | labels)


def tables(metrics: list[tuple[str, Metric]], accelerator: str = "tcg") -> list[comparison.Table]:
    records = [record(kernel=kernel, id=f"t{number}", metrics=[one]) for number, (kernel, one) in enumerate(metrics)]
    return comparison.build(records, factory.manifest(accelerator))


def test_columns_are_baseline_wp_then_kernel_wp_then_rwp():
    [table] = tables([(NEW, fault(1600, "rwp")), (NEW, fault(1680, "wp")), (OLD, fault(1700, "wp"))])
    assert [column.title for column in table.columns] == [f"{OLD} WP", f"{NEW} WP", f"{NEW} RWP"]
    assert [column.baseline for column in table.columns] == [True, False, False]
    [row] = table.rows
    assert [table.shown(row, column) for column in table.columns] == ["1,700", "1,680", "1,600"]
    assert [(ratio.title, row.ratio(ratio.over, ratio.under)) for ratio in table.ratios] == [
        ("WP / baseline", 1680 / 1700),
        ("RWP / WP", 1600 / 1680),
    ]


def test_wall_time_under_tcg_is_ratios_only():
    figures = [(NEW, fault(3210, "rwp", "wall")), (OLD, fault(2000, "wp", "wall"))]
    [table] = tables(figures, "tcg")
    assert table.relative
    assert "ns" not in table.title
    assert [table.shown(table.rows[0], column) for column in table.columns] == [f"1.00{TIMES}", f"1.60{TIMES}"]
    [table] = tables(figures, "kvm")
    assert not table.relative
    assert [table.shown(table.rows[0], column) for column in table.columns] == ["2,000", "3,210"]


def test_a_lone_wall_figure_under_tcg_is_not_shown():
    assert tables([(NEW, fault(3210, "rwp", "wall"))], "tcg") == []


def test_exact_figures_are_shown_under_tcg():
    assert not tables([(NEW, fault(1600, "rwp"))], "tcg")[0].relative


def test_rows_are_ordered_by_path_delivery_memory_access_and_extra_labels_make_rows_of_their_own():
    [table] = tables(
        [
            (NEW, fault(1, "rwp", path="scan", hot="9")),
            (NEW, fault(1, "rwp", path="scan", hot="10")),
            (NEW, fault(1, "rwp", kind="shmem")),
            (NEW, fault(1, "rwp", access="read")),
            (NEW, fault(1, "rwp", delivery="sync")),
        ]
    )
    assert [(row.title, row.name) for row in table.rows] == [
        ("fault sync anon write", "p50"),
        ("fault async anon read", "p50"),
        ("fault async shmem write", "p50"),
        ("scan async anon write", "p50 hot=10"),
        ("scan async anon write", "p50 hot=9"),
    ]


def test_several_figures_of_one_cell_become_their_median_with_all_their_samples():
    def boot(value: float, histogram: list[tuple[float, int]]) -> Metric:
        return Metric(name="p50", value=value, unit="instructions", mode="exact", count=5, histogram=histogram)

    [table] = tables([(NEW, boot(value, [(value, 4), (50.0, 1)])) for value in (30.0, 10.0, 20.0)])
    [cell] = table.rows[0].cells.values()
    assert (cell.value, cell.count, cell.low, cell.high) == (20, 15, 10, 30)
    assert cell.histogram == [(10, 4), (20, 4), (30, 4), (50, 3)]


@pytest.mark.parametrize("zero", [0.0, -1.0])
def test_no_ratio_to_nothing(zero):
    [table] = tables([(NEW, fault(1600, "rwp")), (NEW, fault(zero, "wp"))])
    assert table.ratios == []
    assert table.rows[0].ratio(table.columns[1], table.columns[0]) is None


def test_what_is_not_trapped_is_said_and_not_divided():
    read = {"access": "read"}
    metrics = [(OLD, fault(0, "wp", trapped="no", **read)), (NEW, fault(2, "wp", trapped="no", **read))]
    [table] = tables([*metrics, (NEW, fault(1600, "rwp", **read))])
    [row] = table.rows
    assert [table.shown(row, column) for column in table.columns] == [NOT_TRAPPED, NOT_TRAPPED, "1,600"]
    assert table.ratios == []
    assert row.name == "p50"


@pytest.mark.parametrize("nothing", [0.0, -7.0])
def test_a_wall_figure_below_the_clock_reads_is_no_ratio(nothing):
    figures = [(OLD, fault(2000, "wp", "wall")), (NEW, fault(nothing, "wp", "wall")), (NEW, fault(3000, "rwp", "wall"))]
    [table] = tables(figures, "tcg")
    assert [table.shown(table.rows[0], column) for column in table.columns] == [f"1.00{TIMES}", NOTHING, f"1.50{TIMES}"]
    assert table.ratios == []


def test_clock_reads_are_a_note_and_no_row():
    metric = Metric(name="overhead_p50", value=13, unit="instructions", mode="exact", labels={"path": "overhead"})
    assert tables([(NEW, metric)]) == []
    assert comparison.clock_reads([record(metrics=[metric])]) == "Two clock reads cost 13 instructions, subtracted."
    assert comparison.clock_reads([record()]) == ""
    call = msgspec.structs.replace(metric, value=2751, labels={"path": "overhead", "access": "gup"})
    assert comparison.clock_reads([record(metrics=[metric, call])]) == (
        "Two clock reads cost 13 instructions (2751 instructions around the system call of gup), subtracted."
    )


@pytest.mark.parametrize(
    ("unit", "value", "title"), [("pages", "5", "Counts: pages"), ("1", "5", "Counts"), ("ratio", "2.5", "Ratios")]
)
def test_counts_of_several_tests_are_summed_and_ratios_are_not(unit, value, title):
    [table] = tables([(NEW, Metric(name="x", value=value, unit=unit)) for value in (1, 4)])
    assert (table.title, table.shown(table.rows[0], table.columns[0])) == (title, value)


@pytest.mark.parametrize(
    ("labels", "short"),
    [
        (["7.2.13+deb14-amd64", "7.3.4+deb13-amd64"], ["7.2.13", "7.3.4"]),
        (["7.3.4+deb13-amd64", "7.3.4-rc1"], ["7.3.4+deb13-amd64", "7.3.4-rc1"]),
        (["host", "+x", ""], ["host", "+x", ""]),
    ],
)
def test_kernels_have_short_names_where_these_tell_them_apart(labels, short):
    assert [comparison.short_names(labels)[label] for label in labels] == short


def test_metrics_without_protection_compare_kernels_and_counts_have_no_ratio():
    counted = Metric(name="evicted", value=57, unit="pages")
    [table] = tables([(NEW, counted), (OLD, counted)])
    assert [column.title for column in table.columns] == [OLD, NEW]
    assert table.ratios == []


def test_several_kernels_are_named_in_their_ratios():
    manifest = factory.manifest()
    manifest.kernels.append(KernelEntry(label="tree", spec="tree:x"))
    metrics = [(OLD, "wp"), (NEW, "wp"), (NEW, "rwp"), ("tree", "wp"), ("tree", "rwp")]
    records = [record(kernel=kernel, metrics=[fault(100, protection)]) for kernel, protection in metrics]
    [table] = comparison.build(records, manifest)
    assert [ratio.title for ratio in table.ratios] == [
        f"{NEW} WP / baseline",
        f"{NEW} RWP / WP",
        "tree WP / baseline",
        "tree RWP / WP",
    ]


def test_nothing_measured_nothing_shown():
    assert comparison.build([record()], factory.manifest()) == []


@pytest.mark.parametrize(
    ("value", "text"), [(0, "0"), (41, "41"), (40.5, "40.5"), (0.01234, "0.0123"), (1627.4, "1,627"), (-3, "-3")]
)
def test_numbers(value, text):
    assert format_number(value) == text


@pytest.mark.parametrize(
    ("ratio", "text"), [(None, NOTHING), (0.777, f"0.78{TIMES}"), (11.23, f"11.2{TIMES}"), (1234.6, f"1,235{TIMES}")]
)
def test_ratios(ratio, text):
    assert format_ratio(ratio) == text
