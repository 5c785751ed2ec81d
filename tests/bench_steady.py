"""How steady exact figures are where all else differs: ``python tests/bench_steady.py FOLDER [SPEC BOOTS]``.

Two boots of one kernel are the same to the instruction (tests/test_machines_exact.py), but two kernels do not boot in
the same way, and what a path costs may depend on that. So each boot of SPEC, a ``kst run`` of the latency suite in
exact mode, has 4 MiB less memory than the one before. It is kept in FOLDER; runs that are there are used again, so
boots can be added. Every run is compared with every other as ``kst compare`` would: a figure that is
not the same within its noise (``NOISE``) is an alarm, and there must be none. Exits with 1 if there was one.
"""

from __future__ import annotations

import itertools
import subprocess
import sys
from collections import Counter
from pathlib import Path

from kselftests_py.results import RunFolder
from kselftests_py.results.regression import Change, changes, figures, title


def boot(folder: Path, spec: str) -> None:
    """One more run; :raises CalledProcessError: it did not pass."""
    number = sum(1 for _ in folder.glob("boot-*")) + 1
    command = [sys.executable, "-m", "kselftests_py", "run", "--kernel", spec, "--baseline", "none"]
    command += ["--suite", "latency", "--mode", "exact", "--out", str(folder / f"boot-{number}")]
    command += ["--memory", f"{1028 - 4 * number}M"]
    subprocess.run(command, check=True, stdout=subprocess.DEVNULL)


def main(where: str, spec: str = "", boots: str = "0") -> int:
    folder = Path(where)
    folder.mkdir(exist_ok=True)
    for _ in range(int(boots)):
        boot(folder, spec)
    runs = [RunFolder(path).records() for path in sorted(folder.glob("boot-*"))]
    columns = [figures(run) for run in runs]
    shared = [key for key in columns[0] if all(key in column for column in columns)]
    steady = 0
    print("apart at most | allowed | path")
    for key in shared:
        values = [column[key].value for column in columns]
        metric = columns[0][key]
        if min(values) == max(values):
            steady += 1
            continue
        change = Change(metric.name, metric.labels, metric.unit, min(values), max(values))
        print(f"{change.more:12.6g} | {change.noise:g} | {title(metric.name, metric.labels)}: {sorted(values)}")
    alarms: Counter[str] = Counter()
    comparisons = list(itertools.combinations(runs, 2))
    for base, head in comparisons:
        alarms.update(change.title for change in changes(base, head) if change.verdict != "same")
    print(f"{len(runs)} boots, {len(shared)} figures, {steady} equal to the instruction in all")
    print(f"{len(comparisons)} comparisons of a boot with another, {alarms.total()} alarms {dict(alarms) or ''}")
    return 1 if alarms else 0


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
