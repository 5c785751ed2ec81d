"""What selftests print is read right, in each of its shapes; garbage makes no pass."""

from __future__ import annotations

import pytest

from kselftests_py.results import Outcome
from kselftests_py.upstream.tap import Output, Part, parse

PASS, FAIL, SKIP = Outcome.PASS, Outcome.FAIL, Outcome.SKIP
KTAP = """\
TAP version 13
1..5
# a word before
ok 1 first on anon
ok 2 second # SKIP no swap here
# reason: [it broke]
not ok 3 third
not ok 4 fourth # XFAIL known
ok 5 fifth/part
# Totals: pass:2 fail:1 xfail:1 xpass:0 skip:1 error:0
"""
NESTED = """\
KTAP version 1
1..2
    KTAP version 1
    # Subtest: outer
    1..2
        1..1
        ok 1 deepest
    ok 1 deep
    not ok 2 other
not ok 1 outer
ok 2 last
"""
OLDER = """\
Testing UFFDIO_API (with syscall)... done
Testing wp-fork on shmem... skipped [reason: feature missing]
Testing move on anon... failed [reason: page 3 differs]
Userfaults unit tests: pass=1, skip=1, fail=1 (total=3)
"""


def outcomes(found: Output) -> dict[str, Outcome]:
    return {part.name: part.outcome for part in found.parts}


def test_ktap() -> None:
    found = parse(KTAP)
    assert outcomes(found) == {
        "first on anon": PASS, "second": SKIP, "third": FAIL, "fourth": PASS, "fifth|part": PASS,
    }  # fmt: skip
    assert (found.plan, found.problem) == (5, "")
    messages = {part.name: part.message for part in found.parts}
    assert (messages["second"], messages["third"]) == ("no swap here", "reason: [it broke]")


def test_nested_results_have_the_names_of_their_parents() -> None:
    found = parse(NESTED)
    assert outcomes(found) == {
        "outer/deep/deepest": PASS, "outer/deep": PASS, "outer/other": FAIL, "outer": FAIL, "last": PASS,
    }  # fmt: skip
    assert found.problem == ""


def test_older_form() -> None:
    found = parse(OLDER)
    assert found.parts == [
        Part("UFFDIO_API (with syscall)", PASS),
        Part("wp-fork on shmem", SKIP, "feature missing"),
        Part("move on anon", FAIL, "page 3 differs"),
    ]
    assert found.problem == ""


def test_names_that_come_twice_are_told_apart() -> None:
    assert [part.name for part in parse("1..3\nok 1 a\nok 2 a\nok 3 a\n").parts] == ["a", "a (2)", "a (3)"]


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "told of no test"),
        ("hello\nworld\n", "told of no test"),
        ("1..3\nok 1 a\n", "planned 3 tests and told of 1"),
        ("1..1\nok 1 a\nok 2 b\n", "planned 1 tests and told of 2"),
        ("1..2\nok 1 a\nBail out! no memory\n", "bailed out: no memory"),
    ],
)
def test_what_is_wrong_with_the_whole(text: str, problem: str) -> None:
    assert problem in parse(text).problem


def test_a_program_cut_off_in_a_nested_block_keeps_what_it_told() -> None:
    assert outcomes(parse("1..2\nok 1 a\n    ok 1 inner\n")) == {"a": PASS, "unfinished/inner": PASS}


def test_hostile_output_is_harmless() -> None:
    found = parse("1..1\nok 1 \x1b[31m" + "x" * 10_000 + "\x00\u202e\n" + "ok 2 y\n" * 30_000)
    assert all(len(part.name) < 400 and part.name.isprintable() for part in found.parts)
    assert len(found.parts) <= 20_000
    assert found.problem
