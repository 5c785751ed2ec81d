"""Replay files, shrinking, and the table of what is known; no kernel."""

from __future__ import annotations

import json
from typing import Any

import msgspec
import pytest
from explore_walk import WP

from kselftests_py.errors import UsageError
from kselftests_py.explore import kept, known
from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Claim, Replay, encode
from kselftests_py.explore.model import Model
from kselftests_py.explore.reduce import fewer, reduce, without
from kselftests_py.explore.rules import apply
from kselftests_py.paths import data_dir

RANGE: dict[str, Any] = {"region": 0, "first": 0, "count": 2}
STEPS: tuple[s.Step, ...] = (
    s.Map(kind="anon", pages=2),
    s.Map(kind="shmem", pages=1),
    s.Open(features=WP),  # type: ignore[arg-type]
    s.Open(),
    s.Thread(),
    s.Thread(),
    s.Populate(value=5, **RANGE),
    s.Register(uffd=0, mode=("wp",), **RANGE),
    s.Protect(uffd=0, ioctl="writeprotect", **RANGE),
    s.Access(actor=1, how="write", region=0, page=1, value=7),
    s.Unregister(uffd=0, **RANGE),
)
ASLEEP = Claim(step=10, check="state", what=1, expected=("done",), seen="blocked")
SEQUENCE = s.Sequence(steps=STEPS, seed=3, made_by="a test")


def text(**changes: Any) -> bytes:
    given = msgspec.to_builtins(Replay(format=1, sequence=SEQUENCE, claim=ASLEEP))
    return json.dumps(given | changes).encode()


def test_file_comes_back_as_it_was() -> None:
    replay = Replay(format=1, sequence=SEQUENCE, claim=ASLEEP)
    assert kept.decoded(encode(replay), "x") == replay


def test_every_sequence_that_was_kept_has_a_page_that_is_surely_protected() -> None:
    """Else its negative controls would have nothing to lie about."""
    files = sorted((data_dir("suites") / "trapping" / "explored").glob("*.json"))
    assert files
    for file in files:
        model, seen = Model(), False
        for step in kept.read(file).sequence.steps:
            apply(model, step)
            model.settle(None)
            seen = seen or any(all(state.marked for state in page.states) for page in model.pages.values())
        assert seen, file.name


def steps_with(**fields: Any) -> dict[str, Any]:
    return {"steps": [{"op": "map", "kind": "anon", "pages": 2}, fields]}


@pytest.mark.parametrize(
    ("raw", "told"),
    [
        (b"", "no replay file"),
        (b"\xff\xfe{}", "no replay file"),
        (b"[" * 100_000, "no replay file"),
        (text()[:-3], "no replay file"),
        (text(format=2), "is of format 2; this kst replays format 1"),
        (text(format="one"), "no replay file"),
        (text(more=1), "unknown field `more`"),
        (text(sequence=steps_with(op="teleport")), "teleport"),
        (text(sequence=steps_with(op="protect", uffd=0, ioctl="rm", region=0, first=0, count=1)), "Invalid enum value"),
        (text(sequence=steps_with(op="map", kind="anon", pages=10**9)), "1024"),
        (text(sequence={"steps": [{"op": "thread"}] * 201}), "length <= 200"),
        (
            text(sequence=steps_with(op="access", actor=0, how="read", region=0, page=0), claim=None),
            "the model cannot judge",
        ),
        (text(sequence=steps_with(op="thread"), claim={"step": 9, "check": "crash"}), "the claim is of step 9"),
    ],
)
def test_broken_file_is_a_usage_error_of_one_line(raw: bytes, told: str) -> None:
    with pytest.raises(UsageError, match=r"file\.json: ") as caught:
        kept.decoded(raw, "file.json")
    assert told in str(caught.value)
    assert "\n" not in str(caught.value)


def test_step_goes_only_if_nothing_needs_what_it_makes() -> None:
    assert without(STEPS, 0) is None
    assert without(STEPS, 2) is None
    fewer = without(STEPS, 4)
    assert fewer is not None
    assert fewer[8] == s.Access(actor=0, how="write", region=0, page=1, value=7)
    forked = (*STEPS[:6], s.Fork(), s.Thread(process=1))
    assert without(forked, 6) is None
    assert without(forked, 7) == forked[:7]


def test_reducing_takes_away_what_the_failure_does_not_need() -> None:
    def still(sequence: s.Sequence) -> Claim | None:
        """As a kernel that is always asleep after UFFDIO_UNREGISTER of a thread that was blocked."""
        last = sequence.steps[-1]
        if not isinstance(last, s.Unregister) or not any(isinstance(one, s.Protect) for one in sequence.steps):
            return None
        if not any(isinstance(one, s.Access) for one in sequence.steps):
            return None
        return msgspec.structs.replace(ASLEEP, step=len(sequence.steps) - 1, what=0)

    smallest, claim = reduce(SEQUENCE, ASLEEP, still)
    made = [type(one) for one in smallest.steps]
    assert made == [s.Map, s.Open, s.Thread, s.Protect, s.Access, s.Unregister]
    assert claim.step == 5
    assert smallest.steps[1] == s.Open()


