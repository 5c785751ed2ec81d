"""A guest under QEMU's plugin that counts instructions by function, and what of it belongs to a sample."""

from __future__ import annotations

import contextlib
import os
import re
import struct
import subprocess
import tempfile
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from functools import cache
from itertools import islice
from pathlib import Path

import msgspec
from filelock import FileLock

from kselftests_py import kept
from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage
from kselftests_py.kernels.image import file_digest
from kselftests_py.lab.replies import Histogram, Reply
from kselftests_py.machines.accelerator import QEMU
from kselftests_py.measure import percentile, samples
from kselftests_py.paths import cache_dir, data_dir
from kselftests_py.results import Where
from kselftests_py.where import functions as listed
from kselftests_py.where.functions import Functions

Counts = Sequence[tuple[int, int]]

INTERFACES = (3, 1)  # versions of QEMU's plugin interface that where.c has been written for

_FLAGS = ["-O2", "-Wall", "-Wextra", "-Werror", "-std=gnu11", "-shared", "-fPIC"]
_USER, _ELSEWHERE, _FIRST = 0, 1, 2  # places, see where.c
_NOWHERE = "(in no function of the image)"  # a module's, or code made at run time
_MOST = 2_000  # functions of a sample that are kept by name
_OTHERS = "(others)"
_OVERHEAD = "overhead"  # the histogram of clock readings
_HISTOGRAMS, _VALUES = 16, 1024  # of a reply, and in one of them: more than the suites have
_RETRIED = 0.005  # the share of a sample that may have begun twice
# Whether a QEMU takes a plugin: a machine without anything, which ends at once.
_ASKED = [
    QEMU, "-M", "none", "-accel", "tcg", "-nodefaults", "-no-user-config", "-display", "none", "-monitor", "stdio",
]  # fmt: skip
_ASKED_S = 30.0


def _source() -> Path:
    return data_dir("vm_images") / "qemu" / "where.c"


def compiled(interface: int) -> Path:
    """The plugin for that version of QEMU's interface; :raises HarnessError: it cannot be compiled."""
    source = _source()
    built = cache_dir() / "probe" / f"where-{file_digest(source)[:24]}-{interface}.so"
    built.parent.mkdir(parents=True, exist_ok=True)
    with FileLock(f"{built}.lock"):
        if not built.exists():
            new = built.with_suffix(".new")
            call = [os.environ.get("CC") or "gcc", *_FLAGS, f"-DINTERFACE={interface}", "-o", str(new), str(source)]
            try:
                subprocess.run(call, check=True, capture_output=True, text=True)
            except (OSError, subprocess.CalledProcessError) as error:
                told = str(getattr(error, "stderr", "") or error).strip().splitlines()[0]
                raise HarnessError(f"QEMU's plugin {source.name} does not build: {told[:200]}") from None
            new.replace(built)
    return built


def _options(arguments: str) -> tuple[str, str]:
    """The plugin that this QEMU takes, as its command line has it; :raises HarnessError: it takes none."""
    told = ""
    for interface in INTERFACES:
        options = ("-plugin", f"file={compiled(interface)},{arguments}")
        try:
            asked = subprocess.run(
                [*_ASKED, *options], input="quit\n", capture_output=True, text=True, timeout=_ASKED_S, check=False
            )
        except (OSError, subprocess.TimeoutExpired) as error:
            raise HarnessError(f"{QEMU} does not run ({error}); 'kst doctor' says what to install") from None
        if asked.returncode == 0:
            return options
        told = (asked.stderr.strip().splitlines() or [f"it ended with {asked.returncode}"])[-1]
    raise HarnessError(f"this QEMU does not take the plugin that counts by function ({told.strip()[-200:]})")


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
    number, which is the same for all of them: the one with which the most samples are found again, and at least half of
    them; but of those that were all in user space the plugin wrote one.
    """
    totals = Counter(sum(one.values()) for one in seen)
    found = {
        total - ticks: sum(min(count, totals[value + total - ticks]) for value, count in histogram)
        for total in totals
        if 0 <= total - ticks <= 2 + _RETRIED * ticks
    }
    if not found:
        return None
    retried = min(found, key=lambda more: (-found[more], more))
    chosen = next(one for one in seen if sum(one.values()) == ticks + retried)
    enough = 2 * found[retried] >= samples(histogram) or chosen.keys() == {_USER}
    return chosen if enough else None


@cache
def made_by() -> str:
    """Digest of what tells functions apart: what another has told is not taken for the same."""
    parts = [_source(), Path(__file__), Path(str(listed.__file__))]
    return kept.key(map(file_digest, parts))[:16]


class Watch:
    """The plugin of one guest; ``options`` are what QEMU's command line has of it."""

    def __init__(self, functions: Functions) -> None:
        self._functions = functions
        self._folder = tempfile.TemporaryDirectory(prefix="kst-where-")
        starts, self._out = (Path(self._folder.name) / name for name in ("functions", "out"))
        starts.write_bytes(struct.pack(f"<{len(functions.addresses)}Q", *functions.addresses))
        self.options = _options(f"functions={starts},out={self._out}")

    def take(self, reply: bytes) -> dict[str, Where]:
        """Of each histogram in *reply*, the probe's answer to what ran last: where its median's instructions are."""
        found = {}
        try:
            asked = list(islice(_histograms(reply), _HISTOGRAMS))
            seen = list(intervals(self._out.read_bytes())) if asked else []
            for name, counts in asked:
                ticks = int(percentile(counts, 50))
                if (places := sample(ticks, counts, seen)) is not None:
                    found[name] = self._where(ticks, places)
        except (msgspec.MsgspecError, ValueError, IndexError):
            pass  # no reply, or no histogram: whoever asked will say so
        with self._out.open("r+b") as file:
            file.truncate()
        return found

    def _where(self, ticks: int, places: dict[int, int]) -> Where:
        counted: Counter[str] = Counter()
        entry = 0
        for place, count in places.items():
            if place >= _FIRST:
                counted[self._functions.names[place - _FIRST]] += count
                entry += count * self._functions.is_entry(place - _FIRST)
            elif place == _ELSEWHERE:
                counted[_NOWHERE] += count
        named = dict(counted.most_common(_MOST))
        if rest := counted.total() - sum(named.values()):
            named[_OTHERS] = rest
        return Where(ticks=ticks, entry=entry, functions=named, by=made_by())

    def close(self) -> None:
        self._folder.cleanup()


def check(images: Iterable[KernelImage]) -> None:
    """What can be told without a boot; :raises HarnessError: of one of *images* it cannot be told in which functions
    instructions are."""
    for image in images:
        if image.config is not None and image.config_value("CONFIG_KALLSYMS") is None:
            raise HarnessError(f"{image.label} is built without CONFIG_KALLSYMS")
    Watch(Functions([0, 1], ["none"], [])).close()


def _histograms(reply: bytes) -> Iterator[tuple[str, Counts]]:
    """Each histogram in a reply of the probe's, by its name there (docs/probe-protocol.md)."""
    for item in msgspec.json.decode(reply, type=Reply).results or ():
        for name, raw in msgspec.json.decode(bytes(item.result) or b"{}", type=dict[str, msgspec.Raw]).items():
            with contextlib.suppress(msgspec.MsgspecError):
                counts = msgspec.json.decode(raw, type=Histogram).counts
                if name != _OVERHEAD and re.fullmatch(r"[a-z_]{1,32}", name) and 0 < len(counts) <= _VALUES:
                    yield name, counts
