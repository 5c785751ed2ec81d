"""What in a kernel log means a broken kernel."""

from __future__ import annotations

import pytest

from kselftests_py.machines.kernel_log import MAX_EXCERPT, clean, find_splat, lost_code_patch


@pytest.mark.parametrize(
    ("line", "kind"),
    [
        ("Kernel panic - not syncing: Fatal exception", "panic"),
        ("BUG: KASAN: slab-use-after-free in userfaultfd_release+0x1/0x2", "kasan"),
        ("BUG: KCSAN: data-race in userfaultfd_poll / userfaultfd_set_mode", "kcsan"),
        ("UBSAN: shift-out-of-bounds in mm/userfaultfd.c:1:2", "ubsan"),
        ("WARNING: CPU: 0 PID: 77 at mm/mprotect.c:71 can_change_pte_writable+0x1/0x2", "warning"),
        ("WARNING: mm/mprotect.c:71 at can_change_pte_writable+0x1/0x2, CPU#0: agent/77", "warning"),
        ("WARNING: possible circular locking dependency detected", "lockdep"),
        ("WARNING: suspicious RCU usage", "lockdep"),
        ("BUG: Bad page map in process agent  pte:ffff pmd:ffff", "page table"),
        ("BUG: Bad rss-counter state mm:00000000 type:MM_ANONPAGES val:1", "page table"),
        ("BUG: kernel NULL pointer dereference, address: 0000000000000000", "bug"),
        ("BUG: unable to handle page fault for address: ffffffffffffffff", "oops"),
        ("kernel BUG at mm/huge_memory.c:2865!", "oops"),
        ("Oops: 0002 [#1] PREEMPT SMP", "oops"),
        ("general protection fault, probably for non-canonical address 0xdead", "oops"),
        ("INFO: task agent:77 blocked for more than 122 seconds.", "hung task"),
        ("watchdog: BUG: soft lockup - CPU#1 stuck for 26s! [agent:77]", "soft lockup"),
        ("rcu: INFO: rcu_preempt self-detected stall on CPU", "rcu stall"),
    ],
)
def test_splat_is_found_and_named(line: str, kind: str) -> None:
    splat = find_splat(["[ 1.0] harmless", f"[ 2.0] {line}", "[ 2.1] Call Trace:"])
    assert splat is not None
    assert (splat.kind, line in splat.line) == (kind, True)
    assert splat.excerpt.startswith("[ 2.0]")
    assert splat.excerpt.endswith("Call Trace:")


@pytest.mark.parametrize(
    "line",
    [
        "kst: guest start",
        "Spectre V2 : Mitigation: Retpolines",
        "uffd: 3 warnings were not printed",
        "debug: this is no bug",
        "systemd[1]: Starting debugfs",
    ],
)
def test_ordinary_lines_are_no_splat(line: str) -> None:
    assert find_splat([line]) is None


def test_excerpt_is_bounded() -> None:
    splat = find_splat(["WARNING: x at y", *["z" * 1000] * 1000])
    assert splat is not None
    assert len(splat.excerpt) <= MAX_EXCERPT
    assert len(splat.line) <= 500


def test_console_bytes_become_safe_text() -> None:
    assert clean(b"a\x1b[2J\x00\xff\r\nb\rc") == "a?[2J?�\nb\nc"


def test_lost_code_patch_is_told_from_other_oopses() -> None:
    assert lost_code_patch("[    2.027569] Oops: int3: 0000 [#1] SMP NOPTI\n")
    assert not lost_code_patch("[    2.027569] Oops: 0002 [#1] SMP NOPTI\nKernel panic - not syncing: Fatal exception")
