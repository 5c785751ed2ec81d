"""Signals to threads that wait for a protected page: they are handled, and the access is made as if none had come.

SIGKILL has its tests in ``test_matrix_fork.py`` and ``test_kernel_access.py``. Source:
userfaultfd_get_blocking_state(): a fault of a user instruction sleeps TASK_INTERRUPTIBLE; fault_signal_pending();
FOLL_INTERRUPTIBLE in hva_to_pfn(), "KVM_RUN ... EINTR: an unmasked signal is pending" (virt/kvm/api.rst); I1, I2, I3.
"""

from __future__ import annotations

import pytest

from kselftests_py.lab import RWP, WP, WRITE, Actor, Fault, Region, Subject, Uffd, Vcpu, ops
from kselftests_py.lab.cases import KINDS, track

PROTECTIONS = [
    pytest.param("rwp", marks=pytest.mark.needs("rwp")),
    pytest.param("wp", marks=pytest.mark.needs("wp", "wp_shmem")),
]


@pytest.mark.contract("I1", "I2", "I3", "F1")
@pytest.mark.control("skip_protect", "flip_write_flag", "wrong_address")
@pytest.mark.parametrize("protection", PROTECTIONS)
@pytest.mark.parametrize("kind", KINDS)
def test_interrupted_thread_waits_again(subject: Subject, kind: str, protection: str) -> None:
    """Two threads, one message read and one not, handle a signal while they wait, and wait again with one message each.

    A message that nobody has read is not sent twice. Resolved, each access has been made once.
    """
    region, uffd = track(subject, kind, protection, "sync", pages=3)
    uffd.protect(region)
    _interrupt(subject, region, uffd, (subject.actor(), subject.actor()), protection)


@pytest.mark.contract("I1", "I2", "I3", "F1")
@pytest.mark.needs("rwp", "kvm")
@pytest.mark.control("skip_protect", "stale_tables", "flip_write_flag")
@pytest.mark.parametrize("kind", ["anon", "shmem"])
def test_interrupted_vcpu_waits_again(subject: Subject, kind: str) -> None:
    """The same of two vCPUs: KVM_RUN ends with EINTR, as a VMM has it to get hold of a vCPU, and is called again."""
    region = subject.region(kind, 3).populate()
    made = subject.batch(*[ops.actor(region.handle)] * 2)
    uffd = subject.uffd(RWP)
    uffd.register(region, RWP)
    uffd.protect(region)
    first, second = (Vcpu(subject, one) for one in made)
    _interrupt(subject, region, uffd, (first, second), "rwp")


def _interrupt(subject: Subject, region: Region, uffd: Uffd, actors: tuple[Actor, Actor], protection: str) -> None:
    """A signal to each of *actors* while it waits, the message of the first having been read."""
    flags = (RWP if protection == "rwp" else WP) | WRITE
    faults = [Fault(region[0], flags), Fault(region[2], flags)]
    tickets = [actors[0].rmw(region[0], 1)]
    assert tickets[0].blocked
    assert uffd.events() == faults[:1]
    tickets.append(actors[1].rmw(region[2], 1))
    assert tickets[1].blocked
    assert [actor.interrupt() for actor in actors] == [True, True]
    assert [ticket.blocked for ticket in tickets] == [True, True]
    assert sorted(uffd.events(), key=repr) == sorted(faults, key=repr)
    assert region.marked_pages() == {0, 1, 2}
    uffd.resolve(region)
    assert [ticket.done for ticket in tickets] == [True, True]
    before = [ticket.value for ticket in tickets]
    assert [subject.peek(region[page]) for page in (0, 2)] == [value + 1 for value in before]
    assert region.changed_pages() == {0, 2}
