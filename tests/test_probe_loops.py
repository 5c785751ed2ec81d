"""The native loops of the probe (latency.c, evict*.c, hist.c) on the running kernel: what it lacks (RWP) is skipped."""

from __future__ import annotations

import ctypes
import json
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from kselftests_py.lab import PipeChannel
from kselftests_py.lab.build import agent
from kselftests_py.measure import percentile, samples
from kselftests_py.paths import data_dir

Json = dict[str, Any]
Send = Callable[..., Json]

LATENCY = {"mode": "wp", "async": False, "kind": "anon", "access": "write", "pages": 16, "rounds": 3, "clock": "mono"}
PROTECT = {"mode": "wp", "kind": "anon", "pages": 16, "rounds": 3, "clock": "mono"}
SCAN = {**PROTECT, "hot": 5}
MISSING = LATENCY | {"mode": "missing"}
WATERFALL = {"mode": "wp", "kind": "anon", "access": "write", "pages": 16, "rounds": 3, "clock": "mono"}
PATH = {"path": "read", "kind": "anon", "pages": 16, "rounds": 2, "clock": "mono"}
EVICT = {"mode": "wp", "pages": 64, "writers": 2, "rounds": 5, "seed": 1, "variant": "documented", "timeout_ms": 60000}
ACCESS = {"accessor": "write", "kind": "anon", "mode": "wp"}
RACE = {"mode": "wp", "kind": "anon", "pages": 16, "rounds": 5, "seed": 1, "release": "resolve"}
ACCESSORS = [
    "write",
    "futex_wake_op",
    "io_uring_pinned_read",
    "process_vm_readv",
    "ptrace_peek",
    "execve",
    "robust_list",
]
BOTH = pytest.mark.parametrize("mode", ["wp", "rwp"])


@pytest.fixture
def send() -> Iterator[Send]:
    """Sends one operation to a fresh subject of a fresh agent and returns the reply."""
    channel = PipeChannel([str(agent())])

    def call(**request: Any) -> Json:
        reply: Json = json.loads(channel.call(json.dumps({"id": 1, **request}).encode(), 90.0))
        return reply

    subject = call(op="subject_new")["result"]["subject"]
    yield lambda op, **args: call(subject=subject, op=op, **args)
    channel.close()


def _result(reply: Json) -> Json:
    """The result; a kernel that lacks the feature, or does not let us have it, is skipped with its own words."""
    if reply.get("errno") in {"EOPNOTSUPP", "EPERM", "ENOSYS"}:
        pytest.skip(reply["message"])
    result: Json = reply["result"]
    return result


def _counts(histogram: Json) -> list[tuple[int, int]]:
    assert histogram["unit"] == "ticks"
    counts = [(value, count) for value, count in histogram["counts"]]
    assert counts == sorted(counts)
    return counts


@BOTH
@pytest.mark.parametrize("kind", ["anon", "shmem"])
@pytest.mark.parametrize("delivery", ["sync", "async"])
@pytest.mark.parametrize("access", ["read", "write"])
def test_each_protected_page_traps_once_a_round(send: Send, mode: str, kind: str, delivery: str, access: str) -> None:
    args = LATENCY | {"mode": mode, "kind": kind, "async": delivery == "async", "access": access}
    result = _result(send("fault_latency", **args))
    trapped, free = _counts(result["histogram"]), _counts(result["overhead"])
    traps = mode == "rwp" or access == "write"
    assert (samples(trapped), samples(free)) == (16 * 3, 16)
    assert result["faults"] == (16 * 3 if traps and delivery == "sync" else 0)
    if traps:
        assert percentile(trapped, 50) > percentile(free, 50)


def test_unprotected_pages_are_seen_not_to_trap(send: Send) -> None:
    send("control", name="skip_protect")
    assert _result(send("fault_latency", **LATENCY))["faults"] == 0


MISSED = [
    ("missing", "anon"),
    ("missing", "shmem"),
    ("missing-zeropage", "anon"),
    ("missing-zeropage", "shmem"),
    ("minor", "shmem"),
]


