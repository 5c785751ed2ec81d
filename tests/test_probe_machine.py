"""The probe's operations on what is not a subject's alone, on the running kernel: frames, pins, knobs, shared files."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from probe_agent import PAGE, Agent, Subject, need_wp, running_agent

EVENT_FORK = 1 << 1
PROT_READ = 1
REFERENCED_OR_ANON = 1 << 12


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as agent:
        yield agent


@pytest.fixture
def subject(agent: Agent) -> Subject:
    return agent.subject()


def caps(agent: Agent, name: str) -> object:
    return agent.call(op="caps")["result"][name]


def test_private_mapping_of_a_file_leaves_the_file_alone(subject: Subject) -> None:
    region = subject.region(kind="shmem_private", pages=2)
    subject.poke(addr=region["addr"], value=42)
    file = subject.alias(region=region["region"])
    assert subject.peek(addr=file["addr"])["value"] == 0


def test_shared_anonymous_memory_is_one_with_the_childs(agent: Agent, subject: Subject) -> None:
    shared, private = (subject.region(kind=kind, pages=1)["addr"] for kind in ("anon_shared", "shmem_private"))
    child = subject.fork()
    for addr in (shared, private):
        agent.call(subject=child["subject"], op="poke", addr=addr, value=7)
    assert [subject.peek(addr=addr)["value"] for addr in (shared, private)] == [7, 0]


def test_file_opened_for_reading_can_never_be_written(agent: Agent) -> None:
    subject = agent.subject()
    region = subject.region(kind="shmem_read_only", pages=1, prot=PROT_READ)
    assert subject.peek(addr=region["addr"])["value"] == 0
    refused = subject.reply("mprotect", addr=region["addr"], len=PAGE, prot=3)
    assert refused["errno"] == "EACCES"
    assert subject.reply("region", kind="shmem_read_only", pages=1)["errno"] == "EACCES"


def test_flags_of_userfaultfd_can_be_hidden(agent: Agent, subject: Subject) -> None:
    """Control hide_flags: smaps has the flag of a registered mapping, and then has it no more."""
    need_wp(agent)
    subject.wp_region()
    assert " uw" in subject.proc_read(name="smaps")["text"]
    subject.control(name="hide_flags")
    assert " uw" not in subject.proc_read(name="smaps")["text"]


def test_locked_memory_is_counted(subject: Subject) -> None:
    region = subject.region(kind="anon", pages=4)

    def locked() -> str:
        return str(subject.proc_read(name="status")["text"].split("VmLck:")[1].split("kB")[0].strip())

    before = int(locked())
    subject.mlock(addr=region["addr"], len=4 * PAGE, onfault=True)
    assert int(locked()) - before == 16
    entries = subject.pagemap(addr=region["addr"], pages=4)["entries"]
    assert not any(int(entry, 16) >> 63 for entry in entries), "on fault: no page is touched"
    subject.munlock(addr=region["addr"], len=4 * PAGE)
    assert int(locked()) == before
    subject.mlock(addr=region["addr"], len=PAGE)
    assert int(subject.pagemap(addr=region["addr"], pages=1)["entries"][0], 16) >> 63


def test_page_flags_are_those_of_frames(agent: Agent, subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=2)["addr"]
    if not caps(agent, "page_flags"):
        assert subject.reply("page_flags", addr=addr, pages=2)["errno"] in ("EACCES", "EPERM", "ENOENT")
        return
    subject.poke(addr=addr, value=1)
    first, second = subject.page_flags(addr=addr, pages=2)["flags"]
    assert first & REFERENCED_OR_ANON, "KPF_ANON"
    assert second == 0, "nothing is mapped"
    first, second = subject.frames(addr=addr, pages=2)["frames"]
    assert first > 0
    assert second == 0


def test_calls_while_pages_are_migrated_are_few(agent: Agent, subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=1)["addr"]
    look = {"op": "pagemap", "addr": addr, "pages": 1}
    assert "must be operations" in subject.reply("held", addr=addr, count=1, calls=[])["error"]
    for other in ({"op": "held"}, {"op": "fork"}, {}, 7):
        assert "must be rwprotect" in subject.reply("held", addr=addr, count=1, calls=[look, other])["error"]
    assert "argument count" in subject.reply("held", addr=addr, count=33, calls=[look])["error"]
    # A page that is not there is on no node; moving it elsewhere needs a second node anyhow.
    assert subject.reply("held", addr=addr, count=1, calls=[look])["errno"] in ("ENOENT", "EOPNOTSUPP", "ENODEV")


def test_knobs_are_bounded(agent: Agent, subject: Subject) -> None:
    names = caps(agent, "knobs")
    assert isinstance(names, list)
    assert "vmstat" in names
    assert subject.knob(name="vmstat", key="pgfault")["value"] > 0
    assert subject.knob(name="vmstat", key="pgfault", at_least=1 << 62, timeout_ms=1)["value"] < 1 << 62
    assert "no number called" in subject.reply("knob", name="vmstat", key="nothing")["error"]
    assert "no knob that can be read" in subject.reply("knob", name="/etc/passwd")["error"]
    assert "no knob that can be set" in subject.reply("knob_set", name="vmstat", value="1")["error"]


def test_numa_hints_are_made_or_it_is_told_why_not(agent: Agent, subject: Subject) -> None:
    assert "argument timeout_ms" in subject.reply("numa_hints", timeout_ms=0)["error"]
    names = caps(agent, "knobs")
    assert isinstance(names, list)
    before = {name: subject.knob(name=name)["value"] for name in names if name.startswith("numa_")}
    reply = subject.reply("numa_hints", timeout_ms=100)
    if {"numa_balancing", "numa_scan_delay", "numa_scan_period_min"} <= {*names}:
        assert reply.get("errno") == "ETIMEDOUT" or reply["result"]["value"] > 0
    else:
        assert reply["errno"] in ("ENOENT", "EACCES")
    assert before == {name: subject.knob(name=name)["value"] for name in before}


def test_pins_are_counted_and_let_go(agent: Agent, subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=2)["addr"]
    if not caps(agent, "io_uring"):
        assert "errno" in subject.reply("pin", addr=addr, len=PAGE)
        return
    assert subject.pin(addr=addr, len=2 * PAGE) == {}
    assert int(subject.pagemap(addr=addr, pages=1)["entries"][0], 16) >> 63, "pinning brings it in"
    assert subject.reply("pin", addr=8, len=PAGE)["errno"] == "EFAULT"
    for _ in range(63):
        subject.pin(addr=addr, len=PAGE)
    assert "64 pins" in subject.reply("pin", addr=addr, len=PAGE)["error"]
    assert subject.unpin() == {}
    assert subject.pin(addr=addr, len=PAGE) == {}


@pytest.mark.parametrize("how", ["populate_read", "populate_write", "mlock"])
def test_system_calls_as_accesses(subject: Subject, how: str) -> None:
    addr = subject.region(kind="anon", pages=2)["addr"]
    actor = subject.actor()["actor"]
    assert "nothing to do yet" in subject.reply("ticket", actor=actor)["error"]
    subject.access(actor=actor, how=how, addr=addr + 8)
    done = subject.ticket(actor=actor, want="done")
    assert (done["state"], done["value"]) == ("done", 0)
    present = [int(entry, 16) >> 63 for entry in subject.pagemap(addr=addr, pages=2)["entries"]]
    assert present == [1, 0]
    subject.access(actor=actor, how=how, addr=addr + 2 * PAGE)
    assert subject.ticket(actor=actor, want="done")["value"] != 0, "the guard cannot be brought in"


def test_access_without_an_actor_is_of_the_one_made_last(subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=1)["addr"]
    assert "argument actor is missing" in subject.reply("access", how="read", addr=addr)["error"]
    first, last = subject.actor()["actor"], subject.actor()["actor"]
    subject.access(how="write", addr=addr, value=7)
    assert subject.ticket(actor=last, want="done")["value"] == 7
    assert "nothing to do yet" in subject.reply("ticket", actor=first)["error"]


def test_fork_brings_the_descriptor_of_each(agent: Agent, subject: Subject) -> None:
    need_wp(agent)
    with_event = [subject.wp_region(features=EVENT_FORK)[1] for _ in range(2)]
    without = subject.wp_region()[1]
    forked = subject.fork(each=True)
    assert [old for old, _ in forked["uffds"]] == with_event
    assert without not in dict(forked["uffds"])
    assert len({new for _, new in forked["uffds"]} | {*with_event, without}) == 5


def test_fork_of_a_child_brings_what_the_parent_reads(agent: Agent, subject: Subject) -> None:
    need_wp(agent)
    assert "no userfaultfd has asked" in subject.reply("drain")["error"]
    subject.wp_region(features=EVENT_FORK)
    forked = subject.fork(each=True)
    child = Subject(agent, forked["subject"], forked["pid"])
    assert subject.drain() == {}
    assert "end that first" in subject.reply("fork")["error"]
    grandchild = child.fork()
    taken = subject.drain(on=False)["uffds"]
    assert [old for old, _ in taken] == [new for _, new in forked["uffds"]]
    assert "no events are being read" in subject.reply("drain", on=False)["error"]
    for one in (forked, grandchild):
        agent.call(op="subject_end", subject=one["subject"])
