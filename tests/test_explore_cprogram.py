"""The C program of a sequence and a check: every kind of step compiles; on the running kernel a check that holds exits
0, and the same check with another expectation exits 1.
"""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from explore_program import READ, WP, WRITE, compiled, protected, run

from kselftests_py.explore import cprogram
from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Check, Claim
from kselftests_py.explore.cprogram import render
from kselftests_py.explore.words import draft, in_words


@dataclass(frozen=True)
class Case:
    """A check that holds on every kernel, and what to expect of it wrongly."""

    sequence: s.Sequence
    claim: Claim
    wrong: str
    says: str


def case(sequence: s.Sequence, check: Check, expected: str, wrong: str, says: str, **of: Any) -> Case:
    """The check is made at the last step unless told."""
    of = {"step": len(sequence.steps) - 1} | of
    return Case(sequence, Claim(check=check, expected=(expected,), **of), wrong, says)


FORKED = protected(s.Fork(event=0), s.Thread(process=1), features=(*WP, "EVENT_FORK"))
COWED = protected(
    s.Resolve(uffd=0, ioctl="writeprotect", region=0, first=0, count=2),
    s.Fork(),
    s.Thread(process=1),
    s.Access(actor=0, how="rmw", region=0, page=1, value=7),
    s.Exit(process=1),
)
CHILD = s.Sequence(steps=COWED.steps[:-1])

GRANDCHILD = s.Sequence(
    steps=(
        *FORKED.steps,
        s.Fork(process=1, event=1),
        s.Thread(process=2),
        s.Exit(process=1),
        s.Access(actor=1, how="write", region=0, page=1, value=7),
    )
)
GUARDED = protected(s.Madvise(region=0, first=1, count=1, advice="GUARD_INSTALL"), *READ)
POISONED = protected(
    s.Madvise(region=0, first=1, count=1, advice="DONTNEED"),
    s.Poison(uffd=0, region=0, first=1, count=1),
    *READ,
    features=(*WP, "POISON"),
)

CASES = {
    "errno": case(
        protected(
            s.Protect(uffd=0, ioctl="writeprotect", region=0, first=0, count=4),
            s.Unregister(uffd=0, region=0, first=0, count=4),
            s.Protect(uffd=0, ioctl="writeprotect", region=0, first=0, count=4),
        ),
        "errno",
        "ENOENT",
        "0",
        "UFFDIO_WRITEPROTECT is expected to give success; seen: No such file or directory",
    ),
    "blocked": case(protected(*WRITE), "state", "blocked", "done", "expected to complete; seen: blocked", what=0),
    "done": case(
        protected(*WRITE, s.Resolve(uffd=0, ioctl="writeprotect", region=0, first=0, count=2)),
        "state",
        "done",
        "blocked",
        "the write to page 1 of region 0 by thread 0 is expected to trap; seen: done",
        what=0,
    ),
    "signal": case(
        protected(s.Mprotect(region=0, first=1, count=1, prot="none"), *READ),
        "state",
        "SIGSEGV",
        "SIGBUS",
        "expected to raise SIGBUS; seen: SIGSEGV",
        what=0,
    ),
    "value": case(protected(*READ), "value", "101", "7", "expected to load 7; seen: 101", what=0),
    "messages": case(
        protected(*WRITE), "messages", "wp+write 0:1", "none", "these messages: none; seen: wp+write 0:1", what=0
    ),
    "no messages": case(protected(*READ), "messages", "none", "wp 0:1", "seen: none", what=0),
    "marked": case(protected(*READ), "marked", "yes", "no", "expected not to have the marker", what=0, page=1),
    "not marked": case(protected(*READ), "marked", "no", "yes", "seen: no", what=0, page=2),
    "written": case(
        protected(*WRITE, features=(*WP, "WP_ASYNC")),
        "written",
        "yes",
        "no",
        "PAGE_IS_WRITTEN; seen: yes",
        what=0,
        page=1,
    ),
    "not written": case(
        protected(*WRITE, features=(*WP, "WP_ASYNC")),
        "written",
        "no",
        "yes",
        "PAGE_IS_WRITTEN; seen: no",
        what=0,
        page=0,
    ),
    "contents": case(
        protected(*WRITE),
        "contents",
        "7",
        "101",
        "page 1 of region 0 is expected to hold 101; seen: 7",
        step=7,
        what=0,
        page=1,
    ),
    "contents of the parent": case(COWED, "contents", "101", "108", "hold 108; seen: 101", step=10, what=0, page=1),
    "contents of the child": case(
        CHILD,
        "contents",
        "108",
        "101",
        "of process 1 is expected to hold 101; seen: 108",
        step=9,
        what=0,
        page=1,
        process=1,
    ),
    "child traps": case(
        s.Sequence(steps=(*FORKED.steps, s.Access(actor=0, how="rmw", region=0, page=1, value=7))),
        "state",
        "blocked",
        "done",
        "the atomic addition to page 1 of region 0 by thread 0",
        what=0,
    ),
    "child's messages": case(
        s.Sequence(steps=(*FORKED.steps, s.Access(actor=0, how="write", region=0, page=1, value=7))),
        "messages",
        "wp+write 0:1",
        "none",
        "userfaultfd 1 is expected to give",
        what=1,
    ),
    "child of a child": case(
        GRANDCHILD, "state", "blocked", "done", "the write to page 1 of region 0 by thread 1", what=1
    ),
    "messages of a child of a child": case(
        GRANDCHILD, "messages", "wp+write 0:1", "none", "userfaultfd 2 is expected to give", what=2
    ),
    "locked": case(
        protected(
            s.Mlock(region=0, first=2, count=2),
            s.Madvise(region=0, first=2, count=2, advice="COLD"),
        ),
        "errno",
        "EINVAL",
        "0",
        "MADV_COLD is expected to give success; seen: Invalid argument",
    ),
    "marked in the child": case(
        FORKED, "marked", "yes", "no", "page 1 of region 0 of process 1 is expected not", what=0, page=1, process=1
    ),
    "guard": case(GUARDED, "state", "SIGSEGV", "done", "expected to complete; seen: SIGSEGV", what=0),
    "contents of a guard": case(
        GUARDED, "contents", "SIGSEGV", "101", "is expected to hold 101; seen: SIGSEGV", step=8, what=0, page=1
    ),
    "poison": case(POISONED, "state", "SIGBUS", "SIGSEGV", "expected to raise SIGSEGV; seen: SIGBUS", what=0),
    "contents that are no signal": case(
        POISONED,
        "contents",
        "102",
        "SIGBUS",
        "is expected to raise SIGBUS when read; seen: done",
        step=9,
        what=0,
        page=2,
    ),
    "populating": case(
        s.Sequence(steps=(*protected().steps, s.Populate(region=0, first=0, count=2, value=1))),
        "state",
        "blocked",
        "done",
        "populating is expected to complete; seen: blocked",
        what=-1,
    ),
}


