"""The native loop of throughput.c on the running kernel: counts that no speed changes. What it lacks is skipped."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from probe_agent import program

from kselftests_py.lab import KernelRefused, Lab, PipeChannel, Subject
from kselftests_py.lab.errors import ProbeError
from kselftests_py.lab.replies import Throughput
from kselftests_py.measure import percentile, samples

GOOD: dict[str, Any] = {
    "mode": "wp", "kind": "anon", "access": "write", "pages": 64, "rounds": 3, "clock": "mono", "handler": "poll",
}  # fmt: skip
HANDLERS = ["poll", "read", "sigbus"]


@pytest.fixture
def subject() -> Iterator[Subject]:
    channel = PipeChannel([str(program())])
    with Lab(channel).subject() as made:
        yield made
    channel.close()


def measure(subject: Subject, **change: Any) -> Throughput:
    """The result; a kernel that lacks the feature, or does not let us have it, is skipped with its own words."""
    try:
        return subject.fault_throughput(**GOOD | change)
    except KernelRefused as refused:
        pytest.skip(str(refused))


@pytest.mark.parametrize("handler", HANDLERS)
@pytest.mark.parametrize(("threads", "batch"), [(1, 1), (3, 1), (16, 1), (1, 16), (2, 32)])
@pytest.mark.parametrize("mode", ["wp", "rwp"])
def test_each_batch_of_each_thread_faults_once_a_round(
    subject: Subject, mode: str, handler: str, threads: int, batch: int
) -> None:
    pages = 48 if threads == 3 else 64
    found = measure(subject, mode=mode, handler=handler, threads=threads, batch=batch, pages=pages)
    assert (found.accesses, found.faults) == (pages * 3, pages * 3 // batch)
    assert samples(found.histogram.counts) == found.faults
    assert found.elapsed > 0
    assert percentile(found.histogram.counts, 0) > 0


@pytest.mark.parametrize("handler", HANDLERS)
def test_reads_of_write_protected_pages_need_no_handler(subject: Subject, handler: str) -> None:
    assert measure(subject, access="read", handler=handler).faults == 0


@pytest.mark.parametrize("handler", HANDLERS)
def test_unprotected_pages_are_seen_not_to_trap(subject: Subject, handler: str) -> None:
    subject.control("skip_protect")
    assert measure(subject, handler=handler, threads=2).faults == 0


@pytest.mark.parametrize("handler", HANDLERS)
def test_a_slow_resolve_is_in_every_sample(subject: Subject, handler: str) -> None:
    """Control slow_resolve: 2,000 ns more in each fault, so no access that faults takes less."""
    subject.control("slow_resolve")
    assert percentile(measure(subject, handler=handler).histogram.counts, 0) >= 2000


@pytest.mark.parametrize(
    ("change", "text"),
    [
        ({"handler": "signal"}, "handler: must be poll, read or sigbus"),
        ({"threads": 0}, "threads: 0 is not within 1..16"),
        ({"threads": 17}, "threads: 17 is not within 1..16"),
        ({"batch": 0}, "batch: 0 is not within 1..512"),
        ({"threads": 3}, "pages: must be a multiple of threads * batch"),
        ({"batch": 48}, "pages: must be a multiple of threads * batch"),
        ({"access": "exec"}, "access: must be read, write, gup or gup-write"),
        ({"access": "gup"}, "access: must be read or write"),
        ({"access": "gup-write"}, "access: must be read or write"),
        ({"mode": "wrp"}, "mode: must be wp or rwp"),
    ],
)
def test_wrong_argument_is_refused_by_name(subject: Subject, change: dict[str, Any], text: str) -> None:
    with pytest.raises(ProbeError, match=text.replace("*", r"\*")):
        subject.fault_throughput(**GOOD | change)


@pytest.mark.parametrize("handler", HANDLERS)
def test_it_leaves_nothing_behind(subject: Subject, handler: str) -> None:
    """No thread, no descriptor, and the signal handler that was there before."""

    def held() -> tuple[int, int, str]:
        process = Path("/proc") / str(subject.pid)
        caught = next(line for line in (process / "status").read_text().splitlines() if line.startswith("SigCgt"))
        threads, files = (len(list((process / name).iterdir())) for name in ("task", "fd"))
        return threads, files, caught

    measure(subject, handler=handler, threads=4)
    before = held()
    measure(subject, handler=handler, threads=4)
    assert held() == before
