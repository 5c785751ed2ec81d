"""The live view of a run, and its summary. On a terminal it shows what is running and for how long yet; elsewhere it
writes one plain line for each test."""

from __future__ import annotations

from collections import defaultdict

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.table import Table
from rich.text import Text

from kselftests_py.kernels.steps import Step, every_step
from kselftests_py.reports import accesses, comparison, waterfall
from kselftests_py.reports.answers import answers
from kselftests_py.reports.text import one_line
from kselftests_py.results import Outcome, Record, RunFolder, Verdict, judge
from kselftests_py.results.verdict import counts, outcome_word

_STYLES = {
    "PASS": "green",
    "DONE": "green",
    "XFAIL": "green",
    "SKIP": "dim",
    "ERROR": "yellow",
    "MISS": "yellow",
    "FAIL": "bold red",
    "CRASH": "bold red",
    "HANG": "bold red",
    "XPASS": "bold red",
}
_UNJUDGED = ("ERROR", "MISS", "SKIP")
_QUIET = ("PASS", "DONE", "SKIP", "XFAIL")
# A file or a pipe has no width: wrapping a table at 80 columns there would only break it.
_PLAIN_WIDTH = 160
_LINES_SHOWN = 50


class TerminalView:
    """Prints a run as it goes. Every text of a guest is stripped of escapes and is never read as markup."""

    def __init__(self, console: Console) -> None:
        self.console = console
        if not console.is_terminal:
            console.width = max(console.width, _PLAIN_WIDTH)
        self._running: dict[tuple[str, str], None] = {}
        self._progress = Progress(
            TextColumn("{task.percentage:>3.0f} %"),
            BarColumn(bar_width=24),
            MofNCompleteColumn(),
            TimeElapsedColumn(),
            TextColumn("left"),
            TimeRemainingColumn(),
            TextColumn("{task.fields[now]}", markup=False, table_column=None),
            console=console,
            transient=True,
            # Tests take from milliseconds to a reboot: the estimate needs a long memory.
            speed_estimate_period=120,
        )
        self._task = self._progress.add_task("", total=None, start=False, visible=False, now="")
        self._builds: dict[str, TaskID] = {}

    def run_started(self, total: int, title: str) -> None:
        """`total` tests are to be run, over all kernels."""
        self.console.print(Text(one_line(title)), highlight=False)
        self._progress.update(self._task, total=total, visible=True)
        self._progress.start_task(self._task)
        if self.console.is_terminal:
            self._progress.start()

    @every_step
    def note(self, text: str) -> None:
        """Something worth a line: a boot, a reboot, a download. Of a build's steps a terminal shows how far it is."""
        if isinstance(text, Step) and self.console.is_terminal:
            self._build(text)
        elif not isinstance(text, Step) or text.worth_a_line:
            self._line(Text(one_line(text), style="dim"))

    def _build(self, step: Step) -> None:
        if step.last:
            if step.what in self._builds:
                self._progress.remove_task(self._builds.pop(step.what))
            if not self._builds and not self._progress.tasks[0].visible:
                self._progress.stop()
            return
        if step.what not in self._builds:
            self._builds[step.what] = self._progress.add_task("", total=step.total or None, now="")
            self._progress.start()
        now = one_line(f"{step.what}: {step.now}", 90)
        self._progress.update(self._builds[step.what], completed=step.done, now=now)

    def test_started(self, test_id: str, kernel: str) -> None:
        """This test is running now."""
        self._running[test_id, kernel] = None
        self._progress.update(self._task, now=self.running())

    def test_finished(self, record: Record) -> None:
        """A test has its outcome. A terminal shows only the ones that need a look; a log gets all."""
        if self._running.pop((record.id, record.kernel), self) is None:  # parts of a test are not counted
            self._progress.advance(self._task)
        self._progress.update(self._task, now=self.running())
        if not self.console.is_terminal or outcome_word(record) not in _QUIET:
            self._line(_record_line(record))

    def stop(self) -> None:
        """Takes the progress line away, whatever state the run is in; harmless twice."""
        self._progress.stop()

    def run_finished(self, run: RunFolder) -> Verdict:
        """Prints the summary of what is in the run folder; returns its verdict."""
        self.stop()
        records, manifest = run.ordered(), run.manifest()
        tables = comparison.build(records, manifest)
        for table in tables:
            if not table.relative and not all(row.aside for row in table.rows):
                self._table(_comparison_table(table))
        if aside := sum(row.aside for table in tables for row in table.rows):
            which = "path around a fault is" if aside == 1 else "paths around a fault are"
            self._line(Text(f"{aside} {which} in the report, and in kst history.", "dim"))
        for falls in waterfall.build(records, manifest):
            self._table(_waterfall_table(falls))
        if any(table.relative for table in tables):
            self._line(Text("Nanoseconds mean nothing under TCG; their ratios are in the report.", "dim"))
        if (seen := accesses.build(records, manifest)).rows:
            self._table(_accesses_table(seen))
        self._table(_counts_table(records))
        bad = _summary_lines(records)
        for line in bad[:_LINES_SHOWN]:
            self._line(line)
        if len(bad) > _LINES_SHOWN:
            self._line(Text(f"... and {len(bad) - _LINES_SHOWN} more in the report"))
        for answer in answers(records, manifest):
            self._line(Text(f"- {answer.text}"))
        verdict = judge(records, manifest)
        self._line(Text(f"Report: {run.path / 'report.html'}"))
        style = {0: "bold green", 1: "bold red", 125: "bold red"}.get(verdict.exit_code, "bold yellow")
        self._line(Text.assemble((verdict.word, style), f": {one_line(verdict.why)}."))
        return verdict

    def running(self) -> str:
        """What runs now, as the progress line says it; empty if nothing does."""
        now = [one_line(f"{kernel}: {test_id}", 90) for test_id, kernel in self._running]
        more = f" and {len(now) - 1} more" if len(now) > 1 else ""
        return f"{now[0]}{more}" if now else ""

    def _line(self, text: Text) -> None:
        self.console.print(text, highlight=False, soft_wrap=True)

    def _table(self, table: Table) -> None:
        self.console.print()
        self.console.print(table, highlight=False)


