"""A sequence and a claim in plain English: for people, for comments of the C program, and as the draft of a finding."""

from __future__ import annotations

import re
from collections.abc import Iterable
from collections.abc import Sequence as Many

from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Claim
from kselftests_py.reports.text import one_line

KINDS: dict[str, str] = {
    "anon": "anonymous memory",
    "shmem": "a memfd, mapped shared",
    "tmpfs": "a file on tmpfs, mapped shared",
    "hugetlb": "hugetlb (2 MiB, a memfd mapped shared)",
    "hugetlb_private": "private hugetlb (2 MiB)",
}
PROTS: dict[str, str] = {"none": "PROT_NONE", "r": "PROT_READ", "rw": "PROT_READ|PROT_WRITE"}
WORKS: dict[s.Work, str] = {
    "compaction": "The kernel compacts all memory.",
    "numa_hints": "NUMA balancing takes pages of process 0 away for hints.",
}
REPORTS: dict[str, str] = {
    "marked": "to have the marker (pagemap bit 57)",
    "accessed": "to be reported as PAGE_IS_ACCESSED",
    "written": "to be reported as PAGE_IS_WRITTEN",
}
_ACCESS_ENDS: dict[str, str] = {
    "done": "complete",
    "blocked": "trap",
    "running": "be neither done nor trapped",
    "SIGSEGV": "raise SIGSEGV",
    "SIGBUS": "raise SIGBUS",
}
_ACCESS_SEEN: dict[str, str] = {
    "done": "it completed",
    "blocked": "its thread sleeps in the fault",
    "running": "it neither completed nor trapped within 2 s",
    "SIGSEGV": "it raised SIGSEGV",
    "SIGBUS": "it raised SIGBUS",
}


_NOUNS: dict[s.How, str] = {
    "read": "read of",
    "write": "write to",
    "rmw": "atomic addition to",
    "hwpoison": "failure of",
}


def in_words(sequence: s.Sequence, claim: Claim | None = None) -> list[str]:
    """One sentence a step, numbered as claims number them, and one for the claim."""
    lines = [f"{number}: {text}" for number, text in enumerate(steps_in_words(sequence.steps))]
    if claim is not None:
        lines.append(_sentence(claim_in_words(sequence, claim)))
    return lines


def steps_in_words(steps: Iterable[s.Step]) -> list[str]:
    """One sentence for each step, with the numbers that new objects get."""
    made = {s.Map: 0, s.Open: 0, s.Thread: 0, s.Fork: 1}
    lines = []
    for step in steps:
        number = made.get(type(step), 0)
        if isinstance(step, s.Fork) and step.event is not None:
            lines.append(
                f"Process {step.process} forks process {number}; the fork event of userfaultfd {step.event} brings"
                f" userfaultfd {made[s.Open]}."
            )
            made[s.Open] += 1
        else:
            lines.append(_step(step, number))
        if type(step) in made:
            made[type(step)] += 1
    return lines


def _step(step: s.Step, number: int) -> str:
    """*number*: of the object that the step makes, if it makes one."""
    match step:
        case s.Map():
            huge = " with MADV_HUGEPAGE" if step.thp else ""
            return f"Region {number}: {_count(step.pages)} of {KINDS[step.kind]}, {PROTS[step.prot]}{huge}."
        case s.Populate():
            return f"A thread stores {step.value} + page number into {_pages(step)}."
        case s.Open():
            return f"Userfaultfd {number}, with {_list(step.features, 'feature', 'features')}."
        case s.Register():
            modes = _list([mode.upper() for mode in step.mode], "mode", "modes")
            return f"UFFDIO_REGISTER of {_pages(step)} with userfaultfd {step.uffd}, {modes}."
        case s.Protect():
            return f"UFFDIO_{step.ioctl.upper()} protects {_pages(step)}, by userfaultfd {step.uffd}."
        case s.Resolve():
            silent = " with MODE_DONTWAKE" if step.dontwake else ""
            return f"UFFDIO_{step.ioctl.upper()} resolves {_pages(step)}{silent}, by userfaultfd {step.uffd}."
        case s.SetMode():
            mode = "async" if step.asynchronous else "sync"
            return f"UFFDIO_SET_MODE switches userfaultfd {step.uffd} to {mode} mode."
        case s.Close():
            return f"Userfaultfd {step.uffd} is closed."
        case s.Thread():
            return f"Thread {number}, of process {step.process}."
        case s.Access():
            return f"Thread {step.actor} {_does(step)} page {step.page} of region {step.region}."
        case s.Fork():
            return f"Process {step.process} forks process {number}."
        case s.Exit():
            return f"Process {step.process} exits."
        case s.SwapCycle():
            return "swapoff and swapon of the first swap device."
        case s.KernelWork():
            return WORKS[step.work]
        case _:
            return _memory(step)


