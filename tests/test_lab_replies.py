"""Lab and Subject against replies of every kind, sane and hostile, through a channel made of a function."""

from __future__ import annotations

import errno
import json
from collections.abc import Callable
from typing import Any

import pytest

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.lab import (
    RWP,
    WRITE,
    ChannelGarbage,
    ChannelLost,
    Fault,
    FaultFlag,
    KernelRefused,
    Lab,
    NoFault,
    Page,
    ProbeError,
    Span,
    Subject,
    SubjectDied,
    SubjectHung,
    ops,
)
from kselftests_py.lab.actor import Actor
from kselftests_py.lab.capabilities import Capabilities
from kselftests_py.lab.constants import Feature
from kselftests_py.lab.errors import printable
from kselftests_py.lab.replies import Api, Caps, NewActor
from kselftests_py.lab.uffd import Uffd

Answer = Callable[[dict[str, Any]], Any]


class FakeChannel:
    """Answers with what *answer* makes of the request; a dict gets the request's id, bytes go as they are."""

    def __init__(self, answer: Answer) -> None:
        self.answer = answer
        self.requests: list[dict[str, Any]] = []
        self.timeouts: list[float] = []

    def call(self, line: bytes, timeout: float) -> bytes:
        assert b"\n" not in line
        request = json.loads(line)
        self.requests.append(request)
        self.timeouts.append(timeout)
        reply = self.answer(request)
        return reply if isinstance(reply, bytes) else json.dumps({"id": request["id"], **reply}).encode()

    def close(self) -> None:
        pass


def subject_that(*items: Any) -> tuple[Subject, FakeChannel]:
    """A subject whose every batch is answered with *items*."""
    channel = FakeChannel(lambda _: {"results": list(items)})
    return Subject(Lab(channel), 3, 300), channel


def test_hello_takes_this_protocol_only() -> None:
    assert Lab(FakeChannel(lambda _: {"result": {"protocol": 1, "pid": 5}})).hello().pid == 5
    with pytest.raises(ProbeError, match="rebuild"):
        Lab(FakeChannel(lambda _: {"result": {"protocol": 2, "pid": 5}})).hello()


def test_the_subject_is_ended_even_when_the_body_or_the_channel_fails() -> None:
    def answer(request: dict[str, Any]) -> dict[str, Any]:
        if request["op"] == "subject_end":
            raise ChannelLost("gone")
        return {"result": {"subject": 4, "pid": 40}}

    channel = FakeChannel(answer)
    with pytest.raises(ZeroDivisionError), Lab(channel).subject() as subject:
        _ = subject.pid // 0
    assert channel.requests[-1] == {"id": 2, "op": "subject_end", "subject": 4}


def test_a_subject_that_does_not_end_is_a_hang() -> None:
    channel = FakeChannel(lambda request: {"hang": "still there"} if request["op"] == "subject_end" else {})
    with pytest.raises(SubjectHung, match="still there"):
        Subject(Lab(channel), 3, 300).end()


HOSTILE = [
    (b"", ChannelGarbage),
    (b"not json", ChannelGarbage),
    (b"\xff\xfe\x00", ChannelGarbage),
    (b"[]", ChannelGarbage),
    (b'{"id": 99, "result": {}}', ChannelGarbage),
    (b'{"id": "1", "result": {}}', ChannelGarbage),
    (b'{"id": 1, "errno": 5}', ChannelGarbage),
    (b'{"id": 1}', ProbeError),
    (b'{"id": 1, "result": []}', ProbeError),
    (b'{"id": 1, "result": {"protocol": 1}}', ProbeError),
    (b'{"id": 1, "result": {"protocol": "1", "pid": 2}}', ProbeError),
    (b'{"id": 1, "result": {"protocol": 1, "pid": -2}}', ProbeError),
    (b'{"id": 1, "errno": "ENOSUCH"}', ProbeError),
    (b'{"id": 1, "errno": "error\\u001b[2J"}', ProbeError),
    (b'{"id": null, "error": "no \\u001b[31mred\\nlines"}', ProbeError),
    (b"[" * 100_000, ChannelGarbage),
]


@pytest.mark.parametrize(("reply", "error"), HOSTILE)
def test_a_hostile_reply_gets_one_clear_line(reply: bytes, error: type[HarnessError]) -> None:
    with pytest.raises(error) as caught:
        Lab(FakeChannel(lambda _: reply)).hello()
    assert str(caught.value).isprintable()
    assert len(str(caught.value)) < 1000