@pytest.mark.parametrize(("mode", "kind"), MISSED)
@pytest.mark.parametrize("access", ["read", "write", "gup", "gup-write"])
def test_each_page_that_is_not_mapped_traps_once_a_round(send: Send, mode: str, kind: str, access: str) -> None:
    result = _result(send("fault_latency", **LATENCY | {"mode": mode, "kind": kind, "access": access}))
    assert result["faults"] == 16 * 3 == samples(_counts(result["histogram"]))
    send("control", name="skip_protect")
    assert _result(send("fault_latency", **LATENCY | {"mode": mode, "kind": kind, "access": access}))["faults"] == 0


@pytest.mark.parametrize("mode", ["wp", "rwp", "missing"])
def test_waterfall_has_every_stage_of_every_fault(send: Send, mode: str) -> None:
    result = _result(send("fault_waterfall", **WATERFALL | {"mode": mode}))
    stages = {name: _counts(result[name]) for name in ("trap", "read", "ioctl", "resolve", "back", "total")}
    assert result["faults"] == 2 * 16 * 3  # half of them are woken by a call of their own
    assert {name: samples(counts) for name, counts in stages.items()} == dict.fromkeys(stages, 16 * 3)

    def together(*names: str) -> int:
        return sum(value * count for name in names for value, count in stages[name])

    assert together("trap", "read", "ioctl", "back") == together("total")
    assert all(percentile(stages[name], 50) > 0 for name in ("trap", "read", "ioctl", "resolve"))


@pytest.mark.parametrize("access", ["read", "write"])
def test_waterfall_of_no_fault_is_empty(send: Send, access: str) -> None:
    if access == "write":  # a read under WP is no fault anyway
        send("control", name="skip_protect")
    result = _result(send("fault_waterfall", **WATERFALL | {"access": access}))
    assert (result["faults"], result["trap"]["counts"], result["total"]["counts"]) == (0, [], [])


@BOTH
def test_protect_cost_has_one_sample_a_round(send: Send, mode: str) -> None:
    result = _result(send("protect_cost", **PROTECT | {"mode": mode}))
    assert [samples(_counts(result[name])) for name in ("protect", "resolve", "overhead")] == [3, 3, 16]


@BOTH
@pytest.mark.parametrize(("hot", "regions"), [(0, 0), (1, 1), (5, 5), (8, 8), (16, 1)])
def test_scan_finds_exactly_the_hot_pages(send: Send, mode: str, hot: int, regions: int) -> None:
    result = _result(send("scan_cost", **SCAN | {"mode": mode, "hot": hot}))
    assert (result["accessed"], result["regions"]) == (hot, regions)
    assert samples(_counts(result["scan"])) == 3


@BOTH
def test_scan_of_no_pages_has_its_samples(send: Send, mode: str) -> None:
    result = _result(send("scan_cost", **SCAN | {"mode": mode, "hot": 0, "absent": True}))
    assert samples(_counts(result["scan"])) == 3
    assert mode == "wp" or result["accessed"] == 0  # what WP calls written where there is no page is not claimed


KINDS_OF = {"copy": ["anon", "shmem"], "zeropage": ["anon", "shmem"], "continue": ["shmem"], "move": ["anon", "thp"]}
PLAIN = ("read", "child-read", "absent-write", "cow", "mremap", "exit", "gup", "gup-write", "swap-read", "numa-hint")
KINDS_OF |= {path: ["anon", "shmem", "thp"] for path in PLAIN} | {"empty-call": ["anon"]}
PROTECTED = ["write", "cow", "gup-write", "child-read", "move", "exit", "mremap", "close-armed", "unregister-armed"]
PROTECTED += ["set-mode", "fork-event", "mremap-event"]


@pytest.mark.parametrize(("path", "kind"), [(path, kind) for path, kinds in KINDS_OF.items() for kind in kinds])
def test_a_path_has_one_sample_a_round(send: Send, path: str, kind: str) -> None:
    result = _result(send("path_cost", **PATH | {"path": path, "kind": kind, "pages": 4}))
    assert samples(_counts(result["histogram"])) == 2


