"""A sync write-protect fault by the probe and by the usual harness beside it.

``python tests/bench_peer.py [BLOCKS [PREFIX ...]]``; the prefix is put before both programs, so that a busy machine
disturbs neither: ``python tests/bench_peer.py 12 taskset -c 1 chrt -f 1``.

Both take the mean of 100,000 faults on this host, in turns. The peer (peer_fault_mean.c) divides the time of whole
passes by their faults; the probe reads the clock around every access and what two clock readings take is subtracted.
Prints both, the shift with its interval, and whether they agree; no verdict of a test, since it depends on the machine.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from kselftests_py.lab import Lab, PipeChannel, Subject
from kselftests_py.lab.build import agent
from kselftests_py.machines import passport
from kselftests_py.machines.local import LocalHost
from kselftests_py.measure import mean
from kselftests_py.measure.shift import shift

SOURCE = Path(__file__).with_name("peer_fault_mean.c")
PAGES, PASSES = 1000, 100


def build_peer(folder: Path) -> Path:
    """The peer's program, compiled into *folder*."""
    program = folder / "peer_fault_mean"
    warnings = ["-Wall", "-Wextra", "-Werror"]
    subprocess.run(["gcc", "-O2", *warnings, "-std=gnu11", "-pthread", "-o", program, SOURCE], check=True)
    return program


def peer(program: Path, pages: int, passes: int, prefix: Sequence[str] = ()) -> tuple[int, float]:
    """Faults, and the mean of one in nanoseconds; :raises CalledProcessError: it may not use userfaultfd here."""
    command = [*prefix, str(program), str(pages), str(passes)]
    faults, nanoseconds = subprocess.run(command, capture_output=True, text=True, check=True).stdout.split()
    return int(faults), float(nanoseconds)


def probe(subject: Subject, pages: int, passes: int) -> tuple[int, float, float]:
    """The same by the probe: faults, the mean less the mean of the clock readings, and that mean.

    Its loop whose handler polls the userfaultfd alone, as the peer's does: fault_latency polls a second descriptor.
    """
    found = subject.fault_throughput(
        mode="wp", kind="anon", access="write", pages=pages, rounds=passes, clock="mono", handler="poll"
    )
    overhead = mean(found.overhead.counts)
    return found.faults, mean(found.histogram.counts) - overhead, overhead


def main(blocks: str = "12", *prefix: str) -> None:
    ours, theirs, overheads = [], [], []
    readings = [passport.read(LocalHost())]
    with tempfile.TemporaryDirectory() as folder:
        program = build_peer(Path(folder))
        for block in range(int(blocks)):
            for turn in (block % 2, 1 - block % 2):  # A B B A: whoever comes second has the other's caches
                if turn == 0:
                    theirs.append(peer(program, PAGES, PASSES, prefix)[1])
                    continue
                channel = PipeChannel([*prefix, str(agent())])
                with Lab(channel).subject() as subject:
                    _, cost, overhead = probe(subject, PAGES, PASSES)
                channel.close()
                ours.append(cost)
                overheads.append(overhead)
            readings.append(passport.read(LocalHost()))
    found = shift(theirs, ours)
    for name, values in (("peer", theirs), ("probe", ours), ("clock readings", overheads)):
        print(f"{name:<16}" + " ".join(f"{value:>8.0f}" for value in values))
    print(f"medians of {blocks} blocks: peer {found.base:.0f} ns, probe {found.head:.0f} ns")
    print(f"shift {found.more:+.0f} ns ({found.low:+.0f} to {found.high:+.0f}), p {found.p:.3f}")
    print("agree" if found.low <= 0 <= found.high else "do not agree")
    print(passport.summary(readings))


if __name__ == "__main__":
    main(*sys.argv[1:])
