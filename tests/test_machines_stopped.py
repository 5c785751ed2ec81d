"""What is said to QEMU's debugger, and what it may answer. QEMU is played here."""

from __future__ import annotations

import socket
import struct
import threading
from collections.abc import Iterator

import pytest

from kselftests_py.lab.channel import MAX_REQUEST, ChannelError, ChannelGarbage, ChannelLost, ChannelTimeout
from kselftests_py.machines.stopped import STOP_AT, StoppedChannel

REPLY = b'{"id":1}' + b" " * 3000  # more than one packet


class Qemu(threading.Thread):
    """The debugger of a machine whose probe answers with REPLY; *answers* replaces what is said to a kind of packet."""

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.ours, self.stream = socket.socketpair()
        self.channel = StoppedChannel(self.ours)
        self.answers: dict[str, list[str]] = {}
        self.heard: list[str] = []
        self.registers = struct.pack("<17Q", *range(16), STOP_AT) + b"\1" * 32
        self.memory = bytearray(16 + len(REPLY))

    def run(self) -> None:
        pending = b""
        while got := self.stream.recv(65_536):
            pending += got
            while (end := pending.find(b"#")) >= 0 and len(pending) >= end + 3:
                packet, pending = pending[1:end].decode(), pending[end + 3 :]
                self.heard.append(packet)
                for answer in self.answers.get(packet[0]) or [self.answer(packet)]:
                    self.stream.sendall(f"+${answer}#{sum(answer.encode()) % 256:02x}".encode())

    def answer(self, packet: str) -> str:
        kind, where = packet[0], packet[1:].partition(":")[0].split(",")
        if kind == "c":
            self.memory[8:] = struct.pack("<Q", len(REPLY)) + REPLY
            return "T05thread:01;"
        if kind in "mM":
            at, size = int(where[0], 16) - STOP_AT - 4096, int(where[1], 16)
            if kind == "m":
                return self.memory[at : at + size].hex()
            self.memory[at : at + size] = bytes.fromhex(packet.partition(":")[2])
        return self.registers.hex() if kind == "g" else "OK"


@pytest.fixture
def qemu() -> Iterator[Qemu]:
    played = Qemu()
    played.start()
    yield played
    played.ours.close()


def test_a_request_is_written_and_its_reply_read_while_the_machine_stands_still(qemu: Qemu) -> None:
    request = b'{"id":1,"op":"' + b"x" * 1500
    assert qemu.channel.call(request, 5) == REPLY
    written = [packet.partition(":")[2] for packet in qemu.heard if packet.startswith("M")]
    assert bytes.fromhex("".join(written)) == struct.pack("<QQ", 1, len(request)) + request
    assert all(len(packet) < 4096 for packet in qemu.heard), "QEMU takes no longer packets"
    (registers,) = (bytes.fromhex(packet[1:]) for packet in qemu.heard if packet.startswith("G"))
    assert registers == struct.pack("<17Q", *range(16), STOP_AT + 1), "it goes on behind the breakpoint, nothing else"
    assert [packet[0] for packet in qemu.heard].index("c") > [packet[0] for packet in qemu.heard].index("G")


def test_the_breakpoint_is_set_before_the_machine_goes(qemu: Qemu) -> None:
    qemu.channel.start()
    qemu.channel.await_stop(5)
    assert qemu.heard == [f"Z1,{STOP_AT:x},1", "c"]


def test_that_qemu_has_understood_is_no_stop(qemu: Qemu) -> None:
    qemu.answers["c"] = []
    qemu.channel._debugger.ask("g")
    qemu.stream.sendall(b"+")
    assert not qemu.channel.has_stopped()
    qemu.stream.sendall(b"$T05thread:01;#07")
    assert qemu.channel.has_stopped()
    qemu.channel.await_stop(5)


def test_save_and_rewind_are_commands_of_the_monitor(qemu: Qemu) -> None:
    qemu.channel.save()
    qemu.channel.rewind()
    assert [bytes.fromhex(packet.partition(",")[2]) for packet in qemu.heard] == [b"savevm kst", b"loadvm kst"]


@pytest.mark.parametrize(
    ("kind", "said", "error", "told"),
    [
        ("c", "W00", ChannelLost, "stopped for another reason: W00"),
        ("g", struct.pack("<17Q", *range(17)).hex(), ChannelGarbage, "stopped at 0x10, where nobody asked it to"),
        ("M", "E14", ChannelLost, "QEMU's debugger refuses M6b7374001000,"),
        ("m", (1 << 40).to_bytes(8, "little").hex(), ChannelGarbage, "the probe sent 1099511627776 bytes"),
    ],
)
def test_what_is_not_as_it_should_be_is_told(
    qemu: Qemu, kind: str, said: str, error: type[ChannelError], told: str
) -> None:
    qemu.answers[kind] = [said]
    with pytest.raises(error) as caught:
        qemu.channel.call(b"{}", 5)
    assert told in str(caught.value)


def test_a_command_that_fails_is_told_with_qemus_words(qemu: Qemu) -> None:
    qemu.answers["q"] = ["O" + b"Error: no such ".hex(), "O" + b"snapshot\r\n".hex(), "OK"]
    with pytest.raises(ChannelLost, match=r"loadvm kst: Error: no such snapshot$"):
        qemu.channel.rewind()


def test_a_machine_that_does_not_stop_is_told_with_the_bound() -> None:
    qemu = Qemu()
    with pytest.raises(ChannelTimeout, match="the machine did not stop within 1 s"):
        qemu.channel.await_stop(0.6)


def test_qemu_that_is_gone_is_a_lost_channel(qemu: Qemu) -> None:
    qemu.stream.shutdown(socket.SHUT_RDWR)
    with pytest.raises(ChannelLost, match="debugger"):
        qemu.channel.call(b"{}", 1)


def test_a_request_that_is_too_long_is_refused(qemu: Qemu) -> None:
    with pytest.raises(ChannelGarbage, match="a request to the probe must be below"):
        qemu.channel.call(b"x" * (MAX_REQUEST + 1), 1)
    assert qemu.heard == []