def test_what_is_dear_to_try_is_reduced_in_few_tries() -> None:
    tries = 0

    def still(sequence: s.Sequence) -> Claim | None:
        nonlocal tries
        tries += 1
        crashes = {s.Protect, s.Access} <= {type(one) for one in sequence.steps}
        return Claim(step=len(sequence.steps), check="crash") if crashes else None

    waits = tuple(s.Wake(uffd=0, **RANGE) for _ in range(60))
    long = msgspec.structs.replace(SEQUENCE, steps=(*STEPS[:9], *waits[:30], *STEPS[9:], *waits[30:]))
    *_, (smallest, claim) = fewer(long, still)
    assert [type(one) for one in smallest.steps] == [s.Map, s.Open, s.Thread, s.Protect, s.Access]
    assert claim.step == 5
    assert tries < len(long.steps) // 2


def test_known_finding_is_recognised_and_nothing_beside_it() -> None:
    finding = known.recognise(SEQUENCE, ASLEEP)
    assert finding is not None
    assert finding.finding == "F001"
    replace = msgspec.structs.replace
    for other in (replace(ASLEEP, seen="SIGSEGV"), replace(ASLEEP, check="marked"), replace(ASLEEP, step=9)):
        assert known.recognise(SEQUENCE, other) is None
    missing = s.Register(uffd=0, mode=("wp", "missing"), **RANGE)  # there the kernel wakes
    steps = (*STEPS[:7], missing, *STEPS[8:])
    assert known.recognise(s.Sequence(steps=steps), ASLEEP) is None
    beside = s.Register(uffd=0, mode=("wp", "missing"), region=0, first=0, count=1)  # wakes who waits for page 0 alone
    steps = (*STEPS[:7], beside, s.Register(uffd=0, mode=("wp",), region=0, first=1, count=1), *STEPS[8:])
    assert known.recognise(s.Sequence(steps=steps), replace(ASLEEP, step=11)) is finding


def test_refused_writeprotect_is_known_ahead_of_the_offending_page_only() -> None:
    """F003: page 1 is not registered; only page 0 is done all the same."""
    one = RANGE | {"count": 1}
    steps = (*STEPS[:7], s.Register(uffd=0, mode=("wp",), **one), s.Protect(uffd=0, ioctl="writeprotect", **RANGE))
    sequence = s.Sequence(steps=steps)
    claim = Claim(step=8, check="marked", what=0, page=0, expected=("no",), seen="yes")
    finding = known.recognise(sequence, claim)
    assert finding is not None
    assert finding.finding == "F003"
    assert known.recognise(sequence, msgspec.structs.replace(claim, page=1)) is None
    assert known.recognise(sequence, msgspec.structs.replace(claim, seen="no", expected=("yes",))) is None


def test_reclaimed_shared_memory_is_known_of_read_write_protection_only() -> None:
    """F025."""
    for mode, ioctl, expected in (("rwp", "rwprotect", "F025"), ("wp", "writeprotect", None)):
        steps = (
            s.Map(kind="shmem", pages=2),
            s.Open(features=(*WP, "RWP")),  # type: ignore[arg-type]
            s.Populate(value=5, **RANGE),
            s.Register(uffd=0, mode=(mode,), **RANGE),  # type: ignore[arg-type]
            s.Protect(uffd=0, ioctl=ioctl, **RANGE),  # type: ignore[arg-type]
            s.Madvise(advice="PAGEOUT", region=0, first=0, count=1),
        )
        claim = Claim(step=5, check="marked", what=0, page=0, expected=("yes",), seen="no")
        finding = known.recognise(s.Sequence(steps=steps), claim)
        assert (finding and finding.finding) == expected
        assert known.recognise(s.Sequence(steps=steps), msgspec.structs.replace(claim, page=1)) is None


@pytest.mark.parametrize(
    ("prot", "delivery", "expected"), [("r", ("RWP_ASYNC",), "F032"), ("rw", ("RWP_ASYNC",), None), ("r", (), None)]
)
def test_locked_memory_that_becomes_writable_is_known_in_async_mode_only(
    prot: s.Prot, delivery: tuple[s.Feature, ...], expected: str | None
) -> None:
    """F032; where it was writable before, or a trap would tell of it, it is none."""
    steps = (
        s.Map(kind="anon", pages=2),
        s.Populate(value=5, **RANGE),
        s.Mprotect(prot=prot, **RANGE),
        s.Mlock(**RANGE),
        s.Open(features=("RWP", *delivery)),
        s.Register(uffd=0, mode=("rwp",), **RANGE),
        s.Protect(uffd=0, ioctl="rwprotect", **RANGE),
        s.Mprotect(prot="rw", region=0, first=0, count=1),
    )
    claim = Claim(step=7, check="marked", what=0, page=0, expected=("yes",), seen="no")
    finding = known.recognise(s.Sequence(steps=steps), claim)
    assert (finding and finding.finding) == expected
    assert known.recognise(s.Sequence(steps=steps), msgspec.structs.replace(claim, page=1)) is None
