"""The Python face of the native probe: Lab, Subject, Region, Uffd, Actor.

    with lab.subject() as subject:
        region = subject.region("anon", pages=4).populate()
        uffd = subject.uffd(RWP)
        uffd.register(region, mode=RWP)
        uffd.rwprotect(region)
        read = subject.actor().read(region[0])
        assert read.blocked
        assert uffd.next_fault() == Fault(region[0], RWP)
        uffd.resolve(region[0])
        assert read.done

Nothing here sleeps: what waits, waits for a state, with a bound.
"""

from kselftests_py.lab.actor import Actor, Ticket, Vcpu
from kselftests_py.lab.capabilities import Capabilities
from kselftests_py.lab.channel import Channel, ChannelGarbage, ChannelLost, ChannelTimeout, PipeChannel
from kselftests_py.lab.constants import (
    MINOR,
    MISSING,
    RWP,
    RWP_ASYNC,
    WP,
    WP_ASYNC,
    WP_SHMEM,
    WRITE,
    FaultFlag,
    Feature,
    Page,
    ProtectMode,
    RegisterMode,
    ScanFlag,
    Term,
)
from kselftests_py.lab.errors import KernelRefused, NoFault, ProbeError, SubjectDied, SubjectGone, SubjectHung
from kselftests_py.lab.lab import Lab
from kselftests_py.lab.region import Region, Span
from kselftests_py.lab.subject import Subject
from kselftests_py.lab.uffd import Event, Fault, Uffd

__all__ = [
    "MINOR",
    "MISSING",
    "RWP",
    "RWP_ASYNC",
    "WP",
    "WP_ASYNC",
    "WP_SHMEM",
    "WRITE",
    "Actor",
    "Capabilities",
    "Channel",
    "ChannelGarbage",
    "ChannelLost",
    "ChannelTimeout",
    "Event",
    "Fault",
    "FaultFlag",
    "Feature",
    "KernelRefused",
    "Lab",
    "NoFault",
    "Page",
    "PipeChannel",
    "ProbeError",
    "ProtectMode",
    "Region",
    "RegisterMode",
    "ScanFlag",
    "Span",
    "Subject",
    "SubjectDied",
    "SubjectGone",
    "SubjectHung",
    "Term",
    "Ticket",
    "Uffd",
    "Vcpu",
]
