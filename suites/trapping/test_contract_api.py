"""UFFDIO_API: what is negotiated, what is refused, in which order, and what is refused before it.

Source: userfaultfd_api(), userfaultfd_ioctl() and uffd_api_available_features() in mm/userfaultfd.c;
Documentation/admin-guide/mm/userfaultfd.rst, "API"; contract.toml, A1 to A9.
"""

from __future__ import annotations

import pytest

from kselftests_py.lab import RWP, Capabilities, Feature, KernelRefused, Subject, ops
from kselftests_py.lab.cases import DISTINCT_KINDS, track
from kselftests_py.lab.refusals import answers, check_refusals

pytestmark = pytest.mark.needs("rwp", "rwp_async")

contract = pytest.mark.contract
UNKNOWN = 1 << 40
PROT_READ = 1
AFTER_API = [
    "UFFDIO_REGISTER",
    "UFFDIO_UNREGISTER",
    "UFFDIO_WAKE",
    "UFFDIO_COPY",
    "UFFDIO_ZEROPAGE",
    "UFFDIO_MOVE",
    "UFFDIO_WRITEPROTECT",
    "UFFDIO_CONTINUE",
    "UFFDIO_POISON",
    "UFFDIO_RWPROTECT",
    "UFFDIO_SET_MODE",
]
# name: (privileged, features, api, errno). Rows that break two rules show which one is decided first.
REFUSED = {
    "another api": (True, 0, 0xAB, "EINVAL"),
    "RWP_ASYNC without RWP": (True, Feature.RWP_ASYNC, 0xAA, "EINVAL"),
    "an unknown bit": (True, UNKNOWN, 0xAA, "EINVAL"),
    "an unknown bit beside known ones": (True, UNKNOWN | Feature.RWP, 0xAA, "EINVAL"),
    "EVENT_FORK, no CAP_SYS_PTRACE": (False, Feature.EVENT_FORK, 0xAA, "EPERM"),
    "another api before no capability": (False, Feature.EVENT_FORK, 0xAB, "EINVAL"),
    "no capability before RWP_ASYNC": (False, Feature.EVENT_FORK | Feature.RWP_ASYNC, 0xAA, "EPERM"),
    "no capability before an unknown bit": (False, Feature.EVENT_FORK | UNKNOWN, 0xAA, "EPERM"),
}


def opened(subject: Subject, count: int) -> list[int]:
    """Handles of so many fresh descriptors, none of them past UFFDIO_API."""
    return [new.uffd for new in subject.batch(*[ops.uffd_open()] * count)]


@contract("A2", "A3", "A4", "A5", "A7")
@pytest.mark.control("swallow_errno")
def test_refusals(subject: Subject) -> None:
    """Each bad request gets its errno and a struct of zeroes, and the descriptor can still be negotiated with.

    Source: the labels err_out of userfaultfd_api(), in the order of its checks.
    """
    handles = dict(zip(REFUSED, opened(subject, len(REFUSED)), strict=True))
    told = {}
    for privileged in (True, False):
        if not privileged:
            subject.call(ops.drop_capabilities())
        mine = {name: row for name, row in REFUSED.items() if row[0] == privileged}
        calls = [ops.uffd_api(handles[name], row[1], row[2]) for name, row in mine.items()]
        told |= dict(zip(mine, subject.batch(*calls, stop_on_errno=False), strict=True))
    expected = {name: (row[3], {"features": 0, "ioctls": 0}) for name, row in REFUSED.items()}
    assert {n: (r.name, r.fields) if isinstance(r, KernelRefused) else r for n, r in told.items()} == expected
    afterwards = answers(subject, [ops.uffd_api(handle, Feature.RWP) for handle in handles.values()])
    assert afterwards == ["success"] * len(handles)


@contract("A7")
@pytest.mark.control("swallow_errno")
@pytest.mark.parametrize("nth", ["refused", "second"])
def test_refused_struct_is_zeroed(subject: Subject, nth: str) -> None:
    """All three words of struct uffdio_api are 0 after a refusal, its field api too.

    Source: memset() and copy_to_user() at err_out of userfaultfd_api().
    """
    word = subject.region("anon", 1)[0]
    handle = opened(subject, 1)[0]
    api = 0xAA if nth == "second" else 0xAB
    if nth == "second":
        subject.call(ops.uffd_api(handle, 0))
    poke = [ops.poke(word, api), ops.poke(word + 8, int(Feature.RWP)), ops.poke(word + 16, 5)]
    assert answers(subject, [*poke, ops.raw_ioctl("UFFDIO_API", word, handle)]) == ["success"] * 3 + ["EINVAL"]
    assert [left.value for left in subject.batch(*[ops.peek(word + at) for at in (0, 8, 16)])] == [0, 0, 0]


