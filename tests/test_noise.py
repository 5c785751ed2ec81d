"""What a path costs more by chance of how a kernel boots is told from what the kernel costs more: by function, where
that is known, else by path. On made-up figures: no kernel is booted."""

from __future__ import annotations

import contextlib
import dataclasses
import io
import json
from collections.abc import Iterable
from pathlib import Path
from types import SimpleNamespace

import pytest
import results_factory as factory
from click.testing import CliRunner
from results_factory import HOW, NEW, OLD, PLUGIN, Tried, made, record
from rich.console import Console

from kselftests_py import cli, compare
from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage
from kselftests_py.reports import changes as report
from kselftests_py.reports import junit
from kselftests_py.results import KernelEntry, Metric, Outcome, Record, Where
from kselftests_py.results import history as kept
from kselftests_py.results.noise import NOISE
from kselftests_py.results.regression import changes, regressions
from kselftests_py.where import check, made_by, of_kernel

pytest_plugins = ["history_fixtures", "machines_fixtures"]

FORK = {"path": "fork", "kind": "anon"}
EXIT = {"path": "exit", "kind": "anon"}
COW = {"path": "cow", "kind": "anon"}
EVENT = {"path": "fork-event", "kind": "anon"}
SYNC = {"path": "fault", "delivery": "sync", "kind": "anon"}
MISSING = SYNC | {"path": "missing"}
AROUND = {"filemap_map_pages": 36, "update_rt_rq_load_avg": 0}
MOVED = {"path": "mremap-event", "kind": "anon"}
HUGE = {"path": "absent-write", "kind": "thp"}
STAGE = SYNC | {"path": "waterfall", "stage": "read"}
READS = 18  # of the clock, which the figure has not


def figure(
    labels: dict[str, str], functions: dict[str, int], kernel: str = NEW, by: str = "x", more: int = 0, **fields: object
) -> Record:
    """Measured under the plugin: the figure is all of *functions*, and *more*."""
    value = sum(functions.values()) + more
    metric = Metric(name="path_p50", value=value, unit="instructions", mode="exact", labels=labels)
    where = {"histogram": Where(ticks=value + READS, functions=functions, by=by)} if by else {}
    fixed = {"id": f"latency/{labels}", "kernel": kernel, "outcome": Outcome.DONE, "metrics": [metric], "where": where}
    return record(**fixed | fields)