@BOTH
@pytest.mark.parametrize("path", PROTECTED)
def test_a_path_under_protection_has_one_sample_a_round(send: Send, mode: str, path: str) -> None:
    if (mode, path) == ("wp", "set-mode"):
        assert send("path_cost", **PATH | {"path": path, "mode": mode})["errno"] == "EINVAL"  # WP has no mode to set
    else:
        vmas = {"vmas": 7} if path == "set-mode" else {}
        result = _result(send("path_cost", **PATH | vmas | {"path": path, "mode": mode}))
        assert samples(_counts(result["histogram"])) == 2


def test_a_range_of_the_zero_page_may_be_1_gib(send: Send) -> None:
    result = _result(send("protect_cost", **PROTECT | {"kind": "zero", "pages": 262_144, "rounds": 1}))
    assert samples(_counts(result["protect"])) == 1


@BOTH
def test_documented_eviction_loses_nothing(send: Send, mode: str) -> None:
    result = _result(send("evict", **EVICT | {"mode": mode}))
    assert (result["lost_writes"], result["damaged"], result["asleep"]) == (0, 0, 0), result
    assert result["ambushes_trapped"] == result["rounds"] == 5
    assert result["evicted"] == result["fetched"] > 0
    # one page in eight is only read: wp cannot know, RWP does
    assert result["hot_evicted"] == (0 if mode == "rwp" else 5 * 64 // 8)


BROKEN = [
    ("rwp", "scan_before_sync", "lost_writes", 5),
    ("rwp", "stay_async", "lost_writes", 5),
    ("rwp", "skip_protect", "lost_writes", 5),
    ("rwp", "no_wake", "asleep", 1),
    ("wp", "stay_async", "lost_writes", 5),
    ("wp", "skip_protect", "lost_writes", 5),
    ("wp", "no_wake", "asleep", 1),
]


@pytest.mark.parametrize(("mode", "variant", "harm", "least"), BROKEN)
def test_each_missing_step_does_its_harm_every_time(send: Send, mode: str, variant: str, harm: str, least: int) -> None:
    result = _result(send("evict", **EVICT | {"mode": mode, "variant": variant}))
    assert result[harm] >= least, result
    assert bool(result["first_lost"]) == (harm == "lost_writes")
    assert bool(result["awaited"]) == (harm == "asleep")


@BOTH
def test_a_dropped_write_is_found(send: Send, mode: str) -> None:
    send("control", name="drop_write")
    result = _result(send("evict", **EVICT | {"mode": mode}))
    assert result["lost_writes"] == 1
    assert result["first_lost"] == "round 1: page 1: writer 2 wrote 1 and reads 0"


@BOTH
def test_a_bit_flipped_in_storage_is_damage_and_no_lost_write(send: Send, mode: str) -> None:
    send("control", name="corrupt_evicted")
    result = _result(send("evict", **EVICT | {"mode": mode}))
    assert result["damaged"] > 0
    assert (result["lost_writes"], result["asleep"], result["ambushes_trapped"]) == (0, 0, 5)


@pytest.mark.parametrize("call", ["writeprotect", "rwprotect"])
def test_a_protecting_call_that_corrupts_flips_one_bit_of_its_last_page(send: Send, call: str) -> None:
    mode, feature = {"writeprotect": (2, 1 << 0), "rwprotect": (8, 1 << 17)}[call]
    region = _result(send("region", kind="anon", pages=4))
    where = {"addr": region["addr"], "pages": 4, "page_size": region["page_size"], "seed": 1}
    _result(send("stamp", **where))
    uffd = _result(send("uffd_open"))["uffd"]
    if "errno" in send("uffd_api", uffd=uffd, features=feature):
        pytest.skip(f"the kernel has no {call}")
    span = {"uffd": uffd, "addr": region["addr"], "len": 3 * region["page_size"], "mode": 1}
    _result(send("register", **span | {"mode": mode}))
    _result(send("control", name="corrupt_protect"))
    _result(send(call, **span))
    _result(send(call, **span | {"mode": 0}))
    assert _result(send("verify", **where))["bad"] == [2]


def test_a_loop_that_takes_too_long_says_how_far_it_came(send: Send) -> None:
    reply = send("evict", **EVICT | {"rounds": 1_000_000, "timeout_ms": 1000})
    if "error" not in reply:
        _result(reply)
    assert "rounds took half of timeout_ms (1000)" in reply["error"]


@pytest.mark.parametrize("accessor", ACCESSORS)
def test_an_access_by_the_kernel_leaves_and_gets_the_right_bytes(send: Send, accessor: str) -> None:
    result = _result(send("kernel_access", **ACCESS | {"accessor": accessor, "async": True}))
    assert (result["armed"], result["finished"], result["page"], result["got"]) == (True, True, True, True)


@pytest.mark.parametrize(("control", "seen"), [("skip_protect", "escaped"), ("lose_wake", "asleep")])
def test_a_race_that_is_lost_is_told(send: Send, control: str, seen: str) -> None:
    assert _result(send("race", **RACE))[seen] == 0
    send("control", name=control)
    lost = _result(send("race", **RACE | {"timeout_ms": 8000}))
    assert lost[seen] == 1
    assert lost["first"].startswith("round ")


WRONG = [
    ("fault_latency", LATENCY, {"pages": 0}, "pages: must be 1 to 262144"),
    ("fault_latency", LATENCY, {"pages": 262145}, "pages: must be 1 to 262144"),
    ("fault_latency", LATENCY, {"rounds": 0}, "rounds: must be 1 to 1000000"),
    ("fault_latency", LATENCY, {"rounds": 1_000_001}, "rounds: must be 1 to 1000000"),
    ("fault_latency", LATENCY, {"mode": "wrp"}, "mode: must be wp, rwp, missing, missing-zeropage or minor"),
    (
        "fault_latency",
        LATENCY,
        {"mode": "minor", "async": True, "kind": "shmem"},
        "async: minor faults are always told",
    ),
    ("fault_latency", LATENCY, {"kind": "file"}, "kind: must be anon, shmem, thp, shmem_thp, hugetlb or zero"),
    ("fault_waterfall", WATERFALL, {"mode": "wrp"}, "mode: must be wp, rwp,"),
    ("fault_waterfall", WATERFALL, {"access": "exec"}, "access: must be read, write, gup or gup-write"),
    ("protect_cost", PROTECT, {"mode": "missing"}, "mode: must be wp or rwp"),
    ("fault_latency", LATENCY, {"clock": "utc"}, "clock: must be mono or tsc"),
    ("fault_latency", LATENCY, {"access": "exec"}, "access: must be read, write, gup or gup-write"),
    ("fault_latency", LATENCY, {"access": None}, "access"),
    ("fault_latency", LATENCY, {"async": 1}, "async"),
    ("protect_cost", PROTECT, {"pages": -1}, "pages"),
    ("scan_cost", SCAN, {"hot": 17}, "hot: must be at most pages"),
    ("scan_cost", SCAN, {"hot": 1, "absent": True}, "hot: no page is hot where none is"),
    ("path_cost", PATH, {"path": "nowhere"}, "path: there is no nowhere"),
    ("path_cost", PATH, {"path": "register"}, "path: register needs a mode"),
    ("path_cost", PATH, {"path": "fork-event"}, "path: fork-event needs a mode"),
    ("path_cost", PATH, {"path": "copy", "mode": "wp"}, "path: copy takes no mode"),
    ("path_cost", PATH, {"vmas": 17}, "vmas"),
    ("path_cost", PATH, {"mode": "wrp"}, "mode: must be wp or rwp"),
    ("evict", EVICT, {"pages": 15}, "pages: eviction needs at least 16"),
    ("evict", EVICT, {"writers": 0}, "writers: must be 1 to 16"),
    ("evict", EVICT, {"writers": 17}, "writers: must be 1 to 16"),
    ("evict", EVICT, {"variant": "best"}, "variant: must be documented,"),
    ("evict", EVICT, {"variant": "scan_before_sync"}, "wp has no sync mode"),
    ("evict", EVICT, {"timeout_ms": 999}, "timeout_ms: must be 1000"),
    ("kernel_access", ACCESS, {"accessor": "telepathy"}, "accessor: none is called telepathy"),
    ("kernel_access", ACCESS, {"kind": "hugetlb"}, "kind: must be anon or shmem"),
    ("kernel_access", ACCESS, {"timeout_ms": 60001}, "timeout_ms"),
    ("race", RACE, {"pages": 129}, "pages: must be 1 to 128"),
    ("race", RACE, {"release": "pray"}, "release: must be resolve, dontwake, set_mode or close"),
    ("race", RACE, {"release": "set_mode"}, "release: wp has no mode to set"),
    ("race", RACE, {"disturb": "all"}, "disturb: nothing is called all"),
]


@pytest.mark.parametrize(("op", "good", "change", "text"), WRONG)
def test_wrong_argument_is_refused_by_name(send: Send, op: str, good: Json, change: Json, text: str) -> None:
    assert text in send(op, **{**good, **change})["error"]


@pytest.mark.parametrize(
    ("op", "args"),
    [
        ("fault_latency", LATENCY),
        ("fault_latency", LATENCY | {"mode": "rwp"}),
        ("scan_cost", SCAN | {"hot": 17}),
        ("path_cost", PATH | {"path": "fork"}),
        ("path_cost", PATH | {"path": "unregister-armed", "mode": "wp"}),
        *(("path_cost", PATH | {"path": name, "mode": "wp"}) for name in ("close-armed", "exit", "move", "set-mode")),
        ("path_cost", PATH | {"path": "copy"}),
        ("fault_latency", MISSING),
        ("fault_waterfall", WATERFALL),
        ("fault_waterfall", WATERFALL | {"mode": "rwp"}),
        ("evict", EVICT),
        ("evict", EVICT | {"mode": "rwp"}),
        ("evict", EVICT | {"variant": "no_wake"}),
        *(("kernel_access", ACCESS | {"accessor": name}) for name in ACCESSORS),
        *(("race", RACE | {"disturb": name}) for name in ("none", "fork", "unmap", "vanish", "descriptor", "reader")),
    ],
)
def test_a_loop_leaves_nothing_behind(send: Send, op: str, args: Json) -> None:
    def held() -> tuple[int, int]:
        process = Path("/proc") / str(pid)
        return len(list((process / "task").iterdir())), len(list((process / "fd").iterdir()))

    status = _result(send("proc_read", name="status"))["text"]
    pid = next(line.split()[1] for line in status.splitlines() if line.startswith("Pid:"))
    before = held()
    send(op, **args)
    assert held() == before
    assert "kst-loop" not in _result(send("proc_read", name="maps"))["text"]


@pytest.fixture(scope="module")
def hist(tmp_path_factory: pytest.TempPathFactory) -> ctypes.CDLL:
    source, built = Path(data_dir("native_probes")), tmp_path_factory.mktemp("hist") / "hist.so"
    subprocess.run(["gcc", "-shared", "-fPIC", "-std=gnu11", "-o", built, source / "hist.c", "-ljansson"], check=True)
    library = ctypes.CDLL(str(built))
    for function in ("kst_hist_new", "kst_hist_json"):
        getattr(library, function).restype = ctypes.c_void_p
    library.json_dumps.restype = ctypes.c_char_p
    return library


KEPT = 1024  # samples that a histogram tells as they are


def _through(hist: ctypes.CDLL, values: list[int]) -> list[int]:
    pointer = ctypes.c_void_p(hist.kst_hist_new())
    for value in values:
        hist.kst_hist_add(pointer, ctypes.c_uint64(value))
    counts = _counts(json.loads(hist.json_dumps(ctypes.c_void_p(hist.kst_hist_json(pointer)), ctypes.c_size_t(0))))
    hist.kst_hist_free(pointer)
    return [value for value, count in counts for _ in range(count)]


VALUES = st.lists(st.integers(0, 2**40 - 1) | st.integers(4090, 4110), min_size=1, max_size=20)


@given(VALUES)
def test_histogram_keeps_few_values_as_they_are(hist: ctypes.CDLL, values: list[int]) -> None:
    assert _through(hist, values) == sorted(values)


@given(VALUES)
def test_histogram_keeps_every_value_within_its_precision(hist: ctypes.CDLL, values: list[int]) -> None:
    many = [0] * KEPT + values
    found = _through(hist, many)
    assert len(found) == len(many)
    for value, was in zip(found, sorted(many), strict=True):
        assert value == was if was < 4096 else abs(value - was) * 2048 < was
