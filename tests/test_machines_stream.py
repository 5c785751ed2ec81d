"""The probe's channel over a stream: one line for one line, and each way to lose it told apart."""

from __future__ import annotations

import socket
from collections.abc import Iterator

import pytest

from kselftests_py.lab.channel import ChannelError, ChannelGarbage, ChannelLost, ChannelTimeout
from kselftests_py.machines.stream import ENDED, StreamChannel


@pytest.fixture
def ends() -> Iterator[tuple[StreamChannel, socket.socket]]:
    """The channel, and the guest's end of its stream."""
    ours, theirs = socket.socketpair()
    with ours, theirs:
        yield StreamChannel(ours, lambda: " (its last words)"), theirs


def test_a_reply_in_pieces_and_two_at_once_are_read_line_by_line(ends: tuple[StreamChannel, socket.socket]) -> None:
    channel, guest = ends
    for answer, expected in ((b"one\ntw", b"one"), (b"o\nthree\n", b"two"), (b"", b"three")):
        guest.sendall(answer)
        assert channel.call(b"ask", 5) == expected
    assert guest.recv(100) == b"ask\n" * 3


@pytest.mark.parametrize("end", [ENDED, b'{"id":1,"res' + ENDED])
def test_a_probe_that_ended_behind_an_open_port_is_lost_at_once(
    ends: tuple[StreamChannel, socket.socket], end: bytes
) -> None:
    channel, guest = ends
    guest.sendall(end)
    with pytest.raises(ChannelLost, match=r"closed by the other side.*last words"):
        channel.call(b"ask", 600)


@pytest.mark.parametrize(
    ("deed", "raised"),
    [
        (lambda guest: guest.close(), ChannelLost),
        (lambda guest: None, ChannelTimeout),
        (lambda guest: guest.sendall(b"half a line"), ChannelTimeout),
    ],
    ids=["closed", "silent", "half"],
)
def test_other_losses(ends: tuple[StreamChannel, socket.socket], deed: object, raised: type[ChannelError]) -> None:
    channel, guest = ends
    assert callable(deed)
    deed(guest)
    with pytest.raises(raised):
        channel.call(b"ask", 0.2)


def test_a_line_without_end_is_bounded(
    ends: tuple[StreamChannel, socket.socket], monkeypatch: pytest.MonkeyPatch
) -> None:
    channel, guest = ends
    monkeypatch.setattr("kselftests_py.machines.stream.MAX_REPLY", 1000)
    guest.sendall(b"x" * 1001)
    with pytest.raises(ChannelGarbage, match="1001 bytes without an end of line"):
        channel.call(b"ask", 600)
