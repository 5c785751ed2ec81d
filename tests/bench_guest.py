"""How fast a guest comes up and how fast its probe answers: ``python tests/bench_guest.py [SPEC] [BOOTS]``.

Prints the seconds from ``start()`` to the probe's first reply, the time of one
round trip, and small operations a second when batched; no verdict, since all
of them depend on the machine.
"""

from __future__ import annotations

import statistics
import sys
import tempfile
import time
from itertools import count
from pathlib import Path

from kselftests_py.kernels import KernelImage, resolve
from kselftests_py.lab import Lab, ops
from kselftests_py.lab.build import agent
from kselftests_py.machines.guest import GuestOptions
from kselftests_py.machines.vng import VngGuest

BATCHES, BATCH = 5, 1000


def main(spec: str = "debian:7.3", boots: str = "5") -> None:
    image = resolve(spec, print)
    assert isinstance(image, KernelImage)
    up, trip, rate = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        numbers = count()
        guest = VngGuest(image, agent(), lambda: Path(folder, f"console-{next(numbers)}"), GuestOptions(), print)
        for _ in range(int(boots)):
            up.append(guest.start().boot_s)
            lab = Lab(guest.channel())
            with lab.subject() as subject:
                region = subject.region("anon", pages=1).populate()
                for _ in range(100):
                    began = time.monotonic()
                    subject.peek(region[0])
                    trip.append(1000 * (time.monotonic() - began))
                for _ in range(BATCHES):
                    batch = [ops.peek(region[0]) for _ in range(BATCH)]
                    began = time.monotonic()
                    subject.batch(*batch)
                    rate.append(BATCH / (time.monotonic() - began))
            guest.stop()
    for what, values, unit in (
        ("boot to first reply", up, "s"),
        ("round trip", trip, "ms"),
        ("batched", rate, "ops/s"),
    ):
        print(f"{what}: min {min(values):.1f}, median {statistics.median(values):.1f}, max {max(values):.1f} {unit}")
    print(f"{image.release}, TCG, {GuestOptions().cpus} vCPUs, {boots} boots")


if __name__ == "__main__":
    main(*sys.argv[1:])
