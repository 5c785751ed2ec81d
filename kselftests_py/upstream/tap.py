"""What a selftest printed: KTAP, TAP 13 and 14 with nested subtests, and the older form of uffd-unit-tests.

Result lines are read by tap.py, which knows no nesting. That is read here as Documentation/dev-tools/ktap.rst has it: a
nested block stands before the result that sums it up, and further in. How far is the block's own matter: two blanks in
ktap.rst, four in KUnit and TAP 14, "# " in kselftest's runner. The text comes from a guest and may hold anything.
"""

from __future__ import annotations

import re
from collections import Counter
from dataclasses import dataclass, field, replace

from tap.line import Result
from tap.parser import Parser

from kselftests_py.reports.text import one_line
from kselftests_py.results import Outcome

_NAME = 160
_LINES = 20_000
_LENGTH = 4_000
_DEPTH = 8
_FURTHEST = 64  # characters in; what stands further is taken to stand there
_TOO_DEEP = f"it nests more than {_DEPTH} levels"
# tap.py would also take "okay" for a result and "1234 pages" for a plan: these are "unknown lines" (ktap.rst).
_LINE = re.compile(
    r"(?P<lead>[ \t]*(?:#[ ][ \t]*)*)(?:"
    r"(?P<version>K?TAP version \d{1,9}$)|1\.\.(?P<plan>\d{1,9})(?!\S)|(?P<header># Subtest: )|"
    r"(?P<bail>Bail out!)|(?P<result>(?:not )?ok(?:[ ]+\d{1,9}(?!\S)|[ ]+-(?!\S)|$)))"
)
_EXPECTED = re.compile(r"(?:XFAIL|TODO)\b", re.IGNORECASE)
# kselftest.h puts the name there ("ok 3 # SKIP wp-fork on shmem (feature missing)"): else a test that is skipped on one
# kernel and passes on another would have two names.
_NAMED = re.compile(r"(?:SKIP|XFAIL|XPASS|error)\s+(?P<name>\S.*)", re.IGNORECASE)
# What uffd-unit-tests puts behind its names when it skips; the names of others end in brackets of their own.
_REASON = re.compile(r"(?P<name>\S+ on [\w-]+|\S+ \(with \S+\)) \((?P<why>.*)\)")
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
    """The results in *text*, each with a name of its own; never raises."""
    lines = [line.rstrip()[:_LENGTH] for line in text.split("\n")]
    reader = _Reader()
    for line in lines[:_LINES]:
        reader.read(line)
    found = reader.ended()
    if not found.parts and found.plan is None:
        older = [match for line in lines[:_LINES] if (match := _OLDER.fullmatch(line.strip()))]
        found.parts = [
            Part(one_line(one["name"], _NAME), _WORDS[one["word"]], one_line(one["why"] or "")) for one in older
        ]
    names = _Names()
    found.parts = [replace(part, name=names.unused(part.name)) for part in found.parts]
    if len(lines) > _LINES:
        found.problem = f"it printed more than {_LINES} lines"
    elif not found.problem and not found.parts:
        found.problem = "it told of no test"
    return found


class _Names:
    """Names that came: one that comes again gets a number, such that no other has it."""

    def __init__(self) -> None:
        self._used: set[str] = set()
        self._again: Counter[str] = Counter()

    def unused(self, name: str) -> str:
        found = name
        while found in self._used:
            self._again[name] += 1
            found = f"{name} ({self._again[name] + 1})"
        self._used.add(found)
        return found


@dataclass
class _Level:
    """Results that stand equally far in. ``below``: what was told further in since the last of them."""

    lead: int
    below: list[Part]
    parts: list[Part] = field(default_factory=list)
    names: _Names = field(default_factory=_Names)
    plan: int | None = None
    told: int = 0