@pytest.mark.parametrize("name", CASES)
def test_a_true_check_exits_0_and_a_wrong_one_1(name: str, tmp_path: Path) -> None:
    one = CASES[name]
    assert run(one.sequence, one.claim, tmp_path) == (0, "")
    wrong = msgspec.structs.replace(one.claim, expected=(one.wrong,))
    status, output = run(one.sequence, wrong, tmp_path)
    assert (status, output.count("\n")) == (1, 1), output
    assert one.says in output


def test_a_step_before_that_goes_otherwise_exits_3(tmp_path: Path) -> None:
    # Nothing is registered where the second step of the claim's sequence says so: UFFDIO_WRITEPROTECT is refused.
    steps = protected().steps
    hole = s.Sequence(steps=(*steps[:3], s.Move(uffd=0, region=0, first=0, count=1, to=0, to_first=1), *steps[3:]))
    status, output = run(hole, Claim(step=5, check="marked", page=0, expected=("yes",)), tmp_path)
    assert (status, output) == (3, "could not get that far: 3: UFFDIO_MOVE: Invalid argument\n")


def test_no_end_within_the_bound_exits_1(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cprogram, "BOUND_S", 3)
    claim = Claim(step=5, check="hang", seen="no answer")
    assert run(protected(*WRITE), claim, tmp_path) == (0, "")
    # Nobody reads the event of this fork, which sleeps until somebody does.
    unread = protected(s.Fork(), features=(*WP, "EVENT_FORK"))
    says = "the sequence is expected to come to an end; seen: no end within 3 s\n"
    assert run(unread, claim, tmp_path) == (1, says)


def test_a_quiet_kernel_log_exits_0(tmp_path: Path) -> None:
    sequence = protected(*WRITE, s.Fork(event=0), features=(*WP, "EVENT_FORK"))
    claim = Claim(step=8, check="crash", seen="WARNING: mm/x.c")
    text = render(sequence, claim)
    # What the explorer looks at and reads, too, since a kernel may complain of that.
    assert text.count("look_at_memory(child[1].pid);") == 1
    assert "load(&actor[1], region[0], 4, PAGE);" in text
    assert run(sequence, claim, tmp_path) == (0, "")


