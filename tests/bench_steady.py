"""How steady exact figures are where all else differs: ``python tests/bench_steady.py FOLDER [SPEC BOOTS]``.

Two boots of one kernel are the same to the instruction (tests/test_machines_exact.py), but two kernels do not boot in
the same way, and what a path costs may depend on that. So each boot of SPEC, a run of the latency suite in exact mode,
has 4 MiB less memory than the one before. It is kept in FOLDER; runs that are there are used again, so boots can be
added. Every run is compared with every other as ``kst compare --max-regression 0`` would, by function where that tells
noise apart: a figure that is not the same, or of which that is not known, is an alarm, and there must be none. Exits
with 1 if there was one, or no figure.
"""

from __future__ import annotations

import itertools
import sys
import tempfile
from collections import Counter
from pathlib import Path

from rich.console import Console

from kselftests_py import run
from kselftests_py.reports.terminal import TerminalView
from kselftests_py.results import RunFolder
from kselftests_py.results.noise import of_path
from kselftests_py.results.regression import Change, changes, figures


def boot(folder: Path, spec: str) -> None:
    """One more run; :raises RuntimeError: it did not pass."""
    number = sum(1 for _ in folder.glob("boot-*")) + 1
    out = Path(tempfile.mkdtemp(prefix=f"new-{number}-", dir=folder))
    options = run.Options(
        kernels=(spec,), baseline="none", suites=("latency",), mode="exact", memory=f"{1028 - 4 * number}M", out=out,
        where=True,
    )  # fmt: skip
    _, verdict = run.run(options, TerminalView(Console(quiet=True)))
    if verdict.exit_code:
        raise RuntimeError(f"{out}: {verdict.word}: {verdict.why}")
    out.rename(folder / f"boot-{number}")


def main(where: str, spec: str = "", boots: str = "0") -> int:
    folder = Path(where)
    folder.mkdir(exist_ok=True)
    for _ in range(int(boots)):
        boot(folder, spec)
    runs = [RunFolder(path).records() for path in sorted(folder.glob("boot-*"))]
    columns = [figures(run) for run in runs]
    shared = [key for key in columns[0] if all(key in column for column in columns)] if columns else []
    steady = 0
    print("apart at most | allowed | path")
    for key in shared:
        values = [column[key].value for column in columns]
        metric = columns[0][key]
        if min(values) == max(values):
            steady += 1
            continue
        change = Change(metric.name, metric.labels, metric.unit, min(values), max(values))
        functions = " by function" * bool(of_path(metric.labels).functions)
        print(f"{change.more:12.6g} | {change.noise:g}{functions} | {change.title}: {sorted(values)}")
    alarms: Counter[str] = Counter()
    comparisons = list(itertools.combinations(runs, 2))
    for base, head in comparisons:
        for one in changes(base, head):
            blunt = one.untold and of_path(one.labels).functions
            alarms.update([one.title] if one.verdict != "same" or blunt else [])
    print(f"{len(runs)} boots, {len(shared)} figures, {steady} equal to the instruction in all")
    print(f"{len(comparisons)} comparisons of a boot with another, {alarms.total()} alarms {dict(alarms) or ''}")
    return 1 if alarms or not shared else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
