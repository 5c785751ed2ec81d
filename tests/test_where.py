"""Which functions instructions are in: the kernel's list, the plugin, the sample that is chosen, what is told."""

from __future__ import annotations

import base64
import gzip
import os
import random
import struct
from collections.abc import Callable, Sequence
from itertools import count
from pathlib import Path
from typing import Any

import msgspec
import pytest
import results_factory as factory
from rich.console import Console

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage
from kselftests_py.lab import Lab
from kselftests_py.lab.build import agent
from kselftests_py.machines.exact import ExactGuest
from kselftests_py.machines.guest import GuestOptions
from kselftests_py.machines.machine import NeverUp
from kselftests_py.pytest_plugin.station import GuardedChannel
from kselftests_py.reports import html
from kselftests_py.reports import where as report
from kselftests_py.results import KernelEntry, Manifest, Metric, Record, Where
from kselftests_py.where import Functions, Watch, made_by, of_kernel
from kselftests_py.where.functions import parse
from kselftests_py.where.watch import INTERFACES, compiled, intervals, sample

pytest_plugins = ["machines_fixtures"]
KALLSYMS = """\
ffffffff9a000000 T _stext
ffffffff9a000000 T _text
ffffffff9a000010 t __pfx_folio_put
ffffffff9a000020 t folio_put
ffffffff9a000040 T __x64_sys_close
ffffffff9a000040 T __ia32_sys_close
ffffffff9a000080 t do_fault.cold
ffffffff9a0000a0 t do_fault.isra.0
ffffffff9a0000b0 W weak
ffffffff9a0000c0 T __entry_text_start
ffffffff9a0000c0 T entry_SYSCALL_64
ffffffff9a000100 T __entry_text_end
ffffffff9a000100 t last
ffffffff9a000200 T _etext
ffffffff9b000000 t in_no_text
ffffffffc0000000 t of_a_module	[zram]
ffffffff9a000150 d data
"""


def test_functions_are_where_they_are_without_kaslr_under_the_name_that_another_kernel_has() -> None:
    found = parse(KALLSYMS)
    base = 0xFFFF_FFFF_8100_0000
    names = dict(zip((address - base for address in found.addresses), found.names, strict=False))
    assert names == {
        0x00: "_text", 0x10: "__pfx_folio_put", 0x20: "folio_put", 0x40: "__x64_sys_close", 0x80: "do_fault",
        0xA0: "do_fault", 0xB0: "weak", 0xC0: "entry_SYSCALL_64", 0x100: "last",
    }  # fmt: skip
    assert found.addresses[-1] == base + 0x200
    assert parse(KALLSYMS, "0x200000").addresses[0] == 0xFFFF_FFFF_8020_0000  # CONFIG_PHYSICAL_START
    assert [name for number, name in enumerate(found.names) if found.is_entry(number)] == ["entry_SYSCALL_64"]


@pytest.mark.parametrize(
    "text",
    [
        "",
        "ffffffff9a000000 T _text\n",
        "ffffffff9a000000 T _etext\nffffffff9b000000 T _text\n",
        "ffffffff80000000 T _text\nffffffffffffffff T _etext\n",
        "0000000000000000 T _text\n0000000000000000 T _etext\n",
    ],
    ids=["nothing", "no end", "end first", "too much", "hidden (kptr_restrict)"],
)
def test_a_kernel_that_does_not_tell_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match="no _text and _etext"):
        parse(text)


class Telling:
    """A guest whose shell has *compressed* where the kernel's functions are to be; counts its boots."""

    def __init__(self, compressed: bytes) -> None:
        self.compressed, self.boots = compressed, 0

    def __call__(self, *_arguments: object) -> Telling:
        return self

    def start(self) -> None:
        self.boots += 1
        if self.compressed == b"no boot":
            raise NeverUp("no boot here")

    def run(self, command: str, _timeout: float) -> tuple[int, str]:
        if "skip=" not in command:
            return 0, ""
        size, skip = (int(command.partition(f"{name}=")[2].split()[0]) for name in ("bs", "skip"))
        return 0, base64.encodebytes(self.compressed[size * skip : size * (skip + 1)]).decode()

    def stop(self) -> None: ...


NOISE = random.Random(1).randbytes(150_000).hex()  # more than one piece


