"""The probe's fault loop beside the usual harness, quickly: what no speed of the machine changes."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import cast

import bench_peer
import pytest

from kselftests_py.lab import KernelRefused, Lab, PipeChannel, Subject
from kselftests_py.lab.build import agent
from kselftests_py.lab.replies import Histogram, Throughput

PAGES, PASSES = 50, 4


def test_both_see_each_page_fault_once_a_pass(tmp_path: Path) -> None:
    channel = PipeChannel([str(agent())])
    try:
        theirs, nanoseconds = bench_peer.peer(bench_peer.build_peer(tmp_path), PAGES, PASSES)
        with Lab(channel).subject() as subject:
            ours, cost, overhead = bench_peer.probe(subject, PAGES, PASSES)
    except (subprocess.CalledProcessError, KernelRefused) as error:
        pytest.skip(f"userfaultfd write protection is not to be had here: {error}")
    finally:
        channel.close()
    assert theirs == ours == PAGES * PASSES
    assert nanoseconds > 0
    assert cost > 0
    assert overhead > 0


def test_the_probe_subtracts_its_clock_readings() -> None:
    class Fake:
        def fault_throughput(self, **_: object) -> Throughput:
            accesses, clock_reads = [(1000, 3), (5000, 1)], [(40, 1), (60, 1)]
            return Throughput(Histogram("ticks", accesses), Histogram("ticks", clock_reads), 4, 4, 9000)

    assert bench_peer.probe(cast(Subject, Fake()), 4, 1) == (4, 2000 - 50, 50)


def test_a_wrong_number_of_arguments_is_a_usage_error(tmp_path: Path) -> None:
    told = subprocess.run([bench_peer.build_peer(tmp_path), "0", "1"], capture_output=True, text=True, check=False)
    assert (told.returncode, "usage" in told.stderr) == (2, True)