@pytest.mark.parametrize(
    ("labels", "base", "head", "counts", "verdict"),
    [
        (FORK, {"dup_mm": 100}, {"dup_mm": 101}, 1, "dearer"),
        (FORK, {"dup_mm": 100}, {"dup_mm": 99}, -1, "cheaper"),
        (FORK, {"dup_mm": 100, "pidfs_add_pid": 40}, {"dup_mm": 100, "pidfs_add_pid": 56}, 0, "same"),
        (FORK, {"dup_mm": 100, "memcpy_orig": 40}, {"dup_mm": 101, "memcpy_orig": 36}, 1, "dearer"),
        (FORK, {"dup_mm": 100, "memcpy_orig": 40}, {"dup_mm": 101, "memcpy_orig": 39}, 1, "dearer"),
        # More than boots differ by: what copies is dearer itself, or has more to copy.
        (FORK, {"memcpy_orig": 40}, {"memcpy_orig": 73}, 33, "dearer"),
        (FORK, {"dup_mm": 100, "pidfs_add_pid": 40}, {"dup_mm": 100, "pidfs_add_pid": 57}, 17, "dearer"),
        (FORK, {"dup_mm": 100, "memcpy_orig": 90}, {"dup_mm": 196, "memcpy_orig": 26}, 32, "dearer"),
        (FORK, {"dup_mm": 100, "memcpy_orig": 40}, {"dup_mm": 140, "memcpy_orig": 44}, 40, "dearer"),
        (FORK, {"gone": 7}, {"new": 7}, 0, "same"),
        (EXIT, {"kmem_cache_free_bulk": 100}, {"kmem_cache_free_bulk": 151, "memcpy_orig": 10, "memcpy": 1}, 0, "same"),
        (EXIT, {"pidfs_add_pid": 40}, {"pidfs_add_pid": 41}, 1, "dearer"),
        (EXIT, {"kmem_cache_free_bulk": 100}, {"kmem_cache_free_bulk": 100, "exit_mm": 1}, 1, "dearer"),
        (SYNC, {"handle_userfault": 100}, {"handle_userfault": 101}, 1, "dearer"),
        (SYNC, {"handle_userfault": 100, "record_times": 9}, {"handle_userfault": 100, "record_times": 3}, 0, "same"),
        (SYNC, {"next_uptodate_folio": 100}, {"next_uptodate_folio": 101}, 1, "dearer"),
        (SYNC, {"update_rt_rq_load_avg": 9}, {"update_rt_rq_load_avg": 10}, 1, "dearer"),
        (MISSING, {"next_uptodate_folio": 100}, {"next_uptodate_folio": 21, "shmem_fault": 1}, 1, "dearer"),
        (MISSING, AROUND, {"filemap_map_pages": 0, "update_rt_rq_load_avg": 60, "enqueue_top_rt_rq": 12}, 0, "same"),
        (MOVED, {"record_times": 9, "vma_merge": 100}, {"record_times": 3, "vma_merge": 101}, 1, "dearer"),
        (HUGE, {"__zone_watermark_ok": 100}, {"__zone_watermark_ok": 116}, 0, "same"),
        (HUGE, {"__zone_watermark_ok": 100}, {"__zone_watermark_ok": 116, "do_huge_pmd_wp_page": 1}, 1, "dearer"),
        (
            HUGE,
            {"rcu_sched_clock_irq": 3, "__rcu_read_unlock": 9},
            {"irqentry_exit": 3, "__rcu_read_unlock": 6},
            0,
            "same",
        ),
        # Each within its bound, and together more than boots differ by.
        (HUGE, {"memset": 9}, {"memset": 9, "__zone_watermark_ok": 32, "irqentry_exit": 8}, 8, "dearer"),
        # No noise: each function counts. And where samples are of several kinds, none tells anything.
        (COW, {"memcpy_orig": 40}, {"memcpy_orig": 41}, 1, "dearer"),
        (EVENT, {"dup_mm": 100}, {"dup_mm": 101}, 0, "same"),
        (STAGE, {"userfaultfd_read": 100}, {"userfaultfd_read": 101}, 0, "same"),
    ],
)
def test_an_instruction_counts_but_in_functions_that_remember_the_boot(
    labels: dict[str, str], base: dict[str, int], head: dict[str, int], counts: int, verdict: str
) -> None:
    (change,) = changes([figure(labels, base)], [figure(labels, head)])
    assert (change.counts, change.verdict) == (counts, verdict)
    assert [one.counts for one in regressions([change], 0)] == ([counts] if counts > 0 else [])
    assert regressions([change], max(counts, 0)) == []


def test_what_is_in_no_function_of_the_kernel_counts() -> None:
    """In user space, or in a module."""
    (change,) = changes([figure(FORK, {"dup_mm": 9})], [figure(FORK, {"dup_mm": 9}, more=1)])
    assert change.counts == 1


@pytest.mark.parametrize("by", ["", "y"], ids=["not counted by function", "by another plugin"])
def test_where_functions_are_not_known_the_path_has_its_noise(by: str) -> None:
    for head, counts in ((148, 0), (149, 49)):
        (change,) = changes([figure(FORK, {"dup_mm": 100})], [figure(FORK, {"dup_mm": head}, by=by)])
        assert (change.apart, change.counts, change.untold) == (None, counts, not counts)


