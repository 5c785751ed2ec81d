"""What one test said on one kernel.

The outcomes are those of DESIGN.md; their names are KCIDB's where KCIDB has one.
"""

from __future__ import annotations

import json
import math
from enum import StrEnum
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

SCHEMA_VERSION = 1

# What a guest writes is bounded here, once, so that no report has to fear it.
MAX_MESSAGE = 2_000
MAX_LOG = 64 * 1024


class Outcome(StrEnum):
    """How a test ended."""

    PASS = "PASS"
    FAIL = "FAIL"
    SKIP = "SKIP"
    ERROR = "ERROR"
    CRASH = "CRASH"
    HANG = "HANG"
    DONE = "DONE"
    MISS = "MISS"


class Metric(msgspec.Struct, frozen=True, kw_only=True):
    """One measured number, with what is known of its distribution."""

    name: Annotated[str, Meta(description="what was measured, for example `fault_p50`")]
    value: Annotated[float, Meta(description="the number; finite")]
    unit: Annotated[str, Meta(description='"instructions", "ns", "pages", "bytes", "1" (a count), "ratio", ...')]
    mode: Annotated[
        Literal["exact", "wall", "none"],
        Meta(description="exact: instructions counted by QEMU icount; wall: real time; none: neither (a count)"),
    ] = "none"
    labels: Annotated[
        dict[str, str],
        Meta(
            description="where the number belongs in the comparison: path (fault, protect, scan, evict, idle, "
            "kernel_access, waterfall, and those of docs/latency.md), protection (wp, rwp), delivery (sync, async), "
            "kind (anon, shmem, ...), "
            "access (read, write); "
            "trapped=no where the access is not trapped; path=overhead: what was subtracted from the others; "
            "more are allowed"
        ),
    ] = {}
    count: Annotated[int, Meta(ge=0, description="samples behind the number; 0: not sampled")] = 0
    spread: Annotated[
        tuple[float, float] | None, Meta(description="lower and upper bound of the samples, usually p10 and p90")
    ] = None
    histogram: Annotated[
        list[tuple[float, Annotated[int, Meta(ge=0)]]] | None,
        Meta(description="[value, count] pairs in `unit`, sorted by value"),
    ] = None

    percentiles: Annotated[
        dict[str, float],
        Meta(description="of wall time: p50 to p99.9 of the histogram, each where at least one sample lies above it"),
    ] = {}

    def __post_init__(self) -> None:
        # JSON has no NaN: msgspec would write null, and the line could not be read back.
        numbers = [self.value, *(self.spread or ()), *(value for value, _ in self.histogram or ())]
        numbers += self.percentiles.values()
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError(f"metric {self.name}: a number is not finite")


class Where(msgspec.Struct, frozen=True, kw_only=True):
    """In which functions the instructions of one exact sample are; the rest of `ticks` is user space."""

    ticks: Annotated[int, Meta(ge=0, description="instructions of the sample, its clock readings included")]
    entry: Annotated[
        int,
        Meta(ge=0, description="those of `functions` in .entry.text and .noinstr.text: entry and exit, memcpy, memset"),
    ] = 0
    functions: Annotated[dict[str, int], Meta(description="instructions in each function of the kernel")] = {}
    by: Annotated[str, Meta(description="digest of what told them apart")] = ""

    @property
    def kernel(self) -> int:
        """Instructions in the kernel, without entry and exit."""
        return sum(self.functions.values()) - self.entry

    @property
    def user(self) -> int:
        """Instructions in user space."""
        return self.ticks - self.kernel - self.entry


class Record(msgspec.Struct, frozen=True, kw_only=True):
    """One test on one kernel; one line of ``results.jsonl``. (`kernel`, `id`) is unique in a run."""

    schema_version: Annotated[Literal[1], Meta(description="version of this schema")] = 1
    id: Annotated[str, Meta(description="stable name of the test, the same on every kernel and in every run")]
    suite: Annotated[str, Meta(description="trapping, eviction, idle, latency, ...")]
    kernel: Annotated[str, Meta(description="`label` of the kernel in the manifest")]
    outcome: Annotated[
        Outcome,
        Meta(
            description="PASS; FAIL; SKIP (the kernel lacks what the test needs); ERROR (the test broke); CRASH (oops, "
            "panic, WARN, taint, splat in the kernel log); HANG (no answer within its bound); DONE (measured, no "
            "verdict); MISS (the harness could not run it)"
        ),
    ]
    duration_s: Annotated[float, Meta(ge=0, description="wall time of the test, seconds")] = 0.0
    message: Annotated[str, Meta(description="one line: why; empty for a pass")] = ""
    log: Annotated[
        str, Meta(description="what explains the outcome: assertion, kernel log excerpt; at most 64 KiB")
    ] = ""
    claim: Annotated[str, Meta(description="what the test claims of the kernel, and the claim's source")] = ""
    finding: Annotated[str, Meta(description="the written finding because of which the test is expected to fail")] = ""
    metrics: Annotated[list[Metric], Meta(description="what was measured")] = []
    where: Annotated[
        dict[str, Where],
        Meta(description="of an exact test that was counted by function: the median of each of the probe's histograms"),
    ] = {}
    block: Annotated[
        int, Meta(ge=0, description="which boot, or block of tests, of an interleaved comparison; 0: it is none")
    ] = 0
    profile: Annotated[str, Meta(description='kind of machine: "functional", "exact", ...; empty: not said')] = ""

    @property
    def expected_failure(self) -> bool:
        """It failed as its finding says it would."""
        return bool(self.finding) and self.outcome is Outcome.FAIL

    @property
    def unexpected_pass(self) -> bool:
        """It passed although its finding says that it fails: the finding is out of date."""
        return bool(self.finding) and self.outcome in (Outcome.PASS, Outcome.DONE)

    @property
    def counts_as_failure(self) -> bool:
        """The kernel is to blame. A crash or a hang is never excused by a finding."""
        if self.outcome in (Outcome.CRASH, Outcome.HANG):
            return True
        return self.unexpected_pass or (self.outcome is Outcome.FAIL and not self.expected_failure)

    @property
    def failed(self) -> bool:
        """The kernel failed it: a failure, and not one that is missing where a finding has it."""
        return self.counts_as_failure and not self.unexpected_pass

    def bounded(self) -> Record:
        """The same record with its text cut to the schema's bounds."""
        return msgspec.structs.replace(
            self,
            message=cut(self.message, MAX_MESSAGE),
            log=cut(self.log, MAX_LOG),
            claim=cut(self.claim, MAX_MESSAGE),
        )


def encode(struct: msgspec.Struct, indent: int | None = None) -> bytes:
    """JSON in UTF-8. Lone surrogates, which is how Python holds a guest's invalid bytes, become U+FFFD: msgspec's own
    encoder would refuse them, and the record of the test that met them would be lost."""
    text = json.dumps(msgspec.to_builtins(struct), ensure_ascii=False, allow_nan=False, indent=indent)
    return text.encode("utf-16", "surrogatepass").decode("utf-16", "replace").encode()


def cut(text: str, limit: int) -> str:
    """At most `limit` characters: beginning and end, since a splat starts with the cause and ends with the trace."""
    if len(text) <= limit:
        return text
    note = "\n[... cut ...]\n"
    half = (limit - len(note)) // 2
    return text[:half] + note + text[len(text) - half :]
