"""A guest under QEMU's plugin that counts instructions by function, and what of it belongs to a sample."""

from __future__ import annotations

import contextlib
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path

import msgspec
from filelock import FileLock

from kselftests_py.errors import HarnessError
from kselftests_py.kernels.image import file_digest
from kselftests_py.lab.replies import Histogram, Reply
from kselftests_py.measure import percentile
from kselftests_py.paths import cache_dir, data_dir
from kselftests_py.results import Where
from kselftests_py.where.functions import Functions

Counts = Sequence[tuple[int, int]]

_FLAGS = ["-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-shared", "-fPIC"]
_ELSEWHERE, _FIRST = 1, 2  # places, see where.c; 0 is user space
_NOWHERE = "(in no function of the image)"  # a module's, or code made at run time
_MOST = 2_000  # functions of a sample that are kept by name
_OTHERS = "(others)"
_RETRIED = 0.005  # the share of a sample that may have begun twice


def plugin() -> Path:
    """The plugin, compiled; :raises HarnessError: it cannot be."""
    source = data_dir("vm_images") / "qemu" / "where.c"
    built = cache_dir() / "probe" / f"where-{file_digest(source)[:24]}.so"
    built.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{built}.lock"):
        if not built.exists():
            new = built.with_suffix(".new")
            try:
                subprocess.run(["gcc", *_FLAGS, "-o", new, source], check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                told = str(getattr(error, "stderr", "") or error).strip().splitlines()[0]
                raise HarnessError(f"QEMU's plugin {source.name} does not build: {told[:200]}") from None
            new.replace(built)
    return built


def intervals(data: bytes) -> Iterator[dict[int, int]]:
    """What the plugin wrote: of each time between two clock readings, the instructions by place.

    What a full disk cut off is left out.
    """
    numbers, at = memoryview(data)[: len(data) // 8 * 8].cast("Q"), 0
    while at < len(numbers) and (end := at + 1 + 2 * numbers[at]) <= len(numbers):
        yield dict(zip(numbers[at + 1 : end : 2], numbers[at + 2 : end : 2], strict=True))
        at = end


def sample(ticks: int, histogram: Counts, seen: list[dict[int, int]]) -> dict[int, int] | None:
    """That of *seen* which is the sample of *ticks* instructions in *histogram*, or None.

    QEMU's clock counts an instruction that faults once, the plugin twice. So it has more of each sample by their
    number, which is the same for all of them: the one with which the most samples are found again.
    """
    totals = Counter(sum(one.values()) for one in seen)
    found = {
        total - ticks: sum(min(count, totals[int(value) + total - ticks]) for value, count in histogram)
        for total in totals
        if 0 <= total - ticks <= 2 + _RETRIED * ticks
    }
    if not found:
        return None
    retried = min(found, key=lambda more: (-found[more], more))
    return next(one for one in seen if sum(one.values()) == ticks + retried)


class Watch:
    """The plugin of one guest; ``options`` are what QEMU's command line has of it."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._folder = tempfile.TemporaryDirectory(prefix="kst-where-")
        starts, self._out = (Path(self._folder.name) / name for name in ("functions", "out"))
        starts.write_bytes(struct.pack(f"<{len(functions.addresses)}Q", *functions.addresses))
        self.options = ("-plugin", f"file={plugin()},functions={starts},out={self._out}")

    def take(self, reply: bytes) -> dict[str, Where]:
        """Of each histogram in *reply*, the probe's answer to what ran last: where its median's instructions are."""
        seen = list(intervals(self._out.read_bytes()))
        with self._out.open("r+b") as file:
            file.truncate()
        found = {}
        with contextlib.suppress(msgspec.MsgspecError, UnicodeDecodeError):  # no reply: whoever asked will say so
            for name, histogram in _histograms(reply):
                ticks = int(percentile(histogram.counts, 50)) if histogram.counts else 0
                if name != "overhead" and (places := sample(ticks, histogram.counts, seen)) is not None:
                    found[name] = self._where(ticks, places)
        return found

    def _where(self, ticks: int, places: dict[int, int]) -> Where:
        functions: Counter[str] = Counter()
        entry = 0
        for place, count in places.items():
            if place >= _FIRST:
                functions[self._functions.names[place - _FIRST]] += count
                entry += count * self._functions.is_entry(place - _FIRST)
            elif place == _ELSEWHERE:
                functions[_NOWHERE] += count
        kept = dict(functions.most_common(_MOST))
        if rest := functions.total() - sum(kept.values()):
            kept[_OTHERS] = rest
        return Where(ticks=ticks, entry=entry, functions=kept)

    def close(self) -> None:
        self._folder.cleanup()


def _histograms(reply: bytes) -> Iterator[tuple[str, Histogram]]:
    """Each histogram in a reply of the probe's, by its name there (docs/probe-protocol.md)."""
    for item in msgspec.json.decode(reply, type=Reply).results or ():
        for name, raw in msgspec.json.decode(bytes(item.result) or b"{}", type=dict[str, msgspec.Raw]).items():
            with contextlib.suppress(msgspec.MsgspecError):
                yield name, msgspec.json.decode(raw, type=Histogram)