@contract("A1")
@pytest.mark.control("swallow_errno")
@pytest.mark.parametrize("api", [0xAA, 0xAB], ids=["right", "another_api"])
def test_struct_that_cannot_be_written(subject: Subject, api: int) -> None:
    """UFFDIO_API on a struct that can be read only is EFAULT, and the descriptor can still be negotiated with.

    Source: copy_to_user() in userfaultfd_api(), ahead of cmpxchg() on ctx->features, and at err_out.
    """
    struct = subject.region("anon", 1)
    handle = opened(subject, 1)[0]
    subject.batch(ops.poke(struct[0], api), ops.poke(struct[0] + 8, int(Feature.RWP)))
    struct.mprotect(PROT_READ)
    assert answers(subject, [ops.raw_ioctl("UFFDIO_API", struct[0], handle)]) == ["EFAULT"]
    assert answers(subject, [ops.uffd_api(handle, Feature.RWP)]) == ["success"]


@contract("A6")
@pytest.mark.control("swallow_errno")
def test_second_call_is_refused(subject: Subject) -> None:
    """A second UFFDIO_API is EINVAL, whatever it asks; the features of the first stay in force.

    That it is the second is decided last: EVENT_FORK without CAP_SYS_PTRACE is EPERM.
    Source: cmpxchg() on ctx->features in userfaultfd_api().
    """
    region = subject.region("anon", 1)
    handle = opened(subject, 1)[0]
    calls = [ops.uffd_api(handle, features) for features in (Feature.RWP, Feature.RWP, 0, Feature.THREAD_ID)]
    assert answers(subject, calls) == ["success", "EINVAL", "EINVAL", "EINVAL"]
    subject.call(ops.drop_capabilities())
    assert answers(subject, [ops.uffd_api(handle, Feature.EVENT_FORK)]) == ["EPERM"]
    assert answers(subject, [ops.register(handle, region.addr, region.length, RWP.mode)]) == ["success"]


@contract("A8")
@pytest.mark.control("wrong_mask")
@pytest.mark.parametrize("asked", [0, Feature.RWP, Feature.RWP | Feature.RWP_ASYNC | Feature.THREAD_ID], ids=repr)
def test_features_out_are_all_there_are(subject: Subject, caps: Capabilities, asked: int) -> None:
    """Whatever is asked, the answer holds every feature there is, and REGISTER, UNREGISTER and SET_MODE as ioctls.

    UFFDIO_API's own bit 63 does not pass the probe's protocol. Source: UFFD_API_IOCTLS; userfaultfd_api().
    """
    api = subject.uffd(asked).api
    assert (api.features, api.ioctls) == (caps.raw.uffd_features, 1 << 0x00 | 1 << 0x01 | 1 << 0x0A)


@contract("A9", "R3")
@pytest.mark.control("swallow_errno")
def test_only_what_was_asked_is_active(subject: Subject) -> None:
    """Without having asked for RWP a range cannot be registered with it, although the answer offered it.

    Source: uffd_ctx_features(features) in userfaultfd_api(); userfaultfd_register().
    """
    region = subject.region("anon", 1)
    plain, asked = subject.uffd(), subject.uffd(RWP)
    calls = [ops.register(uffd.handle, region.addr, region.length, RWP.mode) for uffd in (plain, asked)]
    assert answers(subject, calls) == ["EINVAL", "success"]


@contract("A10")
@pytest.mark.control("swallow_errno")
def test_everything_else_before_api_is_refused(subject: Subject) -> None:
    """Before UFFDIO_API every other ioctl is EINVAL, even with a pointer that would be EFAULT.

    Source: userfaultfd_is_initialized() at the top of userfaultfd_ioctl().
    """
    handle = opened(subject, 1)[0]
    told = dict(zip(AFTER_API, answers(subject, [ops.raw_ioctl(r, 0, handle) for r in AFTER_API]), strict=True))
    assert told == dict.fromkeys(AFTER_API, "EINVAL")


@contract("A1", "R1", "P2", "M1", "U1", "I7")
@pytest.mark.control("swallow_errno", "spoil_contents", "spoil_trap")
@pytest.mark.parametrize("kind", DISTINCT_KINDS)
def test_bad_pointer(subject: Subject, kind: str) -> None:
    """A struct that cannot be read is EFAULT, for UFFDIO_API and for every ioctl after it, and changes nothing.

    Source: copy_from_user() at the top of each; I7.
    """
    region, uffd = track(subject, kind, "rwp", "sync", pages=2)
    uffd.protect(region[:1])
    calls = {"UFFDIO_API": ops.raw_ioctl("UFFDIO_API", 0, opened(subject, 1)[0])}
    calls |= {request: ops.raw_ioctl(request, 0, uffd.handle) for request in AFTER_API}
    check_refusals(subject, region, uffd, {name: (call, "EFAULT") for name, call in calls.items()})