def test_what_is_subtracted_may_have_changed_too() -> None:
    """Of a fault in a system call the call is: three more of that, and one more of the fault."""
    base, head = figure(SYNC, {"handle_userfault": 100}), figure(SYNC, {"handle_userfault": 101})
    head.where["histogram"] = Where(ticks=101 + READS + 3, functions={"handle_userfault": 101, "call": 3}, by="x")
    for one, reads in ((base, READS), (head, READS + 3)):
        labels = {"path": "overhead"}
        one.metrics.append(Metric(name="o", value=reads, unit="instructions", mode="exact", labels=labels))
    (change,) = changes([base], [head])
    assert (change.more, change.counts) == (1, 1)


def test_functions_of_another_sample_tell_nothing() -> None:
    """The figure is 8 more; the sample of which the functions are known is 9 more."""
    head = figure(FORK, {"dup_mm": 108})
    head.where["histogram"] = Where(ticks=109 + READS, functions={"dup_mm": 109}, by="x")
    (change,) = changes([figure(FORK, {"dup_mm": 100})], [head])
    assert (change.apart, change.verdict) == (None, "same")


@pytest.mark.vm
@pytest.mark.network
def test_functions_are_named_as_a_kernel_names_them(image: KernelImage, tmp_path: Path) -> None:
    """A name that no kernel has would make one instruction more of a path an alarm, or hide none."""
    there = set(of_kernel(image, lambda: tmp_path / "console", lambda _: None).names)
    inlined = {"enqueue_top_rt_rq"}  # here; lean has it
    assert {name for one in NOISE for name in one.functions} - inlined <= there


def test_a_change_within_the_noise_is_told_as_what_it_is(tmp_path: Path) -> None:
    base, head = ({"dup_mm": 1000, "memcpy_orig": 40}, {"dup_mm": 1001, "memcpy_orig": 36})
    out = io.StringIO()
    Console(file=out, width=160).print(report.table(changes([figure(FORK, base)], [figure(FORK, head)]), "a", "b"))
    assert "1,040  1,037    -3  +1 beside noise" in out.getvalue()
    records = [figure(FORK, base, OLD, suite="latency"), figure(FORK, head, suite="latency")]
    folder = factory.run_folder(tmp_path / "run", records, factory.manifest())
    assert 'value="-3 +1 beside noise"' in junit.write(folder).read_text()


@pytest.mark.parametrize(("function", "word", "code"), [("dup_mm", "DEARER", 1), ("memcpy_orig", "PASS", 0)])
def test_gate(tmp_path: Path, function: str, word: str, code: int) -> None:
    functions = {"dup_mm": 100, "memcpy_orig": 100}
    records = [figure(FORK, functions, OLD), figure(FORK, functions | {function: 101})]
    found = compare.between(factory.run_folder(tmp_path / "run", records, factory.manifest()), 0)
    verdict = compare.decide(found, 0)
    assert (verdict.word, verdict.exit_code) == (word, code)
    if code:
        assert "most fork anon (+1)" in verdict.why


@pytest.mark.parametrize(("head", "allowed", "told"), [(109, 0.0, True), (109, None, False), (100, 0.0, False)])
@pytest.mark.parametrize("labels", [FORK, EVENT, STAGE], ids=lambda labels: labels["path"])
def test_a_gate_that_was_blunt_says_so(
    tmp_path: Path, labels: dict[str, str], head: int, allowed: float | None, told: bool
) -> None:
    records = [figure(labels, {"dup_mm": 100}, OLD), figure(labels, {"dup_mm": head}, by="")]
    found = compare.between(factory.run_folder(tmp_path / "run", records, factory.manifest()), allowed)
    verdict = compare.decide(found, allowed)
    assert (verdict.word, "; 1 changed within their noise" in verdict.why) == ("PASS", told)


ASKED = ["compare", "debian:7.3.4", "debian:7.2.13", "-k", "fork-anon and not wp and not rwp", "--jobs", "1"]