@pytest.fixture
def asked(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> Callable[[bytes], tuple[Telling, Callable[[], Functions]]]:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    image = KernelImage("debian:7.3", "7.3", Path("vmlinuz"), None, None, "a" * 64, {})

    def ask(compressed: bytes) -> tuple[Telling, Callable[[], Functions]]:
        guest = Telling(compressed)
        monkeypatch.setattr("kselftests_py.where.functions.VngGuest", guest)
        monkeypatch.setattr("kselftests_py.where.functions.agent", lambda: Path("agent"))
        return guest, lambda: of_kernel(image, Path, lambda _: None)

    return ask


def test_a_kernel_is_asked_once(asked: Any) -> None:
    guest, ask = asked(gzip.compress(f"{KALLSYMS}{NOISE}".encode()))
    assert len(guest.compressed) > 100_000
    assert ask() == ask() == parse(KALLSYMS)
    assert guest.boots == 1


def test_a_kernel_that_boots_only_exactly_is_no_kernel_that_does_not_boot(asked: Any) -> None:
    _, ask = asked(b"no boot")
    with pytest.raises(HarnessError, match=r"^the guest .* is not up: no boot here$"):
        ask()


@pytest.mark.parametrize(
    "compressed",
    [b"", b"no gzip", gzip.compress(b"no kernel"), gzip.compress(bytes(100 << 20))],
    ids=["nothing", "not packed", "no functions", "100 MiB"],
)
def test_a_guest_that_tells_nothing_of_use_is_refused_in_one_line(asked: Any, compressed: bytes) -> None:
    guest, ask = asked(compressed)
    for _ in range(2):  # nor is that kept
        with pytest.raises(HarnessError, match=r"^debian:7.3: its guest does not tell .*CONFIG_KALLSYMS$"):
            ask()
    assert guest.boots == 2


def packed(*found: dict[int, int]) -> bytes:
    """As the plugin writes it."""
    numbers = [number for one in found for number in (len(one), *(part for pair in one.items() for part in pair))]
    return struct.pack(f"<{len(numbers)}Q", *numbers)


def test_what_the_plugin_wrote_is_read() -> None:
    found = [{0: 20, 2: 100}, {5: 1}]
    assert list(intervals(packed(*found))) == found
    assert list(intervals(b"")) == []
    whole = packed(*found)
    for cut in range(1, 17):
        assert list(intervals(whole[:-cut])) == found[:1]


ONCE = {0: 20, 2: 980}


@pytest.mark.parametrize(
    ("ticks", "others", "seen", "chosen"),
    [
        (1000, [], [{0: 21, 2: 980}, ONCE, {0: 1, 3: 4999}], ONCE),
        (998, [], [ONCE], ONCE),
        (994, [], [ONCE], ONCE),
        (993, [], [ONCE], None),
        (1001, [], [ONCE], None),
        (1000, [7000], [ONCE], ONCE),
        (1000, [7000, 8000], [ONCE], None),
        (1000, [7000, 8000], [{0: 1000}], {0: 1000}),
        (20_000, [20_010, 20_300], [{0: 20_003}, {0: 20_062}, {0: 20_072}, {0: 20_362}], {0: 20_062}),
        (20_000, [20_010, 20_300], [{0: 20_062}, {0: 20_003}, {0: 20_013}, {0: 20_303}], {0: 20_003}),
    ],
    ids=[
        "the same",
        "two faults",
        "0.5 % faults",
        "more",
        "less",
        "half",
        "a stray one",
        "user space, written once",
        "not the nearest",
        "the nearest",
    ],
)
def test_the_sample_is_the_one_beside_which_the_others_are_found(
    ticks: int, others: list[int], seen: list[dict[int, int]], chosen: dict[int, int] | None
) -> None:
    assert sample(ticks, [(one, 1) for one in sorted([ticks, *others])], seen) == chosen


FUNCTIONS = Functions(
    [0x1000, 0x2000, 0x3000, 0x4000], ["entry_SYSCALL_64", "do_fault", "do_fault"], [(0x1000, 0x2000)]
)


def reply(**histograms: Sequence[tuple[int, int]]) -> bytes:
    result: dict[str, Any] = {name: {"unit": "ticks", "counts": counts} for name, counts in histograms.items()}
    return msgspec.json.encode({"id": 1, "results": [{"result": result | {"faults": 3}}]})


REFUSED = "qemu-system-x86_64: -plugin: could not load plugin: it requires API version 3 but this supports only 1"


def fake_qemu(folder: Path, monkeypatch: pytest.MonkeyPatch, takes: str, refuses: str = REFUSED) -> None:
    """A QEMU that takes the plugin whose options match the shell pattern *takes*, and else says *refuses*."""
    (folder / "refused").write_text(refuses)
    program = folder / "qemu-system-x86_64"
    program.write_text(f'#!/bin/sh\ncase "$*" in {takes}) ;; *) cat {folder}/refused >&2; exit 1 ;; esac\n')
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")


@pytest.mark.parametrize("interface", INTERFACES)
def test_the_plugin_is_the_one_that_this_qemu_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, interface: int
) -> None:
    fake_qemu(tmp_path, monkeypatch, f"*-plugin*-{interface}.so,functions=*,out=*")
    watch = Watch(FUNCTIONS)
    watch.close()
    assert str(compiled(interface)) in watch.options[1]


