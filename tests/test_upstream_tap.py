"""What selftests print is read right, in each of its shapes; garbage makes no pass.

Expected values: the examples of Documentation/dev-tools/ktap.rst with the hierarchy that it says they define; TAP 14
(subtests four blanks in); kselftest's runner.sh, which prints what a program said behind "# ".
"""

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
TWO_SUBTESTS = """\
KTAP version 1
1..1
  KTAP version 1
  1..2
  ok 1 test_1
  not ok 2 test_2
# example failed
not ok 1 example
"""
TWO_LEVELS = """\
KTAP version 1
1..2
  KTAP version 1
  1..2
    KTAP version 1
    1..2
    not ok 1 test_1
    ok 2 test_2
  not ok 1 test_3
  ok 2 test_4 # SKIP
not ok 1 example_test_1
ok 2 example_test_2
"""
MAIN_TEST = """\
KTAP version 1
1..1
  KTAP version 1
  1..3
    KTAP version 1
    1..1
    # test_1: initializing test_1
    ok 1 test_1
  ok 1 example_test_1
    KTAP version 1
    1..2
    ok 1 test_1 # SKIP test_1 skipped
    ok 2 test_2
  ok 2 example_test_2
    KTAP version 1
    1..3
    ok 1 test_1
    # test_2: FAIL
    not ok 2 test_2
    ok 3 test_3 # SKIP test_3 skipped
  not ok 3 example_test_3
not ok 1 main_test
"""
KUNIT = """\
TAP version 14
1..2
    # Subtest: outer
    1..2
        # Subtest: deep
        1..1
        ok 1 - deepest
    ok 1 - deep
    not ok 2 - other
not ok 1 - outer
ok 2 - last
"""
PLANS_LAST = """\
TAP version 14
ok 1 - first
# Subtest: second
    ok 1 - inner
    not ok 2 - worse
    1..2
not ok 2 - second
1..2
"""
RUNNER = """\
TAP version 13
1..2
# timeout set to 45
# selftests: mm: one
# TAP version 13
# 1..2
# ok 1 a
#   TAP version 13
#   1..1
#   not ok 1 deepest
# not ok 2 b
# # Totals: pass:1 fail:1 xfail:0 xpass:0 skip:0 error:0
not ok 1 selftests: mm: one # exit=1
ok 2 selftests: mm: two
"""
OLDER = """\
Testing UFFDIO_API (with syscall)... done
Testing wp-fork on shmem... skipped [reason: feature missing]
Testing move on anon... failed [reason: page 3 differs]
Userfaults unit tests: pass=1, skip=1, fail=1 (total=3)
"""


def outcomes(found: Output) -> dict[str, Outcome]:
    assert len({part.name for part in found.parts}) == len(found.parts)
    return {part.name: part.outcome for part in found.parts}


def messages(found: Output) -> dict[str, str]:
    return {part.name: part.message for part in found.parts if part.message}


def test_ktap() -> None:
    found = parse(KTAP)
    assert outcomes(found) == {
        "first on anon": PASS, "second": SKIP, "third": FAIL, "fourth": PASS, "fifth|part": PASS,
    }  # fmt: skip
    assert (found.plan, found.problem) == (5, "")
    assert messages(found) == {"second": "no swap here", "third": "reason: [it broke]", "fourth": "XFAIL known"}


def test_two_nested_subtests() -> None:
    found = parse(TWO_SUBTESTS)
    assert outcomes(found) == {"example/test_1": PASS, "example/test_2": FAIL, "example": FAIL}
    assert (messages(found)["example"], found.plan, found.problem) == ("example failed", 1, "")


def test_several_levels() -> None:
    found = parse(TWO_LEVELS)
    assert outcomes(found) == {
        "example_test_1/test_3/test_1": FAIL, "example_test_1/test_3/test_2": PASS, "example_test_1/test_3": FAIL,
        "example_test_1/test_4": SKIP, "example_test_1": FAIL, "example_test_2": PASS,
    }  # fmt: skip
    assert (found.plan, found.problem) == (2, "")


