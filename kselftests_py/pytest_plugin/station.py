"""Stations: each kernel of a run, on each kind of machine it needs, booted when first used and again after a loss."""

from __future__ import annotations

import subprocess
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace
from functools import partial
from typing import Literal

import msgspec

from kselftests_py.errors import HarnessError, KstError
from kselftests_py.kernels import KernelImage, RunningKernel
from kselftests_py.lab import Capabilities, KernelRefused, Lab, Subject
from kselftests_py.lab.build import agent
from kselftests_py.lab.channel import ChannelError, ChannelTimeout
from kselftests_py.machines import accelerator, passport
from kselftests_py.machines.exact import ExactGuest
from kselftests_py.machines.guest import GuestOptions
from kselftests_py.machines.local import LocalHost
from kselftests_py.machines.machine import Loss, Machine, MachineInfo, MachineLost
from kselftests_py.machines.ssh import SshHost
from kselftests_py.machines.vng import VngGuest
from kselftests_py.measure import percentile, samples
from kselftests_py.results import KernelEntry, RunFolder, Where
from kselftests_py.where import Watch, check, of_kernel

Profile = Literal["functional", "exact"]
Need = Literal["no", "try", "must"]

# Bits of /proc/sys/kernel/tainted that the kernel sets on itself when it breaks: machine check, bad page, died (oops),
# warned, soft lockup (Documentation/admin-guide/tainted-kernels.rst).
BROKEN_TAINT = (1 << 4) | (1 << 5) | (1 << 7) | (1 << 9) | (1 << 14)


SPIN = 2_000
"""Instructions of the path "spin" (native_probes/paths.c)."""
_AROUND_SPIN = 32  # that the call and the two clock readings may add


@dataclass(frozen=True)
class Settings:
    """What the user asked of the machines."""

    accel: str = "auto"
    cpus: int = 2
    memory: str = "1G"
    test_timeout: float = 60.0
    where: Need = "no"  # exact: which functions the instructions are in


@dataclass
class Target:
    """One kernel of the run, and what is known of it so far."""

    kernel: KernelImage | RunningKernel
    entry: KernelEntry
    capabilities: Capabilities | None = None
    broken: KstError | None = None  # why it does not come up; nothing more is tried then
    lie: str = ""  # the negative control that each of its subjects is put under
    readings: list[passport.Passport] = field(default_factory=list)  # of its machine, while wall time is measured
    around: list[passport.Passport] = field(default_factory=list)  # of the machine that runs its guest

    @property
    def label(self) -> str:
        return self.entry.label

    def learn(self, capabilities: Capabilities) -> None:
        """What its machine can do, as just probed there."""
        self.capabilities = capabilities
        self.entry.capabilities = msgspec.to_builtins(capabilities.raw)


class GuardedChannel:
    """The machine's channel, bounded by the running test's time; a failed call becomes what happened to the machine."""

    def __init__(self, machine: Machine, watch: Watch | None) -> None:
        self._machine, self._channel, self._watch = machine, machine.channel(), watch
        self.where: dict[str, Where] = {}  # of what the running test measured, the first of each name
        self.deadline = float("inf")
        self.interrupted = False  # Ctrl-C came in the middle of a call: the channel is out of step for good

    def call(self, line: bytes, timeout: float) -> bytes:
        if self.interrupted:
            raise MachineLost(Loss.LOST, "the run was interrupted")
        left = self.deadline - time.monotonic()
        try:
            if left <= 0:
                raise ChannelTimeout("the test used up its time (--timeout)")
            answer = self._channel.call(line, min(timeout, left))
        except ChannelError as error:
            raise self._machine.diagnose(error) from error
        except KeyboardInterrupt:
            self.interrupted = True
            raise
        if self._watch is not None:
            self.where = self._watch.take(answer) | self.where
        return answer

    def close(self) -> None:
        self._channel.close()


