"""The probe's memory operations, on the running kernel: each does what it says, and no more."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from probe_agent import PAGE, Agent, Subject, running_agent

PROT_NONE, PROT_READ, PROT_WRITE = 0, 1, 2
PRESENT = 1 << 3
HUGE = 2 << 20


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as agent:
        yield agent


@pytest.fixture
def subject(agent: Agent) -> Subject:
    """Left to the end of the agent: then its leak checker runs, as it does not when it is killed."""
    return agent.subject()


def bad(subject: Subject, addr: int, pages: int, seed: int, **more: int) -> list[int]:
    verified = subject.verify(addr=addr, pages=pages, page_size=PAGE, seed=seed, **more)
    assert verified["bad_count"] == len(verified["bad"])
    return list(verified["bad"])


KINDS = {
    "anon": PAGE,
    "anon_shared": PAGE,
    "shmem": PAGE,
    "shmem_private": PAGE,
    "tmpfs": PAGE,
    "hugetlb": HUGE,
    "hugetlb_private": HUGE,
}


@pytest.mark.parametrize("kind", KINDS)
def test_region_holds_what_is_written(agent: Agent, subject: Subject, kind: str) -> None:
    if kind.startswith("hugetlb") and agent.call(op="caps")["result"]["hugetlb_free"] < 2:
        assert subject.reply("region", kind=kind, pages=2)["errno"] == "ENOMEM"
        pytest.skip("fewer than two free huge pages (vm.nr_hugepages)")
    region = subject.region(kind=kind, pages=2)
    size = KINDS[kind]
    assert region["page_size"] == size
    assert region["len"] == 2 * size
    assert region["addr"] % HUGE == 0
    subject.stamp(addr=region["addr"], pages=2, page_size=size, seed=7)
    assert subject.verify(addr=region["addr"], pages=2, page_size=size, seed=7)["bad"] == []
    assert subject.verify(addr=region["addr"], pages=2, page_size=size, seed=8)["bad"] == [0, 1]


def test_region_is_aligned_as_asked(subject: Subject) -> None:
    region = subject.region(kind="anon", pages=4, align=1 << 30, reserve=False)
    assert region["addr"] % (1 << 30) == 0
    assert subject.verify(addr=region["addr"], pages=4, page_size=PAGE, seed=7)["bad"] == [0, 1, 2, 3]
    for align in (PAGE, 3 << 20, 1 << 31):
        assert "argument align" in subject.reply("region", kind="anon", pages=1, align=align)["error"]


def test_guards_lie_on_both_sides_of_a_region(agent: Agent) -> None:
    for beyond in (-8, 4 * PAGE):
        subject = agent.subject()
        region = subject.region(kind="anon", pages=4)
        assert subject.reply("peek", addr=region["addr"] + beyond) == {"died": "killed by SIGSEGV"}


def test_unmap_frees_region_and_handle(subject: Subject) -> None:
    region = subject.region(kind="shmem", pages=4)
    subject.unmap(region=region["region"])
    assert "no region" in subject.reply("unmap", region=region["region"])["error"]
    assert subject.reply("peek", addr=region["addr"]) == {"died": "killed by SIGSEGV"}


@pytest.mark.parametrize("byte", [0, 4094, 4096, 2 * 4096 + 2049])
def test_verify_finds_one_changed_byte(subject: Subject, byte: int) -> None:
    addr = subject.region(kind="anon", pages=4)["addr"]
    subject.stamp(addr=addr, pages=4, page_size=PAGE, seed=1)
    word = addr + byte // 8 * 8
    value = subject.peek(addr=word)["value"]
    bit = 1 << 8 * (byte % 8)
    subject.poke(addr=word, value=value ^ bit)
    assert bad(subject, addr, 4, 1) == [byte // PAGE]
    subject.poke(addr=word, value=value)
    assert bad(subject, addr, 4, 1) == []


def test_pattern_tells_pages_and_seeds_apart(subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=8)["addr"]
    subject.stamp(addr=addr, pages=4, page_size=PAGE, seed=1)
    subject.stamp(addr=addr + 4 * PAGE, pages=4, page_size=PAGE, seed=2)
    sums = subject.checksum(addr=addr, pages=8, page_size=PAGE)["sums"]
    assert len(set(sums)) == 8
    assert bad(subject, addr + PAGE, 1, 1) == [0], "page 1 is not page 0"
    assert bad(subject, addr + PAGE, 3, 1, first_page=1) == []


def test_alias_is_the_same_memory(subject: Subject) -> None:
    region = subject.region(kind="shmem", pages=2)
    alias = subject.alias(region=region["region"])
    subject.poke(addr=alias["addr"] + 64, value=42)
    assert subject.peek(addr=region["addr"] + 64)["value"] == 42
    anon = subject.region(kind="anon", pages=1)
    assert "no file behind it" in subject.reply("alias", region=anon["region"])["error"]


def test_punch_hole_zeroes_exactly_its_range(subject: Subject) -> None:
    region = subject.region(kind="tmpfs", pages=4)
    subject.stamp(addr=region["addr"], pages=4, page_size=PAGE, seed=1)
    subject.punch_hole(region=region["region"], offset=PAGE, len=2 * PAGE)
    assert bad(subject, region["addr"], 4, 1) == [1, 2]
    assert subject.peek(addr=region["addr"] + PAGE)["value"] == 0


def test_madvise_dontneed_and_pagemap(subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=4)["addr"]
    subject.stamp(addr=addr, pages=4, page_size=PAGE, seed=1)

    def present() -> list[bool]:
        return [bool(int(entry, 16) >> 63) for entry in subject.pagemap(addr=addr, pages=4)["entries"]]

    assert present() == [True] * 4
    subject.madvise(addr=addr + PAGE, len=PAGE, advice="DONTNEED")
    assert present() == [True, False, True, True]
    entries = [int(entry, 16) for entry in subject.pagemap(addr=addr, pages=4)["entries"]]
    assert not any(entry & ((1 << 55) - 1) for entry in entries), "no page frame numbers"


def test_pagemap_scan_gives_ranges(agent: Agent, subject: Subject) -> None:
    if not agent.call(op="caps")["result"]["pagemap_scan"]:
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    region = subject.region(kind="anon", pages=8)
    addr, length = region["addr"], region["len"]
    for page in (1, 2, 5):
        subject.poke(addr=addr + page * PAGE, value=1)
    scan = {"addr": addr, "len": length, "category_mask": PRESENT, "return_mask": PRESENT}
    found = subject.pagemap_scan(**scan)
    spans = [[addr + PAGE, addr + 3 * PAGE, PRESENT], [addr + 5 * PAGE, addr + 6 * PAGE, PRESENT]]
    assert found == {"walk_end": addr + length, "regions": spans}
    assert subject.pagemap_scan(**scan, vec_len=1)["regions"] == spans[:1]
    assert subject.pagemap_scan(**scan, max_pages=1)["regions"] == [[addr + PAGE, addr + 2 * PAGE, PRESENT]]
    assert subject.reply("pagemap_scan", **{**scan, "flags": 1 << 40})["errno"] == "EINVAL"


def test_mprotect_munmap_mremap(subject: Subject) -> None:
    region = subject.region(kind="anon", pages=4)
    subject.stamp(addr=region["addr"], pages=4, page_size=PAGE, seed=1)
    subject.mprotect(addr=region["addr"], len=region["len"], prot=PROT_READ)
    moved = subject.mremap(addr=region["addr"], len=2 * PAGE, new_len=2 * PAGE, flags=1 | 4)["addr"]
    assert moved != region["addr"], "MREMAP_DONTUNMAP always moves"
    assert bad(subject, moved, 2, 1) == []
    subject.munmap(addr=moved, len=PAGE)
    assert bad(subject, moved + PAGE, 1, 1, first_page=1) == []
    assert subject.reply("mremap", addr=moved, len=PAGE, new_len=0, flags=0)["errno"] == "EINVAL"
    assert subject.reply("poke", addr=region["addr"] + 3 * PAGE, value=1) == {"died": "killed by SIGSEGV"}


def test_proc_read_is_bounded_text(subject: Subject) -> None:
    region = subject.region(kind="anon", pages=4)
    maps = subject.proc_read(name="maps")["text"]
    assert f"{region['addr']:x}-{region['addr'] + region['len']:x} rw-p" in maps
    assert subject.proc_read(name="maps", max=10)["text"] == maps[:10]
    assert f"Pid:\t{subject.pid}\n" in subject.proc_read(name="status")["text"]


def test_settle_changes_nothing(subject: Subject) -> None:
    addr = subject.region(kind="anon", pages=4)["addr"]
    subject.stamp(addr=addr, pages=4, page_size=PAGE, seed=1)
    before = subject.pagemap(addr=addr, pages=4)
    allowed = subject.proc_read(name="status")["text"].split("Cpus_allowed:")[1].split()[0]
    assert subject.settle(addr=addr) == {}
    assert subject.pagemap(addr=addr, pages=4) == before
    assert subject.proc_read(name="status")["text"].split("Cpus_allowed:")[1].split()[0] == allowed


def test_forked_subject_has_its_own_memory_and_its_own_life(agent: Agent) -> None:
    parent = agent.subject()
    addr = parent.region(kind="anon", pages=2)["addr"]
    parent.poke(addr=addr, value=1)
    parent.pagemap(addr=addr, pages=1)
    forked = parent.fork()
    child = Subject(agent, forked["subject"], forked["pid"])
    child.poke(addr=addr, value=2)
    child.poke(addr=addr + PAGE, value=2)
    assert parent.peek(addr=addr)["value"] == 1
    assert int(child.pagemap(addr=addr, pages=2)["entries"][1], 16) >> 63
    assert not int(parent.pagemap(addr=addr, pages=2)["entries"][1], 16) >> 63, "each sees its own page tables"
    grandchild = child.fork()
    agent.call(op="subject_end", subject=parent.number)
    agent.call(op="subject_end", subject=child.number)
    assert agent.call(subject=grandchild["subject"], op="peek", addr=addr) == {"result": {"value": 2}}
    assert agent.call(subject=grandchild["subject"], op="peek", addr=8) == {"died": "killed by SIGSEGV"}


def test_forks_in_one_batch_are_told_apart(agent: Agent, subject: Subject) -> None:
    results = agent.call(subject=subject.number, batch=[{"op": "fork"}] * 3)["results"]
    numbers = [one["result"]["subject"] for one in results]
    assert len({*numbers, subject.number}) == 4
    for number, one in zip(numbers, results, strict=True):
        status = agent.call(subject=number, op="proc_read", name="status")["result"]["text"]
        assert f"Pid:\t{one['result']['pid']}\n" in status
        agent.call(op="subject_end", subject=number)
