"""What a selftest printed: KTAP with nested subtests, the older TAP 13, and the older form of uffd-unit-tests.

Lines are read by tap.py; nesting, which it does not know, is four blanks a level (Documentation/dev-tools/ktap.rst).
The text comes from a guest and may hold anything.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from tap.line import Bail, Diagnostic, Plan, Result
from tap.parser import Parser

from kselftests_py.reports.text import one_line
from kselftests_py.results import Outcome

_NAME = 160
_LINES = 20_000
# "Testing wp-fork on shmem... done", before uffd-unit-tests spoke TAP.
_OLDER = re.compile(r"Testing (?P<name>.+?)\.\.\. ?(?P<word>done|skipped|failed)(?: \[reason: (?P<why>.*)\])?")
_WORDS = {"done": Outcome.PASS, "skipped": Outcome.SKIP, "failed": Outcome.FAIL}


@dataclass(frozen=True)
class Part:
    """One result: its name, "/" between the levels."""

    name: str
    outcome: Outcome
    message: str = ""


@dataclass
class Output:
    """Everything a program said: ``plan`` is None if it named none; ``problem`` is what is wrong with the whole."""

    parts: list[Part] = field(default_factory=list)
    plan: int | None = None
    problem: str = ""


def parse(text: str) -> Output:
    """The results in *text*, names made unique by a number where one comes twice; never raises."""
    lines = text.splitlines()[:_LINES]
    found = Output()
    if older := [match for line in lines if (match := _OLDER.fullmatch(line.strip()))]:
        parts = [Part(one_line(one["name"], _NAME), _WORDS[one["word"]], one_line(one["why"] or "")) for one in older]
    else:
        parts = list(_level(lines, "", found))
    seen: Counter[str] = Counter()
    for part in parts:
        seen[part.name] += 1
        again = seen[part.name]
        found.parts.append(part if again == 1 else Part(f"{part.name} ({again})", part.outcome, part.message))
    top = sum("/" not in part.name for part in found.parts) if not older else len(parts)
    if not found.problem and found.plan is not None and found.plan != top:
        found.problem = f"it planned {found.plan} tests and told of {top}"
    if not found.problem and not found.parts:
        found.problem = "it told of no test"
    return found


def _level(lines: Sequence[str], prefix: str, found: Output) -> Iterator[Part]:
    """The results of one level; the lines of the next stand before the result that sums them up."""
    parser, nested, said = Parser(), list[str](), ""
    for line in lines:
        if line.startswith("    ") and line.strip():
            nested.append(line[4:])
            continue
        told = parser.parse_line(line)
        if isinstance(told, Plan) and not prefix:
            found.plan = told.expected_tests
        elif isinstance(told, Bail):
            found.problem = f"it bailed out: {one_line(told.reason or '')}"
        elif isinstance(told, Diagnostic):
            said = told.text.lstrip("# ")
        elif isinstance(told, Result):
            name = prefix + (one_line(told.description.lstrip("- "), _NAME).replace("/", "|") or f"test {told.number}")
            yield from _level(nested, f"{name}/", found)
            nested.clear()
            yield _part(name, told, said)
            said = ""
    if nested:  # the program ended, or was ended, in the middle
        yield from _level(nested, f"{prefix}unfinished/", found)


def _part(name: str, told: Result, said: str) -> Part:
    directive = one_line(told.directive.text or "")
    if told.directive.skip:
        return Part(name, Outcome.SKIP, one_line(told.directive.reason or "") or "skipped")
    expected = directive.upper().startswith(("XFAIL", "TODO"))
    if told.ok or expected:
        return Part(name, Outcome.PASS, directive)
    return Part(name, Outcome.FAIL, one_line(said) or directive or "not ok")
