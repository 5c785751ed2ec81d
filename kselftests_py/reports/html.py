"""``report.html``: one file that needs nothing else, in the reader's light or dark."""

from __future__ import annotations

import json
from collections import defaultdict
from itertools import groupby
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple

import jinja2
from markupsafe import Markup, escape

from kselftests_py.measure import TAILS
from kselftests_py.reports import accesses, changes, comparison, shifts, waterfall, where
from kselftests_py.reports.answers import answers
from kselftests_py.reports.text import one_line, printable
from kselftests_py.results import Manifest, Outcome, Record, RunFolder, judge, wall
from kselftests_py.results.regression import changes_of_run, pair
from kselftests_py.results.relation import relation
from kselftests_py.results.verdict import counts, outcome_word
from kselftests_py.results.wall import Wall, WallChange

LOG_EXCERPT = 16_384


def write(run: RunFolder) -> Path:
    """Writes ``report.html``; returns its path."""
    return run.write_file("report.html", render(run.ordered(), run.manifest()).encode())


def render(records: list[Record], manifest: Manifest) -> str:
    """The page."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kselftests_py.reports"),
        autoescape=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        # Every text of the page passes here: escaping alone lets control characters through.
        finalize=lambda value: printable(value) if type(value) is str else value,
    )
    environment.filters |= {
        "one_line": one_line,
        "log": lambda text: printable(text)[-LOG_EXCERPT:],
        "svg": Markup,
        "breakable": lambda text: escape(one_line(text)).replace("_", Markup("_<wbr>")),
        "ratio": comparison.format_ratio,
        "number": comparison.format_number,
        "word": outcome_word,
        "json": lambda value: json.dumps(value, indent=2, ensure_ascii=False),
    }
    tables = comparison.build(records, manifest)
    return environment.get_template("report.html.j2").render(
        manifest=manifest,
        under_test=[entry for entry in manifest.kernels if entry.role == "kernel"],
        baselines=[entry for entry in manifest.kernels if entry.role == "baseline"],
        verdict=judge(records, manifest),
        counts=_counts_by_kernel(records),
        answers=answers(records, manifest),
        accesses=accesses.build(records, manifest),
        accesses_title=accesses.TITLE,
        waterfalls=[(falls, _charts().waterfall(falls)) for falls in waterfall.build(records, manifest)],
        stages=list(waterfall.STAGES.values()),
        changes=[(change, changes.row(change)) for change in changes.in_order(changes_of_run(records, manifest))],
        change_headings=[*(entry.label for entry in pair(manifest) or ()), *changes.HEADINGS],
        moved=where.moved(where.changed(records, manifest)),
        moved_headings=[*(entry.label for entry in pair(manifest) or ()), where.MORE],
        origins=[text for text in (relation(manifest), changes.configurations(manifest.config_differences)) if text],
        shifts=_shifts(records, manifest),
        shift_headings=shifts.HEADINGS,
        percentile_names=list(TAILS),
        tables=[(table, _bars(table)) for table in tables if not table.relative],
        relative=[(table, _bars(table), _charts().histograms(table)) for table in tables if table.relative],
        distributions=[(table, panels) for table in tables if not table.relative and (panels := _distributions(table))],
        series=comparison.SERIES,
        exact=any(table.mode == "exact" for table in tables),
        clock_reads=comparison.clock_reads(records),
        short=comparison.short_names(entry.label for entry in manifest.kernels),
        blamed=[record for record in records if record.counts_as_failure],
        broken=[record for record in records if record.outcome in (Outcome.ERROR, Outcome.MISS)],
        findings=[record for record in records if record.finding],
        skips=_skips_by_reason(records),
        tests=_by_kernel_and_suite(records),
    )


class _Side(NamedTuple):
    """One table of the wall comparison: its heads, and its rows with their percentiles."""

    heads: tuple[str, str]
    rows: list[tuple[WallChange, list[str], list[str]]]


def _shifts(records: list[Record], manifest: Manifest) -> tuple[Wall, list[_Side]] | None:
    """The comparison in wall time, if the run made one; under emulation as shares only."""
    compared = wall.of_run(records, manifest)
    if compared is None:
        return None
    relative = any(comparison.is_emulated(label, manifest) for label in (compared.base, compared.head))
    pairs = [((compared.base, compared.head), compared.changes)]
    pairs += [((f"{label} WP", "RWP"), found) for label, found in compared.protections.items()]
    return compared, [
        _Side(
            heads,
            [
                (change, shifts.row(change, relative=relative), [] if relative else shifts.percentiles(change))
                for change in found
            ],
        )
        for heads, found in pairs
    ]


def _charts() -> ModuleType:
    # Here and not above: it draws with matplotlib, which takes a second to import, and most runs measure nothing.
    from kselftests_py.reports import charts

    return charts


def _bars(table: comparison.Table) -> list[tuple[str, str]]:
    return [] if table.mode == "none" else _charts().bars(table)


def _distributions(table: comparison.Table) -> list[Any]:
    return [] if table.mode == "none" else _charts().histograms(table)


def _counts_by_kernel(records: list[Record]) -> dict[str, dict[str, int]]:
    kernels = dict.fromkeys(record.kernel for record in records)
    return {kernel: counts(record for record in records if record.kernel == kernel) for kernel in kernels}


def _skips_by_reason(records: list[Record]) -> list[tuple[str, list[Record]]]:
    """Most frequent reason first."""
    reasons: dict[str, list[Record]] = defaultdict(list)
    for record in records:
        if record.outcome is Outcome.SKIP:
            reasons[one_line(record.message) or "no reason given"].append(record)
    return sorted(reasons.items(), key=lambda item: -len(item[1]))


def _by_kernel_and_suite(records: list[Record]) -> list[tuple[str, str, list[Record]]]:
    ordered = sorted(records, key=lambda record: (record.kernel, record.suite))
    return [
        (kernel, suite, list(group))
        for (kernel, suite), group in groupby(ordered, key=lambda record: (record.kernel, record.suite))
    ]
