"""Where the instructions of a path are: user space, entry and exit, the kernel. ``python tests/bench_split.py [SPEC]``.

Boots SPEC twice: once to ask where its entry code is, once as the exact machine under a plugin of QEMU
(split_plugin.c) that counts instructions by where they are. Entry and exit are the sections ``.entry.text`` and
``.noinstr.text``: what a system call or an exception runs through before and after the kernel may be traced, and
memcpy and memset, which lie there, too. The sample split is the probe's median one; user space has the clock's two
readings. A plugin counts an instruction that faults twice, and QEMU's clock once: if they are further apart, the row
says so and the script ends with 1.
"""

from __future__ import annotations

import struct
import subprocess
import sys
import tempfile
from collections import Counter
from itertools import count
from pathlib import Path
from typing import Any

from kselftests_py.kernels import KernelImage, resolve
from kselftests_py.lab import Lab
from kselftests_py.lab.build import agent
from kselftests_py.machines.exact import ExactGuest
from kselftests_py.machines.guest import GuestOptions
from kselftests_py.machines.vng import VngGuest
from kselftests_py.measure import percentile

SOURCE = Path(__file__).with_name("split_plugin.c")
TEXT = 0xFFFF_FFFF_8100_0000  # where _text is, with nokaslr (arch/x86/include/asm/page_64_types.h)
SYMBOLS = ("__entry_text_start", "__entry_text_end", "__noinstr_text_start", "__noinstr_text_end")
LOOP: dict[str, Any] = {"kind": "anon", "rounds": 4, "clock": "tsc"}
FAULTS = [
    (mode, delivery, access)
    for mode, access in (("wp", "write"), ("rwp", "read"), ("rwp", "write"))
    for delivery in ("async", "sync")
]
CALLS = ("mprotect", "munmap", "dontneed", "pagemap", "gup", "register", "unregister-armed")


def build(folder: Path) -> Path:
    """The plugin, compiled into *folder*."""
    plugin = folder / "split_plugin.so"
    flags = ["-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-shared", "-fPIC"]
    subprocess.run(["gcc", *flags, "-o", plugin, SOURCE], check=True)
    return plugin


class Splits:
    """What the plugin wrote, read on from where the last call ended."""

    def __init__(self, file: Path) -> None:
        self._file, self._at = file, 0

    def take(self) -> list[tuple[int, int, int]]:
        """(user, entry, kernel) between two clock readings, in order."""
        data = self._file.read_bytes()[self._at :]
        self._at += len(data)
        return list(struct.iter_unpack("<3Q", data))


def row(name: str, counts: list[tuple[int, int]], found: list[tuple[int, int, int]]) -> bool:
    """Print the split of the median sample; whether there is one."""
    ticks = percentile(counts, 50)
    near = Counter(one for one in found if 0 <= sum(one) - ticks <= 2)
    if not near:
        print(f"{name:28} {ticks:8,.0f}  no sample of the plugin's is like it")
        return False
    (_, entry, kernel), _ = near.most_common(1)[0]
    print(f"{name:28} {ticks:8,.0f} {ticks - entry - kernel:6,.0f} {entry:6,.0f} {kernel:8,.0f}")
    return True


def measure(lab: Lab, splits: Splits) -> bool:
    """A fresh process for each row, as in the suite; whether every one was split."""
    good = True
    print(f"{'anon':28} {'sample':>8} {'user':>6} {'entry':>6} {'kernel':>8}")
    for mode, delivery, access in FAULTS:
        splits.take()
        with lab.subject() as subject:
            fault = subject.fault_latency(mode=mode, delivery=delivery, access=access, pages=64, **LOOP)
        good &= row(f"{mode} {delivery} {access}", fault.histogram.counts, splits.take())
    for protection in ("", "wp", "rwp"):
        for path in CALLS:
            if not protection and "register" in path:
                continue
            splits.take()
            with lab.subject() as subject:
                call = subject.path_cost(path, mode=protection or None, pages=64, **LOOP)
            good &= row(f"{protection} {path} 64 pages", call.histogram.counts, splits.take())
    return good


def main(spec: str = "debian:7.3") -> int:
    image = resolve(spec, print)
    assert isinstance(image, KernelImage)
    with tempfile.TemporaryDirectory() as scratch:
        folder, numbers = Path(scratch), count()

        def console() -> Path:
            return folder / f"console-{next(numbers)}"

        asked = VngGuest(image, agent(), console, GuestOptions(), print)
        asked.start()
        _, told = asked.run("grep -w -e _text -e '__.*_text_.*' /proc/kallsyms", 60)
        asked.stop()
        at = {words[2]: int(words[0], 16) for line in told.splitlines() if len(words := line.split()) >= 3}
        start, end, begin, stop = (f"{at[name] - at['_text'] + TEXT:x}" for name in SYMBOLS)
        out = folder / "splits"
        plugin = f"file={build(folder)},out={out},entry={start}-{end},noinstr={begin}-{stop}"
        second = ExactGuest(image, agent(), console, GuestOptions(qemu=("-plugin", plugin)), print)
        second.start()
        try:
            return 0 if measure(Lab(second.channel()), Splits(out)) else 1
        finally:
            second.stop()


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
