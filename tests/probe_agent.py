"""Helper of the test_probe_* tests: the agent, built with ASan and UBSan, as a child process."""

from __future__ import annotations

import contextlib
import functools
import json
import os
import select
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from filelock import FileLock

PROBE = Path(__file__).resolve().parent.parent / "native_probes"
BOUND_S = 60
"""Nothing here takes a second on an idle machine; beyond this it hangs."""

WP, FEATURE_WP, FEATURE_WP_SHMEM, FEATURE_THREAD_ID = 2, 1 << 0, 1 << 12, 1 << 8
PAGE = 4096


@functools.cache
def built(target: str) -> Path:
    """A file of the probe's build directory, made now if its sources are newer."""
    with FileLock(PROBE / ".build.lock"):
        done = subprocess.run(
            ["make", "-s", "-C", str(PROBE), f"build/{target}"], capture_output=True, text=True, check=False
        )
    assert done.returncode == 0, done.stderr[-2000:]
    return PROBE / "build" / target


class Agent:
    """One agent process; ``call`` sends a request with the next id and returns the reply without it."""

    def __init__(self, program: Path) -> None:
        options = {"ASAN_OPTIONS": "detect_leaks=1:allocator_may_return_null=1", "UBSAN_OPTIONS": "print_stacktrace=1"}
        self.process = subprocess.Popen(
            [program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=os.environ | options
        )
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self._in, self._out = self.process.stdin, self.process.stdout.fileno()
        self._pending = b""
        self.last_id = 0

    def send(self, data: bytes) -> None:
        self._in.write(data)
        self._in.flush()

    def line(self) -> bytes:
        """The next reply line, without its newline."""
        while b"\n" not in self._pending:
            ready, _, _ = select.select([self._out], [], [], BOUND_S)
            assert ready, f"no reply within {BOUND_S} s; so far: {self._pending[:200]!r}"
            data = os.read(self._out, 1 << 20)
            assert data, "the agent closed its output"
            self._pending += data
        line, self._pending = self._pending.split(b"\n", 1)
        return line

    def ask(self, line: bytes) -> dict[str, Any]:
        self.send(line + b"\n")
        reply = json.loads(self.line())
        assert isinstance(reply, dict)
        return reply

    def call(self, **request: Any) -> dict[str, Any]:
        self.last_id += 1
        reply = self.ask(json.dumps({"id": self.last_id, **request}).encode())
        assert reply.pop("id") == self.last_id
        return reply

    def subject(self) -> Subject:
        made = self.call(op="subject_new")["result"]
        return Subject(self, made["subject"], made["pid"])

    def close(self) -> None:
        """Ends the agent and sees that no sanitizer has complained, in it or in a subject."""
        self._in.close()
        with contextlib.suppress(subprocess.TimeoutExpired):
            self.process.wait(BOUND_S)
        self.process.kill()
        assert self.process.stderr is not None
        # The leak checker says this of a joined thread that has not yet left /proc/self/task: no leak.
        said = self.process.stderr.read().decode(errors="replace").splitlines()
        complaints = "\n".join(line for line in said if "Unable to get registers from thread" not in line)
        self.process.stdout.close()  # type: ignore[union-attr]
        self.process.stderr.close()
        assert not complaints, complaints[:3000]
        assert self.process.wait() == 0


class Subject:
    """Operations of one subject: ``subject.stamp(addr=...)`` is its result; ``refused`` is its whole reply."""

    def __init__(self, agent: Agent, number: int, pid: int) -> None:
        self.agent, self.number, self.pid = agent, number, pid

    def reply(self, op: str, **args: Any) -> dict[str, Any]:
        return self.agent.call(subject=self.number, op=op, **args)

    def __getattr__(self, op: str) -> Any:
        def run(**args: Any) -> Any:
            reply = self.reply(op.rstrip("_"), **args)
            assert "result" in reply, f"{op}({args}): {reply}"
            return reply["result"]

        return run

    def wp_region(self, kind: str = "anon", pages: int = 4, features: int = 0) -> tuple[dict[str, int], int]:
        """A stamped (seed 1) region, registered for write protection, and its userfaultfd."""
        region = self.region(kind=kind, pages=pages)
        self.stamp(addr=region["addr"], pages=pages, page_size=region["page_size"], seed=1)
        uffd = self.uffd_open()["uffd"]
        self.uffd_api(uffd=uffd, features=FEATURE_WP | FEATURE_WP_SHMEM | FEATURE_THREAD_ID | features)
        self.register(uffd=uffd, addr=region["addr"], len=region["len"], mode=WP)
        return region, uffd


def program() -> Path:
    """The agent under test: ``$KST_AGENT``, else one built here with sanitizers."""
    given = os.environ.get("KST_AGENT")
    return Path(given) if given else built("agent-san")


@contextlib.contextmanager
def running_agent() -> Iterator[Agent]:
    agent = Agent(program())
    try:
        yield agent
    except BaseException:
        agent.process.kill()
        agent.process.communicate()
        raise
    agent.close()


def need_wp(agent: Agent) -> None:
    """Skips where the running kernel cannot write-protect, or does not let us."""
    modes = agent.call(op="caps")["result"]["register_modes"]["wp"]
    if not all(isinstance(modes[kind], int) for kind in ("anon", "shmem")):
        pytest.skip(f"userfaultfd write protection is not to be had here: {modes}")


def await_end(pid: int) -> bool:
    """True once process *pid* has ended, False when it is still there after the bound."""
    try:
        pidfd = os.pidfd_open(pid)
    except ProcessLookupError:
        return True
    try:
        return bool(select.select([pidfd], [], [], BOUND_S)[0])
    finally:
        os.close(pidfd)
