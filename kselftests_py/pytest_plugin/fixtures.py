"""Fixtures of the suites."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, Literal

import pytest

from kselftests_py.errors import KstError
from kselftests_py.lab import Capabilities, Lab, Subject
from kselftests_py.machines.machine import Machine
from kselftests_py.measure import tails
from kselftests_py.pytest_plugin.keys import METRICS, PARTS, RUN, STATION
from kselftests_py.pytest_plugin.names import suite_of, test_id
from kselftests_py.pytest_plugin.station import Station, Target
from kselftests_py.results import Metric, Outcome, Record


@pytest.fixture(scope="session")
def kst_target(request: pytest.FixtureRequest) -> Target:
    """The kernel under test; parametrized with every kernel of the run."""
    target: Target = request.param
    return target


@pytest.fixture
def kst_control(request: pytest.FixtureRequest) -> str | None:
    """The negative control this test runs under (--kst-controls), or None."""
    control: str | None = getattr(request, "param", None)
    return control


@pytest.fixture
def kst_block(request: pytest.FixtureRequest) -> int:
    """Which of the run's interleaved blocks this test belongs to; 0: there are none."""
    block: int = getattr(request, "param", 0)
    return block


def _station(request: pytest.FixtureRequest, target: Target, profile: Literal["functional", "exact"]) -> Station:
    station = request.config.stash[RUN].bench.station(target, profile)
    request.node.stash[STATION] = station
    return station


def _shares_a_cpu(item: pytest.Item, station: Station) -> bool:
    """Whether the threads of a test run on one CPU: under TCG, where a wake-up from one to another is dear, unless they
    race (needs "smp") or are timed."""
    races = any("smp" in mark.args for mark in item.iter_markers("needs"))
    timed = item.get_closest_marker("wall") is not None
    return station.target.entry.emulated and not races and not timed


def _subject(station: Station, control: str | None, *, one_cpu: bool = False) -> Iterator[Subject]:
    lab, channel = station.lab, station.channel
    assert lab is not None
    assert channel is not None
    subject = lab.new_subject(one_cpu=one_cpu)
    try:
        if control is not None:
            subject.control(control)
        yield subject
    finally:
        try:
            subject.end()
        except KstError:
            if not channel.interrupted:  # after Ctrl-C the machine is about to go, subjects and all
                raise


@pytest.fixture
def lab(request: pytest.FixtureRequest, kst_target: Target) -> Lab:
    """The probe on the kernel under test, on a machine with several CPUs."""
    found = _station(request, kst_target, "functional").lab
    assert found is not None
    return found


@pytest.fixture
def caps(kst_target: Target, lab: Lab) -> Capabilities:
    """What the kernel under test can do, probed in it."""
    assert kst_target.capabilities is not None
    return kst_target.capabilities


@pytest.fixture
def subject(
    request: pytest.FixtureRequest, kst_target: Target, kst_control: str | None, kst_block: int
) -> Iterator[Subject]:
    """A fresh process on the kernel under test; killed after the test."""
    station = _station(request, kst_target, "functional")
    one_cpu = _shares_a_cpu(request.node, station)
    yield from _subject(station, kst_control or kst_target.lie or None, one_cpu=one_cpu)


@pytest.fixture
def exact_subject(request: pytest.FixtureRequest, kst_target: Target, kst_control: str | None) -> Subject:
    """A fresh process where guest time is instructions retired (QEMU icount, one vCPU); ``clock="tsc"`` counts them."""
    subject = _station(request, kst_target, "exact").rewound()
    if kst_control is not None:
        subject.control(kst_control)
    return subject


@pytest.fixture
def record_metric(request: pytest.FixtureRequest) -> Callable[..., None]:
    """Adds a :class:`Metric` to this test's record: ``record_metric(name, value, unit, mode=..., labels=..., ...)``."""
    metrics: list[Metric] = request.node.stash.setdefault(METRICS, [])

    def add(name: str, value: float, unit: str, **rest: Any) -> None:
        if rest.get("mode") == "wall" and rest.get("histogram"):
            rest["percentiles"] = tails(rest["histogram"])
        metrics.append(Metric(name=name, value=value, unit=unit, **rest))

    return add


@pytest.fixture
def seed(request: pytest.FixtureRequest, kst_target: Target) -> int:
    """What the test draws its random choices from: its own number (parametrize indirectly; else 1), and the run's
    ``--seed`` added to it. The manifest tells of each."""
    run = request.config.stash[RUN]
    drawn: int = getattr(request, "param", 1) + run.seed
    run.manifest.seeds[test_id(request.node, kst_target.label)] = drawn
    return drawn


@pytest.fixture
def machine(request: pytest.FixtureRequest, kst_target: Target) -> Machine:
    """The kernel under test as a machine that runs commands."""
    found = _station(request, kst_target, "functional").machine
    assert found is not None
    return found


@pytest.fixture
def record_part(request: pytest.FixtureRequest, kst_target: Target) -> Callable[[str, Outcome, str], None]:
    """Adds a record of a part of this test: ``record_part(id, outcome, message)``; the id is unique in the run."""
    parts: list[Record] = request.node.stash.setdefault(PARTS, [])

    def add(name: str, outcome: Outcome, message: str) -> None:
        parts.append(
            Record(
                id=name, suite=suite_of(request.node), kernel=kst_target.label, outcome=outcome, message=message,
                profile="functional",
            )
        )  # fmt: skip

    return add
