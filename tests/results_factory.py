"""A made-up run that looks like a real one: two kernels, every suite, every outcome. Numbers have fixed seeds."""

from __future__ import annotations

import random
from collections import Counter
from pathlib import Path
from typing import Any

from kselftests_py.kernels import KernelImage
from kselftests_py.measure import percentile, spread
from kselftests_py.results import Host, KernelEntry, Manifest, Metric, Outcome, Record, RunFolder

OLD, NEW = "debian:7.2", "debian:7.3"
# What a guest may write, to break whoever prints it.
HOSTILE = (
    "\x1b[31mred\x1b]0;title\x07 ]]> <script>alert(1)</script> & [bold]x[/bold] # SKIP "
    "\x00 \x85 \udcff \ufffe \u202e rtl"
)
SPLAT = """\
BUG: kernel NULL pointer dereference, address: 0000000000000008
Oops: Oops: 0000 [#1] SMP NOPTI
RIP: 0010:mrwprotect_range+0x52/0x1a0
Call Trace:
 <TASK>
 userfaultfd_rwprotect+0xd1/0x160
 userfaultfd_ioctl+0x4a2/0x1130
Kernel panic - not syncing: Fatal exception
"""
# Instructions for one access, close to what was measured on the two kernels.
EXACT = {
    (OLD, "wp", "async", "anon", "write"): 1702,
    (OLD, "wp", "async", "shmem", "write"): 1921,
    (OLD, "wp", "sync", "anon", "write"): 18_902,
    (OLD, "wp", "sync", "shmem", "write"): 19_204,
    (NEW, "wp", "async", "anon", "write"): 1678,
    (NEW, "wp", "async", "shmem", "write"): 1883,
    (NEW, "wp", "sync", "anon", "write"): 18_811,
    (NEW, "wp", "sync", "shmem", "write"): 19_120,
    (NEW, "rwp", "async", "anon", "write"): 1627,
    (NEW, "rwp", "async", "anon", "read"): 1613,
    (NEW, "rwp", "async", "shmem", "write"): 1476,
    (NEW, "rwp", "async", "shmem", "read"): 1462,
    (NEW, "rwp", "sync", "anon", "write"): 18_790,
    (NEW, "rwp", "sync", "anon", "read"): 18_755,
    (NEW, "rwp", "sync", "shmem", "write"): 18_640,
    (NEW, "rwp", "sync", "shmem", "read"): 18_601,
}


def record(**fields: Any) -> Record:
    """A passing record with some fields changed."""
    return Record(
        **{"id": "trapping/test_x", "suite": "trapping", "kernel": NEW, "outcome": Outcome.PASS, "duration_s": 0.1}
        | fields
    )


def manifest(accelerator: str = "tcg", **fields: Any) -> Manifest:
    """The manifest of a finished run of both kernels."""
    kernels = [
        KernelEntry(
            label=label,
            spec=label,
            release=release,
            role=role,
            digest=digit * 64,
            config_digest=digit * 64,
            provenance={"linux-binary": f"{release} (suite made-up, sha256 {digit * 64})"},
            capabilities={"rwp": role == "kernel", "uffd_features": 131071},
            qemu_cmdlines=[f"qemu-system-x86_64 -machine q35,hpet=off -accel {accelerator} -smp 2 -m 1G"],
            accelerator=accelerator,
            accelerator_reason="/dev/kvm is there but a bounded boot on it failed: QEMU aborted on an MSR",
            boot_s=[6.1, 6.4],
        )
        for label, release, role, digit in (
            (NEW, "7.3.4+deb13-amd64", "kernel", "a"),
            (OLD, "7.2.12+deb13-amd64", "baseline", "b"),
        )
    ]
    whole = Manifest(
        kst_version="0.1.0",
        started="2026-11-22T21:00:00Z",
        finished="2026-11-22T21:03:40Z",
        host=Host(uname="Linux 6.1.0 x86_64", cpus=2, memory=8 << 30),
        kernels=kernels,
        probe_digest="c" * 64,
        versions={"python": "3.11.7", "qemu": "7.2.15", "virtme-ng": "1.42"},
        seeds={"idle": 42},
        options={"mode": "both", "timeout": 600},
        argv=["kst", "run"],
    )
    for name, value in fields.items():
        setattr(whole, name, value)
    return whole


def sampled(name: str, centre: float, unit: str, mode: Any, labels: dict[str, str], noise: float) -> Metric:
    """A metric with a skewed distribution around `centre`."""
    # str, since the hash of a tuple of strings differs from process to process.
    draw = random.Random(str((name, centre, mode, sorted(labels.items()))))
    values = Counter(round(centre * (1 + noise * draw.gammavariate(1.5, 1.0))) for _ in range(400))
    values[round(centre * 3.1)] += 1
    histogram = sorted(values.items())
    value = percentile(histogram, 50)
    return Metric(
        name=name,
        value=value,
        unit=unit,
        mode=mode,
        labels=labels,
        count=401,
        spread=spread(histogram),
        histogram=histogram,
    )


