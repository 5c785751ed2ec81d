"""Guests that misbehave: each way is recognised within a bound and told apart. Real boots of a real kernel."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from itertools import count
from pathlib import Path

import psutil
import pytest

from kselftests_py.errors import BootError
from kselftests_py.kernels import KernelImage
from kselftests_py.lab import RWP, WRITE, Fault, Lab
from kselftests_py.lab.build import agent as probe
from kselftests_py.lab.cases import track
from kselftests_py.lab.channel import ChannelError
from kselftests_py.machines.guest import GuestOptions
from kselftests_py.machines.machine import BootPanic, Loss, NeverUp
from kselftests_py.machines.vng import VngGuest

pytest_plugins = ["machines_fixtures"]
pytestmark = pytest.mark.vm
HELLO = b'{"id": 0, "op": "hello"}'
MakeGuest = Callable[..., VngGuest]


@pytest.fixture(scope="module")
def fake_agent(built: Callable[[str], Path]) -> Path:
    return built("fake_agent.c")


@pytest.fixture
def make_guest(tmp_path: Path, image: KernelImage, fake_agent: Path) -> Iterator[MakeGuest]:
    guests: list[VngGuest] = []
    numbers = count(1)

    def make(agent: Path = fake_agent, options: GuestOptions | None = None, kernel: KernelImage = image) -> VngGuest:
        guest = VngGuest(
            kernel, agent, lambda: tmp_path / f"console-{next(numbers)}.log", options or GuestOptions(), lambda _: None
        )
        guests.append(guest)
        return guest

    yield make
    for guest in guests:
        guest.stop()


def qemus_of_this_process() -> list[psutil.Process]:
    return [one for one in psutil.Process().children(recursive=True) if one.name().startswith("qemu-system")]


@pytest.mark.parametrize(
    ("deed", "loss", "told"),
    [
        ("panic", Loss.PANIC, "sysrq triggered crash"),
        ("hang", Loss.HANG, "no reply of the probe within"),
        ("leave", Loss.LOST, "closed by the other side"),
        ("endless", Loss.GARBAGE, "without an end of line"),
    ],
)
def test_each_loss_is_told_apart_and_the_machine_can_be_booted_again(
    make_guest: MakeGuest, deed: str, loss: Loss, told: str
) -> None:
    guest = make_guest()
    assert guest.start().accelerator == "tcg"
    began = time.monotonic()
    with pytest.raises(ChannelError) as caught:
        guest.channel().call(deed.encode(), 5)
    lost = guest.diagnose(caught.value)
    assert (lost.loss, told in str(lost)) == (loss, True), str(lost)
    assert "\n" not in str(lost)
    assert time.monotonic() - began < 60
    guest.stop()
    assert qemus_of_this_process() == []
    if deed == "panic":
        guest.start()
        assert b"protocol" in guest.channel().call(HELLO, 10)


def test_flood_and_garbage_are_harmless(make_guest: MakeGuest, tmp_path: Path) -> None:
    """2,000 lines of kernel log with terminal escapes are survived; a reply that is no JSON is passed on as it is."""
    guest = make_guest()
    guest.start()
    assert b"protocol" in guest.channel().call(b"flood", 120)
    assert guest.channel().call(b"garbage", 10) == b"\033[31mgarbage\377\376"
    code, output = guest.run("yes | head -c 3000000", 60)
    assert (code, len(output)) == (0, 65_536)


def test_two_guests_at_once_do_not_disturb_each_other(
    make_guest: MakeGuest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nor leave files where everyone's are: vng, which is killed, removes none."""
    (temporary := tmp_path / "temporary").mkdir()
    monkeypatch.setenv("TMPDIR", str(temporary))
    guests = [make_guest(), make_guest()]
    for guest in guests:
        guest.start()
    names = [guest.run("cat /proc/sys/kernel/random/boot_id", 20) for guest in guests]
    assert names[0] != names[1]
    guests[0].stop()
    assert b"protocol" in guests[1].channel().call(HELLO, 10)
    assert list(temporary.iterdir()) == []


def test_kvm_is_there_once_it_was_loaded(make_guest: MakeGuest) -> None:
    """TCG plays an AMD with SVM; a boot by itself spends no time on KVM."""
    guest = make_guest(probe())
    guest.start()
    assert guest.run("test -e /dev/kvm", 20)[0] == 1
    Lab(guest.channel()).load_kvm()
    assert guest.run("test -c /dev/kvm && grep -w svm /proc/cpuinfo", 20)[0] == 0


def test_guest_listens_on_loopback_only(make_guest: MakeGuest) -> None:
    make_guest().start()
    deadline = time.monotonic() + 20
    while not (found := qemus_of_this_process()):  # psutil may leave out a child for a moment
        assert time.monotonic() < deadline, "no QEMU seen"
    [qemu] = found
    listening = [one.laddr.ip for one in qemu.net_connections(kind="inet") if one.status == psutil.CONN_LISTEN]
    assert listening == ["127.0.0.1"]


def test_panic_at_boot(make_guest: MakeGuest) -> None:
    """Too little memory to boot: the kernel panics, or never gets to a console, before the probe's first reply."""
    with pytest.raises(BootError, match="console: ") as caught:
        make_guest(options=GuestOptions(memory="24M")).start()
    assert isinstance(caught.value, (BootPanic, NeverUp))
    assert qemus_of_this_process() == []


def test_guest_that_never_comes_up(make_guest: MakeGuest, tmp_path: Path) -> None:
    silent = tmp_path / "agent"
    silent.write_text("#!/bin/sh\nexec sleep 1000\n")
    with pytest.raises(NeverUp, match="the guest is up, the probe is not"):
        make_guest(agent=silent).start()


@pytest.mark.parametrize(
    ("config", "told"),
    [
        ("CONFIG_VIRTIO_CONSOLE=y", "neither 9p nor virtiofs"),
        ("CONFIG_9P_FS=m", "no virtio-serial ports"),
    ],
)
def test_kernel_that_cannot_be_a_guest_is_refused_before_the_boot(
    make_guest: MakeGuest, image: KernelImage, tmp_path: Path, config: str, told: str
) -> None:
    path = tmp_path / "config"
    path.write_text(f"CONFIG_64BIT=y\n{config}\n")
    kernel = KernelImage(image.spec, image.release, image.vmlinuz, None, path, image.digest, {})
    with pytest.raises(BootError, match=told):
        make_guest(kernel=kernel).start()


def test_a_read_modify_write_is_one_access_on_one_cpu_too(make_guest: MakeGuest) -> None:
    """QEMU runs it as a load and a store where there is nobody to see it: its fault would be a read's."""
    guest = make_guest(probe(), GuestOptions(cpus=1))
    guest.start()
    lab = Lab(guest.channel())
    assert lab.caps().raw.cpus == 1
    with lab.subject() as subject:
        region, uffd = track(subject, "anon", "rwp", "sync", pages=2)
        uffd.protect(region)
        assert subject.actor().access("rmw", region[1], value=1).blocked
        assert uffd.events() == [Fault(region[1], RWP | WRITE)]
