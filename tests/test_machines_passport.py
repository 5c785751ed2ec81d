"""What a machine says of itself is read as it is written, bounded, and judged. No machine is asked but this one."""

from __future__ import annotations

import pytest

from kselftests_py.machines import passport
from kselftests_py.machines.local import LocalHost
from kselftests_py.machines.passport import Passport

STOLEN = "3 % of the CPU time was stolen by the hypervisor"
ROOT = "/sys/devices/system/cpu"
TEXT = f"""\
== /proc/loadavg
3.25 1.98 0.83 4/117 11059

== /proc/stat
cpu  100 0 50 800 10 5 5 30 0 0
cpu0 50 0 25 400 5 2 3 15 0 0

== /proc/cpuinfo
processor	: 0
model name	: Some CPU 3000
stepping	: 1
flags		: fpu hypervisor tsc

== {ROOT}/online
0-3,8

== {ROOT}/smt/active
1

== {ROOT}/cpu0/cpufreq/scaling_governor
powersave

== {ROOT}/cpu1/cpufreq/scaling_governor
performance

== {ROOT}/vulnerabilities/meltdown
Not affected

== {ROOT}/vulnerabilities/spectre_v2
Mitigation: Retpolines

== {ROOT}/vulnerabilities/tsa
Vulnerable: No microcode

== /sys/devices/system/clocksource/clocksource0/current_clocksource
kvm-clock

== /sys/kernel/mm/transparent_hugepage/enabled
always [madvise] never
"""


def reading(load: float = 0.1, steal: int = 0, busy: int = 1000, clock: str = "tsc", cpus: int = 2) -> Passport:
    return Passport({"clocksource": clock}, cpus, load, busy, steal)


def test_everything_is_read() -> None:
    found = passport.parse(TEXT)
    assert found.facts == {
        "governor": "performance, powersave",
        "SMT": "on",
        "clocksource": "kvm-clock",
        "THP": "madvise",
        "mitigations": "spectre_v2 on, tsa off",
        "virtualised": "yes",
        "CPU": "Some CPU 3000",
    }
    assert (found.cpus, found.load, found.busy, found.steal) == (5, 3.25, 1000, 30)


@pytest.mark.parametrize(
    "text",
    ["", "== ", "== /proc/stat\ncpu  1 2", "== /proc/loadavg\nNaN", f"== {ROOT}/online\n{'9' * 5000}", "\x00\xff== x"],
)
def test_a_machine_that_answers_nonsense_has_no_figures(text: str) -> None:
    found = passport.parse(text)
    assert (found.load, found.busy, found.steal) == (0, 0, 0)
    assert passport.unfit([found]) == []


def test_texts_are_bounded() -> None:
    found = passport.parse(f"== {ROOT}/cpu0/cpufreq/scaling_governor\n{'x' * 100_000}")
    assert len(found.facts["governor"]) == 200


@pytest.mark.parametrize(
    ("readings", "why"),
    [
        ([], []),
        ([reading()], []),
        ([reading(2.0)], []),
        ([reading(2.1)], ["load 2.1 on 2 CPUs"]),
        ([reading(0.1), reading(9.0), reading(0.2)], []),  # one peak
        ([reading(1.5, cpus=1)], ["load 1.5 on 1 CPU"]),
        ([reading(steal=0, busy=1000), reading(steal=30, busy=2000)], [STOLEN]),
        ([reading(steal=900, busy=1000), reading(steal=910, busy=2000)], []),
        ([reading(steal=900, busy=5000), reading(steal=1, busy=100)], []),  # booted anew in between
        ([reading(clock="hpet")], ["clock source hpet"]),
        ([reading(), reading(clock="jiffies")], ["clock source jiffies"]),  # it became unstable meanwhile
    ],
)  # fmt: skip
def test_an_unfit_machine_is_told_by_why(readings: list[Passport], why: list[str]) -> None:
    assert passport.unfit(readings) == why
    assert passport.unfit(readings, "host ") == [f"host {one}" for one in why]


def test_the_summary_keeps_the_highest_load() -> None:
    found = passport.summary([reading(1.0), reading(3.0), reading(2.0)])
    assert found["load"] == "2.00 (highest 3.00, 3 readings)"
    assert passport.summary([]) == {}


def test_this_machine_can_be_read() -> None:
    found = passport.read(LocalHost())
    assert found.cpus >= 1
    assert found.busy > 0
    assert found.facts["clocksource"]