@pytest.mark.parametrize(
    ("said", "told"), [(REFUSED, REFUSED), (f"**\nERROR: api.c\n{REFUSED}\n", REFUSED), ("", "it ended with 1")]
)
def test_a_qemu_that_takes_no_plugin_is_told_in_its_own_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str, told: str
) -> None:
    fake_qemu(tmp_path, monkeypatch, "nothing", said)
    with pytest.raises(HarnessError) as raised:
        Watch(FUNCTIONS)
    assert str(raised.value) == f"this QEMU does not take the plugin that counts by function ({told})"


def test_no_qemu_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for interface in INTERFACES:
        compiled(interface)
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HarnessError, match=r"qemu-system-x86_64 does not run .*kst doctor"):
        Watch(FUNCTIONS)


@pytest.fixture
def watch(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    fake_qemu(tmp_path, monkeypatch, "*-plugin*")
    watch = Watch(FUNCTIONS)
    out = Path(watch.options[1].rpartition("out=")[2])
    yield watch, out
    watch.close()
    assert not out.exists()


def test_a_histogram_is_told_apart_by_the_sample_of_its_median(watch: Any) -> None:
    watched, out = watch
    out.write_bytes(packed({0: 9, 1: 1, 2: 30, 3: 40, 4: 22}, {0: 9, 1: 1, 2: 30, 3: 40, 4: 22}, {0: 500, 2: 500}))
    found = watched.take(reply(protect=[(100, 3), (900, 1)], overhead=[(1000, 4)], resolve=[(77, 1)]))
    functions = {"do_fault": 62, "entry_SYSCALL_64": 30, "(in no function of the image)": 1}
    assert found == {"protect": Where(ticks=100, entry=30, functions=functions, by=made_by())}
    assert (found["protect"].user, found["protect"].kernel) == (7, 63)
    assert out.read_bytes() == b""
    assert watched.take(reply(protect=[(100, 3)])) == {}


@pytest.mark.parametrize(
    "garbage",
    [
        b"",
        b"\xff",
        b"[" * 1000,
        b'{"id": 1, "results": 7}',
        b'{"id": 1, "results": [{"result": [1]}]}',
        reply(x=[]),
        reply(x=[(39, 0)]),
        reply(x=[(39, 2**63 - 1), (40, 2**63 - 1)]),
        reply(**{"\x1b[31m": [(39, 1)]}),
        reply(x=[(39, 1), *((one, 1) for one in range(100, 1124))]),
        reply(overhead=[(39, 1)]),
    ],
    ids=[
        "nothing",
        "no UTF-8",
        "deep",
        "no results",
        "no object",
        "no samples",
        "no count",
        "too many",
        "no name",
        "too large",
        "overhead",
    ],
)
def test_a_reply_that_is_none_tells_nothing(watch: Any, garbage: bytes) -> None:
    """Whoever asked the probe will say what is wrong with it."""
    watched, out = watch
    out.write_bytes(packed({0: 9, 2: 30}))
    assert watched.take(garbage) == {}
    assert out.read_bytes() == b""
    out.write_bytes(packed({0: 9, 2: 30}))
    assert set(watched.take(reply(**{f"h{'x' * number}": [(39, 1)] for number in range(20)}))) == {
        f"h{'x' * number}" for number in range(16)
    }


def test_functions_that_are_too_many_are_not_kept_by_name(watch: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    watched, out = watch
    monkeypatch.setattr("kselftests_py.where.watch._MOST", 1)
    out.write_bytes(packed({2: 30, 3: 40}))
    assert watched.take(reply(h=[(70, 1)]))["h"].functions == {"do_fault": 40, "(others)": 30}


def measured(kernel: str, value: float, **functions: int) -> Record:
    metric = Metric(name="path_p50", value=value, unit="instructions", mode="exact", labels={"path": "munmap"})
    where = {"histogram": Where(ticks=int(value) + 18, entry=5, functions=functions)}
    return factory.record(
        id="latency/test_path_cost.py::test_path[munmap]", kernel=kernel, metrics=[metric], where=where, suite="latency"
    )


BOTH = Manifest(
    kernels=[KernelEntry(label="old", spec="a", role="baseline"), KernelEntry(label="new", spec="b")], finished="now"
)


def test_the_functions_that_changed_are_told_the_largest_change_first() -> None:
    functions = {f"f{number}": 10 for number in range(20)}
    old = measured("old", 300, gone=7, same=50, more=20, **functions)
    new = measured("new", 330, same=50, more=47, **dict.fromkeys(functions, 12))
    (moved,) = report.moved(report.changed([old, new], BOTH))
    assert moved.title == "path[munmap]: 318 -> 348"
    assert moved.rows()[:6] == [
        ("user", "41", "11", "-30"), ("entry", "5", "5", "+0"), ("kernel", "272", "332", "+60"),
        ("more", "20", "47", "+27"), ("gone", "7", "0", "-7"), ("f0", "10", "12", "+2"),
    ]  # fmt: skip
    assert moved.rows()[-1] == ("10 more functions", "100", "120", "+20")
    console = Console(record=True, width=100)
    console.print(report.table(moved, "old", "new"))
    assert "more" in (text := console.export_text())
    assert "same" not in text
    larger = measured("new", 400, same=50)
    pairs = [(old, msgspec.structs.replace(one, id=f"t::test_{name}")) for name, one in (("a", new), ("b", larger))]
    assert [one.title.partition(":")[0] for one in report.moved(pairs)] == ["b", "a"]
    page = html.render([old, new], BOTH)
    assert "path[munmap]: 318 -&gt; 348" in page
    assert "gone" in page


@pytest.mark.parametrize("head", [measured("new", 300, f=1), factory.record(kernel="new")], ids=["the same", "no such"])
def test_what_did_not_change_is_not_told(head: Record) -> None:
    assert report.changed([measured("old", 300, f=2), head], BOTH) == []


@pytest.mark.parametrize("interface", INTERFACES)
def test_the_plugin_builds_without_a_warning(interface: int) -> None:
    assert compiled(interface).read_bytes()[:4] == b"\x7fELF"


@pytest.mark.vm
@pytest.mark.network
def test_a_guest_under_the_plugin_has_the_same_figures_and_tells_where_they_are(
    tmp_path: Path, image: KernelImage
) -> None:
    numbers = count(1)

    def console() -> Path:
        return tmp_path / f"console-{next(numbers)}"

    watch = Watch(of_kernel(image, console, lambda _: None))
    found = []
    try:
        for options in ((), watch.options):
            guest = ExactGuest(image, agent(), console, GuestOptions(qemu=options), lambda _: None)
            try:
                guest.start()
                channel = GuardedChannel(guest, watch if options else None)
                with Lab(channel).subject() as subject:
                    found.append(subject.path_cost("mprotect", kind="anon", pages=64, rounds=4, clock="tsc"))
            finally:
                guest.stop()
    finally:
        watch.close()
    assert found[0] == found[1]
    where = channel.where["histogram"]
    assert where.ticks in dict(found[0].histogram.counts)
    assert {"change_protection", "mprotect_fixup", "entry_SYSCALL_64"} <= where.functions.keys()
    assert 0 < where.user < 200 < where.entry + 100 < where.kernel
