"""Guests that count instructions: two boots are the same to the instruction, and each loss is told apart."""

from __future__ import annotations

import contextlib
import hashlib
import os
import subprocess
import threading
import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from kselftests_py.errors import BootError, HarnessError
from kselftests_py.kernels import KernelImage
from kselftests_py.lab import Lab
from kselftests_py.lab.build import agent as probe
from kselftests_py.lab.channel import ChannelError
from kselftests_py.machines import exact
from kselftests_py.machines.exact import ExactGuest
from kselftests_py.machines.guest import GuestOptions, connected
from kselftests_py.machines.machine import Loss, NeverUp
from kselftests_py.measure import percentile
from kselftests_py.paths import cache_dir
from kselftests_py.results.noise import of_path

pytest_plugins = ["machines_fixtures"]
MONITOR = "monitor.sock"  # in the folder of the boot
LOOP: dict[str, Any] = {"kind": "anon", "pages": 64, "rounds": 4, "clock": "tsc"}
# Paths that were not the same on two machines while DAMON_STAT cleared accessed bits (exact.sh); pages, rounds.
UNSETTLED = [
    ("exit", "thp", 2, 4),
    ("exit", "shmem_thp", 2, 4),
    ("smaps", "anon", 64, 8),
    ("smaps", "hugetlb", 2, 4),
    ("munmap", "shmem_thp", 2, 4),
    ("dontneed", "shmem_thp", 2, 4),
]
MakeGuest = Callable[..., ExactGuest]


@pytest.fixture(scope="module")
def fake(built: Callable[[str], Path]) -> Path:
    return built("fake_stopping.c")


@pytest.fixture
def make_guest(tmp_path: Path, image: KernelImage) -> Iterator[MakeGuest]:
    guests: list[ExactGuest] = []
    numbers = count(1)

    def make(agent: Path, kernel: KernelImage = image, options: GuestOptions | None = None) -> ExactGuest:
        console = lambda: tmp_path / f"console-{next(numbers)}"  # noqa: E731 - a new one for each boot
        guests.append(ExactGuest(kernel, agent, console, options or GuestOptions(), lambda _: None))
        return guests[-1]

    yield make
    for guest in guests:
        guest.stop()


def figures(guest: ExactGuest) -> list[object]:
    """A fork and a fault that two threads take turns in: what was the least steady while devices spoke to the guest."""
    with Lab(guest.channel()).subject() as subject:
        forks = subject.path_cost("fork", **LOOP)
        return [forks, subject.fault_latency(mode="wp", delivery="sync", access="write", **LOOP)]


@contextlib.contextmanager
def busy_monitor(console: Path) -> Iterator[list[int]]:
    """Ask the monitor of this process's guest something all the while, so that QEMU's main loop has always work to do.

    Once the *console* says that its system begins: the kernel waits for hardware in a loop that QEMU leaves each time.
    Of the list that is given the length is how often the monitor has answered.
    """
    done, answers, boots = threading.Event(), list[int](), cache_dir() / "boots"

    def ask() -> None:
        while not (console.exists() and b"Run /init" in console.read_bytes()):
            if done.wait(0.01):
                return
        (there,) = boots.glob(f"{os.getpid()}-*/{MONITOR}")
        with connected(there) as stream, contextlib.suppress(OSError):
            stream.settimeout(10)
            for line in stream.makefile("rb"):  # ends with QEMU
                if done.is_set():
                    return
                if line.startswith((b"QEMU", b"VM status")):  # its greeting, an answer
                    answers.append(len(line))
                    stream.sendall(b"info status\n")

    thread = threading.Thread(target=ask)
    thread.start()
    try:
        yield answers
    finally:
        done.set()
        thread.join()


@pytest.mark.vm
def test_two_boots_are_the_same_to_the_instruction(make_guest: MakeGuest, tmp_path: Path) -> None:
    """Every sample; the log of the boot, with its times; and each byte of the memory. Whatever QEMU does beside."""
    found, memory, consoles = [], tmp_path / "memory", [tmp_path / "console-1", tmp_path / "console-2"]
    backed = f"-object memory-backend-file,id=ram,size=512M,share=on,mem-path={memory} -machine memory-backend=ram"
    with busy_monitor(consoles[1]) as answers:
        for further in ("", f"-monitor unix:path={MONITOR},server=on,wait=off"):
            guest = make_guest(probe(), options=GuestOptions(memory="512M", qemu=(*backed.split(), *further.split())))
            assert guest.start().accelerator == "tcg"
            with memory.open("rb") as content:
                found.append((hashlib.file_digest(content, "sha256").digest(), figures(guest)))
            memory.unlink()
    assert len(answers) > 1000
    assert found[0] == found[1]
    assert consoles[0].read_bytes() == consoles[1].read_bytes()


