"""The probe's channel: one well-formed reply for each line, whatever comes in and whatever becomes of subjects."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from probe_agent import BOUND_S, PAGE, Agent, await_end, need_wp, program, running_agent

LINE_MAX = 1 << 20


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as agent:
        yield agent


def test_hello(agent: Agent) -> None:
    assert agent.call(op="hello") == {"result": {"protocol": 1, "pid": agent.process.pid}}


@pytest.mark.parametrize(
    ("line", "complaint"),
    [
        (b"", "not JSON"),
        (b"   ", "not JSON"),
        (b"{", "not JSON"),
        (b'{"id": 1}{"id": 2}', "not JSON"),
        (b'{"id": 1, "id": 1, "op": "hello"}', "not JSON: duplicate"),
        (b'{"id": 1, "op": "hel\0lo"}', "not JSON"),
        (b'{"id": 1, "op": "\\u0000"}', "not JSON"),
        (b'{"id": 1, "op": "\xff"}', "not JSON"),
        (b'{"id": 99999999999999999999, "op": "hello"}', "not JSON"),
        (b"[" * 5000, "not JSON"),
        (b"[]", "not a JSON object"),
        (b"null", "not JSON"),
        (b'{"op": "hello"}', "argument id"),
        (b'{"id": "1", "op": "hello"}', "argument id"),
        (b'{"id": 1.5, "op": "hello"}', "argument id"),
    ],
    ids=repr,
)
def test_line_without_usable_id_is_refused(agent: Agent, line: bytes, complaint: str) -> None:
    reply = agent.ask(line)
    assert reply.keys() == {"id", "error"}
    assert reply["id"] is None
    assert complaint in reply["error"]


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({}, "argument op is missing"),
        ({"op": 7}, "argument op: not a string"),
        ({"op": "nonsense"}, "no operation of the agent is called nonsense"),
        ({"op": "region", "kind": "anon", "pages": 1}, "needs `subject`"),
        ({"subject": 999, "op": "peek", "addr": 0}, "no subject has the handle 999"),
        ({"subject": -1, "op": "peek"}, "argument subject: not a non-negative integer"),
        ({"subject": "x", "op": "peek"}, "argument subject"),
        ({"op": "subject_end"}, "argument subject is missing"),
        ({"op": "subject_end", "subject": 999}, "no subject has the handle 999"),
        ({"batch": {}}, "argument batch: not a list"),
        ({"batch": [], "stop_on_errno": 1}, "argument stop_on_errno"),
    ],
    ids=str,
)
def test_bad_request_to_the_agent(agent: Agent, request_: dict[str, Any], complaint: str) -> None:
    reply = agent.call(**request_)
    assert reply.keys() == {"error"}
    assert complaint in reply["error"]


HUGE = (1 << 63) - 1


@pytest.mark.parametrize(
    ("request_", "complaint"),
    [
        ({"op": "nonsense"}, "no operation of a subject"),
        ({"op": "subject_new"}, "no operation of a subject"),
        ({"op": "region", "kind": "anon"}, "argument pages is missing"),
        ({"op": "region", "kind": "nonsense", "pages": 1}, "no kind of region"),
        ({"op": "region", "kind": "anon", "pages": 0}, "not within 1.."),
        ({"op": "region", "kind": "anon", "pages": HUGE}, "not within 1.."),
        ({"op": "region", "kind": "hugetlb", "pages": 1 << 30}, "not within 1.."),
        ({"op": "region", "kind": "anon", "pages": 1, "thp": "maybe"}, "argument thp"),
        ({"op": "region", "kind": "anon", "pages": 1, "prot": 8}, "argument prot"),
        ({"op": "region", "kind": "anon", "pages": True}, "argument pages: not a non-negative integer"),
        ({"op": "region", "kind": "anon", "pages": 1.0}, "argument pages: not a non-negative integer"),
        ({"op": "alias", "region": 1}, "no region has the handle 1"),
        ({"op": "unmap", "region": 0}, "no region has the handle 0"),
        ({"op": "unmap", "region": HUGE}, "no region has the handle"),
        ({"op": "stamp", "addr": 1 << 47, "pages": 1, "seed": 1}, "argument addr"),
        ({"op": "stamp", "addr": 0, "pages": HUGE, "seed": 1}, "argument pages"),
        ({"op": "checksum", "addr": 0, "pages": 65537}, "argument pages"),
        ({"op": "register", "uffd": 1, "addr": 0, "len": 0, "mode": 1}, "no uffd has the handle 1"),
        ({"op": "access", "actor": 1, "how": "read", "addr": 0}, "no actor has the handle 1"),
        ({"op": "ticket", "ticket": 1}, "no ticket has the handle 1"),
        ({"op": "madvise", "addr": 0, "len": 0, "advice": "MADV_DONTNEED"}, "no advice is called"),
        ({"op": "madvise", "addr": -4096, "len": 0, "advice": "DONTNEED"}, "argument addr"),
        ({"op": "pagemap", "addr": 0, "pages": 65537}, "argument pages"),
        ({"op": "pagemap_scan", "addr": 0, "len": 4096, "vec_len": 65537}, "argument vec_len"),
        ({"op": "fork", "uffd": 1}, "no uffd has the handle 1"),
        ({"op": "proc_read", "name": "pagemap"}, "not one that proc_read may read"),
        ({"op": "proc_read", "name": "../../etc/passwd"}, "not one that proc_read may read"),
        ({"op": "proc_read", "name": "maps", "max": 1 << 21}, "argument max"),
        ({"op": "control", "name": "nonsense"}, "no control is called nonsense"),
        ({"batch": [7]}, None),
    ],
    ids=str,
)
def test_bad_request_to_a_subject(agent: Agent, request_: dict[str, Any], complaint: str | None) -> None:
    subject = agent.subject()
    reply = agent.call(subject=subject.number, **request_)
    if complaint is None:
        reply = reply["results"][0]
        complaint = "not a JSON object"
    assert reply.keys() == {"error"}
    assert complaint in reply["error"]
    assert subject.reply("proc_read", name="comm").keys() == {"result"}, "the subject lives on"
    agent.call(op="subject_end", subject=subject.number)


def test_hostile_text_comes_back_as_plain_ascii(agent: Agent) -> None:
    reply = agent.ask('{"id": 1, "op": "\\u001b[31m\\n<b>\u00e9"}'.encode())
    assert reply["error"].isascii()
    assert reply["error"].isprintable()


def test_batch_goes_on_after_errno_and_stops_after_error(agent: Agent) -> None:
    subject = agent.subject()
    refused = {"op": "mprotect", "addr": 1, "len": 1, "prot": 0}
    works = {"op": "proc_read", "name": "comm"}
    wrong = {"op": "nonsense"}

    def kinds(batch: list[dict[str, Any]], **more: bool) -> list[str]:
        reply = agent.call(subject=subject.number, batch=batch, **more)
        return [next(iter(one)) for one in reply["results"]]

    assert kinds([]) == []
    assert kinds([works, refused, works, wrong, works]) == ["result", "errno", "result", "error"]
    assert kinds([works, refused, works], stop_on_errno=True) == ["result", "errno"]
    refusal = subject.reply(**refused)
    assert refusal == {"errno": "EINVAL", "message": "mprotect: Invalid argument"}


@pytest.mark.parametrize("excess", [0, 1, 2, 5 << 20])
def test_lines_up_to_1_mib_are_taken_and_longer_ones_skipped(agent: Agent, excess: int) -> None:
    line = b'{"id": 5, "op": "hello", "pad": "'
    line += b"x" * (LINE_MAX + excess - len(line) - 2) + b'"}'
    agent.send(line + b'\n{"id": 6, "op": "hello"}\n')
    first, second = json.loads(agent.line()), json.loads(agent.line())
    assert ("longer than" in first["error"] and first["id"] is None) if excess else first["id"] == 5
    assert second["id"] == 6
    assert "result" in second


def test_reply_longer_than_4_mib_becomes_an_error(agent: Agent) -> None:
    subject = agent.subject()
    region = subject.region(kind="anon", pages=65536)
    reply = agent.call(
        subject=subject.number,
        batch=[{"op": "checksum", "addr": region["addr"], "pages": 40000}] * 6,
        timeout_ms=60000,
    )
    assert "longer than" in reply["error"]
    assert len(subject.checksum(addr=region["addr"], pages=100, page_size=PAGE)["sums"]) == 100
    agent.call(op="subject_end", subject=subject.number)


def test_lines_in_one_write_are_answered_in_order(agent: Agent) -> None:
    agent.send(b"".join(b'{"id": %d, "op": "hello"}\n' % i for i in range(500)))
    assert [json.loads(agent.line())["id"] for _ in range(500)] == list(range(500))


def test_last_line_needs_no_newline() -> None:
    with running_agent() as agent:
        agent.send(b'{"id": 5, "op": "hello"}')
        agent.process.stdin.close()  # type: ignore[union-attr]
        assert json.loads(agent.line())["id"] == 5


def test_death_of_a_subject_is_told_once_and_harms_nobody(agent: Agent) -> None:
    subject, other = agent.subject(), agent.subject()
    assert subject.reply("peek", addr=8) == {"died": "killed by SIGSEGV"}
    assert "no subject has the handle" in subject.reply("peek", addr=8)["error"]
    assert agent.call(op="subject_end", subject=subject.number) == {"result": {}}
    assert other.proc_read(name="comm")
    assert subject.number not in agent.call(op="subjects")["result"]
    assert other.number in agent.call(op="subjects")["result"]


def test_subject_killed_from_outside_is_told_at_the_next_request(agent: Agent) -> None:
    subject = agent.subject()
    os.kill(subject.pid, signal.SIGTERM)
    assert subject.reply("peek", addr=8, timeout_ms=60000) == {"died": "killed by SIGTERM"}


def test_subject_that_gives_no_answer_is_killed(agent: Agent) -> None:
    need_wp(agent)
    subject = agent.subject()
    region, uffd = subject.wp_region()
    subject.writeprotect(uffd=uffd, addr=region["addr"], len=region["len"], mode=1)
    reply = subject.reply("poke", addr=region["addr"], value=1, timeout_ms=200)
    assert reply.keys() == {"hang"}
    assert "no answer within 200 ms" in reply["hang"]
    assert await_end(subject.pid)


def test_numbers_of_subjects_are_not_used_again(agent: Agent) -> None:
    first = agent.subject()
    agent.call(op="subject_end", subject=first.number)
    assert agent.subject().number > first.number


def test_a_subject_shares_one_cpu_where_that_is_asked_for(agent: Agent) -> None:
    """It, what it makes, and the agent that passes on its requests; the next subject has all again."""

    def cpus(pid: int) -> set[int]:
        return os.sched_getaffinity(pid)

    given = cpus(agent.process.pid)
    one = agent.call(op="subject_new", one_cpu=True)["result"]["pid"]
    assert cpus(one) == cpus(agent.process.pid) == {min(given)}
    assert agent.call(op="caps")["result"]["cpus"] == len(given)
    assert cpus(agent.subject().pid) == cpus(agent.process.pid) == given


def test_too_many_subjects_are_refused() -> None:
    with running_agent() as agent:
        replies = [agent.call(op="subject_new") for _ in range(257)]
        assert all("result" in reply for reply in replies[:256])
        assert "256 subjects already" in replies[256]["error"]


def test_everything_dies_with_the_agent() -> None:
    agent = Agent(program())
    try:
        need_wp(agent)
        idle, stuck = agent.subject(), agent.subject()
        region, uffd = stuck.wp_region()
        stuck.writeprotect(uffd=uffd, addr=region["addr"], len=region["len"], mode=1)
        child = idle.fork()["pid"]
        agent.send(b'{"id":1,"subject":%d,"op":"poke","addr":%d,"value":1}\n' % (stuck.number, region["addr"]))
    finally:
        agent.process.kill()
        agent.process.communicate()
    assert all(await_end(pid) for pid in (idle.pid, stuck.pid, child))


def test_idle_processes_beside_a_fork_die_with_their_subject() -> None:
    """They would be left behind by a subject that is killed (native_probes/crowd.c)."""
    with running_agent() as agent:
        subject = agent.subject()
        request = {"id": 1, "subject": subject.number, "op": "path_cost", "path": "fork", "kind": "anon", "pages": 1}
        agent.send(json.dumps({**request, "rounds": 10000, "clock": "mono"}).encode() + b"\n")
        children, end = Path(f"/proc/{subject.pid}/task/{subject.pid}/children"), time.monotonic() + BOUND_S
        while len(there := children.read_text().split()) < 72:  # no event tells of another's children
            assert time.monotonic() < end, f"{len(there)} idle processes, not 72"
            time.sleep(0.01)
        os.kill(subject.pid, signal.SIGKILL)
        assert all(await_end(int(pid)) for pid in there)


# What random requests are made of: names that exist, with arguments that may not.
VALUES = st.recursive(
    st.none()
    | st.booleans()
    | st.integers(-2, 5)
    | st.integers(-(1 << 64), 1 << 64)
    | st.floats()
    | st.text(max_size=9),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)
NAMES = "region alias unmap stamp verify checksum uffd_open uffd_api register unregister wake writeprotect rwprotect "
NAMES += "set_mode copy zeropage continue poison move events poll actor access touch ticket pagemap pagemap_scan "
NAMES += "proc_read settle control hello subjects caps"
ARGUMENTS = "kind pages region addr len page_size seed uffd features mode actor how ticket want flags vec_len name max"
OPERATION = st.dictionaries(st.sampled_from(ARGUMENTS.split()), VALUES, max_size=6).flatmap(
    lambda args: st.sampled_from(NAMES.split()).map(lambda name: {**args, "op": name, "timeout_ms": 1})
)
REQUEST = st.builds(
    lambda op, more: {"id": 1, **op, **more},
    OPERATION | st.lists(OPERATION, max_size=4).map(lambda batch: {"batch": batch}),
    st.dictionaries(st.sampled_from(["id", "stop_on_errno"]), VALUES | st.just(1), max_size=2),
)
LINE = st.binary(max_size=200).map(lambda line: line.replace(b"\n", b" "))


@settings(max_examples=300)
@given(requests=st.lists(LINE | REQUEST, min_size=1, max_size=8))
def test_any_line_has_exactly_one_reply(agent: Agent, requests: list[bytes | dict[str, Any]]) -> None:
    number = max(agent.call(op="subjects")["result"], default=0) or agent.subject().number
    lines = [
        request if isinstance(request, bytes) else json.dumps({**request, "subject": number}).encode()
        for request in requests
    ]
    agent.send(b"\n".join([*lines, b'{"id": "the end"}']) + b"\n")
    for _ in lines:
        reply = json.loads(agent.line())
        assert "id" in reply
        assert len(reply.keys() & {"result", "results", "errno", "error", "died", "hang"}) == 1
    assert "argument id" in json.loads(agent.line())["error"]
