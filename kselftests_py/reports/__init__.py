"""Reports: made from a run folder and from nothing else, so that ``kst report RUN`` can make them again."""

from __future__ import annotations

from pathlib import Path

from kselftests_py.results import RunFolder


def write_all(run: RunFolder) -> list[Path]:
    """Writes ``junit.xml``, ``ktap.txt`` and ``report.html`` into the run folder; returns where they are.

    Raises:
        HarnessError: the run folder cannot be read or written.
    """
    # Here and not above: a run begins without them.
    from kselftests_py.reports import html, junit, ktap

    return [junit.write(run), ktap.write(run), html.write(run)]
