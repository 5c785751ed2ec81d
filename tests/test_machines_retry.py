"""A boot that failed by the environment's fault is tried again, with a bound; what the kernel did is never excused."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import pytest

from kselftests_py.errors import HarnessError
from kselftests_py.kernels import KernelImage
from kselftests_py.lab.channel import ChannelLost
from kselftests_py.machines.exact import ExactGuest
from kselftests_py.machines.guest import Guest, GuestOptions, NotTheKernel
from kselftests_py.machines.machine import Loss, MachineInfo, NeverUp
from kselftests_py.machines.vng import VngGuest

IMAGE = KernelImage("debian:7.3", "7.3.4", Path("vmlinuz"), None, None, "d" * 64, {})
INT3 = "[    2.0] Oops: int3: 0000 [#1] SMP NOPTI\n[    2.1] Kernel panic - not syncing: Fatal exception in interrupt\n"
REAL = "[    2.0] Oops: 0002 [#1] SMP NOPTI\n[    2.1] Kernel panic - not syncing: Fatal exception\n"


def guest(tmp_path: Path, notes: list[str], options: GuestOptions | None = None, kind: type[Guest] = VngGuest) -> Guest:
    return kind(IMAGE, tmp_path / "agent", lambda: tmp_path / "console", options or GuestOptions(), notes.append)


@pytest.mark.parametrize(("failures", "up"), [(0, True), (2, True), (3, False)])
def test_boots_are_tried_again_with_a_bound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, failures: int, up: bool
) -> None:
    left = [NotTheKernel("console silent")] * failures
    notes: list[str] = []

    def boot_once(_guest: Guest) -> MachineInfo:
        if left:
            raise left.pop()
        return MachineInfo("tcg", "")

    monkeypatch.setattr(VngGuest, "_boot_once", boot_once)
    if up:
        assert guest(tmp_path, notes).start().accelerator == "tcg"
    else:
        with pytest.raises(NeverUp, match="3 boots failed in QEMU; the last: console silent"):
            guest(tmp_path, notes).start()
    assert len(notes) == failures


@pytest.mark.parametrize(
    ("console", "kind", "options", "loss"),
    [
        (INT3, VngGuest, GuestOptions(), Loss.LOST),
        (INT3, VngGuest, GuestOptions(accelerator="kvm"), Loss.PANIC),
        (INT3, ExactGuest, GuestOptions(), Loss.PANIC),
        (REAL, VngGuest, GuestOptions(), Loss.PANIC),
    ],
    ids=["tcg", "kvm", "one-vcpu", "another-oops"],
)
def test_only_a_code_patch_lost_by_tcg_is_not_the_kernels(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: str, kind: type[Guest], options: GuestOptions, loss: Loss
) -> None:
    lost = guest(tmp_path, [], options, kind)
    monkeypatch.setattr(lost, "_text", lambda: console)
    monkeypatch.setattr(lost, "_wait_exit", lambda _seconds: True)
    assert lost.diagnose(ChannelLost("closed")).loss is loss


@pytest.mark.parametrize(
    ("console", "told"),
    [("", "it said nothing at all"), ("one\n[    1.0] two\n\n", "its last line: [    1.0] two")],
)
def test_a_kernel_that_never_comes_up_is_told_with_its_last_words(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, console: str, told: str
) -> None:
    waiting = guest(tmp_path, [])
    waiting._console = tmp_path / "console"
    waiting._console.write_text(console)
    monkeypatch.setattr(waiting, "_process", SimpleNamespace(poll=lambda: None))
    with pytest.raises(NeverUp) as raised:
        waiting._await_console("kst: probe", deadline=0)
    assert f"within 120 s; {told} (console: " in str(raised.value)


def test_a_qemu_that_cannot_count_instructions_is_the_environments_fault(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    told = guest(tmp_path, [])
    monkeypatch.setattr(told, "_text", lambda: "qemu-system-x86_64: cannot configure icount, TCG support not available")
    failure = told._boot_failure()
    assert type(failure) is HarnessError
    assert "exact mode needs TCG" in str(failure)
    monkeypatch.setattr(told, "_text", lambda: "qemu-system-x86_64: -m 1X: bad size")
    assert isinstance(told._boot_failure(), NeverUp)
