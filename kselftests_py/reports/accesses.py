"""Who can read a protected page, and is it seen as an access: a row for each way in, from the metrics ``seen``.

A question of the thread that RWP began with. The words of a cell: *trapped* (a message came, and the access waited),
*reported* (PAGEMAP_SCAN calls the page accessed or written), *unseen* (the access went by), *refused* (it failed, and
no message came), *lost* (it was made without effect, or saw other bytes).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

import msgspec

from kselftests_py.reports.comparison import KERNEL_ACCESS, NOTHING, short_names
from kselftests_py.reports.text import one_line
from kselftests_py.results import Manifest, Metric, Record

TITLE = "Accesses by the kernel to a protected page: are they seen?"


class Accesses(msgspec.Struct, frozen=True):
    """The table: a heading and a cell for each kernel, protection and delivery; no rows if none was tried."""

    headings: list[str]
    rows: list[tuple[str, list[str]]]


def build(records: Iterable[Record], manifest: Manifest) -> Accesses:
    """The table of a run, in the order of its kernels and tests; empty for a run with negative controls."""
    cells: dict[str, dict[tuple[str, str, str], list[Metric]]] = defaultdict(lambda: defaultdict(list))
    for record in records if not manifest.options.get("controls") else ():
        for metric in (one for one in record.metrics if one.labels.get("path") == KERNEL_ACCESS):
            labels = metric.labels
            column = record.kernel, labels.get("protection", ""), labels.get("delivery", "")
            cells[f"{labels.get('by', '')} ({labels.get('access', '')})"][column].append(metric)
    short = short_names(entry.label for entry in manifest.kernels)
    columns = sorted({column for row in cells.values() for column in row})
    headings = [f"{short.get(kernel, kernel)} {protection.upper()} {how}" for kernel, protection, how in columns]
    rows = [(one_line(name), [_cell(row.get(column, ())) for column in columns]) for name, row in cells.items()]
    return Accesses([one_line(heading) for heading in headings], rows)


def _cell(metrics: Sequence[Metric]) -> str:
    """One word where all kinds of memory agree, else each kind with its own."""
    words = {metric.labels.get("kind", ""): metric.labels.get("how", "") for metric in metrics}
    if len(set(words.values())) == 1:
        return one_line(next(iter(words.values())))
    return one_line(", ".join(f"{kind} {word}" for kind, word in words.items())) or NOTHING