def _record_line(record: Record) -> Text:
    word = outcome_word(record)
    line = Text.assemble(
        (f"{word:<5}", _STYLES[word]),
        f" {one_line(record.kernel)}  {one_line(record.id)}",
        (f"  {record.duration_s:.2f} s", "dim"),
    )
    if record.unexpected_pass:
        line.append(f"  passes although finding {one_line(record.finding)} says that it fails")
    elif record.message and record.outcome is not Outcome.PASS:
        line.append(f"  {one_line(record.message)}")
    return line


def _summary_lines(records: list[Record]) -> list[Text]:
    """One line for each failure; one for all of a kernel's tests that one reason kept from being judged."""
    lines: list[Text] = []
    groups: dict[tuple[str, str, str], list[Record]] = defaultdict(list)
    for record in records:
        if record.outcome in _UNJUDGED:
            groups[str(record.outcome), record.kernel, one_line(record.message)].append(record)
        elif outcome_word(record) not in _QUIET:
            lines.append(_record_line(record))
    for (word, kernel, message), members in sorted(groups.items(), key=lambda item: _UNJUDGED.index(item[0][0])):
        if len(members) == 1 and word != Outcome.SKIP:
            lines.append(_record_line(members[0]))
        else:
            what = f" {one_line(kernel)}  {len(members)} {comparison.TIMES} {message or 'no reason given'}"
            lines.append(Text.assemble((f"{word:<5}", _STYLES[word]), what))
    return lines


def _comparison_table(table: comparison.Table) -> Table:
    out = Table(title=Text(table.title), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("what", "measured"):
        out.add_column(heading)
    for column in table.columns:
        out.add_column(Text("\n".join(table.heading(column))), justify="right")
    for ratio in table.ratios:
        out.add_column(Text(ratio.title.replace(" / ", " /\n")), justify="right", style="bold")
    for row in (row for row in table.rows if not row.aside):
        cells = [table.shown(row, column) for column in table.columns]
        ratios = [comparison.format_ratio(row.ratio(ratio.over, ratio.under)) for ratio in table.ratios]
        out.add_row(*(Text(text) for text in (row.title, row.name, *cells, *ratios)))
    return out


def _waterfall_table(falls: waterfall.Falls) -> Table:
    title = Text(f"Where a sync fault goes. {falls.title}")
    out = Table(title=title, title_justify="left", title_style="bold", box=None, pad_edge=False)
    out.add_column("fault")
    for heading in (*waterfall.STAGES, "together"):
        out.add_column(heading, justify="right")
    for fall in falls.rows:
        figures = [comparison.format_number(value) for value in (*fall.stages, fall.total)]
        out.add_row(*(Text(text) for text in (fall.title, *figures)))
    return out


def _accesses_table(seen: accesses.Accesses) -> Table:
    out = Table(title=Text(accesses.TITLE), title_justify="left", title_style="bold", box=None, pad_edge=False)
    for heading in ("who (does)", *seen.headings):
        out.add_column(Text(heading))
    for name, cells in seen.rows:
        out.add_row(*(Text(text) for text in (name, *cells)))
    return out


def _counts_table(records: list[Record]) -> Table:
    kernels = dict.fromkeys(record.kernel for record in records)
    words = counts(records)
    out = Table(box=None, pad_edge=False)
    out.add_column("kernel")
    for word in words:
        out.add_column(word, justify="right", style=_STYLES[word])
    for kernel in kernels:
        found = counts(record for record in records if record.kernel == kernel)
        out.add_row(Text(one_line(kernel)), *(str(found.get(word, comparison.NOTHING)) for word in words))
    return out