def test_an_errno_is_an_oserror_with_its_number_and_the_struct() -> None:
    refusal = {"errno": "EINVAL", "message": "UFFDIO_API: no", "features": 0, "ioctls": 0}
    subject, _ = subject_that(refusal)
    with pytest.raises(KernelRefused) as caught:
        subject.call(ops.uffd_api(1, 1 << 40))
    assert isinstance(caught.value, OSError)
    assert (caught.value.errno, caught.value.name, caught.value.op) == (errno.EINVAL, "EINVAL", "uffd_api")
    assert caught.value.fields == {"features": 0, "ioctls": 0}


@pytest.mark.parametrize(("key", "error"), [("died", SubjectDied), ("hang", SubjectHung)])
def test_a_lost_subject_is_told_with_what_it_was_doing(key: str, error: type[Exception]) -> None:
    subject = Subject(Lab(FakeChannel(lambda _: {key: "SIGSEGV"})), 1, 10)
    with pytest.raises(error, match="peek: SIGSEGV"):
        subject.peek(0)


def test_one_operation_is_sent_as_a_batch_and_its_wait_is_added_to_the_bounds() -> None:
    subject, channel = subject_that({"result": {"state": "running"}})
    subject.call(ops.ticket(1, "done", 5000))
    (request,) = channel.requests
    assert request["batch"] == [{"op": "ticket", "ticket": 1, "want": "done", "timeout_ms": 5000}]
    assert request["timeout_ms"] == 15_000
    assert channel.timeouts[0] > 15


BATCH = [ops.peek(4096), ops.peek(8192), ops.peek(12288)]


def test_a_batch_gives_results_in_order() -> None:
    subject, _ = subject_that(*({"result": {"value": value}} for value in (1, 2, 3)))
    assert [found.value for found in subject.batch(*BATCH)] == [1, 2, 3]


def test_a_batch_raises_the_refusal_that_stopped_it_or_returns_it() -> None:
    refused = {"errno": "ENOENT", "message": ""}
    subject, channel = subject_that({"result": {"value": 1}}, refused)
    with pytest.raises(KernelRefused):
        subject.batch(*BATCH)
    assert channel.requests[0]["stop_on_errno"] is True
    subject, _ = subject_that({"result": {"value": 1}}, refused, {"result": {"value": 3}})
    _, refusal, last = subject.batch(*BATCH, stop_on_errno=False)
    assert isinstance(refusal, KernelRefused)
    assert last.value == 3


@pytest.mark.parametrize("count", [0, 2, 4])
def test_a_batch_of_the_wrong_length_is_refused(count: int) -> None:
    subject, _ = subject_that(*[{"result": {"value": 1}}] * count)
    with pytest.raises(ProbeError):
        subject.batch(*BATCH)


SPAN = Span(0x10000, 4 * 4096, 4096)
BAD_SCANS = [
    ("before the span", [[0xF000, 0x11000, 512]], SPAN.end),
    ("behind the span", [[0x13000, 0x15000, 512]], SPAN.end),
    ("huge", [[0x10000, 1 << 47, 512]], SPAN.end),
    ("empty", [[0x11000, 0x11000, 512]], SPAN.end),
    ("backwards", [[0x12000, 0x13000, 512], [0x10000, 0x11000, 512]], SPAN.end),
    ("unaligned", [[0x10001, 0x11000, 512]], SPAN.end),
    ("cut short", [], 0x11000),
]


@pytest.mark.parametrize(("regions", "walk_end"), [b[1:] for b in BAD_SCANS], ids=[b[0] for b in BAD_SCANS])
def test_a_scan_that_cannot_be_is_refused(regions: list[Any], walk_end: int) -> None:
    subject, _ = subject_that({"result": {"walk_end": walk_end, "regions": regions}})
    with pytest.raises(ProbeError, match="PAGEMAP_SCAN"):
        subject.pagemap_scan(SPAN, Page.ACCESSED)


def test_events_become_faults() -> None:
    message = {"event": "pagefault", "flags": 9, "address": 0x10000, "tid": 77}
    subject, _ = subject_that({"result": {"events": [message]}})
    uffd = Uffd(subject, 1, Api(features=0, ioctls=0))
    fault = uffd.next_fault()
    assert fault == Fault(0x10000, RWP | WRITE)
    assert fault.tid == 77
    assert fault != Fault(0x10000, RWP)
    assert fault != Fault(0x11000, RWP | WRITE)
    assert Fault(0, RWP | WRITE).flags == FaultFlag.RWP | FaultFlag.WRITE


@pytest.mark.parametrize("events", [[], [{"event": "unmap", "address": 4096}]])
def test_no_fault_fails_the_test(events: list[Any]) -> None:
    subject, _ = subject_that({"result": {"events": events}})
    with pytest.raises(NoFault, match="awaited a page fault"):
        Uffd(subject, 1, Api(features=0, ioctls=0)).next_fault()