def _memory(step: s.Step) -> str:
    """The operations that rearrange pages."""
    match step:
        case s.Unregister() | s.Wake() | s.Zeropage() | s.Poison():
            return f"UFFDIO_{type(step).__name__.upper()} of {_pages(step)}, by userfaultfd {step.uffd}."
        case s.Copy() | s.Continue():
            modes = ["MODE_WP"] * step.protect + ["MODE_DONTWAKE"] * step.dontwake
            mode = f", {' and '.join(modes)}" if modes else ""
            what = f"{step.value} + page number onto " if isinstance(step, s.Copy) else ""
            name = type(step).__name__.upper()
            return f"UFFDIO_{name} of {what}{_pages(step)}, by userfaultfd {step.uffd}{mode}."
        case s.Move():
            return f"UFFDIO_MOVE of {_pages(step)} {_target(step.to, step.to_first)}, by userfaultfd {step.uffd}."
        case s.Migrate():
            return f"move_pages of {_pages(step)} to NUMA node {step.node}."
        case s.Mprotect():
            return f"mprotect of {_pages(step)} to {PROTS[step.prot]}{_by(step.process)}."
        case s.Madvise():
            return f"madvise MADV_{step.advice} of {_pages(step)}{_by(step.process)}."
        case s.Mlock():
            return f"{'munlock' if step.unlock else 'mlock'} of {_pages(step)}{_by(step.process)}."
        case s.PunchHole():
            return f"A hole is punched into the file at {_pages(step)}."
        case s.Munmap():
            return f"munmap of {_pages(step)}{_by(step.process)}."
        case s.Mremap():
            return f"mremap of {_pages(step)} {_target(step.to, step.to_first)}{_by(step.process)}."
        case _:
            raise TypeError(f"no words for {type(step).__name__}")


def _count(pages: int) -> str:
    return "1 page" if pages == 1 else f"{pages} pages"


def _pages(step: s._Range) -> str:
    last = step.first + step.count - 1
    which = f"page {step.first}" if step.count == 1 else f"pages {step.first} to {last}"
    return f"{which} of region {step.region}"


def _target(region: int, first: int) -> str:
    return f"to page {first} of region {region}"


def _by(process: int) -> str:
    return f", by process {process}" if process else ""


def _list(items: Many[str], one: str, many: str) -> str:
    return f"{one if len(items) == 1 else many} {', '.join(items)}" if items else f"no {one}"


def _does(step: s.Access) -> str:
    return {
        "read": "reads",
        "write": f"writes {step.value} to",
        "rmw": f"adds {step.value} atomically to",
        "hwpoison": "has a failure (MADV_HWPOISON) of",
    }[step.how]


def claim_in_words(sequence: s.Sequence, claim: Claim) -> str:
    """``what is expected; what was seen``."""
    return f"{expectation(sequence, claim)}; {_seen(claim)}"


def expectation(sequence: s.Sequence, claim: Claim) -> str:
    """The half of the claim that is expected, without a full stop."""
    texts = [one_line(text) for text in claim.expected]
    match claim.check:
        case "errno":
            return f"{call_name(sequence, claim.step)} is expected to give {_or(_errno(text) for text in texts)}"
        case "state":
            ends = _or(_ACCESS_ENDS.get(text, text) for text in texts)
            return f"{_access(sequence, claim)} is expected to {ends}"
        case "value":
            return f"{_access(sequence, claim)} is expected to load {_or(texts)}"
        case "messages":
            return f"userfaultfd {claim.what} is expected to give these messages: {_or(texts)}"
        case "marked" | "accessed" | "written":
            negated = "not " if texts == ["no"] else ""
            return f"{_page(claim)} is expected {negated}{REPORTS[claim.check]}"
        case "contents":
            signals = [text for text in texts if text in _ACCESS_ENDS]
            words = [text for text in texts if text not in signals]
            holds = [f"hold {_or(words)}"] if words or not signals else []
            return f"{_page(claim)} is expected to {_or([*holds, *(f'raise {text} when read' for text in signals)])}"
        case "crash":
            return "the kernel is expected to live on, with nothing to complain of in its log"
        case "hang":
            return "the sequence is expected to come to an end"


