"""Which suites a change asks for: by the files that it touches."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase

ALL = ("trapping", "eviction", "idle")
LEAST = ("idle",)
"""The shortest one: it shows that a kernel boots, and tells used pages from idle ones."""
_SOME = ("trapping", "eviction")

# The first pattern that fits a file counts. fnmatch's "*" also matches "/".
_TABLE: list[tuple[str, tuple[str, ...]]] = [
    ("Documentation/*", ()),
    ("tools/testing/selftests/mm/*", ("upstream",)),
    # What the build of a kernel takes from tools/; the rest is for user space.
    *((f"tools/{name}/*", LEAST) for name in ("arch", "bpf/resolve_btfids", "build", "include", "lib", "objtool")),
    ("tools/*", ()),
    ("mm/userfaultfd.c", ALL),
    ("fs/userfaultfd.c", ALL),  # where its system calls are in older trees
    ("include/*userfaultfd*", ALL),
    ("fs/proc/*", ("trapping", "idle")),
    ("include/uapi/linux/fs.h", ("trapping", "idle")),
    ("mm/*", _SOME),
    *((f"include/*/{name}*", _SOME) for name in ("mm.h", "mm_", "mmap", "mman", "mmu", "huge", "rmap", "shmem", "ksm")),
    *((f"include/*{name}*", _SOME) for name in ("swap", "pgtable", "page")),
    ("kernel/fork.c", _SOME),
    ("fs/hugetlbfs/*", _SOME),
    *((name, ("trapping",)) for name in ("kernel/exit.c", "kernel/futex/*", "kernel/events/uprobes.c", "virt/kvm/*")),
    *((name, ("trapping",)) for name in ("fs/exec.c", "fs/coredump.c", "fs/binfmt_elf.c", "lib/iov_iter.c")),
    ("arch/x86/*", ("trapping",)),
    ("arch/*", ()),
    ("*", LEAST),
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
