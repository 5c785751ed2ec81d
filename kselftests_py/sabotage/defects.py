"""The corpus of defects (``sabotage/*.toml``), and how one gets into a source.

A defect is a rule, not a patch: it names a file, a function and a few words of it, and says what takes their place. So
it carries no kernel code, survives other versions, and fails loudly where it no longer fits.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Annotated, Literal

import msgspec
from msgspec import Meta

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.paths import data_dir

WORDS = 240
"""Most characters of a rule's ``match`` or ``replace``: a rule names code, it does not hold it."""


class Edit(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """One place: in *function* of *file*, the words *match* become *replace*.

    In *match* a blank stands for any white space or comment and ``...`` for the shortest text between its neighbours;
    in *replace* ``{it}`` stands for what was matched. *nth* of so many matches, if there are several.
    """

    file: str
    function: str
    match: Annotated[str, Meta(min_length=4, max_length=WORDS)]
    replace: Annotated[str, Meta(max_length=WORDS)]
    nth: Annotated[int, Meta(ge=1)] | None = None


class Defect(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """A kernel broken on purpose: *breaks* is an invariant or a sentence of the contract (or ``cost``), *shows* what
    a user sees.

    *kind*: ``plain``; ``race`` and ``kernel-access``: only a race, or an access by the kernel itself, shows it;
    ``cost``: it costs instructions and nothing else. *equivalent*: the proof that nobody can see it, if there is one.
    """

    name: Annotated[str, Meta(pattern=r"^[a-z0-9]+(-[a-z0-9]+)*$")]
    breaks: Annotated[str, Meta(pattern=r"^([A-Z]\d+|cost)$")]
    shows: Annotated[str, Meta(min_length=10)]
    edit: Annotated[list[Edit], Meta(min_length=1)]
    kind: Literal["plain", "race", "kernel-access", "cost"] = "plain"
    equivalent: str = ""


class _File(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    defect: list[Defect]


def load(folder: Path | None = None) -> list[Defect]:
    """The defects of every file of *folder* (the corpus), in order; :raises HarnessError: a rule that is none."""
    found: list[Defect] = []
    for path in sorted((folder or data_dir("sabotage")).glob("*.toml")):
        try:
            found += msgspec.toml.decode(path.read_bytes(), type=_File).defect
        except msgspec.MsgspecError as error:
            raise HarnessError(f"{path}: {error}; see docs/sabotage.md") from None
    for name, count in Counter(defect.name for defect in found).items():
        if count > 1:
            raise HarnessError(f"{folder or 'sabotage'}: {count} defects are called {name}; give each its own name")
    return found


def apply(defect: Defect, src: Path) -> list[Path]:
    """Break the source at *src*; the files that were changed. :raises UsageError: a rule does not fit this source."""
    changed = {path: _text(defect, src, path) for path in dict.fromkeys(edit.file for edit in defect.edit)}
    for edit in defect.edit:
        changed[edit.file] = _edited(defect, edit, changed[edit.file])
    for name, text in changed.items():
        (src / name).write_text(text, encoding="utf-8")
    return [src / name for name in changed]


def _text(defect: Defect, src: Path, name: str) -> str:
    path = src / name
    if not path.resolve().is_relative_to(src.resolve()):
        raise UsageError(f"defect {defect.name}: {name} is outside the source; name a file of the kernel")
    try:
        return path.read_text(encoding="utf-8")
    except OSError as error:
        raise UsageError(f"defect {defect.name} does not fit this source: {name}: {error.strerror}") from None


def _edited(defect: Defect, edit: Edit, text: str) -> str:
    pattern = _pattern(edit.match)
    bodies = list(_bodies(edit.function, text))
    found = [match for begin, end in bodies for match in pattern.finditer(text, begin, end)]
    wanted = edit.nth or 1
    if not bodies or len(found) < wanted or (edit.nth is None and len(found) > 1):
        what = f"'{edit.match[:60]}' {len(found)} times in {edit.function}()" if bodies else f"no {edit.function}()"
        raise UsageError(f"defect {defect.name} does not fit this source: {edit.file} has {what}")
    match = found[wanted - 1]
    return text[: match.start()] + edit.replace.replace("{it}", match[0]) + text[match.end() :]


def _bodies(function: str, text: str) -> Iterator[tuple[int, int]]:
    """Where the function begins and ends (more than once under #ifdef): its name before a brace in the first column."""
    head = rf"^(?:[A-Za-z_][^\n;{{}}]*[\s*])?{re.escape(function)}\([^;{{}}]*\n\{{"
    for match in re.finditer(head, text, re.MULTILINE):
        yield match.start(), text.index("\n}", match.end() - 1)


def _pattern(words: str) -> re.Pattern[str]:
    gap = r"(?:\s|/\*(?:[^*]|\*(?!/))*\*/)*"
    parts = [r"(?s:.*?)" if part == "..." else re.escape(part) for part in words.split()]
    return re.compile(gap.join(parts))


def chosen(defects: Sequence[Defect], expression: str) -> list[Defect]:
    """Those whose name has one of the words of *expression* (separated by blanks or commas) in it; all if it is empty.

    :raises UsageError: there is none.
    """
    words = re.split(r"[\s,]+", expression.strip()) if expression.strip() else []
    found = [defect for defect in defects if not words or any(word in defect.name for word in words)]
    if not found:
        raise UsageError(f"-k {expression}: no defect has that in its name; 'kst sabotage --list' names them")
    return found