def test_the_same_names_below_different_parents() -> None:
    found = parse(MAIN_TEST)
    assert outcomes(found) == {
        "main_test/example_test_1/test_1": PASS, "main_test/example_test_1": PASS,
        "main_test/example_test_2/test_1": SKIP, "main_test/example_test_2/test_2": PASS,
        "main_test/example_test_2": PASS, "main_test/example_test_3/test_1": PASS,
        "main_test/example_test_3/test_2": FAIL, "main_test/example_test_3/test_3": SKIP,
        "main_test/example_test_3": FAIL, "main_test": FAIL,
    }  # fmt: skip
    assert messages(found)["main_test/example_test_2/test_1"] == "test_1 skipped"
    assert messages(found)["main_test/example_test_3/test_2"] == "test_2: FAIL"
    assert found.problem == ""


def test_kunits_four_blanks_and_no_second_version_line() -> None:
    found = parse(KUNIT)
    assert outcomes(found) == {
        "outer/deep/deepest": PASS, "outer/deep": PASS, "outer/other": FAIL, "outer": FAIL, "last": PASS,
    }  # fmt: skip
    assert (found.plan, found.problem) == (2, "")


def test_plans_at_the_end() -> None:
    found = parse(PLANS_LAST)
    assert outcomes(found) == {"first": PASS, "second/inner": PASS, "second/worse": FAIL, "second": FAIL}
    assert (found.plan, found.problem) == (2, "")


def test_what_kselftests_runner_prints_behind_a_number_sign() -> None:
    found = parse(RUNNER)
    assert outcomes(found) == {
        "selftests: mm: one/a": PASS, "selftests: mm: one/b/deepest": FAIL, "selftests: mm: one/b": FAIL,
        "selftests: mm: one": FAIL, "selftests: mm: two": PASS,
    }  # fmt: skip
    assert (found.plan, found.problem) == (2, "")


def test_results_in_comments_are_comments() -> None:
    found = parse("TAP version 13\n1..1\n# ok 7 nothing\n# 1..9\n# not ok 8 nothing\nok 1 a\n")
    assert (outcomes(found), found.problem) == ({"a": PASS}, "")


def test_older_form() -> None:
    found = parse(OLDER)
    assert found.parts == [
        Part("UFFDIO_API (with syscall)", PASS),
        Part("wp-fork on shmem", SKIP, "feature missing"),
        Part("move on anon", FAIL, "page 3 differs"),
    ]
    assert found.problem == ""


def test_the_older_form_within_ktap_is_an_unknown_line() -> None:
    found = parse("TAP version 13\n1..1\nTesting a on b... done\nnot ok 1 a\n")
    assert (outcomes(found), found.problem) == ({"a": FAIL}, "")


UNKNOWN = ["okay, now the rest", "ok then", "1234 pages scanned", "1..x", "not okay", "ok 1st try"]


@pytest.mark.parametrize("line", UNKNOWN)
def test_unknown_lines_influence_nothing(line: str) -> None:
    """Indented or not: ktap.rst, "Unknown lines"."""
    text = (
        f"{line}\n1..1\n  {line}\n  KTAP version 1\n  1..2\n{line}\n  ok 1 a\n      {line}\n  ok 2 b\n{line}\nok 1 c\n"
    )
    found = parse(text)
    assert (outcomes(found), found.plan, found.problem) == ({"c/a": PASS, "c/b": PASS, "c": PASS}, 1, "")


def test_a_test_has_one_name_however_it_ends() -> None:
    """kselftest.h prints the name as the reason where it prints a directive; uffd-unit-tests adds the reason to it."""
    found = parse(
        "1..7\nok 1 # SKIP wp-fork on shmem (feature missing (or (not)))\nok 2 # SKIP UFFDIO_API (with syscall) (no)\n"
        "ok 3 # SKIP f must not be written (dirty)\nok 4 # XFAIL known\nok 5 # XPASS better\nnot ok 6 # error bad\n"
        "ok 7 # SKIP\n"
    )
    assert outcomes(found) == {
        "wp-fork on shmem": SKIP, "UFFDIO_API (with syscall)": SKIP, "f must not be written (dirty)": SKIP,
        "known": PASS, "better": PASS, "bad": FAIL, "test 7": SKIP,
    }  # fmt: skip
    assert messages(found)["wp-fork on shmem"] == "feature missing (or (not))"


def test_only_a_whole_word_makes_a_failure_an_expected_one() -> None:
    found = parse("1..3\nnot ok 1 a # xfailures=3\nnot ok 2 b # todos left\nnot ok 3 c # TODO\n")
    assert outcomes(found) == {"a": FAIL, "b": FAIL, "c": PASS}