@dataclass
class Station:
    """One kernel on one kind of machine."""

    target: Target
    profile: Profile
    machine: Machine | None = None
    channel: GuardedChannel | None = None
    lab: Lab | None = None
    subject: Subject | None = None  # of a machine that is rewound
    watch: Watch | None = None  # of a machine whose instructions are told apart
    taint: int = 0  # of the kernel, as last seen
    log_readable: bool = True  # a host may keep /dev/kmsg for root
    kvm_loaded: bool = False

    def provide(self, name: str) -> None:
        """Bring up what capability *name* needs and a boot leaves out: KVM in guests, which few tests want."""
        if name != "kvm" or self.kvm_loaded or not isinstance(self.machine, VngGuest):
            return
        assert self.lab is not None
        self.lab.load_kvm()
        self.kvm_loaded = True
        self.target.learn(capabilities := self.lab.caps())
        if capabilities.missing(name) is None:
            self.lab.keep_vm()

    def rewound(self) -> Subject:
        """Where instructions are counted: the machine as it was saved when it came up, and the fresh process there.

        So a figure does not depend on what was measured before it.
        """
        assert isinstance(self.machine, ExactGuest)
        assert self.channel is not None
        assert self.subject is not None
        try:
            self.machine.rewind()
        except ChannelError as error:
            raise self.machine.diagnose(error) from error
        # Its requests are numbered anew: their length is a part of what the probe does.
        self.lab = Lab(self.channel)
        self.subject = Subject(self.lab, self.subject.handle, self.subject.pid)
        return self.subject

    def stop(self) -> None:
        if self.machine is not None:
            self.machine.stop()
        if self.watch is not None:
            self.watch.close()
        self.machine = self.channel = self.lab = self.subject = self.watch = None
        self.kvm_loaded = False


def check_clock(lab: Lab, label: str) -> None:
    """See that the guest's time stamp counter counts instructions.

    :raises HarnessError: it does not, as without QEMU's icount: each figure would be the speed of this machine.
    """
    with lab.subject() as subject:
        found = subject.path_cost("spin", kind="anon", pages=1, rounds=9, clock="tsc")
    shortest, median = (percentile(found.histogram.counts, at) for at in (0, 50))
    # Equal: a timer tick may fall into one sample, but not into most.
    if shortest != median or not SPIN <= median <= SPIN + _AROUND_SPIN:
        raise HarnessError(
            f"{label}: {SPIN} instructions took {shortest:g} to {median:g} ticks of the time stamp counter: it does "
            "not count instructions (QEMU icount), so nothing can be measured exactly; see the QEMU command line"
        )


def clock_fault(lab: Lab) -> str:
    """Why the machine's CLOCK_MONOTONIC_RAW cannot measure what is measured here; empty if it can.

    2,000 instructions take about a microsecond or less. A clock on which most such spans take no time at all, or all of
    them whole microseconds, does not see them.
    """
    with lab.subject() as subject:
        spans = subject.path_cost("spin", kind="anon", pages=1, rounds=99, clock="mono").histogram.counts
    if 2 * sum(count for value, count in spans if value == 0) >= samples(spans):
        return "its clock stands still while 2,000 instructions run"
    if all(value % 1000 == 0 for value, _ in spans):
        return "its clock moves in steps of a microsecond or more"
    return ""


