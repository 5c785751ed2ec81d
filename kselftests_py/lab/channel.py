"""A channel carries JSON lines to the probe: one request, one reply, in order.

Any object with ``call`` and ``close`` is a channel. ``PipeChannel`` speaks to
a program on this machine through its stdin and stdout. A channel that failed
once is out of step and stays failed: whoever holds it opens a new one.
"""

from __future__ import annotations

import os
import selectors
import subprocess
import time
from collections.abc import Sequence
from typing import Protocol

from kselftests_py.errors import HarnessError

MAX_REQUEST = 1 << 20
"""Longest request line, in bytes."""
MAX_REPLY = 4 << 20
"""Longest reply line, in bytes."""
END_S = 2.0
"""How long a probe may take to leave at the end of its input, in seconds."""


class ChannelError(HarnessError):
    """The channel to the probe failed; ``output`` is what a command had written by then."""

    def __init__(self, message: str, output: bytes = b"") -> None:
        super().__init__(message)
        self.output = output


class ChannelTimeout(ChannelError):
    """No answer within the bound."""


class ChannelLost(ChannelError):
    """The channel is closed or broken."""


class ChannelGarbage(ChannelError):
    """The answer is not one bounded line of the protocol."""


class Channel(Protocol):
    """What ``Lab`` needs of a connection to the probe."""

    def call(self, line: bytes, timeout: float) -> bytes:
        """Send *line* and return the reply line, both without newline.

        *timeout* is in seconds. Raises ChannelTimeout, ChannelLost or ChannelGarbage.
        """
        ...

    def close(self) -> None:
        """Close the channel; the probe and all its subjects end with it."""
        ...


class PipeChannel:
    """A channel to a program started here; its stderr is this process's own."""

    def __init__(self, command: Sequence[str]) -> None:
        self._name = os.path.basename(command[0])  # noqa: PTH119 - a name to show, not a path to use
        self._failed = ""
        try:
            self._process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0)
        except OSError as error:
            raise ChannelLost(f"the probe {command[0]} does not start: {error.strerror}; build it first") from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._stdin, self._stdout = self._process.stdin, self._process.stdout
        # Writing must obey the bound as well: a probe that reads nothing would block us for ever.
        os.set_blocking(self._stdin.fileno(), False)
        os.set_blocking(self._stdout.fileno(), False)

    def call(self, line: bytes, timeout: float) -> bytes:
        """See ``Channel.call``."""
        if self._failed:
            raise ChannelLost(f"the channel to the probe {self._name} failed before ({self._failed}); open a new one")
        if len(line) >= MAX_REQUEST or b"\n" in line:
            raise ChannelGarbage(f"a request to the probe must be one line below {MAX_REQUEST} bytes, got {len(line)}")
        try:
            return self._exchange(line + b"\n", time.monotonic() + timeout, timeout)
        except ChannelError as error:
            self._failed = type(error).__name__
            raise
        except OSError as error:
            self._failed = "lost"
            raise ChannelLost(f"the probe {self._name} is gone: {error.strerror}") from error

    def _exchange(self, request: bytes, deadline: float, timeout: float) -> bytes:
        unsent, received = memoryview(request), bytearray()
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdin, selectors.EVENT_WRITE)
            selector.register(self._stdout, selectors.EVENT_READ)
            while True:
                # A probe that trickles for ever must hit the bound too, so time is looked at on every turn.
                left = deadline - time.monotonic()
                ready = selector.select(left) if left > 0 else []
                if not ready:
                    raise ChannelTimeout(f"no reply from the probe {self._name} within {timeout:g} s")
                for key, _ in ready:
                    if key.fileobj is self._stdin:
                        unsent = unsent[os.write(key.fd, unsent) :]
                        if not unsent:
                            selector.unregister(self._stdin)
                        continue
                    chunk = os.read(key.fd, 1 << 16)
                    if not chunk:
                        raise ChannelLost(f"the probe {self._name} closed its output{self._exit_text()}")
                    received += chunk
                    if b"\n" in chunk:
                        return self._one_line(received)
                    if len(received) > MAX_REPLY:
                        raise ChannelGarbage(f"the probe {self._name} sends a line above {MAX_REPLY} bytes")

    def _one_line(self, received: bytearray) -> bytes:
        line, _, rest = bytes(received).partition(b"\n")
        if rest:
            raise ChannelGarbage(f"the probe {self._name} sent {len(rest)} bytes after its reply")
        if len(line) > MAX_REPLY:
            raise ChannelGarbage(f"the probe {self._name} sends a line above {MAX_REPLY} bytes")
        return line

    def _exit_text(self) -> str:
        try:
            # End of file comes a moment before the process can be reaped.
            status = self._process.wait(timeout=1)
        except subprocess.TimeoutExpired:
            return ""
        return f" (signal {-status})" if status < 0 else f" (exit code {status})"

    def close(self) -> None:
        """End the probe: it leaves at the end of its input; if not within END_S, it is killed."""
        self._failed = self._failed or "closed"
        for stream in (self._stdin, self._stdout):
            stream.close()
        try:
            self._process.wait(timeout=END_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
