import io
import re

import pytest
import results_factory as factory
from results_factory import HOSTILE, NEW, OLD, record
from rich.console import Console

from kselftests_py.kernels.steps import Step, tell
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import Outcome


def shown(tmp_path, records, manifest=None, *, terminal=False, width=100):
    """What a view prints of a whole run, and the verdict."""
    out = io.StringIO()
    console = Console(file=out, force_terminal=terminal, width=width, color_system="standard" if terminal else None)
    view = TerminalView(console)
    view.run_started(len(records), "two kernels")
    view.note("booting")
    for one in records:
        view.test_started(one.id, one.kernel)
        view.test_finished(one)
    verdict = view.run_finished(factory.run_folder(tmp_path / "run", records, manifest))
    return out.getvalue(), verdict


@pytest.fixture
def realistic():
    return [*factory.judged(), *factory.measured()]


def test_without_a_terminal_there_is_a_plain_line_for_each_test(tmp_path, realistic):
    text, verdict = shown(tmp_path, realistic)
    assert not re.search(r"[\x00-\x09\x0b-\x1f\x7f-\x9f]", text)
    before, _, _ = text.partition("Exact: ")
    lines = [line for line in before.splitlines() if re.match(r"[A-Z]+ +debian:", line)]
    assert len(lines) == len(realistic)
    assert (verdict.word, verdict.exit_code) == ("CRASH", 1)
    assert text.splitlines()[-1] == f"CRASH: {verdict.why}."


def test_the_summary_has_the_comparison_the_failures_and_the_report(tmp_path, realistic):
    text, _ = shown(tmp_path, realistic)
    _, _, summary = text.partition("Exact: ")
    row = next(line for line in summary.splitlines() if line.startswith("fault async anon write"))
    assert re.search(r"1,706 +1,682 +1,631 +0\.99\S +0\.97\S", row)
    assert "Nanoseconds mean nothing under TCG; their ratios are in the report." in summary
    assert "Wall" not in summary
    bad = [one for one in realistic if one.counts_as_failure or one.outcome in ("ERROR", "MISS")]
    assert len(
        [line for line in summary.splitlines() if re.match(r"(CRASH|HANG|X?FAIL|XPASS|ERROR|MISS) +debian", line)]
    ) == len(bad)
    assert str(tmp_path / "run" / "report.html") in summary


def test_a_terminal_shows_progress_and_only_what_needs_a_look(tmp_path, realistic):
    text, _ = shown(tmp_path, realistic, terminal=True)
    assert "left" in text
    assert "\x1b[" in text
    assert "test_rwp_read_traps[anon-sync]  " not in text
    assert "Oops in mrwprotect_range" in text


@pytest.mark.parametrize("terminal", [False, True])
def test_a_guest_controls_neither_terminal_nor_markup(tmp_path, terminal):
    bad = [record(id=HOSTILE, kernel=HOSTILE, suite=HOSTILE, outcome=outcome, message=HOSTILE) for outcome in Outcome]
    text, _ = shown(tmp_path, bad, terminal=terminal, width=400)
    assert "[bold]x[/bold]" in text
    assert "\x1b]0;" not in text
    assert "\x07" not in text
    assert "\x1b[31mred" not in text


def test_what_runs_now_is_shown():
    view = TerminalView(Console(file=io.StringIO(), force_terminal=True))
    view.run_started(2, "x")
    view.test_started("trapping/test_a", NEW)
    view.test_started("trapping/test_b", NEW)
    assert view.running() == f"{NEW}: trapping/test_a and 1 more"
    view.test_finished(record(id="trapping/test_a"))
    assert view.running() == f"{NEW}: trapping/test_b"
    view.test_finished(record(id="trapping/test_b"))
    assert view.running() == ""
    view.stop()
    view.stop()


@pytest.mark.parametrize("width", [40, 80, 200])
def test_every_width_works(tmp_path, realistic, width):
    for terminal in (False, True):
        text, _ = shown(tmp_path / str(terminal), realistic, terminal=terminal, width=width)
        assert "Report: " in text


def test_what_one_reason_kept_from_being_judged_is_one_line_for_each_kernel(tmp_path):
    lost = [record(id=f"a{n}", outcome=Outcome.MISS, message="no KVM") for n in range(30)]
    skipped = [record(id=f"b{n}", kernel=OLD, outcome=Outcome.SKIP, message="no RWP") for n in range(3)]
    other = [
        record(id="c", outcome=Outcome.MISS, message="lost"),
        record(id="d", outcome=Outcome.FAIL, message="no KVM"),
    ]
    text, _ = shown(tmp_path, [*lost, *skipped, *other], terminal=True, width=200)
    _, _, summary = re.sub(r"\x1b\[[0-9;]*m", "", text).rpartition("kernel  ")
    assert re.findall(r"^(?:MISS|SKIP|FAIL) .*$", summary, re.MULTILINE) == [
        f"FAIL  {NEW}  d  0.10 s  no KVM",
        f"MISS  {NEW}  30 \u00d7 no KVM",
        f"MISS  {NEW}  c  0.10 s  lost",
        f"SKIP  {OLD}  3 \u00d7 no RWP",
    ]


def test_many_failures_are_not_all_listed(tmp_path):
    text, _ = shown(tmp_path, [record(id=f"t{n}", outcome=Outcome.FAIL) for n in range(500)], terminal=True)
    assert "... and 450 more in the report" in text


def build(*, terminal, steps, ends=True):
    """What a view prints of a build of 300 steps; the view."""
    out = io.StringIO()
    view = TerminalView(Console(file=out, force_terminal=terminal, width=150))
    for done in range(1, steps + 1):
        tell(view.note, Step("tree:x[bold]", done, 300, f"LD {done}.\x1b[31mo"))
    if ends:
        tell(view.note, Step("tree:x[bold]", steps, 300, "LD end", last=True))
    return out.getvalue(), view


def test_a_terminal_shows_a_build_as_a_bar_with_its_steps():
    text, view = build(terminal=True, steps=150, ends=False)
    view._progress.refresh()
    shown_now = view.console.file.getvalue()[len(text) :]
    assert "150/300" in shown_now
    assert "50 %" in shown_now
    assert "tree:x[bold]: LD 150.o" in shown_now
    assert "\x1b[31m" not in shown_now
    assert shown_now.count("/") == 1, "the bar of the tests is there before there are tests"
    view.stop()


def test_after_a_build_the_bar_is_gone_and_the_tests_have_theirs():
    _, view = build(terminal=True, steps=3)
    assert not view._progress.live.is_started
    view.run_started(7, "one kernel")
    before = len(view.console.file.getvalue())
    build_again = Step("tree:y", 1, 0, "CC y.o")
    tell(view.note, build_again)
    view._progress.refresh()
    assert "0/7" in view.console.file.getvalue()[before:]
    assert "1/?" in view.console.file.getvalue()[before:]
    tell(view.note, Step("tree:y", 1, 0, "CC y.o", last=True))
    assert view._progress.live.is_started
    assert [task.total for task in view._progress.tasks] == [7]
    view.stop()


def test_a_log_has_a_line_for_each_hundred_steps():
    text, _ = build(terminal=False, steps=250)
    assert [line.split(" (")[0] for line in text.splitlines()] == [
        "building tree:x[bold]: 100 of at most 300 steps",
        "building tree:x[bold]: 200 of at most 300 steps",
    ]