@dataclass
class Bench:
    """All stations of a run. One machine runs at a time: two would disturb each other's numbers, unless they count
    instructions (beside.py)."""

    targets: list[Target]
    settings: Settings
    folder: RunFolder
    note: Callable[[str], None]
    up: Callable[[KernelEntry, MachineInfo], None]  # a machine is up: what made its numbers
    changed: Callable[[], None]  # the manifest changed
    wall: bool = False  # nanoseconds are measured: what they depend on is kept
    _stations: dict[tuple[str, Profile], Station] = field(default_factory=dict)

    def ask_functions(self, targets: Iterable[Target]) -> None:
        """Where they need only be told as far as can be ("try"): of all of *targets*, or of none."""
        kernels = {one.label: one.kernel for one in targets if isinstance(one.kernel, KernelImage)}
        if self.settings.where != "try" or not kernels:
            return
        try:
            check(kernels.values())
            for label, kernel in kernels.items():
                of_kernel(kernel, partial(self.folder.new_console, label), self.note)
        except HarnessError as error:
            self.note(f"{error}: so it is not told by function what is noise")
            self.settings = replace(self.settings, where="no")

    def station(self, target: Target, profile: Profile) -> Station:
        """The running station; :raises KstError: it does not come up (remembered, not tried again and again)."""
        if isinstance(target.kernel, RunningKernel) and profile == "exact":
            raise ValueError("exact mode needs a guest")  # deselected at collection
        station = self._stations.setdefault((target.label, profile), Station(target, profile))
        if station.lab is None:
            for other in self._stations.values():
                other.stop()
            self._start(station)
        return station

    def _start(self, station: Station) -> None:
        target = station.target
        if target.broken is not None:
            raise target.broken
        # A machine that is not booted is told of once, however many blocks it is measured in.
        tell = self.note if target.capabilities is None or isinstance(target.kernel, KernelImage) else lambda _: None
        tell(f"{target.label}: starting ({station.profile})")
        try:
            station.machine = self._machine(station)
            info = station.machine.start()
            station.channel = GuardedChannel(station.machine, station.watch)
            station.lab = Lab(station.channel)
            if station.profile == "exact":
                check_clock(station.lab, target.label)
            self._first_log(station)
            if isinstance(station.machine, ExactGuest):
                station.subject = station.lab.new_subject()
                station.machine.save()
            if target.capabilities is None:
                target.learn(station.lab.caps())
        except KstError as error:
            station.stop()
            target.broken = error
            raise
        self.up(target.entry, info)
        if self.wall and station.profile == "functional":
            self._check_wall(station)
        tell(f"{target.label}: up in {info.boot_s:.1f} s ({station.profile}, {info.accelerator})")

    def _first_log(self, station: Station) -> None:
        """From here on, what the kernel says is about a test."""
        assert station.lab is not None
        label = station.target.label
        try:
            station.taint = station.lab.kernel_log().taint
        except KernelRefused as refused:
            station.log_readable = False
            self.note(f"{label}: its log cannot be read ({refused.name}): a WARN or an oops during a test goes unseen")
            return
        if station.taint & BROKEN_TAINT:
            self.note(f"{label}: tainted by its own boot (0x{station.taint:x}); see its console")

    def _check_wall(self, station: Station) -> None:
        """Whether nanoseconds of this machine mean anything: told, never a reason to stop."""
        assert station.lab is not None
        entry = station.target.entry
        if entry.emulated and (why := "emulated by QEMU (TCG)") not in entry.unfit:
            entry.unfit.append(why)
        if (why := clock_fault(station.lab)) and why not in entry.unfit:
            entry.unfit.append(why)
        self.observe(station)

    def observe(self, station: Station) -> None:
        """Take down what the wall time of this moment depends on."""
        target = station.target
        if station.machine is None:
            return
        sources = [(station.machine, target.readings)]
        if isinstance(target.kernel, KernelImage):
            sources.append((LocalHost(), target.around))
        try:
            for source, readings in sources:
                readings.append(passport.read(source))
        except (ChannelError, OSError, subprocess.SubprocessError) as error:
            self.note(f"{target.label}: its state cannot be read: {error}")
        target.entry.noise = passport.summary(target.readings)
        target.entry.noise |= {f"host {name}": value for name, value in passport.summary(target.around).items()}
        self.changed()

    def judge_noise(self) -> None:
        """At the end: what was read says whether wall time may decide anything."""
        for target in self.targets:
            target.entry.unfit += [*passport.unfit(target.readings), *passport.unfit(target.around, "host ")]

    def _machine(self, station: Station) -> Machine:
        target, kernel = station.target, station.target.kernel
        if isinstance(kernel, RunningKernel):
            return LocalHost() if kernel.kind == "host" else SshHost(kernel, agent())
        consoles = partial(self.folder.new_console, target.label)
        if station.profile == "exact":
            if self.settings.where != "no":
                station.watch = Watch(of_kernel(kernel, consoles, self.note))
            options = GuestOptions(memory=self.settings.memory, qemu=station.watch.options if station.watch else ())
            return ExactGuest(kernel, agent(), consoles, options, self.note)
        chosen = accelerator.choose(self.settings.accel, lambda: self._prove_kvm(kernel))
        target.entry.accelerator, target.entry.accelerator_reason = chosen.name, chosen.reason
        options = GuestOptions(self.settings.cpus, self.settings.memory, chosen.name)
        return VngGuest(kernel, agent(), consoles, options, self.note)

    def _prove_kvm(self, kernel: KernelImage) -> None:
        options = GuestOptions(accelerator="kvm", boot_timeout=30)
        guest = VngGuest(kernel, agent(), partial(self.folder.new_console, "kvm-proof"), options, self.note)
        self.note("proving KVM with one bounded boot")
        try:
            guest.start()
        finally:
            guest.stop()

    def lost(self, station: Station) -> None:
        """Forget a machine that crashed or hangs: the next test boots it again."""
        station.stop()

    def close(self) -> None:
        for station in self._stations.values():
            station.stop()


def crashed(lost: MachineLost) -> bool:
    """Whether a loss is the kernel's crash (else it hangs, or the harness lost it)."""
    return lost.loss in (Loss.PANIC, Loss.OOPS)