def call_name(sequence: s.Sequence, number: int) -> str:
    """The system call that a step makes, by the name its manual page has."""
    step = sequence.steps[number]
    match step:
        case s.Protect() | s.Resolve():
            return f"UFFDIO_{step.ioctl.upper()}"
        case s.Open():
            return "UFFDIO_API"
        case s.SetMode():
            return "UFFDIO_SET_MODE"
        case s.Register() | s.Unregister() | s.Wake() | s.Copy() | s.Continue() | s.Zeropage() | s.Poison() | s.Move():
            return f"UFFDIO_{type(step).__name__.upper()}"
        case s.Madvise():
            return f"madvise MADV_{step.advice}"
        case s.PunchHole():
            return "fallocate FALLOC_FL_PUNCH_HOLE"
        case s.SwapCycle():
            return "swapoff, swapon"
        case s.Migrate():
            return "move_pages"
        case s.Mlock():
            return "munlock" if step.unlock else "mlock"
        case s.KernelWork():
            return {"compaction": "compact_memory", "numa_hints": "NUMA balancing"}[step.work]
        case s.Map():
            return "mmap"
        case _:
            return type(step).__name__.lower()


def _seen(claim: Claim) -> str:
    seen = one_line(claim.seen)
    match claim.check:
        case "errno":
            return f"it gave {_errno(seen)}"
        case "state":
            return _ACCESS_SEEN.get(seen, seen)
        case "value":
            return f"it loaded {seen}"
        case "messages":
            return f"it gave {seen}"
        case "marked" | "accessed" | "written":
            verb = "has" if claim.check == "marked" else "is"
            return {"yes": f"it {verb}", "no": f"it {verb} not"}.get(seen, seen)
        case "contents":
            return f"it holds {seen}" if seen.isdigit() else f"it cannot be read: {_ACCESS_SEEN.get(seen, seen)}"
        case "crash" | "hang":
            return seen or "it is not so"


def _errno(text: str) -> str:
    return "success" if text == "0" else text


def _or(texts: Iterable[str]) -> str:
    return " or ".join(texts) or "nothing"


def _page(claim: Claim) -> str:
    process = f" of process {claim.process}" if claim.process else ""
    return f"page {claim.page} of region {claim.what}{process}"


def _access(sequence: s.Sequence, claim: Claim) -> str:
    """The access that the claim's actor is at, or was at last."""
    if claim.what == -1:
        return "populating"
    for step in reversed(sequence.steps[: claim.step + 1]):
        if isinstance(step, s.Access) and step.actor == claim.what:
            noun = _NOUNS[step.how]
            return f"the {noun} page {step.page} of region {step.region} by thread {claim.what}"
    return f"thread {claim.what}"


def _sentence(text: str) -> str:
    return f"{text[:1].upper()}{text[1:]}."


def draft(sequence: s.Sequence, claim: Claim, kernel: str) -> str:
    """A finding in the shape of docs/findings, in Markdown: what only a person can say is left to fill in.

    *kernel* names the kernel that it was seen on. All of it, and the claim's texts, may come from a guest.
    """
    where = "at the end" if claim.step >= len(sequence.steps) else f"at step {claim.step}"
    parts = [
        f"# F___: {_markdown(claim_in_words(sequence, claim))}",
        f"**Claim broken.** {_markdown(_sentence(expectation(sequence, claim)))} {_markdown(claim.why)}".rstrip(),
        "**Source.** (the sentence of the kernel's documentation, or the invariant, that says so)",
        "**Shortest sequence.**",
        "\n".join(f"{number}. {_markdown(text)}" for number, text in enumerate(steps_in_words(sequence.steps))),
        f"**What happens.** {where[:1].upper()}{where[1:]}: {_markdown(claim_in_words(sequence, claim))}.",
        "**Where.** (the function of the kernel, if it is known)",
        f"**Seen.** {_markdown(kernel)}.",
        "**Test.** (the test of the suites that fails on it)",
        "**Program.** (its name): exits 1 on a kernel that does so, 0 on one that does not, 4 where it cannot be.",
    ]
    return "\n\n".join(parts) + "\n"


def _markdown(text: str) -> str:
    """Text that Markdown shows as it is: one line, every mark of Markdown or HTML escaped."""
    return re.sub(r"([\\`*_{}\[\]<>#|!~&$])", r"\\\1", one_line(text))
