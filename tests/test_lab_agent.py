"""The Python face and the real agent together, on the kernel of this machine: what WP can show without RWP."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from kselftests_py.lab import WP, WRITE, Fault, KernelRefused, Lab, PipeChannel, ProbeError, Subject, ops
from kselftests_py.lab.build import agent


@pytest.fixture(scope="module")
def lab() -> Iterator[Lab]:
    one = Lab(PipeChannel([str(agent())]))
    one.hello()
    yield one
    one.close()


@pytest.fixture
def subject(lab: Lab) -> Iterator[Subject]:
    if reason := lab.caps().missing("wp"):
        pytest.skip(reason)
    with lab.subject() as one:
        yield one


def test_the_example_of_the_design(subject: Subject) -> None:
    region = subject.region("anon", pages=4).populate()
    uffd = subject.uffd(WP)
    uffd.register(region, mode=WP)
    uffd.writeprotect(region)
    write = subject.actor().write(region[1], 7)
    assert write.blocked
    assert uffd.next_fault() == Fault(region[1], WP | WRITE)
    uffd.resolve(region[1])
    assert write.done
    assert subject.peek(region[1]) == 7
    assert region.changed_pages() == {1}
    assert region.marked_pages() == {0, 2, 3}


def test_a_subject_with_a_blocked_thread_ends(lab: Lab, subject: Subject) -> None:
    region = subject.region("anon", pages=1).populate()
    uffd = subject.uffd(WP)
    uffd.register(region, mode=WP)
    uffd.protect(region)
    assert subject.actor().write(region[0], 1).blocked
    subject.end()
    assert lab.hello().protocol == 1
    with pytest.raises(ProbeError, match="subject"):
        subject.peek(region[0])


def test_a_refusal_names_its_errno_and_stops_a_batch(subject: Subject) -> None:
    region = subject.region("anon", pages=2)
    uffd = subject.uffd(WP)
    unregistered = ops.protect("writeprotect", uffd.handle, region.addr, region.length, 1)
    with pytest.raises(KernelRefused, match="ENOENT"):
        subject.batch(unregistered, ops.poke(region[0], 5))
    assert subject.peek(region[0]) == 0
    refusal, _ = subject.batch(unregistered, ops.poke(region[0], 5), stop_on_errno=False)
    assert (refusal.name, refusal.op) == ("ENOENT", "writeprotect")
    assert subject.peek(region[0]) == 5


def test_two_subjects_share_nothing(lab: Lab, subject: Subject) -> None:
    mine = subject.region("anon", pages=1)
    subject.poke(mine[0], 1)
    with lab.subject() as other:
        assert other.pid != subject.pid
        assert other.peek(other.region("anon", pages=1)[0]) == 0
        with pytest.raises(ProbeError):
            other.call(ops.alias(mine.handle + 7))