def measured() -> list[Record]:
    """The latency, idle and eviction records of both kernels."""
    out = []
    for (kernel, protection, delivery, kind, access), centre in EXACT.items():
        labels = {"path": "fault", "protection": protection, "delivery": delivery, "kind": kind, "access": access}
        name = f"latency/test_fault[{protection}-{delivery}-{kind}-{access}]"
        exact = sampled("fault_p50", centre, "instructions", "exact", labels, 0.002)
        wall = sampled("fault_p50", centre * 2.6, "ns", "wall", labels, 0.15)
        for suffix, metric in (("exact", exact), ("wall", wall)):
            out.append(
                record(
                    id=f"{name}-{suffix}", suite="latency", kernel=kernel, outcome=Outcome.DONE, metrics=[metric],
                    duration_s=0.8, claim="what one trapped access costs",
                )
            )  # fmt: skip
    for kernel, protection, cost in ((OLD, "wp", 41.0), (NEW, "wp", 40.5), (NEW, "rwp", 43.25)):
        for path in ("protect", "scan"):
            metric = Metric(
                name="cost_per_page",
                value=cost if path == "protect" else cost / 2,
                unit="instructions",
                mode="exact",
                labels={"path": path, "protection": protection, "kind": "shmem"},
                count=512,
            )
            out.append(
                record(
                    id=f"latency/test_{path}[{protection}]", suite="latency", kernel=kernel, outcome=Outcome.DONE,
                    metrics=[metric],
                )
            )  # fmt: skip
    for kernel in (OLD, NEW):
        metric = Metric(
            name="read_hot_pages_evicted_by_wp_only",
            value=57,
            unit="pages",
            labels={"path": "idle", "kind": "anon"},
        )
        out.append(record(id="idle/test_wp_async_misses_reads", suite="idle", kernel=kernel, metrics=[metric]))
    return out


def judged() -> list[Record]:
    """Tests with every outcome."""
    claim = "a read of a protected page is trapped exactly once (Documentation/admin-guide/mm/userfaultfd.rst)"
    out = [
        record(id=f"trapping/test_rwp_{access}_traps[{kind}-{delivery}]", claim=claim)
        for access in ("read", "write")
        for kind in ("anon", "shmem")
        for delivery in ("sync", "async")
    ]
    out += [
        record(id=f"trapping/test_wp_write_traps[{kind}]", kernel=kernel)
        for kind in ("anon", "shmem")
        for kernel in (OLD, NEW)
    ]
    out += [
        record(id=one.id, kernel=OLD, outcome=Outcome.SKIP, message="rwp: the kernel refuses UFFDIO_REGISTER_MODE_RWP")
        for one in out[:8]
    ]
    out += [
        record(
            id="trapping/test_edges[last]", outcome=Outcome.FAIL, message="assert [3] == [3, 4]", claim=claim,
            log="    assert trapped == [3, 4]\nE   assert [3] == [3, 4]\nE     Right contains one more item: 4",
        ),
        record(
            id="trapping/test_fork", outcome=Outcome.CRASH, message="Oops in mrwprotect_range", log=SPLAT
        ),
        record(id="eviction/test_no_wake", suite="eviction", outcome=Outcome.HANG, message="no answer in 10 s"),
        record(id="eviction/test_broken", suite="eviction", outcome=Outcome.ERROR, message="KeyError: 'fetched'"),
        record(id="eviction/test_missed", suite="eviction", outcome=Outcome.MISS, message="the SSH channel was lost"),
        record(
            id="trapping/test_thp", outcome=Outcome.FAIL, finding="F001", message="file THP is not trapped", log="known"
        ),
        record(id="trapping/test_ksm", finding="F002"),
        record(id=f"trapping/test_hostile[{HOSTILE}]", outcome=Outcome.FAIL, message=HOSTILE, log=f"{HOSTILE}\nok 1 x"),
    ]  # fmt: skip
    return out


def run_folder(path: Path, records: list[Record], run_manifest: Manifest | None = None) -> RunFolder:
    """A run folder that holds them."""
    run = RunFolder.create(path)
    run.write_manifest(run_manifest or manifest())
    for one in records:
        run.append(one)
    return run


HOW = {"probe": "p" * 64, "qemu": "QEMU 7", "memory": "1G"}
"""How a kernel would be measured here."""
PLUGIN = ("-plugin", "x")
Tried = list[tuple[str, tuple[str, ...]]]
"""Releases, and what QEMU was to be told of a plugin."""


def made(spec: str, _note: object = None) -> KernelImage:
    release = spec.removeprefix("debian:")
    return KernelImage(spec, release, Path("vmlinuz"), None, None, {"7.2.13": "a", "7.3.4": "b"}[release] * 64, {})
