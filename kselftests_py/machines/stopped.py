"""The probe's channel on a machine that stands still while we speak to it, through QEMU's debugger.

A request that comes over a wire reaches a guest at another instruction each time, and two boots of one kernel differ
from there on. The probe runs into a breakpoint instead (native_probes/stop.c): its reply is read from its memory, the
next request is written there, and the machine goes on. Nothing reaches it in between, so it does the same in each boot.

The debugger's protocol: "GDB Remote Serial Protocol", an appendix of GDB's manual; QEMU's end of it is gdbstub.c.
"""

from __future__ import annotations

import contextlib
import socket
import struct
import time

from kselftests_py.lab.channel import MAX_REPLY, MAX_REQUEST, ChannelGarbage, ChannelLost, ChannelTimeout

STOP_AT = 0x6B73_7400_0000  # KST_STOP_AT
_BOX_AT = STOP_AT + 4096
_LENGTH_AT = _BOX_AT + 8
_LINE_AT = _LENGTH_AT + 8
_PIECE = 1024  # bytes of memory in one packet: QEMU takes packets of 4,096 characters
_RIP = 16  # of the registers in a packet, 8 bytes each
_ANSWER_S = 10.0  # QEMU's own, while the machine stands still
_SNAPSHOT = "kst"


class _Debugger:
    """QEMU's debugger on *stream*. Errors are those of a channel; one that failed once is out of step."""

    def __init__(self, stream: socket.socket) -> None:
        self._stream, self._pending = stream, b""

    def send(self, packet: str) -> None:
        """Send *packet* and wait for nothing."""
        try:
            self._stream.sendall(f"${packet}#{sum(packet.encode()) % 256:02x}".encode())
        except OSError as error:
            raise ChannelLost(f"QEMU's debugger is gone: {error}") from None

    def receive(self, timeout: float) -> str:
        """The next packet, within *timeout* seconds."""
        deadline = time.monotonic() + timeout
        try:
            while (end := self._pending.find(b"#")) < 0 or len(self._pending) < end + 3:
                self._stream.settimeout(max(0.001, deadline - time.monotonic()))
                if not (got := self._stream.recv(65_536)):
                    raise ChannelLost("QEMU closed its debugger")
                self._pending += got
        except TimeoutError:
            raise ChannelTimeout(f"the machine did not stop within {timeout:.0f} s") from None
        except OSError as error:
            raise ChannelLost(f"QEMU's debugger is gone: {error}") from None
        packet, self._pending = self._pending[:end], self._pending[end + 3 :]
        return packet.lstrip(b"+").removeprefix(b"$").decode("ascii", "replace")

    def has_packet(self) -> bool:
        """Whether one has come, or begun to; a mere ``+``, by which QEMU says that it has understood, is none."""
        self._stream.settimeout(0)
        with contextlib.suppress(OSError):  # nothing there, or gone: whoever receives will be told
            self._pending += self._stream.recv(65_536)
        return b"$" in self._pending

    def ask(self, packet: str) -> str:
        """What QEMU answers to *packet*, the machine standing still."""
        self.send(packet)
        if (answer := self.receive(_ANSWER_S)).startswith("E"):
            raise ChannelLost(f"QEMU's debugger refuses {packet[:40]}: {answer}")
        return answer

    def command(self, text: str) -> None:
        """Run a command of QEMU's monitor that says nothing unless it fails."""
        said = ""
        self.send(f"qRcmd,{text.encode().hex()}")
        while (answer := self.receive(_ANSWER_S)).startswith("O") and answer != "OK":
            said += bytes.fromhex(answer[1:]).decode("utf-8", "replace")
        if said or answer != "OK":
            raise ChannelLost(f"QEMU's monitor fails at {text}: {said.strip()[:200] or answer[:40]}")

    def read(self, address: int, size: int) -> bytes:
        """Memory of the process that runs."""
        pieces = [(at, min(_PIECE, address + size - at)) for at in range(address, address + size, _PIECE)]
        return b"".join(bytes.fromhex(self.ask(f"m{at:x},{length:x}")) for at, length in pieces)

    def write(self, address: int, data: bytes) -> None:
        """The same, the other way."""
        for at in range(0, len(data), _PIECE):
            piece = data[at : at + _PIECE]
            self.ask(f"M{address + at:x},{len(piece):x}:{piece.hex()}")

    def close(self) -> None:
        self._stream.close()

    def step_over(self) -> None:
        """The instruction pointer goes on by the one byte of the instruction at the breakpoint."""
        registers = bytearray.fromhex(self.ask("g"))[: 8 * (_RIP + 1)]
        (at,) = struct.unpack_from("<Q", registers, 8 * _RIP)
        if at != STOP_AT:
            raise ChannelGarbage(f"the machine stopped at 0x{at:x}, where nobody asked it to")
        struct.pack_into("<Q", registers, 8 * _RIP, at + 1)
        self.ask(f"G{registers.hex()}")


class StoppedChannel:
    """A channel through QEMU's debugger on *stream*, to a machine that was not started yet (QEMU's -S)."""

    def __init__(self, stream: socket.socket) -> None:
        self._debugger = _Debugger(stream)

    def start(self) -> None:
        """Set the breakpoint, and let the machine go."""
        self._debugger.ask(f"Z1,{STOP_AT:x},1")
        self._debugger.send("c")

    def await_stop(self, timeout: float) -> None:
        """Return when the machine stands at the breakpoint, within *timeout* seconds."""
        told = self._debugger.receive(timeout)
        if not told.startswith("T05"):
            raise ChannelLost(f"the machine stopped for another reason: {told[:40]}")

    def has_stopped(self) -> bool:
        """Whether there is something to tell of the machine, which runs else; ``await_stop`` tells it."""
        return self._debugger.has_packet()

    def save(self) -> None:
        """Keep the machine as it stands."""
        self._debugger.command(f"savevm {_SNAPSHOT}")

    def rewind(self) -> None:
        """Put the machine back to where it was saved."""
        self._debugger.command(f"loadvm {_SNAPSHOT}")

    def call(self, line: bytes, timeout: float) -> bytes:
        """See ``Channel.call``."""
        if len(line) > MAX_REQUEST:
            raise ChannelGarbage(f"a request to the probe must be below {MAX_REQUEST} bytes, got {len(line)}")
        self._debugger.write(_BOX_AT, struct.pack("<QQ", 1, len(line)) + line)
        self._debugger.step_over()
        self._debugger.send("c")
        self.await_stop(timeout)
        (size,) = struct.unpack("<Q", self._debugger.read(_LENGTH_AT, 8))
        if size > MAX_REPLY:
            raise ChannelGarbage(f"the probe sent {size} bytes")
        return self._debugger.read(_LINE_AT, size)

    def close(self) -> None:
        """Leave the machine as it stands."""
        self._debugger.close()