ALL = s.Sequence(
    steps=(
        *[s.Map(kind=kind, pages=2) for kind in get_args(s.Kind)],
        s.Map(kind="anon", pages=512, thp=True),
        s.Map(kind="anon", pages=2, prot="r"),
        s.Populate(region=1, first=0, count=2, value=1),
        s.Open(features=get_args(s.Feature)),
        s.Open(),
        s.Register(uffd=0, region=1, first=0, count=2, mode=("missing", "rwp")),
        s.Register(uffd=0, region=3, first=1, count=1, mode=()),
        s.Populate(region=0, first=0, count=2, value=1),
        s.Protect(uffd=0, ioctl="rwprotect", region=1, first=0, count=2),
        s.Resolve(uffd=0, ioctl="writeprotect", region=1, first=1, count=1, dontwake=True),
        s.SetMode(uffd=0, asynchronous=True),
        s.SetMode(uffd=0, asynchronous=False),
        s.Wake(uffd=0, region=1, first=0, count=1),
        s.Thread(),
        *[s.Access(actor=0, how=how, region=1, page=0, value=3) for how in get_args(s.How)],
        *[s.Mprotect(region=0, first=0, count=1, prot=prot) for prot in get_args(s.Prot)],
        *[s.Madvise(region=0, first=0, count=1, advice=advice) for advice in get_args(s.Advice)],
        *[s.PunchHole(region=region, first=1, count=1) for region in (1, 2, 3)],
        s.Munmap(region=0, first=0, count=1),
        s.Mremap(region=5, first=0, count=4, to=0, to_first=0),
        s.Copy(uffd=0, region=1, first=0, count=2, value=5, protect=True, dontwake=True),
        s.Copy(uffd=0, region=1, first=0, count=2, value=5),
        s.Register(uffd=0, region=2, first=0, count=2, mode=("minor", "wp")),
        s.Continue(uffd=0, region=2, first=0, count=2, protect=True, dontwake=True),
        s.Continue(uffd=0, region=2, first=0, count=1),
        s.Zeropage(uffd=0, region=1, first=0, count=2),
        s.Poison(uffd=0, region=1, first=0, count=1),
        s.Move(uffd=0, region=0, first=1, count=1, to=6, to_first=0),
        s.Migrate(region=0, first=0, count=2, node=1),
        s.Mlock(region=0, first=0, count=2),
        s.Mlock(region=0, first=0, count=2, unlock=True),
        *[s.KernelWork(work=work) for work in get_args(s.Work)],
        s.Fork(event=0),
        s.Fork(process=1, event=2),
        s.Thread(process=1),
        s.Mlock(process=1, region=0, first=0, count=1),
        s.Mprotect(process=1, region=0, first=0, count=1, prot="none"),
        s.Madvise(process=1, region=0, first=0, count=1, advice="DONTNEED"),
        s.Munmap(process=1, region=0, first=0, count=1),
        s.Mremap(process=1, region=5, first=4, count=4, to=0, to_first=0),
        s.Access(actor=1, how="read", region=1, page=0),
        s.Unregister(uffd=0, region=1, first=0, count=2),
        s.SwapCycle(),
        s.Exit(process=2),
        s.Close(uffd=1),
    )
)


def test_every_step_compiles(tmp_path: Path) -> None:
    assert {type(step) for step in ALL.steps} == set(get_args(s.Step))
    end = len(ALL.steps)
    compiled(render(ALL, Claim(step=end - 1, check="messages", what=2, expected=("none", "remap"))), tmp_path)
    of_child = Claim(step=end, check="contents", what=1, page=1, process=1, expected=("2", "3"), seen="SIGBUS")
    compiled(render(ALL, of_child), tmp_path)
    compiled(render(ALL, Claim(step=end, check="crash", seen="WARNING: mm")), tmp_path)
    accessed = Claim(step=10, check="accessed", what=3, page=1, expected=("no",))
    compiled(render(ALL, accessed), tmp_path)
    assert [line.split(":")[0] for line in in_words(ALL)] == [str(number) for number in range(end)]


def alone(step: s.Step) -> s.Sequence:
    """The step, and of ALL no more than what makes the objects that it names."""
    uffd = hasattr(step, "uffd") or getattr(step, "event", None) is not None
    other = getattr(step, "process", 0) > 0 or getattr(step, "actor", 0) > 0
    wanted = (s.Map, *((s.Open,) if uffd or other else ()), *((s.Thread,) if hasattr(step, "actor") else ()))
    made = [one for one in ALL.steps if isinstance(one, (*wanted, s.Fork) if other else wanted)]
    return s.Sequence(steps=(*made, step))