def test_thread_starts_with_its_first_access() -> None:
    subject, channel = subject_that({"results": []})
    replies = {"actor": {"actor": 3, "tid": 77}, "access": {"ticket": 1}}
    channel.answer = lambda r: {"results": [{"result": replies[op["op"]]} for op in r["batch"]]}
    actor = Actor(subject)
    assert channel.requests == []
    actor.read(4096)
    assert [[op["op"] for op in request["batch"]] for request in channel.requests] == [["actor", "access"]]
    assert (actor.handle, actor.tid) == (3, 77)
    actor.read(4096)
    assert channel.requests[-1]["batch"][0]["actor"] == 3


@pytest.mark.parametrize(
    ("state", "done", "blocked"), [("done", True, False), ("blocked", False, True), ("running", False, False)]
)
def test_ticket_states(state: str, done: bool, blocked: bool) -> None:
    subject, channel = subject_that({"result": {"state": state, "value": 5, "ticket": 1}})
    channel.answer = lambda r: {
        "results": [{"result": {"ticket": 1} if r["batch"][0]["op"] == "access" else {"state": state, "value": 5}}]
    }
    ticket = Actor(subject, NewActor(1, 77)).read(4096)
    assert (ticket.done, ticket.blocked) == (done, blocked)
    if done:
        asked = len(channel.requests)
        assert ticket.value == 5
        assert len(channel.requests) == asked
    else:
        with pytest.raises(AssertionError, match="did not complete"):
            _ = ticket.value


@pytest.mark.parametrize(("text", "shown"), [("a\nb\x1b[2J", r"a\nb\x1b[2J"), ("é\u202e", r"\xe9\u202e"), ("ok", "ok")])
def test_text_of_the_guest_is_escaped(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert len(printable("x" * 100_000)) < 500


def caps(features: int, ioctls: int = 1, **rest: Any) -> Capabilities:
    return Capabilities(
        Caps(
            uffd_features=features,
            uffd_ioctls=ioctls,
            register_modes={},
            pagemap_scan=True,
            page_accessed=False,
            **rest,
        )
    )


MISSING = [
    ("rwp", caps(Feature.RWP), None),
    ("rwp", caps(0), "UFFD_FEATURE_RWP"),
    ("rwp_async", caps(Feature.RWP), "UFFD_FEATURE_RWP_ASYNC"),
    ("wp_shmem", caps(Feature.PAGEFAULT_FLAG_WP), "UFFD_FEATURE_WP_HUGETLBFS_SHMEM"),
    ("rwp", caps(0, ioctls=0), "userfaultfd"),
    ("uffd", caps(0, ioctls=0), "userfaultfd"),
    ("pagemap_scan", caps(0), None),
    ("page_accessed", caps(0), "PAGE_IS_ACCESSED"),
    ("hugetlb", caps(0, hugetlb_free=3), "3 free 2 MiB huge pages"),
    ("hugetlb", caps(0, hugetlb_free=64), None),
    ("smp", caps(0, cpus=1), "one CPU"),
    ("kvm", caps(0, kvm=""), None),
    ("kvm", caps(0, kvm="/dev/kvm: No such\nfile"), r"had: /dev/kvm: No such\nfile"),
]


@pytest.mark.parametrize(("name", "found", "reason"), MISSING)
def test_a_missing_capability_has_a_reason(name: str, found: Capabilities, reason: str | None) -> None:
    said = found.missing(name)
    assert said is None if reason is None else reason in (said or "")
    assert (name in found.names()) == (reason is None)


@pytest.mark.parametrize(("name", "hint"), [("rpw", "did you mean rwp"), ("zzzzzz", "known are")])
def test_an_unknown_capability_is_a_usage_error(name: str, hint: str) -> None:
    with pytest.raises(UsageError, match=hint):
        caps(0).missing(name)


def test_spans_are_runs_of_pages() -> None:
    span = Span(0x200000, 3 * 0x200000, 0x200000)
    assert list(span) == [0x200000, 0x400000, 0x600000]
    assert (len(span), span[0], span[-1], span.end) == (3, 0x200000, 0x600000, 0x800000)
    assert span[1:3] == Span(0x400000, 0x400000, 0x200000)
    assert span[2:1].length == 0
    assert (span.page_of(0x5FFFFF), 0x7FFFFF in span, 0x800000 in span) == (1, True, False)
    for outside in (3, -4):
        with pytest.raises(IndexError):
            span[outside]
    with pytest.raises(ValueError, match="not in"):
        span.page_of(0x800000)
    with pytest.raises(ValueError, match="no step"):
        span[::2]
