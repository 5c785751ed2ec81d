"""The probe's actors: an access is done, or asleep in the kernel, and is never said to be what it is not."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from probe_agent import PAGE, Agent, Subject, await_end, need_wp, running_agent

RET = 0xC3  # x86: ret


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as agent:
        yield agent


@pytest.fixture
def subject(agent: Agent) -> Subject:
    """Left to the end of the agent: then its leak checker runs, as it does not when it is killed."""
    return agent.subject()


def access(subject: Subject, actor: int, how: str, addr: int, **more: Any) -> dict[str, Any]:
    """What the ticket of one access says within its bound."""
    ticket = subject.access(actor=actor, how=how, addr=addr, **more)["ticket"]
    return dict(subject.ticket(ticket=ticket, timeout_ms=60000))


def test_accesses_do_what_they_are_called(subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=1)["addr"]
    actor = subject.actor()["actor"]
    for how, value, result, after in [("write", 5, 5, 5), ("read", 0, 5, 5), ("rmw", 3, 5, 8), ("read", 0, 8, 8)]:
        done = access(subject, actor, how, addr, value=value)
        assert (done["state"], done["value"], done["count"]) == ("done", result, 1)
        assert "signal" not in done
        assert subject.peek(addr=addr)["value"] == after


@pytest.mark.parametrize(
    ("prot", "how", "code"), [(0, "read", 2), (1, "write", 2), (1, "rmw", 2), (3, "exec", 2)], ids=str
)
def test_refused_access_is_a_signal_and_the_actor_lives(subject: Subject, prot: int, how: str, code: int) -> None:
    addr = subject.region(kind="anon", pages=1, prot=prot)["addr"]
    actor = subject.actor()["actor"]
    for _ in range(2):
        done = access(subject, actor, how, addr)
        assert (done["state"], done["count"]) == ("done", 0)
        assert (done["signal"], done["signal_code"], done["signal_addr"]) == ("SIGSEGV", code, addr)


def test_access_beyond_the_end_of_a_file_is_sigbus(subject: Subject) -> None:
    region = subject.region(kind="shmem", pages=1)
    moved = subject.mremap(addr=region["addr"], len=PAGE, new_len=2 * PAGE, flags=1)["addr"]
    assert access(subject, subject.actor()["actor"], "read", moved + PAGE)["signal"] == "SIGBUS"


def test_exec_runs_code(subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=1, prot=7)["addr"]
    subject.poke(addr=addr, value=RET)
    done = access(subject, subject.actor()["actor"], "exec", addr)
    assert done["count"] == 1
    assert "signal" not in done


def test_touch_makes_exactly_its_accesses(subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=16)["addr"]
    actor = subject.actor()["actor"]

    def touched() -> list[int]:
        entries = subject.pagemap(addr=addr, pages=16)["entries"]
        return [page for page, entry in enumerate(entries) if int(entry, 16) >> 63]

    listed = subject.touch(actor=actor, how="write", addr=addr, pages=[9, 2, 2, 0])
    assert subject.ticket(ticket=listed["ticket"], timeout_ms=60000)["count"] == 4
    assert touched() == [0, 2, 9]
    strided = subject.touch(actor=actor, how="write", addr=addr + 4 * PAGE, stride=4 * PAGE, count=3)
    assert subject.ticket(ticket=strided["ticket"], timeout_ms=60000)["count"] == 3
    assert touched() == [0, 2, 4, 8, 9, 12]


def test_touch_stops_at_a_signal_and_counts(subject: Subject) -> None:
    region = subject.region(kind="anon", pages=4)
    ticket = subject.touch(actor=subject.actor()["actor"], how="read", addr=region["addr"], count=10)["ticket"]
    done = subject.ticket(ticket=ticket, timeout_ms=60000)
    assert (done["count"], done["signal"]) == (4, "SIGSEGV")
    assert done["signal_addr"] == region["addr"] + region["len"]


@pytest.mark.parametrize("kind", ["anon", "shmem"])
def test_blocked_until_resolved(agent: Agent, subject: Subject, kind: str) -> None:
    need_wp(agent)
    region, uffd = subject.wp_region(kind)
    span = {"uffd": uffd, "addr": region["addr"], "len": region["len"]}
    actor = subject.actor()
    for value in range(1, 20):  # each round could catch a thread between two states
        subject.writeprotect(**span, mode=1)
        ticket = subject.access(actor=actor["actor"], how="write", addr=region["addr"] + 8, value=value)["ticket"]
        assert subject.ticket(ticket=ticket, timeout_ms=60000)["state"] == "blocked"
        assert subject.ticket(ticket=ticket, timeout_ms=0, want="done")["state"] == "blocked"
        event = {"event": "pagefault", "flags": 3, "address": region["addr"], "tid": actor["tid"]}
        assert subject.events(uffd=uffd, timeout_ms=60000)["events"] == [event]
        subject.writeprotect(**span, mode=0)
        assert subject.ticket(ticket=ticket, timeout_ms=60000)["state"] == "done"
        assert subject.peek(addr=region["addr"] + 8)["value"] == value


def test_busy_actor_refuses_and_is_not_said_to_be_blocked(subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=1)["addr"]
    actor = subject.actor()["actor"]
    ticket = subject.touch(actor=actor, how="rmw", addr=addr, stride=0, count=1 << 32)["ticket"]
    assert subject.ticket(ticket=ticket, timeout_ms=50)["state"] == "running"
    assert "busy" in subject.reply("access", actor=actor, how="read", addr=addr)["error"]


@pytest.mark.parametrize("pages", [[], [-1], ["a"], [1 << 32], {}], ids=str)
def test_bad_lists_of_pages_are_refused(subject: Subject, pages: Any) -> None:
    actor = subject.actor()["actor"]
    assert "argument pages" in subject.reply("touch", actor=actor, how="read", addr=0, pages=pages)["error"]


def test_forked_subject_has_no_actors_but_can_make_some(agent: Agent, subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=1)["addr"]
    actor = subject.actor()["actor"]
    access(subject, actor, "write", addr, value=7)
    forked = subject.fork()
    child = Subject(agent, forked["subject"], forked["pid"])
    assert "no actor" in child.reply("access", actor=actor, how="read", addr=addr)["error"]
    assert access(child, child.actor()["actor"], "read", addr)["value"] == 7
    agent.call(op="subject_end", subject=child.number)
    assert await_end(child.pid)
    assert access(subject, actor, "read", addr)["value"] == 7


def test_signal_is_handled_and_the_access_goes_on(subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=1)["addr"]
    actor = subject.actor()["actor"]
    assert subject.interrupt(actor=actor)["handled"], "it waits for something to do"
    ticket = subject.touch(actor=actor, how="rmw", addr=addr, stride=0, count=100_000, value=1)["ticket"]
    assert subject.interrupt(actor=actor)["handled"]
    done = subject.ticket(ticket=ticket, want="done", timeout_ms=60000)
    assert (done["state"], done["count"]) == ("done", 100_000)
    assert "signal" not in done
    assert subject.peek(addr=addr)["value"] == 100_000
    assert "actor" in subject.reply("interrupt", actor=77)["error"]
