"""What in a kernel log means that the kernel is broken.

The lines come from the kernel under test and are hostile input: they are
matched and cut, never interpreted.
"""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass

MAX_EXCERPT = 16_384  # characters of log kept with a result (KCIDB's bound for an excerpt)

# A line that matches makes the test that ran meanwhile CRASH. Order matters: the first kind that matches names it.
# Sources: kernel/panic.c, lib/bug.c, mm/kasan/report.c, mm/kfence/report.c, kernel/kcsan/report.c, lib/ubsan.c,
# kernel/locking/lockdep.c, kernel/hung_task.c, kernel/watchdog.c, kernel/rcu/tree_stall.h, mm/page_table_check.c,
# mm/page_alloc.c (bad_page), mm/memory.c (print_bad_pte), kernel/fork.c (check_mm), arch/x86/mm/fault.c.
_KINDS: tuple[tuple[str, str], ...] = (
    ("panic", r"Kernel panic - not syncing"),
    ("kasan", r"BUG: KASAN:"),
    ("kfence", r"BUG: KFENCE:"),
    ("kcsan", r"BUG: KCSAN:"),
    ("kmsan", r"BUG: KMSAN:"),
    ("ubsan", r"UBSAN: "),
    ("soft lockup", r"watchdog: BUG: soft lockup"),
    ("hung task", r"INFO: task .* blocked for more than"),
    ("rcu stall", r"rcu: INFO: .*(self-)?detected.* stalls?\b"),
    (
        "lockdep",
        (
            r"WARNING: (possible (circular|recursive) locking|possible irq lock|inconsistent lock state)"
            r"|WARNING: suspicious RCU usage|WARNING: bad unlock balance|INFO: possible circular locking"
            r"|BUG: sleeping function called|BUG: Invalid wait context"
        ),
    ),
    ("page table", r"BUG: Bad page (map|state|cache)|BUG: Bad rss-counter|BUG: non-zero pgtables_bytes"),
    ("oops", r"Oops:|BUG: unable to handle|general protection fault|kernel BUG at|Unable to handle kernel"),
    ("bug", r"\bBUG: "),
    ("warning", r"\bWARNING: "),
)
_SPLAT = re.compile("|".join(f"(?P<k{number}>{pattern})" for number, (_, pattern) in enumerate(_KINDS)))
_UNPRINTABLE = re.compile(r"[^\t\n\x20-\x7e\xa0-\U0010ffff]|[\u202a-\u202e\u2066-\u2069]")


@dataclass(frozen=True)
class Splat:
    """The first sign of a broken kernel in a log: its kind, its line, and the log from there on."""

    kind: str
    line: str
    excerpt: str


def lost_code_patch(text: str) -> bool:
    """Whether a CPU ran into a breakpoint of the kernel's own code patching (arch/x86/kernel/alternative.c).

    Seen once in some hundred boots under QEMU 7.2's TCG with two vCPUs: "Oops: int3" in sched_clock_cpu, just after
    another vCPU had patched a static key there. Most likely TCG ran a stale copy of the code; the kernel cannot be
    blamed for it under TCG.
    """
    return "Oops: int3" in text


def clean(raw: bytes) -> str:
    """*raw* as text: bad bytes and control characters (terminal escapes too) become ``?``."""
    return _UNPRINTABLE.sub("?", raw.decode("utf-8", "replace").replace("\r\n", "\n").replace("\r", "\n"))


def find_splat(lines: Iterable[str]) -> Splat | None:
    """The first splat in *lines*, or None.

    >>> find_splat(["a", "BUG: KASAN: use-after-free in x", "Call Trace:"]).kind
    'kasan'
    """
    lines = list(lines)
    for number, line in enumerate(lines):
        match = _SPLAT.search(line)
        if match and match.lastgroup:
            kind = next(_KINDS[int(name[1:])][0] for name, value in match.groupdict().items() if value is not None)
            return Splat(kind, line.strip()[:500], "\n".join(lines[number:])[:MAX_EXCERPT])
    return None
