"""Which suites a change asks for: by the files that it touches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

ALL = ("trapping", "eviction", "idle")

# The first pattern that fits a file counts. fnmatch's "*" also matches "/".
_TABLE: list[tuple[str, tuple[str, ...]]] = [
    ("Documentation/*", ()),
    ("tools/testing/selftests/mm/*", ("upstream",)),
    ("tools/*", ()),
    ("mm/userfaultfd.c", ALL),
    ("include/*userfaultfd*", ALL),
    ("fs/proc/*", ("trapping", "idle")),
    ("include/uapi/linux/fs.h", ("trapping", "idle")),
    ("mm/*", ("trapping", "eviction")),
    ("include/linux/*mm*", ("trapping", "eviction")),
    ("include/linux/*swap*", ("trapping", "eviction")),
    ("arch/x86/*", ("trapping",)),
    ("arch/*", ()),
    ("*", ("idle",)),
]


def reasons(files: Iterable[str]) -> dict[str, str]:
    """Each suite that one of *files* asks for, and the first file that does."""
    found: dict[str, str] = {}
    for name in files:
        suites = next(suites for pattern, suites in _TABLE if fnmatchcase(name, pattern))
        for suite in suites:
            found.setdefault(suite, name)
    return found


def ordered(suites: Iterable[str]) -> Sequence[str]:
    """The same suites, in the order in which they run."""
    wanted = set(suites)
    return [suite for suite in (*ALL, "upstream") if suite in wanted]
