"""``kst run`` as jobs call it, without a guest: what a kernel made of the tiny tree would be seen to do.

A worker takes it in place of the real one with ``--preload sabotage_runs``; ``KST_TEST_CALLS`` names the file where
each call leaves a line.
"""

from __future__ import annotations

import os
import re
import signal
from collections.abc import Sequence
from pathlib import Path

import pytest
from kernels_trees import user_git

from kselftests_py.jobs import runs
from kselftests_py.results import Outcome, Record


def run(kernel: str, suites: Sequence[str], options: Sequence[str] = ()) -> tuple[runs.Told, list[Record]]:
    """Our suites notice what returns 7, upstream's 8, all of them 9, which kills the worker that tries it first."""
    made = re.findall(r"return (\d);", _source(kernel))
    calls = Path(os.environ["KST_TEST_CALLS"])
    call = f"{suites[0]} {''.join(made)}\n"
    nth = calls.read_text().count(call) if calls.exists() else 0
    with calls.open("a") as log:
        log.write(call)
    if "9" in made and nth == 0 and suites[0] == "trapping":
        os.kill(os.getpid(), signal.SIGKILL)
    failed = ("8" if suites[0] == "upstream" else "7") in made or "9" in made
    outcome = Outcome.FAIL if failed else Outcome.PASS
    record = Record(id=f"{suites[0]}/test_it", suite=suites[0], kernel="k", outcome=outcome)
    return runs.Told(str(outcome), "why", int(failed)), [record]


def _source(kernel: str) -> str:
    """mm/memory.c, which the tiny tree's kernel ends with; of a commit, what its Documentation/made says."""
    kind, _, rest = kernel.partition(":")
    if kind == "image":
        return Path(rest.split(",")[0]).read_bytes().decode("latin-1")
    folder, _, commit = rest.partition("@")
    return user_git(Path(folder), "show", f"{commit}:Documentation/made")


def dask_setup(_worker: object) -> None:
    """What Dask calls in a worker that is started with ``--preload``."""
    pytest.MonkeyPatch().setattr(runs, "run", run)
