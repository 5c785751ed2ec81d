"""The probe's raw ioctls, its way to less privilege, and the lies about refusals, masks, markers and categories."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from probe_agent import PAGE, WP, Agent, Subject, need_wp, running_agent

EVENT_FORK = 1 << 1
MARKER = 1 << 57
PAGE_IS_WRITTEN, PAGE_IS_PRESENT, PAGE_IS_ACCESSED = 1 << 1, 1 << 3, 1 << 9


@pytest.fixture(scope="module")
def agent() -> Iterator[Agent]:
    with running_agent() as agent:
        need_wp(agent)
        yield agent


@pytest.fixture
def subject(agent: Agent) -> Subject:
    return agent.subject()


def marked(subject: Subject, region: dict[str, int]) -> list[bool]:
    entries = subject.pagemap(addr=region["addr"], pages=region["len"] // PAGE)["entries"]
    return [bool(int(entry, 16) & MARKER) for entry in entries]


@pytest.mark.parametrize("request_name", ["UFFDIO_REGISTER", "UFFDIO_WRITEPROTECT", "UFFDIO_COPY", "PAGEMAP_SCAN"])
def test_raw_ioctl_hands_over_the_pointer(subject: Subject, request_name: str) -> None:
    _, uffd = subject.wp_region()
    assert subject.reply("raw_ioctl", request=request_name, uffd=uffd, addr=0)["errno"] == "EFAULT"


def test_raw_ioctl_reads_and_writes_the_struct(subject: Subject) -> None:
    word = subject.region(kind="anon", pages=1)["addr"]
    subject.poke(addr=word, value=0xAA)
    uffd = subject.uffd_open()["uffd"]
    subject.raw_ioctl(request="UFFDIO_API", uffd=uffd, addr=word)
    assert subject.peek(addr=word + 8)["value"] != 0
    assert subject.reply("raw_ioctl", request="UFFDIO_API", uffd=uffd, addr=word)["errno"] == "EINVAL"


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ({"request": "UFFDIO_NONE", "addr": 0}, "no ioctl is called UFFDIO_NONE"),
        ({"request": "UFFDIO_API", "addr": 1 << 60}, "addr"),
        ({"request": "UFFDIO_API", "addr": 0}, "uffd"),
        ({"addr": 0}, "request"),
    ],
)
def test_wrong_raw_ioctl(subject: Subject, arguments: dict[str, object], says: str) -> None:
    assert says in subject.reply("raw_ioctl", **arguments)["error"]


def test_capabilities_are_gone(subject: Subject) -> None:
    """Before the event of fork may be asked for, after it may not (unless nothing was there to give up)."""
    before, after = (subject.uffd_open()["uffd"] for _ in range(2))
    if "errno" in subject.reply("uffd_api", uffd=before, features=EVENT_FORK):
        pytest.skip("the tests run without CAP_SYS_PTRACE")
    subject.drop_capabilities()
    reply = subject.reply("uffd_api", uffd=after, features=EVENT_FORK)
    assert (reply["errno"], reply["features"], reply["ioctls"]) == ("EPERM", 0, 0)


def test_swallow_errno(subject: Subject) -> None:
    region, uffd = subject.wp_region()
    subject.control(name="swallow_errno")
    assert subject.writeprotect(uffd=uffd, addr=region["addr"] + 8, len=PAGE, mode=1)["ioctls"] == 0
    assert marked(subject, region) == [False] * 4
    assert "error" in subject.reply("writeprotect", uffd=uffd)  # not the kernel's: a wrong request stays wrong


@pytest.mark.parametrize("control", [None, "partial"])
def test_partial(subject: Subject, control: str | None) -> None:
    region, uffd = subject.wp_region()
    if control:
        subject.control(name=control)
    reply = subject.reply("writeprotect", uffd=uffd, addr=region["addr"] + PAGE, len=2 * PAGE, mode=1 << 2)
    assert reply["errno"] == "EINVAL"
    assert marked(subject, region) == [False, control == "partial", False, False]


def test_spoil_contents(subject: Subject) -> None:
    """Each refused call changes another byte of the page that is protected, which stays so and wakes nobody."""
    region, uffd = subject.wp_region()
    subject.writeprotect(uffd=uffd, addr=region["addr"] + PAGE, len=PAGE, mode=1)
    waiting = subject.access(actor=subject.actor()["actor"], how="rmw", addr=region["addr"] + PAGE, value=0)["ticket"]
    assert subject.ticket(ticket=waiting)["state"] == "blocked"
    look = {"addr": region["addr"], "pages": 4, "page_size": PAGE}
    sums = [subject.checksum(**look)["sums"]]
    subject.control(name="spoil_contents")
    for _ in range(2):
        assert subject.reply("writeprotect", uffd=uffd, addr=region["addr"], len=0, mode=1)["errno"] == "EINVAL"
        sums.append(subject.checksum(**look)["sums"])
    changed = [[number for number in range(4) if one[number] != sums[0][number]] for one in sums]
    assert changed == [[], [1], [1]]
    assert sums[1] != sums[2]
    assert marked(subject, region) == [False, True, False, False]
    assert subject.ticket(ticket=waiting)["state"] == "blocked"


def test_spoil_trap(subject: Subject) -> None:
    """After a refused call the page is free for everybody, and still told to have its marker."""
    region, uffd = subject.wp_region()
    subject.writeprotect(uffd=uffd, addr=region["addr"] + PAGE, len=PAGE, mode=1)
    subject.control(name="spoil_trap")
    assert subject.reply("writeprotect", uffd=uffd, addr=region["addr"], len=0, mode=1)["errno"] == "EINVAL"
    assert marked(subject, region) == [False, True, False, False]
    ticket = subject.access(actor=subject.actor()["actor"], how="rmw", addr=region["addr"] + PAGE, value=0)["ticket"]
    assert subject.ticket(ticket=ticket)["state"] == "done"


def test_contents_are_read_without_an_access(subject: Subject) -> None:
    """Of each page, where the machine lets its memory be read: the same bytes are the same sum, and no page is 0."""
    region = subject.region(kind="anon", pages=3)
    subject.stamp(addr=region["addr"], pages=2, page_size=PAGE, seed=1)
    sums = subject.contents(addr=region["addr"], pages=3)["sums"]
    if not sums:
        pytest.skip("/proc/kcore cannot be read here")
    assert sums[:2] == subject.checksum(addr=region["addr"], pages=2, page_size=PAGE)["sums"]
    assert sums[2] == "0"


@pytest.mark.parametrize("wrong", [{"pages": 0}, {"pages": 1, "stride": 8}, {}])
def test_wrong_contents(subject: Subject, wrong: dict[str, int]) -> None:
    region = subject.region(kind="anon", pages=1)
    assert "argument" in subject.reply("contents", addr=region["addr"], **wrong)["error"]


def test_wrong_mask(subject: Subject) -> None:
    region = subject.region(kind="anon", pages=1)

    def masks() -> tuple[int, int, int]:
        uffd = subject.uffd_open()["uffd"]
        api = subject.uffd_api(uffd=uffd, features=0)
        where = {"uffd": uffd, "addr": region["addr"], "len": region["len"]}
        ioctls = subject.register(**where, mode=WP)["ioctls"]
        subject.unregister(**where)
        return api["features"], api["ioctls"], ioctls

    true = masks()
    subject.control(name="wrong_mask")
    assert masks() == tuple(mask ^ 1 for mask in true)


def test_invert_marker(subject: Subject) -> None:
    region, uffd = subject.wp_region()
    subject.writeprotect(uffd=uffd, addr=region["addr"], len=PAGE, mode=1)
    assert marked(subject, region) == [True, False, False, False]
    subject.control(name="invert_marker")
    assert marked(subject, region) == [False, True, True, True]


@pytest.mark.parametrize("control", [None, "invert_marker"])
def test_markers(subject: Subject, control: str | None) -> None:
    region, uffd = subject.wp_region(pages=6)
    for first, pages in ((0, 1), (3, 3)):
        subject.writeprotect(uffd=uffd, addr=region["addr"] + first * PAGE, len=pages * PAGE, mode=1)
    if control:
        subject.control(name=control)
    expected = [[1, 3]] if control else [[0, 1], [3, 6]]
    assert subject.markers(addr=region["addr"], pages=6) == {"pages": 6, "ranges": expected}


def test_wrong_category(agent: Agent, subject: Subject) -> None:
    if not agent.call(op="caps")["result"]["pagemap_scan"]:
        pytest.skip("this kernel has no PAGEMAP_SCAN")
    region, _ = subject.wp_region(pages=2)
    scan = {"addr": region["addr"], "len": region["len"], "return_mask": PAGE_IS_WRITTEN | PAGE_IS_PRESENT}
    [[start, end, true]] = subject.pagemap_scan(**scan)["regions"]
    subject.control(name="wrong_category")
    assert subject.pagemap_scan(**scan)["regions"] == [[start, end, true ^ (PAGE_IS_WRITTEN | PAGE_IS_ACCESSED)]]