def test_every_step_compiles_alone(tmp_path: Path) -> None:
    """What a program includes and defines is chosen by what is in it: a step may lean on nothing that others bring."""
    each = {(type(step), getattr(step, "advice", "")): alone(step) for step in ALL.steps}
    for number, sequence in enumerate(each.values()):
        program = tmp_path / f"{number}.c"
        program.write_text(render(sequence, Claim(step=len(sequence.steps) - 1, check="hang")))
    command = [
        "gcc",
        "-std=gnu11",
        "-Wall",
        "-Wextra",
        "-Werror",
        "-O2",
        "-fsyntax-only",
        *map(str, tmp_path.glob("*.c")),
    ]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_what_the_machine_lacks_exits_4(tmp_path: Path) -> None:
    many = s.Sequence(steps=(s.Map(kind="hugetlb", pages=s.PAGES_MAX), s.Map(kind="hugetlb", pages=s.PAGES_MAX)))
    text = render(many, Claim(step=2, check="hang"))
    done = subprocess.run([str(compiled(text, tmp_path))], capture_output=True, text=True, check=False, timeout=100)
    assert (done.returncode, done.stdout[:10]) == (4, "cannot map")


def test_texts_of_a_guest_stay_texts(tmp_path: Path) -> None:
    hostile = 'x*/ system("id"); /*\n#error\n"; %s%n \\ ??/ \x1b[31m \u202e ä'
    claim = Claim(step=6, check="messages", expected=(hostile,), seen=hostile, why=hostile)
    text = render(s.Sequence(steps=protected(*WRITE).steps, made_by=hostile), claim)
    done = subprocess.run([str(compiled(text, tmp_path))], capture_output=True, text=True, check=False, timeout=100)
    if done.returncode != 4:
        printed = 'x*/ system("id"); /* #error "; %s%n \\ ??/ ? ?; seen: wp+write 0:1\n'
        assert (done.returncode, done.stdout.partition("messages: ")[2]) == (1, printed)
    words = draft(protected(*WRITE), claim, "debian:7.3 <b>`x`\n# y")
    assert r"**Seen.** debian:7.3 \<b\>\`x\` \# y." in words
    assert r'x\*/ system("id"); /\* \#error "; %s%n \\ ??/' in words
    assert "\x1b" not in words
    assert "\u202e" not in words


def test_words() -> None:
    sequence = protected(*WRITE)
    claim = Claim(step=6, check="state", what=0, expected=("blocked",), seen="done")
    assert in_words(sequence, claim)[4:] == [
        "4: UFFDIO_WRITEPROTECT protects pages 0 to 1 of region 0, by userfaultfd 0.",
        "5: Thread 0, of process 0.",
        "6: Thread 0 writes 7 to page 1 of region 0.",
        "The write to page 1 of region 0 by thread 0 is expected to trap; it completed.",
    ]
    errno = Claim(step=3, check="errno", expected=("EINVAL", "EBUSY"), seen="0")
    assert in_words(sequence, errno)[-1] == "UFFDIO_REGISTER is expected to give EINVAL or EBUSY; it gave success."
    marked = Claim(step=6, check="marked", page=1, expected=("no",), seen="yes")
    assert in_words(sequence, marked)[-1] == (
        "Page 1 of region 0 is expected not to have the marker (pagemap bit 57); it has."
    )


@pytest.mark.parametrize(
    ("claim", "says"),
    [
        (Claim(step=9, check="hang"), "no check of hang at step 9 of a sequence of 7 steps"),
        (Claim(step=7, check="errno", expected=("0",)), "no check of errno at step 7"),
        (Claim(step=3, check="errno", expected=("0; system()",)), "no name of an errno"),
        (Claim(step=6, check="value", expected=("1 + 1",)), "not a word in decimal"),
        (Claim(step=6, check="marked", expected=("yes",)), "names no page"),
        (Claim(step=6, check="marked", page=1, expected=("yes", "no")), "neither yes nor no"),
        (Claim(step=6, check="marked", what=1, page=1, expected=("no",)), "no earlier step makes"),
        (Claim(step=6, check="state", what=1, expected=("done",)), "thread 1 has accessed nothing by step 6"),
    ],
)
def test_a_claim_that_is_none_of_the_sequence(claim: Claim, says: str) -> None:
    with pytest.raises(ValueError, match=says):
        render(protected(*WRITE), claim)
