"""The probe's vCPU: it makes the accesses that a thread would make, through KVM, where /dev/kvm is to be had."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from probe_agent import PAGE, Agent, Subject, need_wp, running_agent

RET = 0xC3  # x86: ret
BOUND_MS = 60_000


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as agent:
        yield agent


@pytest.fixture
def subject(agent: Agent) -> Subject:
    """Left to the end of the agent, as its leak checker runs then; skipped where no VM can be had."""
    if missing := agent.call(op="caps")["result"]["kvm"]:
        pytest.skip(f"no KVM here: {missing}")
    return agent.subject()


def vcpu_of(subject: Subject, kind: str = "anon", pages: int = 4) -> tuple[int, int]:
    """The address of a new region and the handle of an actor that is a vCPU in it."""
    region = subject.region(kind=kind, pages=pages)
    return region["addr"], subject.actor(vcpu=region["region"])["actor"]


@pytest.mark.parametrize("kind", ["anon", "shmem"])
def test_accesses_do_what_they_are_called(subject: Subject, kind: str) -> None:
    addr, actor = vcpu_of(subject, kind)
    steps = [("write", 5, 5, 5), ("read", 0, 5, 5), ("rmw", 3, 5, 8), ("write", RET, RET, RET), ("exec", 0, None, RET)]
    for how, value, result, after in steps:
        ticket = subject.access(actor=actor, how=how, addr=addr + PAGE, value=value)["ticket"]
        done = subject.ticket(ticket=ticket, timeout_ms=BOUND_MS, want="done")
        assert (done["state"], done["count"], done.get("exit")) == ("done", 1, None)
        assert result is None or done["value"] == result
        assert subject.peek(addr=addr + PAGE)["value"] == after


def test_touch_makes_exactly_its_accesses(subject: Subject) -> None:
    addr, actor = vcpu_of(subject, pages=16)

    def touched() -> list[int]:
        return [page for page in range(16) if subject.peek(addr=addr + page * PAGE)["value"]]

    for asked, count, pages in [
        ({"addr": addr, "pages": [9, 2, 2, 0]}, 4, [0, 2, 9]),
        ({"addr": addr + 4 * PAGE, "stride": 4 * PAGE, "count": 3}, 3, [0, 2, 4, 8, 9, 12]),
        ({"addr": addr, "count": 0}, 0, [0, 2, 4, 8, 9, 12]),
    ]:
        ticket = subject.touch(actor=actor, how="write", value=7, **asked)["ticket"]
        assert subject.ticket(ticket=ticket, timeout_ms=BOUND_MS, want="done")["count"] == count
        assert touched() == pages


def test_what_the_guest_cannot_do_is_told(subject: Subject) -> None:
    """Beyond its memory it leaves for the VMM to play a device; nothing is executed there either."""
    addr, actor = vcpu_of(subject)
    for how in ("read", "exec", "read"):
        ticket = subject.access(actor=actor, how=how, addr=addr + 4 * PAGE)["ticket"]
        done = subject.ticket(ticket=ticket, timeout_ms=BOUND_MS, want="done")
        assert done["count"] == 0
        assert done["exit"].startswith("KVM exit ")
    inside = subject.access(actor=actor, how="write", addr=addr, value=3)["ticket"]
    assert "exit" not in subject.ticket(ticket=inside, timeout_ms=BOUND_MS, want="done")


@pytest.mark.parametrize("vcpu", [False, True], ids=["thread", "vcpu"])
def test_running_counts_on(subject: Subject, vcpu: bool) -> None:
    addr, actor = vcpu_of(subject)
    if not vcpu:
        actor = subject.actor()["actor"]
    ticket = subject.touch(actor=actor, how="read", addr=addr, stride=0, count=1 << 32)["ticket"]
    seen = 0
    for _ in range(5):
        now = subject.ticket(ticket=ticket, want="running", timeout_ms=BOUND_MS)
        assert now["state"] == "running"
        assert now["count"] >= seen + 2
        seen = now["count"]


def test_blocked_until_resolved(agent: Agent, subject: Subject) -> None:
    need_wp(agent)
    region, uffd = subject.wp_region("shmem")
    span = {"uffd": uffd, "addr": region["addr"], "len": region["len"]}
    actor = subject.actor(vcpu=region["region"])["actor"]
    for value in range(1, 4):
        subject.writeprotect(**span, mode=1)
        ticket = subject.access(actor=actor, how="write", addr=region["addr"], value=value)["ticket"]
        assert subject.ticket(ticket=ticket, timeout_ms=BOUND_MS)["state"] == "blocked"
        subject.writeprotect(**span, mode=0)
        assert subject.ticket(ticket=ticket, timeout_ms=BOUND_MS, want="done")["state"] == "done"
        assert subject.peek(addr=region["addr"])["value"] == value


def test_dirty_log_has_what_was_written(subject: Subject) -> None:
    addr, actor = vcpu_of(subject, pages=100)
    subject.vcpu_log_dirty(actor=actor)
    ticket = subject.touch(actor=actor, how="write", addr=addr, pages=[70, 3, 99])["ticket"]
    subject.ticket(ticket=ticket, timeout_ms=BOUND_MS, want="done")
    assert subject.vcpu_mappings(actor=actor).keys() == {"small", "huge"}
    assert subject.vcpu_dirty(actor=actor) == {"pages": [3, 70, 99]}
    assert subject.vcpu_dirty(actor=actor) == {"pages": []}
    subject.vcpu_log_dirty(actor=actor, on=False)
    assert subject.reply("vcpu_dirty", actor=actor)["errno"] == "ENOENT"


def test_stale_tables_take_the_vcpu_elsewhere(subject: Subject) -> None:
    subject.control(name="stale_tables")
    addr, actor = vcpu_of(subject)
    ticket = subject.access(actor=actor, how="write", addr=addr, value=9)["ticket"]
    assert subject.ticket(ticket=ticket, timeout_ms=BOUND_MS, want="done")["value"] == 9
    assert subject.peek(addr=addr)["value"] == 0


def test_a_kept_vm_is_no_subject_s(agent: Agent, subject: Subject) -> None:
    for _ in range(2):
        assert agent.call(op="keep_vm") == {"result": {}}
    assert agent.call(op="caps")["result"]["kvm"] == ""


def test_bad_arguments_are_refused(subject: Subject) -> None:
    thread = subject.actor()["actor"]
    large = subject.region(kind="anon", pages=1 << 18)["region"]
    assert "no vcpu has the handle 77" in subject.reply("actor", vcpu=77)["error"]
    assert "a guest has at most" in subject.reply("actor", vcpu=large)["error"]
    addr, actor = vcpu_of(subject)
    assert "a vCPU makes no system calls" in subject.reply("access", actor=actor, how="fork", addr=addr)["error"]
    for op in ("vcpu_log_dirty", "vcpu_dirty", "vcpu_mappings"):
        assert "a thread, no vCPU" in subject.reply(op, actor=thread)["error"]
        assert "no actor has the handle 99" in subject.reply(op, actor=99)["error"]