@pytest.mark.vm
def test_machines_that_booted_otherwise_have_the_same_figures(make_guest: MakeGuest) -> None:
    """What two boots do not show: on a machine with less memory all lies elsewhere, and begins at other times."""
    found: list[dict[tuple[str, str], tuple[float, float]]] = []
    for memory in ("1G", "1000M"):
        guest = make_guest(probe(), options=GuestOptions(memory=memory))
        guest.start()
        guest.save()
        found.append({})
        for path, kind, pages, rounds in UNSETTLED:
            with Lab(guest.channel()).subject() as subject:
                cost = subject.path_cost(path, kind=kind, pages=pages, rounds=rounds, clock="tsc").histogram.counts
            found[-1][path, kind] = (percentile(cost, 10), percentile(cost, 50))
            guest.rewind()
    # A process that has huge pages is in a hash of khugepaged's, by where it lies: one instruction an entry before it.
    chain = {"exit": of_path({"path": "exit"}).functions["__khugepaged_exit"]}
    apart = {of: max(abs(a - b) for a, b in zip(found[0][of], found[1][of], strict=True)) for of in found[0]}
    assert {of: by for of, by in apart.items() if by > chain.get(of[0], 0)} == {}


@pytest.mark.vm
def test_what_was_measured_before_is_gone_when_the_machine_is_rewound(make_guest: MakeGuest) -> None:
    guest = make_guest(probe())
    guest.start()
    guest.save()
    first = figures(guest)
    assert figures(guest) != first, "the machine remembers nothing: rewinding it would show nothing"
    guest.rewind()
    assert figures(guest) == first


@pytest.mark.vm
def test_each_loss_is_told_apart(make_guest: MakeGuest, fake: Path) -> None:
    cases = {
        b"panic": (Loss.PANIC, "sysrq triggered crash"),
        b"hang": (Loss.HANG, "did not stop within 5 s"),
        b"leave": (Loss.LOST, "the probe ended by itself"),
        b"endless": (Loss.GARBAGE, "the probe sent 18446744073709551615 bytes"),
    }
    for deed, (loss, told) in cases.items():
        guest = make_guest(fake)
        guest.start()
        assert guest.channel().call(b"something", 5) == b"something"
        with pytest.raises(ChannelError) as caught:
            guest.channel().call(deed, 5)
        lost = guest.diagnose(caught.value)
        assert (lost.loss, told in str(lost)) == (loss, True), str(lost)
        guest.stop()


@pytest.mark.vm
def test_a_probe_that_never_stops_the_machine_never_came_up(make_guest: MakeGuest, tmp_path: Path) -> None:
    silent = tmp_path / "agent"
    silent.write_text('#!/bin/sh\n[ "$1" = crowd ] || while :; do :; done\n')
    with pytest.raises(NeverUp, match="the guest is up, the probe is not: the machine did not stop within 20 s"):
        make_guest(silent).start()


def with_config(image: KernelImage, path: Path, text: str) -> KernelImage:
    path.write_text(text)
    return KernelImage(image.spec, image.release, image.vmlinuz, None, path, image.digest, {})


def test_a_kernel_without_what_it_takes_is_refused_before_the_boot(tmp_path: Path) -> None:
    kernel = KernelImage("tree:.", "7.3", tmp_path / "vmlinuz", None, None, "d" * 64, {})
    symbols = ["CONFIG_BLK_DEV_INITRD", "CONFIG_DEVTMPFS", "CONFIG_BINFMT_SCRIPT"]
    for lacks in symbols:
        config = "".join(f"{symbol}=y\n" for symbol in symbols if symbol != lacks)
        with pytest.raises(BootError, match=rf"^tree:.: the kernel has no .*; build it with {lacks}$"):
            exact.command(with_config(kernel, tmp_path / "config", config), tmp_path, "disk", GuestOptions())
    everything = with_config(kernel, tmp_path / "config", "".join(f"{symbol}=y\n" for symbol in symbols))
    assert "-icount" in exact.command(everything, tmp_path, "disk", GuestOptions())


def test_without_qemu_img_one_line_says_so(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(HarnessError, match=r"qemu-img does not run .*'kst doctor' says what to install"):
        exact._make_disk(tmp_path)


def test_it_has_neither_a_shell_nor_files(make_guest: MakeGuest, fake: Path) -> None:
    guest = make_guest(fake)
    with pytest.raises(HarnessError, match="has no shell for: ls"):
        guest.run("ls", 1)
    with pytest.raises(HarnessError, match="takes no files"):
        guest.put(fake)


def test_the_probe_ends_where_nobody_stops_the_machine() -> None:
    """Outside of such a guest: it does not take its own reply for the next request, for ever."""
    began = time.monotonic()
    ended = subprocess.run([probe(), "stopping"], capture_output=True, text=True, timeout=20, check=False)
    assert (ended.returncode, ended.stderr) == (1, "agent: nobody stops the machine\n")
    assert time.monotonic() - began < 20
