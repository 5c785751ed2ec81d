"""The pipe channel against probes that misbehave: each failure has its own error, within its bound."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator

import pytest

from kselftests_py.lab import ChannelGarbage, ChannelLost, ChannelTimeout, PipeChannel
from kselftests_py.lab.channel import MAX_REPLY, MAX_REQUEST, ChannelError

LONG_S = 60.0
Start = Callable[[str], PipeChannel]


@pytest.fixture
def start(monkeypatch: pytest.MonkeyPatch) -> Iterator[Start]:
    """Starts a Python program as the probe."""
    monkeypatch.setattr("kselftests_py.lab.channel.END_S", 0.05)
    channels: list[PipeChannel] = []

    def one(program: str) -> PipeChannel:
        channels.append(PipeChannel([sys.executable, "-c", "import sys, time\n" + program]))
        return channels[-1]

    yield one
    for channel in channels:
        channel.close()


ECHO = "for line in sys.stdin: sys.stdout.write(line); sys.stdout.flush()"


def test_a_line_comes_back_whole(start: Start) -> None:
    channel = start(ECHO)
    for size in (0, 1, 70_000, MAX_REQUEST - 1):
        assert channel.call(b"x" * size, LONG_S) == b"x" * size


def test_a_reply_of_the_greatest_length_passes(start: Start) -> None:
    channel = start(f"sys.stdin.readline(); print('y' * {MAX_REPLY})\ntime.sleep({LONG_S})")
    assert len(channel.call(b"?", LONG_S)) == MAX_REPLY


MISBEHAVING = [
    ("silent", "time.sleep(60)", 0.3, ChannelTimeout, "no reply"),
    ("deaf", "time.sleep(60)", 0.3, ChannelTimeout, "no reply"),
    ("trickling", "while True: print('z', end='', flush=True); time.sleep(0.01)", 0.3, ChannelTimeout, "no reply"),
    ("exits", "sys.exit(7)", LONG_S, ChannelLost, "exit code 7"),
    ("killed", "import os; os.kill(os.getpid(), 9)", LONG_S, ChannelLost, "signal 9"),
    ("half a line", "sys.stdin.readline(); print('half', end='')", LONG_S, ChannelLost, "closed its output"),
    ("endless line", "while True: sys.stdout.write('z' * 65536)", LONG_S, ChannelGarbage, "above"),
    ("two lines", "sys.stdin.readline(); print('a\\nb')", LONG_S, ChannelGarbage, "after its reply"),
]


@pytest.mark.parametrize(
    ("program", "bound", "error", "text"), [m[1:] for m in MISBEHAVING], ids=[m[0] for m in MISBEHAVING]
)
def test_misbehaviour_is_told_apart_within_its_bound(
    start: Start, program: str, bound: float, error: type[ChannelError], text: str
) -> None:
    channel = start(program)
    began = time.monotonic()
    # A request larger than a pipe holds: a probe that does not read must not block the writer.
    with pytest.raises(error, match=text) as caught:
        channel.call(b"q" * 300_000, bound)
    assert time.monotonic() - began < bound + 30
    assert "\n" not in str(caught.value)


def test_a_channel_that_failed_stays_failed(start: Start) -> None:
    channel = start("sys.stdin.readline(); sys.stdin.readline(); print('late', flush=True); time.sleep(60)")
    with pytest.raises(ChannelTimeout):
        channel.call(b"one", 0.2)
    with pytest.raises(ChannelLost, match="failed before"):
        channel.call(b"two", LONG_S)


@pytest.mark.parametrize("line", [b"x" * MAX_REQUEST, b"two\nlines"], ids=["too long", "newline inside"])
def test_a_request_that_is_not_one_bounded_line_is_refused_and_not_sent(start: Start, line: bytes) -> None:
    channel = start(ECHO)
    with pytest.raises(ChannelGarbage, match="one line below"):
        channel.call(line, LONG_S)
    assert channel.call(b"still in step", LONG_S) == b"still in step"


def test_a_probe_that_does_not_start_says_so() -> None:
    with pytest.raises(ChannelLost, match="does not start"):
        PipeChannel(["/nonexistent/agent"])


def test_close_ends_a_probe_that_ignores_the_end_of_its_input(start: Start) -> None:
    channel = start(
        "import signal; signal.signal(15, signal.SIG_IGN)\n"
        "sys.stdin.readline(); print('up', flush=True); time.sleep(600)"
    )
    assert channel.call(b"?", LONG_S) == b"up"
    channel.close()
    assert channel._process.returncode == -9
    with pytest.raises(ChannelLost):
        channel.call(b"?", LONG_S)
