"""The probe's channel over a stream: JSON lines over an SSH session, or over a guest's virtio-serial port."""

from __future__ import annotations

import socket
import time
from collections.abc import Callable

import paramiko

from kselftests_py.lab.channel import MAX_REPLY, ChannelGarbage, ChannelLost, ChannelTimeout

ENDED = b"\x04"
"""What a guest sends when its probe has ended (start.sh): a serial port does not close. No JSON has this byte."""


def _no_words() -> str:
    return ""


class StreamChannel:
    """A channel over *stream*; *last_words* tells what the other side said when it went."""

    def __init__(self, stream: socket.socket | paramiko.Channel, last_words: Callable[[], str] = _no_words) -> None:
        self._stream, self._last_words = stream, last_words
        self._pending = b""

    def call(self, line: bytes, timeout: float) -> bytes:
        """See ``Channel.call``."""
        deadline = time.monotonic() + timeout
        try:
            self._stream.settimeout(timeout)
            self._stream.sendall(line + b"\n")
            while b"\n" not in self._pending:
                if len(self._pending) > MAX_REPLY:
                    raise ChannelGarbage(f"the probe sent {len(self._pending)} bytes without an end of line")
                self._stream.settimeout(max(0.001, deadline - time.monotonic()))
                got = self._stream.recv(65_536)
                if not got or got.endswith(ENDED):
                    raise ChannelLost("the probe's channel was closed by the other side" + self._last_words())
                self._pending += got
        except TimeoutError:
            raise ChannelTimeout(f"no reply of the probe within {timeout:.0f} s") from None
        except OSError as error:  # also paramiko's "Socket is closed"
            raise ChannelLost(f"the probe's channel broke: {error}") from None
        reply, _, self._pending = self._pending.partition(b"\n")
        return reply

    def close(self) -> None:
        """Close the stream; the probe ends with its input."""
        self._stream.close()