class _Reader:
    """Lines, one after the other, and the levels that are open at this one."""

    def __init__(self) -> None:
        self._parser = Parser()
        self._levels: list[_Level] = []
        self._commented = {""}  # what stands before the lines of the blocks that stand in comments
        self._said = ""  # the last diagnostic line: of the result that comes next
        self._bailed = ""
        self._problems: list[str] = []

    def read(self, line: str) -> None:
        found = _LINE.match(line)
        comment = found["lead"][: found["lead"].rfind("#") + 1] if found else ""
        if found and found["version"]:
            self._commented.add(comment)
        if not found or comment not in self._commented or found["header"]:
            if line.lstrip().startswith("#"):
                self._said = line.lstrip("# \t")
            return
        lead = min(len(found["lead"]), _FURTHEST)
        if found["bail"]:
            self._bailed = f"it bailed out: {one_line(line[found.end() :])}"
        elif found["result"]:
            self._result(lead, self._parser.parse_line(line[len(found["lead"]) :]))
        else:
            level = self._at(lead)
            if found["plan"]:
                if level.plan is not None:
                    self._problems.append(f"it planned {level.plan} tests, and then {int(found['plan'])}")
                level.plan = int(found["plan"])

    def _result(self, lead: int, told: Result) -> None:
        name, why = _named(told)
        name = one_line(name, _NAME).replace("/", "|")
        level = self._at(lead, name)
        name = level.names.unused(name)
        level.parts += self._under(name, level.below)
        level.parts.append(_part(name, told, self._said, why))
        level.told += 1
        level.below, self._said = [], ""

    def _at(self, lead: int, name: str = "unfinished") -> _Level:
        """The level of a line so far in; those further in have ended, and *name* sums them up."""
        below: list[Part] = []
        while self._levels and self._levels[-1].lead > lead:
            below = self._closed(below, name)
        if not self._levels or (self._levels[-1].lead < lead and len(self._levels) < _DEPTH):
            self._levels.append(_Level(lead, below))
        else:
            if self._levels[-1].lead < lead:
                self._problems.append(_TOO_DEEP)
            self._levels[-1].below += below
        return self._levels[-1]

    def _closed(self, below: list[Part], name: str) -> list[Part]:
        """The parts of the deepest level, which has ended; what is further in lacks the result that sums it up."""
        level = self._levels.pop()
        if level.plan not in (None, level.told):
            self._problems.append(f"{name} planned {level.plan} tests and told of {level.told}")
        return level.parts + self._under("unfinished", level.below + below)

    def _under(self, name: str, parts: list[Part]) -> list[Part]:
        """*parts* with the name of their parent; not those that are too deep to get one more."""
        deep = [part.name.count("/") >= _DEPTH for part in parts]
        if any(deep):
            self._problems.append(_TOO_DEEP)
        return [part if so else replace(part, name=f"{name}/{part.name}") for part, so in zip(parts, deep, strict=True)]

    def ended(self) -> Output:
        """All that was read; the program ended, or was ended, perhaps in the middle."""
        found = Output(plan=self._levels[0].plan if self._levels else None)
        while self._levels:
            found.parts = self._closed(found.parts, "unfinished" if len(self._levels) > 1 else "it")
        found.problem = self._bailed or (self._problems[0] if self._problems else "")
        return found


def _named(told: Result) -> tuple[str, str]:
    """The name of a result, and the reason that stands behind the name; empty: none does."""
    if described := one_line(told.description.lstrip("- "), _NAME):
        return described, ""
    if not (named := _NAMED.match(told.directive.text or "")):
        return f"test {told.number or 0}", ""
    found = _REASON.fullmatch(named["name"])
    return (found["name"], found["why"]) if found else (named["name"], "")


def _part(name: str, told: Result, said: str, why: str) -> Part:
    """*said*: the diagnostic line before it; *why*: the reason, where it is not the whole of the directive's text."""
    directive = one_line(told.directive.text or "")
    if told.directive.skip:
        return Part(name, Outcome.SKIP, one_line(why or told.directive.reason or "") or "skipped")
    if told.ok or _EXPECTED.match(directive):
        return Part(name, Outcome.PASS, directive)
    return Part(name, Outcome.FAIL, one_line(said) or directive or "not ok")
