"""One record model and one run folder: the only source of every report."""

from __future__ import annotations

from kselftests_py.results.manifest import Host, KernelEntry, Manifest
from kselftests_py.results.record import Metric, Outcome, Record, Where
from kselftests_py.results.run_folder import RunFolder
from kselftests_py.results.verdict import Verdict, exit_code, judge

__all__ = [
    "Host",
    "KernelEntry",
    "Manifest",
    "Metric",
    "Outcome",
    "Record",
    "RunFolder",
    "Verdict",
    "Where",
    "exit_code",
    "judge",
]