def remember(by: str, dearer: str = "") -> None:
    """A fork on both kernels, which costs one instruction more on *dearer*."""
    for release in ("7.2.13", "7.3.4"):
        image = made(f"debian:{release}")
        entry = KernelEntry(label=image.label, spec=image.spec, release=release, digest=image.digest)
        name = "latency/test_path_cost.py::test_path_cost_in_instructions[fork-anon]"
        kept.remember(
            entry,
            HOW,
            "now",
            figure(FORK, {"f": 9 + (release == dearer)}, by=by, id=name, suite="latency", profile="exact"),
        )


@pytest.mark.parametrize(
    ("options", "by", "booted"),
    [
        ([], "", False),
        (["--max-regression", "0"], "", True),
        (["--max-regression", "0"], "of another plugin", True),
        (["--max-regression", "0"], made_by(), False),
        (["--where"], made_by(), False),
    ],
)
def test_a_gate_counts_by_function_where_that_tells_noise_apart(
    boots: Tried, options: list[str], by: str, booted: bool
) -> None:
    remember(by)
    CliRunner().invoke(cli.main, [*ASKED, *options])
    assert [options for _, options in boots] == ([PLUGIN] * 2 if booted else [])


@pytest.mark.parametrize(("options", "counts"), [([], [0, 0]), (["--max-regression", "1"], [1, 1])])
@pytest.mark.usefixtures("boots")
def test_a_verdict_does_not_depend_on_what_is_in_the_cache(options: list[str], counts: list[int]) -> None:
    """What was counted by function once is not taken for it unasked."""
    remember(made_by(), "7.3.4")
    told = CliRunner().invoke(cli.main, [*ASKED, *options, "--json"])
    (change,) = json.loads(told.stdout)["changes"]
    assert [change["counts"], int(change["verdict"] == "dearer")] == counts


def test_a_gate_does_without_functions_that_are_not_to_be_had(boots: Tried, monkeypatch: pytest.MonkeyPatch) -> None:
    """Known before anything is booted, or when the first guest is asked: what was measured before is taken then."""

    def refuse(*_: object) -> None:
        raise HarnessError("no functions here")

    remember("")
    monkeypatch.setattr("kselftests_py.pytest_plugin.station.of_kernel", refuse)
    told = CliRunner().invoke(cli.main, [*ASKED, "--max-regression", "0"])
    assert told.output.count("no functions here: so it is not told by function what is noise") == 1
    assert (boots, told.exit_code) == ([], 0)
    told = CliRunner().invoke(cli.main, [*ASKED, "--where"])
    assert "no functions here" in told.output
    assert (boots, told.exit_code) == ([], 3)

    def refuse_all(images: Iterable[KernelImage]) -> None:
        raise HarnessError(f"{len([*images])} refuse")

    monkeypatch.setattr("kselftests_py.pytest_plugin.station.check", refuse_all)
    told = CliRunner().invoke(cli.main, [*ASKED, "--max-regression", "0"])
    assert "2 refuse: so it is not told by function what is noise" in told.output
    assert (boots, told.exit_code) == ([], 0)


@pytest.mark.parametrize(("config", "refused"), [("CONFIG_KALLSYMS=y\n", False), ("# no\n", True)])
def test_a_kernel_without_names_is_told_before_it_is_booted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, config: str, refused: bool
) -> None:
    (tmp_path / "config").write_text(config)
    image = dataclasses.replace(made("debian:7.3.4"), config=tmp_path / "config")
    monkeypatch.setattr("kselftests_py.where.watch.Watch", lambda _: SimpleNamespace(close=lambda: None))
    with pytest.raises(HarnessError, match="without CONFIG_KALLSYMS") if refused else contextlib.nullcontext():
        check([image])
    check([made("debian:7.3.4")])  # nothing is known of its configuration


def test_a_qemu_without_plugins_is_told_before_a_boot(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("kselftests_py.where.watch._ASKED", ["false"])
    with pytest.raises(HarnessError, match=r"^this QEMU does not take the plugin"):
        check([])


@pytest.mark.vm
def test_a_qemu_with_plugins_is_not_refused() -> None:
    check([])  # raises nothing
