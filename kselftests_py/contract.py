"""The table of the contract: each sentence of suites/trapping/contract.toml and the tests that decide it.

``python -m kselftests_py.contract > docs/contract.md``. It is made from the ``contract`` marks of the tests, as pytest
collects them, so that it cannot differ from them.
"""

from __future__ import annotations

import contextlib
import os
import sys
import tomllib
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from .errors import HarnessError, KstError, UsageError
from .paths import data_dir

HEAD = """\
# The RWP contract and its tests

Made by `python -m kselftests_py.contract > docs/contract.md`; do not edit. The sentences are those of
`suites/trapping/contract.toml`, the tests those that carry `contract(...)` with their number.
"""


@dataclass(frozen=True)
class Sentence:
    """One claim of the contract; *untested* says why no test decides it, or is empty."""

    number: str
    chapter: str
    text: str
    untested: str = ""


def sentences(path: Path) -> list[Sentence]:
    """The sentences of a contract.toml, in its order. :raises UsageError: it is not one."""
    found: list[Sentence] = []
    try:
        chapters = tomllib.loads(path.read_text())
        for key, chapter in chapters.items():
            title = chapter["title"]
            for number, value in chapter.items():
                if number == "title":
                    continue
                if not number.removeprefix(key).isdigit():
                    raise UsageError(f"{path.name}: {number} is not a number of chapter {key}")
                given = {"text": value} if isinstance(value, str) else value
                found.append(Sentence(number, title, **given))
    except (OSError, ValueError, TypeError, KeyError, AttributeError) as error:
        raise UsageError(f"{path}: not a table of the contract: {type(error).__name__}: {error}") from None
    return found


class _Marks:
    """Collects the marks; nothing is run."""

    def __init__(self) -> None:
        self.tests: dict[str, set[str]] = {}

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        for item in session.items:
            name = f"{item.path.name}::{getattr(item, 'originalname', item.name)}"
            for mark in item.iter_markers("contract"):
                for number in mark.args:
                    self.tests.setdefault(number, set()).add(name)


def marked_tests(suites: Path) -> dict[str, set[str]]:
    """Number of a sentence -> names of the tests that carry it. :raises HarnessError: the suites do not collect."""
    marks = _Marks()
    arguments = ["--collect-only", "-p", "no:cacheprovider", "-p", "no:terminal", "-c", str(suites / "pytest.ini")]
    if not _plugin_is_installed():
        arguments += ["-p", "kselftests_py.pytest_plugin"]
    with contextlib.redirect_stdout(sys.stderr):
        code = pytest.main([*arguments, str(suites)], plugins=[marks])
    if code != pytest.ExitCode.OK:
        raise HarnessError(
            f"pytest cannot collect {suites} (it ends with {int(code)}); run it there with --collect-only"
        )
    return marks.tests


def _plugin_is_installed() -> bool:
    from importlib.metadata import entry_points

    return any(one.value == "kselftests_py.pytest_plugin" for one in entry_points(group="pytest11"))


def table(contract: Iterable[Sentence], tests: dict[str, set[str]]) -> str:
    """The document. :raises UsageError: a sentence without test and reason, or with both; a mark without sentence."""
    known = list(contract)
    if unknown := sorted(set(tests) - {one.number for one in known}):
        raise UsageError(f"contract({unknown[0]!r}) of {min(tests[unknown[0]])}: contract.toml has no such sentence")
    lines = [HEAD]
    chapter = ""
    for one in known:
        if bool(tests.get(one.number)) == bool(one.untested):
            what = "both a test and a reason to have none" if one.untested else "neither a test nor a reason"
            raise UsageError(f"sentence {one.number} of contract.toml has {what}: mark a test or write untested")
        if one.chapter != chapter:
            chapter = one.chapter
            lines += [f"\n## {chapter}\n", "| | sentence | tests |", "|---|---|---|"]
        by = "<br>".join(f"`{name}`" for name in sorted(tests.get(one.number, ()))) or f"none: {one.untested}"
        lines.append(f"| {one.number} | {one.text} | {by} |")
    return "\n".join(lines) + "\n"


def document() -> str:
    """docs/contract.md as the suites make it now."""
    suites = data_dir("suites")
    return table(sentences(suites / "trapping" / "contract.toml"), marked_tests(suites))


def main(arguments: list[str]) -> Any:
    """Print the document; an error is one line on stderr."""
    if arguments:
        print("usage: python -m kselftests_py.contract > docs/contract.md", file=sys.stderr)
        return UsageError.exit_code
    try:
        text = document()
    except KstError as error:
        print(f"contract: {error}", file=sys.stderr)
        return error.exit_code
    sys.stdout.write(text)
    return os.EX_OK


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
