"""``Lab``: one probe behind one channel; it makes subjects and tells what the kernel can do."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from typing import Any, TypeVar

import msgspec

from kselftests_py.lab import ops, replies
from kselftests_py.lab.capabilities import Capabilities
from kselftests_py.lab.channel import Channel, ChannelGarbage
from kselftests_py.lab.errors import ProbeError, SubjectDied, SubjectHung, printable
from kselftests_py.lab.ops import Op, result_of
from kselftests_py.lab.subject import Subject

PROTOCOL = 1
ANSWER_MS = 10_000
"""What a subject gets to answer, on top of what its operations wait by themselves."""
CHANNEL_SLACK_S = 20.0
"""What the channel gets on top of that: the agent enforces the bound of a subject, the channel that of the agent."""

_T = TypeVar("_T")
_reply_decoder = msgspec.json.Decoder(replies.Reply)


class Lab:
    """The probe at the other end of *channel*.

    Every method raises the errors of the channel, and ``ProbeError`` when the
    probe's answer is not one of docs/probe-protocol.md.
    """

    def __init__(self, channel: Channel) -> None:
        self._channel = channel
        self._last_id = 0

    def hello(self) -> replies.Hello:
        """Greet the probe; raises ProbeError if it speaks another version of the protocol."""
        hello = self.call(ops.hello())
        if hello.protocol != PROTOCOL:
            raise ProbeError(f"the probe speaks protocol {hello.protocol}, this program {PROTOCOL}: rebuild the probe")
        return hello

    def caps(self) -> Capabilities:
        """What the kernel under test can do, each probed there."""
        return Capabilities(self.call(ops.caps()))

    def load_kvm(self) -> None:
        """Load the kernel's KVM modules, if it has any and the CPU suits: ``caps`` tells what came of it."""
        self.call(ops.load_kvm())

    def keep_vm(self) -> None:
        """Let the probe hold a virtual machine until it ends, so that no test has the kernel's first or last one."""
        self.call(ops.keep_vm())

    def kernel_log(self) -> replies.KernelLog:
        """The kernel's log since the last call; the first call starts at its end. Texts are as the guest wrote them."""
        return self.call(ops.kernel_log())

    def new_subject(self, *, one_cpu: bool = False) -> Subject:
        """A fresh process of the probe, on all CPUs or on one. Whoever takes it ends it (``Subject.end``)."""
        new = self.call(ops.subject_new(one_cpu))
        return Subject(self, new.subject, new.pid)

    @contextlib.contextmanager
    def subject(self) -> Iterator[Subject]:
        """A fresh process of the probe for the length of a ``with``, killed and reaped at its end."""
        subject = self.new_subject()
        try:
            yield subject
        finally:
            subject.end()

    def call(self, op: Op[_T]) -> _T:
        """Run one operation of the agent. Raises KernelRefused."""
        reply = self._request({"op": op.name, **op.args}, op.name, op.wait_ms + ANSWER_MS)
        return result_of(reply, op)

    def call_subject(self, subject: int, batch: Sequence[Op[Any]], *, stop_on_errno: bool) -> list[replies.Item]:
        """Run *batch* in *subject*; one answer for each operation that was run.

        Always sent as a batch: an operation's own ``timeout_ms`` is then not
        mistaken for the request's. Raises SubjectDied and SubjectHung.
        """
        names = ", ".join(dict.fromkeys(op.name for op in batch))
        bound_ms = ANSWER_MS + sum(op.wait_ms for op in batch)
        request = {
            "subject": subject,
            "timeout_ms": bound_ms,
            "stop_on_errno": stop_on_errno,
            "batch": [{"op": op.name, **op.args} for op in batch],
        }
        reply = self._request(request, names, bound_ms)
        if reply.results is None or len(reply.results) > len(batch):
            raise ProbeError(f"the probe answered a batch of {len(batch)} ({names}) with something else")
        return reply.results

    def _request(self, request: dict[str, Any], names: str, bound_ms: int) -> replies.Reply:
        self._last_id += 1
        line = msgspec.json.encode({"id": self._last_id, **request})
        answer = self._channel.call(line, bound_ms / 1000 + CHANNEL_SLACK_S)
        try:
            reply = _reply_decoder.decode(answer)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            shown = printable(answer[:80].decode("latin-1"))
            raise ChannelGarbage(f"the probe's reply to {names} is not of the protocol ({error}): {shown}") from error
        if reply.error is not None:
            raise ProbeError(f"the probe refused the request {names}: {printable(reply.error)}")
        if reply.id != self._last_id:
            raise ChannelGarbage(f"the probe answered request {reply.id}, asked was {self._last_id} ({names})")
        if reply.died is not None:
            raise SubjectDied(f"the subject died in {names}: {printable(reply.died)}", names)
        if reply.hang is not None:
            raise SubjectHung(f"the subject hung in {names}: {printable(reply.hang)}", names)
        return reply

    def close(self) -> None:
        """Close the channel; the probe and its subjects end."""
        self._channel.close()
