"""The probe's userfaultfd operations and its negative controls, with the write protection that any kernel has."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from probe_agent import PAGE, WP, Agent, Subject, need_wp, running_agent

MISSING, MINOR, RWP = 1, 4, 8
EVENT_FORK, EVENT_REMAP, EVENT_REMOVE, EVENT_UNMAP = 1 << 1, 1 << 2, 1 << 3, 1 << 6
FEATURE_MINOR_SHMEM, FEATURE_RWP = 1 << 10, 1 << 17
FLAG_WRITE, FLAG_WP, FLAG_MINOR = 1, 2, 4


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as agent:
        need_wp(agent)
        yield agent


@pytest.fixture
def subject(agent: Agent) -> Subject:
    """Left to the end of the agent: then its leak checker runs, as it does not when it is killed."""
    return agent.subject()


def need_features(agent: Agent, features: int) -> None:
    available = agent.call(op="caps")["result"]["uffd_features"]
    if features & ~available:
        pytest.skip(f"this kernel lacks features {features & ~available:#x}")


def opened(subject: Subject, region: dict[str, int], mode: int, features: int = 0) -> int:
    """A userfaultfd with *region* registered."""
    uffd = subject.uffd_open()["uffd"]
    subject.uffd_api(uffd=uffd, features=features)
    subject.register(uffd=uffd, addr=region["addr"], len=region["len"], mode=mode)
    return int(uffd)


def bad(subject: Subject, region: dict[str, int]) -> list[int]:
    pages = region["len"] // PAGE
    return list(subject.verify(addr=region["addr"], pages=pages, page_size=PAGE, seed=1)["bad"])


def test_caps_are_what_the_ioctls_say(agent: Agent, subject: Subject) -> None:
    caps = agent.call(op="caps")["result"]
    uffd = subject.uffd_open()["uffd"]
    assert subject.uffd_api(uffd=uffd, features=0)["features"] == caps["uffd_features"]
    assert caps["register_modes"].keys() == {"missing", "wp", "minor", "rwp"}
    assert all(modes.keys() == {"anon", "shmem", "hugetlb"} for modes in caps["register_modes"].values())
    has_rwp = bool(caps["uffd_features"] & FEATURE_RWP)
    assert isinstance(caps["register_modes"]["rwp"]["anon"], int) == has_rwp
    assert caps["page_accessed"] == has_rwp
    assert caps["cpus"] >= 1


def test_refused_api_reports_both_fields(subject: Subject) -> None:
    uffd = subject.uffd_open(user_mode_only=True)["uffd"]
    refused = subject.reply("uffd_api", uffd=uffd, features=0, api=1)
    assert (refused["errno"], refused["features"], refused["ioctls"]) == ("EINVAL", 0, 0)
    assert subject.reply("poll", uffd=uffd)["result"]["revents"] & 8, "POLLERR before UFFDIO_API"
    subject.uffd_close(uffd=uffd)
    assert "no uffd" in subject.reply("uffd_close", uffd=uffd)["error"]


@pytest.mark.parametrize("op", ["rwprotect", "set_mode"])
def test_operation_the_kernel_lacks_is_an_errno(agent: Agent, subject: Subject, op: str) -> None:
    if agent.call(op="caps")["result"]["uffd_features"] & FEATURE_RWP:
        pytest.skip("this kernel has RWP")
    region, uffd = subject.wp_region()
    args = {"enable": 1, "disable": 0} if op == "set_mode" else {"addr": region["addr"], "len": PAGE, "mode": 1}
    assert subject.reply(op, uffd=uffd, **args)["errno"] == "EINVAL"
    refused = subject.reply("register", uffd=uffd, addr=region["addr"], len=PAGE, mode=RWP)
    assert refused["errno"] == "EINVAL"
    assert bad(subject, region) == []


@pytest.mark.parametrize(
    ("op", "args", "key"),
    [("copy", {"seed": 1, "first_page": 1}, "copied"), ("zeropage", {}, "zeropage"), ("poison", {}, "updated")],
)
def test_missing_page_is_filled(subject: Subject, op: str, args: dict[str, int], key: str) -> None:
    region = subject.region(kind="anon", pages=4)
    uffd = opened(subject, region, MISSING)
    page = region["addr"] + PAGE
    ticket = subject.access(actor=subject.actor()["actor"], how="read", addr=page)["ticket"]
    assert subject.ticket(ticket=ticket, timeout_ms=60000)["state"] == "blocked"
    assert subject.poll(uffd=uffd)["revents"] == 1
    event = subject.events(uffd=uffd)["events"]
    assert [(one["event"], one["flags"], one["address"]) for one in event] == [("pagefault", 0, page)]
    assert subject.poll(uffd=uffd)["revents"] == 0
    where = {"dst" if op == "copy" else "addr": page, "len": PAGE}
    refused = subject.reply(op, uffd=uffd, **where, **args, mode=1 << 40)
    assert refused["errno"] == "EINVAL"
    assert subject.reply(op, uffd=uffd, **where, **args)["result"] == {key: PAGE}
    done = subject.ticket(ticket=ticket, timeout_ms=60000)
    assert done["state"] == "done"
    assert done.get("signal") == ("SIGBUS" if op == "poison" else None)
    again = subject.reply(op, uffd=uffd, **where, **args)
    assert (again["errno"], again[key]) == ("EEXIST", -17)
    if op == "copy":
        assert subject.verify(addr=page, pages=1, page_size=PAGE, seed=1, first_page=1)["bad"] == []


def test_continue_maps_what_the_alias_wrote(agent: Agent, subject: Subject) -> None:
    need_features(agent, FEATURE_MINOR_SHMEM)
    region = subject.region(kind="shmem", pages=2)
    alias = subject.alias(region=region["region"])
    uffd = opened(subject, region, MINOR, FEATURE_MINOR_SHMEM)
    subject.stamp(addr=alias["addr"], pages=2, page_size=PAGE, seed=1)
    ticket = subject.access(actor=subject.actor()["actor"], how="read", addr=region["addr"])["ticket"]
    assert subject.events(uffd=uffd, timeout_ms=60000)["events"][0]["flags"] == FLAG_MINOR
    assert subject.continue_(uffd=uffd, addr=region["addr"], len=region["len"]) == {"mapped": 2 * PAGE}
    assert subject.ticket(ticket=ticket, timeout_ms=60000)["state"] == "done"
    assert bad(subject, region) == []


def test_move_takes_the_page_along(agent: Agent, subject: Subject) -> None:
    need_features(agent, 1 << 16)
    source, target = subject.region(kind="anon", pages=1), subject.region(kind="anon", pages=1)
    subject.stamp(addr=source["addr"], pages=1, page_size=PAGE, seed=1)
    uffd = opened(subject, target, MISSING)
    assert subject.move(uffd=uffd, dst=target["addr"], src=source["addr"], len=PAGE) == {"moved": PAGE}
    assert bad(subject, target) == []
    assert int(subject.pagemap(addr=source["addr"], pages=1)["entries"][0], 16) >> 63 == 0


@pytest.mark.parametrize("kind", ["anon", "shmem"])
@pytest.mark.parametrize("end", ["wake", "uffd_close"])
def test_blocked_access_ends_without_resolution(subject: Subject, kind: str, end: str) -> None:
    region, uffd = subject.wp_region(kind)
    span = {"uffd": uffd, "addr": region["addr"], "len": region["len"]}
    subject.writeprotect(**span, mode=1)
    ticket = subject.access(actor=subject.actor()["actor"], how="write", addr=region["addr"])["ticket"]
    assert subject.ticket(ticket=ticket, timeout_ms=60000, want="blocked")["state"] == "blocked"
    subject.reply(end, **({"uffd": uffd} if end == "uffd_close" else span))
    if end == "wake":  # it faults again, as the page is still protected
        subject.events(uffd=uffd, timeout_ms=60000)
        subject.writeprotect(**span, mode=0)
    assert subject.ticket(ticket=ticket, timeout_ms=60000, want="done")["state"] == "done"


def test_events_of_calls_are_read_while_the_call_waits(agent: Agent, subject: Subject) -> None:
    need_features(agent, EVENT_REMAP | EVENT_REMOVE | EVENT_UNMAP)
    region, uffd = subject.wp_region(pages=8, features=EVENT_REMAP | EVENT_REMOVE | EVENT_UNMAP)
    addr = region["addr"]
    subject.madvise(addr=addr, len=PAGE, advice="DONTNEED")
    moved = subject.mremap(addr=addr + 4 * PAGE, len=PAGE, new_len=2 * PAGE, flags=1)["addr"]
    subject.munmap(addr=addr + 6 * PAGE, len=PAGE)
    events = subject.events(uffd=uffd)["events"]
    assert {"event": "remove", "start": addr, "end": addr + PAGE} in events
    assert {"event": "remap", "from": addr + 4 * PAGE, "to": moved, "len": PAGE} in events
    assert {"event": "unmap", "start": addr + 6 * PAGE, "end": addr + 7 * PAGE} in events
    assert subject.events(uffd=uffd)["events"] == []


def test_fork_event_brings_the_childs_descriptor(agent: Agent, subject: Subject) -> None:
    need_features(agent, EVENT_FORK)
    region, uffd = subject.wp_region(features=EVENT_FORK)
    subject.writeprotect(uffd=uffd, addr=region["addr"], len=region["len"], mode=1)
    forked = subject.fork(uffd=uffd)
    assert forked["uffd"] not in (uffd, None)
    child = Subject(agent, forked["subject"], forked["pid"])
    ticket = child.access(actor=child.actor()["actor"], how="write", addr=region["addr"], value=9)["ticket"]
    assert child.ticket(ticket=ticket, timeout_ms=60000)["state"] == "blocked"
    events = subject.events(uffd=forked["uffd"], timeout_ms=60000)["events"]
    assert [(one["flags"], one["address"]) for one in events] == [(FLAG_WRITE | FLAG_WP, region["addr"])]
    subject.writeprotect(uffd=forked["uffd"], addr=region["addr"], len=PAGE, mode=0)
    assert child.ticket(ticket=ticket, timeout_ms=60000)["state"] == "done"
    assert bad(child, region) == [0]
    assert bad(subject, region) == []
    agent.call(op="subject_end", subject=child.number)


def test_fork_without_handle_leaves_the_event_to_be_read(agent: Agent, subject: Subject) -> None:
    need_features(agent, EVENT_FORK)
    _, uffd = subject.wp_region(features=EVENT_FORK)
    forked = subject.fork()
    assert "uffd" not in forked
    assert [one["event"] for one in subject.events(uffd=uffd)["events"]] == ["fork"]
    agent.call(op="subject_end", subject=forked["subject"])


# Negative controls: each lie is told, and nothing else.


def trapped(subject: Subject, control: str | None) -> dict[str, Any]:
    """Protects pages 1 and 2 of 4, writes to page 1 and resolves it; what was seen on the way."""
    region, uffd = subject.wp_region()
    page = {"uffd": uffd, "addr": region["addr"] + PAGE, "len": PAGE}
    if control:
        subject.control(name=control)
    subject.writeprotect(**{**page, "len": 2 * PAGE}, mode=1)
    protected = [int(entry, 16) >> 57 & 1 for entry in subject.pagemap(addr=region["addr"], pages=4)["entries"]]
    ticket = subject.access(actor=subject.actor()["actor"], how="write", addr=page["addr"], value=5)["ticket"]
    state = subject.ticket(ticket=ticket, timeout_ms=60000)["state"]
    events = subject.events(uffd=uffd)["events"]
    subject.writeprotect(**page, mode=0)
    bound = 300 if control == "lose_wake" else 60000  # what is lost does not come, however long one waits
    after = subject.ticket(ticket=ticket, timeout_ms=bound, want="done")["state"]
    subject.wake(**page)
    if state == "blocked":
        assert subject.ticket(ticket=ticket, timeout_ms=60000, want="done")["state"] == "done"
    return {
        "protected": protected,
        "state": state,
        "events": [(one["flags"], (one["address"] - region["addr"]) // PAGE) for one in events],
        "after": after,
        "value": subject.peek(addr=page["addr"])["value"],
    }


TRUTH = {"protected": [0, 1, 1, 0], "state": "blocked", "events": [(3, 1)], "after": "done", "value": 5}


@pytest.mark.parametrize(
    ("control", "lie"),
    [
        (None, {}),
        ("skip_protect", {"protected": [0, 0, 0, 0], "state": "done", "events": []}),
        ("protect_one_more", {"protected": [0, 1, 1, 1]}),
        ("protect_one_less", {"protected": [0, 1, 0, 0]}),
        ("flip_write_flag", {"events": [(2, 1)]}),
        ("wrong_address", {"events": [(3, 2)]}),
        ("lose_wake", {"after": "blocked"}),
        ("duplicate_event", {"events": [(3, 1), (3, 1)]}),
        ("hide_accessed", {}),
        ("drop_write", {}),
    ],
)
def test_control_tells_its_lie(subject: Subject, control: str | None, lie: dict[str, Any]) -> None:
    assert trapped(subject, control) == {**TRUTH, **lie}


def test_protect_one_more_ends_with_the_region(subject: Subject) -> None:
    region, uffd = subject.wp_region()
    subject.control(name="protect_one_more")
    subject.writeprotect(uffd=uffd, addr=region["addr"], len=region["len"], mode=1)


def test_corrupt_flips_a_bit_when_resolving(subject: Subject) -> None:
    region, uffd = subject.wp_region("shmem")
    subject.control(name="corrupt")
    span = {"uffd": uffd, "addr": region["addr"] + PAGE, "len": PAGE}
    subject.writeprotect(**span, mode=1)
    assert bad(subject, region) == []
    subject.writeprotect(**span, mode=0)
    assert bad(subject, region) == [1]


def test_touch_neighbour_also_reads_the_next_page(subject: Subject) -> None:
    region = subject.region(kind="anon", pages=4)
    subject.control(name="touch_neighbour")
    actor = subject.actor()["actor"]
    for page in (0, 3):  # the neighbour of the last one is no memory: that is not the access's signal
        ticket = subject.access(actor=actor, how="write", addr=region["addr"] + page * PAGE)["ticket"]
        done = subject.ticket(ticket=ticket, timeout_ms=60000)
        assert (done["state"], done["count"], done.get("signal")) == ("done", 1, None)
    entries = subject.pagemap(addr=region["addr"], pages=4)["entries"]
    assert [int(entry, 16) >> 63 for entry in entries] == [1, 1, 0, 1]


def test_write_protection_is_tested_here_at_all(agent: Agent) -> None:
    assert agent.call(op="caps")["result"]["register_modes"]["wp"]["anon"] & WP << 5