@pytest.mark.parametrize(
    ("names", "unique"),
    [
        (["a", "a", "a"], ["a", "a (2)", "a (3)"]),
        (["a", "a", "a (2)"], ["a", "a (2)", "a (2) (2)"]),
        (["a (2)", "a", "a"], ["a (2)", "a", "a (3)"]),
    ],
)
def test_names_that_come_twice_are_told_apart(names: list[str], unique: list[str]) -> None:
    text = "".join(f"ok {number} {name}\n" for number, name in enumerate(names, 1))
    assert [part.name for part in parse(text).parts] == unique


def test_subtests_go_with_the_one_of_two_parents_that_they_stand_before() -> None:
    text = "".join(
        f"  KTAP version 1\n  1..1\n  {word} 1 x\n{word} {at} a\n" for at, word in [(1, "ok"), (2, "not ok")]
    )
    assert outcomes(parse(f"KTAP version 1\n1..2\n{text}")) == {"a/x": PASS, "a": PASS, "a (2)/x": FAIL, "a (2)": FAIL}


def test_blocks_that_nothing_sums_up_have_names_of_their_own_all_the_same() -> None:
    found = parse("ok 1 a\n    ok 1 x\n  KTAP version 1\nKTAP version 1\n    ok 1 x\nok 2 b\n")
    assert len(outcomes(found)) == 4


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "told of no test"),
        ("hello\nworld\n", "told of no test"),
        ("1..3\nok 1 a\n", "it planned 3 tests and told of 1"),
        ("1..1\nok 1 a\nok 2 b\n", "it planned 1 tests and told of 2"),
        ("1..1\n  1..3\n  ok 1 a\nok 1 b\n", "b planned 3 tests and told of 1"),
        ("1..1\nok 1 a\n1..2\nok 2 b\n", "it planned 1 tests, and then 2"),
        ("1..2\nok 1 a\nBail out! no memory\n", "bailed out: no memory"),
        ("ok 1 a\n" * 20_001, "more than 20000 lines"),
        ("".join(f"{' ' * deep}ok 1 x\n" for deep in range(50)), "nests more than 8 levels"),
        ("".join(f"{' ' * deep}ok 1 x\n" for deep in range(50, 0, -1)), "nests more than 8 levels"),
    ],
)
def test_what_is_wrong_with_the_whole(text: str, problem: str) -> None:
    assert problem in parse(text).problem


def test_a_program_cut_off_in_a_nested_block_keeps_what_it_told() -> None:
    assert outcomes(parse("1..2\nok 1 a\n    ok 1 inner\n")) == {"a": PASS, "unfinished/inner": PASS}
    found = parse("1..1\n  1..2\n    1..2\n    not ok 1 deepest\nok 1 a\n")
    assert (outcomes(found), bool(found.problem)) == ({"a/unfinished/deepest": FAIL, "a": PASS}, True)


HOSTILE = {
    "escapes": "1..1\nok 1 \x1b[31m" + "x" * 10_000 + "\x00\u202e\n" + "ok 2 y\n" * 30_000,
    "blanks": " " * 8000 + "ok 1 x\n",
    "deep": "".join(f"{'  ' * deep}KTAP version 1\n" for deep in range(1000)) + "ok 1 x\n",
    "outwards": "".join(f"{' ' * lead}ok 1 {'x' * 200}\n" for lead in range(3000, 0, -1)),
    "outwards with nobody to sum it up": " " * 3000
    + "ok 1 x\n"
    + "".join(f"{' ' * lead}KTAP version 1\n" for lead in range(3000, 0, -1)),
    "comments": "# " * 8000 + "TAP version 13\n" + "# " * 1000 + "ok 1 x\n",
    "numbers": f"1..{'9' * 5000}\nok {'9' * 5000} a\nTAP version {'9' * 5000}\nTAP version 1\nok {'9' * 9} b\n",
    "names": "".join(f"ok 1 a ({number})\n" for number in range(2, 10_000)) + "ok 1 a\n" * 10_000,
    "slashes": "ok 1 a/../../etc\nok 2 ../x\n",
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_output_is_harmless(case: str) -> None:
    found = parse(HOSTILE[case])
    assert all(len(part.name) < 2000 and part.name.isprintable() and "../" not in part.name for part in found.parts)
    assert len(outcomes(found)) <= 20_000
    assert found.problem or found.parts
