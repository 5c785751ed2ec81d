"""A sequence and a failed check as a C program of the shape that kernel people post: it needs gcc and a C library.

It exits 1 (with a line that says what was expected and what was seen) on a kernel that fails the check, 0 on one that
does not, 3 where a step before went otherwise than known, 4 (the kselftests' SKIP) where it cannot be tried.
It makes the probe's system calls in the probe's order (native_probes/), and says "blocked" by the same signs.
"""

from __future__ import annotations

import re
import textwrap
from collections.abc import Iterable
from collections.abc import Sequence as Many
from itertools import groupby
from typing import Any

import jinja2

from kselftests_py.explore import steps as s
from kselftests_py.explore.before import checks_before
from kselftests_py.explore.claims import Claim
from kselftests_py.explore.code import LINE, Code
from kselftests_py.explore.judge import readable
from kselftests_py.explore.model import SIGNALS, Unmodelled
from kselftests_py.explore.objects import Objects
from kselftests_py.explore.words import call_name, expectation, in_words, steps_in_words
from kselftests_py.lab.errors import ERRNOS
from kselftests_py.reports.text import one_line

BOUND_S = 60
"""The longest that a program runs."""

_HEADER = """\
/* SPDX-License-Identifier: MIT */
/*
 * %s
 *
 * gcc -Wall -Wextra -O2 -pthread -o program program.c && ./program
 * Exits 1 on a kernel that does so, 0 on one that does not, 3 where an earlier step goes otherwise, 4 where it
 * cannot be tried.
 */"""

_FILES = ("uapi", "memory", "threads", "checks")
"""Of the folder program/, in the order of their parts in a program."""

# Younger than the headers that may be there. Source: include/uapi of Linux.
_CONSTANTS = (
    ("UFFD_FEATURE_MINOR_HUGETLBFS", "(1 << 9)"),
    ("UFFD_FEATURE_MINOR_SHMEM", "(1 << 10)"),
    ("UFFD_FEATURE_WP_HUGETLBFS_SHMEM", "(1 << 12)"),
    ("UFFD_FEATURE_WP_UNPOPULATED", "(1 << 13)"),
    ("UFFD_FEATURE_POISON", "(1 << 14)"),
    ("UFFD_FEATURE_WP_ASYNC", "(1 << 15)"),
    ("UFFD_FEATURE_MOVE", "(1 << 16)"),
    ("UFFD_FEATURE_RWP", "(1 << 17)"),
    ("UFFD_FEATURE_RWP_ASYNC", "(1 << 18)"),
    ("UFFDIO_REGISTER_MODE_RWP", "(1 << 3)"),
    ("UFFDIO_CONTINUE_MODE_WP", "(1 << 1)"),
    ("PAGE_IS_WRITTEN", "(1 << 1)"),
    ("PAGE_IS_ACCESSED", "(1 << 9)"),
    ("MADV_COLD", "20"),
    ("MADV_PAGEOUT", "21"),
    ("MADV_POPULATE_READ", "22"),
    ("MADV_POPULATE_WRITE", "23"),
    ("MADV_COLLAPSE", "25"),
    ("MADV_GUARD_INSTALL", "102"),
    ("MADV_GUARD_REMOVE", "103"),
)


def render(sequence: s.Sequence, claim: Claim) -> str:
    """The program. Steps after the claim's are left out; those before must go as the model expects. A system call of
    a step that is not modelled must succeed, and a thread may be done or blocked then.

    :raises ValueError: the claim is none of the sequence, or the sequence names what no step of it has made.
    """
    try:
        ends = claim.check in ("crash", "hang") and claim.step >= len(sequence.steps)
        reader = claim.process if claim.check == "contents" else 1 if ends else None
        objects = Objects.of(sequence.steps[: claim.step + 1], reader)
        before = checks_before(sequence, claim)
        fork_claimed = claim.step if claim.check == "errno" else None
        return _assemble(Code(objects, fork_claimed), sequence, claim, before)
    except IndexError as error:
        raise ValueError("a step or a claim names an object that no earlier step makes") from error


def _assemble(code: Code, sequence: s.Sequence, claim: Claim, before: Many[Claim]) -> str:
    steps = sequence.steps[: claim.step + 1]
    at_end = claim.step >= len(sequence.steps)
    if claim.step > len(sequence.steps) or (at_end and claim.check in ("errno", "messages")):
        raise ValueError(f"no check of {claim.check} at step {claim.step} of a sequence of {len(sequence.steps)} steps")
    watched = claim.check in ("crash", "hang")
    allowed = {check.step: check.expected for check in before if check.check == "errno"}
    states = [check for check in before if check.check == "state" and check.step <= claim.step]

    lines: list[str] = []
    for number, (step, text) in enumerate(zip(steps, steps_in_words(steps), strict=True)):
        lines += ["", *_comment(f"{number}: {text}")]
        if number == claim.step and claim.check == "messages":
            lines.append("memset(count, 0, sizeof(count));")
        call, after = code.step(number, step)
        lines += call[:-1]
        if number == claim.step and claim.check == "errno":
            lines += _check_errno(1, call[-1], claim.expected, expectation(sequence, claim))
        elif call:
            lines += _must(f"{number}: {call_name(sequence, number)}", call[-1], allowed.get(number, ("0",)))
        lines += after
        quiet = isinstance(step, s.Map | s.Populate | s.Open | s.Thread) and number < claim.step
        if (code.threads_run or claim.check == "messages") and not quiet:
            lines.append("settle();")
        lines += code.look() if watched else []
        lines += _states(code, sequence, [check for check in states if check.step == number])
    if at_end:
        lines += ["", "/* At the end the userfaultfds are closed. */", *code.close_all()]
        if code.threads_run:
            lines.append("settle();")
        lines += _states(code, sequence, [check for check in states if check.step == len(sequence.steps)])
    if at_end and watched:
        lines += ["", "/* The contents. */", *_loads(code, sequence)]
    if claim.check != "errno" and not watched:
        lines += ["", *_comment(f"Claim: {expectation(sequence, claim)}."), *_claim(code, sequence, claim)]
    return _text(code, sequence, claim, lines)


def _loads(code: Code, sequence: s.Sequence) -> list[str]:
    """The explorer's reading of all that can be read, in its order."""
    try:
        places = sorted(readable(sequence), reverse=True)
    except Unmodelled:
        return []
    groups = groupby(places, lambda place: place[:2])
    return [
        line
        for (process, region), group in groups
        for line in code.load(process, region, [page for _, _, page in group])
    ]


def _comment(text: str) -> list[str]:
    """Text that may be anything as a comment of C."""
    safe = one_line(text, 1000).replace("*/", "* /").replace("/*", "/ *").replace("??/", "?? /")
    lines = textwrap.wrap(safe.encode("ascii", "replace").decode(), 104, break_on_hyphens=False)
    return [
        ("/* " if n == 0 else "   ") + line + (" */" if n == len(lines) - 1 else "") for n, line in enumerate(lines)
    ]


def _literal(text: str) -> str:
    """The inside of a C string literal and printf format that prints *text*."""
    safe = one_line(text, 1000).encode("ascii", "replace").decode()
    return re.sub(r'([\\"])', r"\\\1", safe).replace("%", "%%").replace("?", r"\?")


def _quit(status: int, text: str, seen: str, argument: str = "") -> str:
    """The end of the program: *text*, and what was *seen*, in printf's notation, with its argument."""
    line = f'quit({status}, "{_literal(text)}; seen: {seen}"'
    between = ",\n\t     " if len(line) + len(argument) > LINE else ", "
    return f"\t{line}{between if argument else ''}{argument});"


def _number(name: str) -> str:
    """An errno's name, or 0, as C has it."""
    if name != "0" and name not in ERRNOS:
        raise ValueError(f"{one_line(name)} is no name of an errno")
    return name


def _must(what: str, call: str, allowed: Many[str]) -> list[str]:
    """A step before the claim: any other result is exit 3."""
    if len(allowed) == 1:
        return [f'must("{_literal(what)}", {call}, {_number(allowed[0])});']
    return _check_errno(3, call, allowed, f"could not get that far: {what}")


def _check_errno(status: int, call: str, allowed: Many[str], text: str) -> list[str]:
    return [
        f"error = {call} < 0 ? errno : 0;",
        f"if ({' && '.join(f'error != {_number(name)}' for name in allowed) or '1'})",
        _quit(status, text, "%s", "strerror(error)"),
    ]


def _states(code: Code, sequence: s.Sequence, checks: Iterable[Claim]) -> list[str]:
    lines: list[str] = []
    for check in checks:
        if code.begun(check.what, check.step):
            who = "populating" if check.what == -1 else f"thread {check.what}"
            text = f"could not get that far: {check.step}: {who}"
            lines += _check_state(3, code.actor(check.what, check.step), check.expected, text)
    return lines


def _check_state(status: int, actor: str, allowed: Many[str], text: str) -> list[str]:
    differs = " && ".join(f'strcmp({actor}.state, "{_literal(name)}")' for name in allowed) or "1"
    return [f"if ({differs})", _quit(status, text, "%s", f"{actor}.state")]


def _claim(code: Code, sequence: s.Sequence, claim: Claim) -> list[str]:
    """The check after the last step."""
    text = expectation(sequence, claim)
    match claim.check:
        case "state":
            if not code.begun(claim.what, claim.step):
                raise ValueError(f"thread {claim.what} has accessed nothing by step {claim.step}")
            return _check_state(1, code.actor(claim.what, claim.step), claim.expected, text)
        case "value":
            actor = code.actor(claim.what, claim.step)
            return [*_check_state(3, actor, ("done",), text), *_check_word(actor, claim.expected, text)]
        case "messages":
            differs = " && ".join(f'strcmp(seen, "{_literal(allowed)}")' for allowed in claim.expected) or "1"
            return [
                f"const char *seen = joined({claim.what});",
                f"if ({differs})",
                _quit(1, text, "%s", "seen"),
            ]
        case "contents":
            lines, actor = code.read(claim.process, claim.what, _page(claim))
            signals = [name for name in claim.expected if name in SIGNALS.values()]
            words = [word for word in claim.expected if word not in signals]
            lines += _check_state(1, actor, [*signals, *(["done"] if words or not signals else [])], text)
            return [*lines, *(_check_word(actor, words, text, unless=signals) if words or not signals else [])]
        case _:
            return _check_page(code, claim, text)


def _check_page(code: Code, claim: Claim, text: str) -> list[str]:
    """``marked``, ``accessed``, ``written``."""
    fd = f"pagemap({code.pid(claim.process)})"
    page = code.at(claim.what, _page(claim))
    call = f"marked({fd}, {page})"
    if claim.check != "marked":
        region, length = code.at(claim.what, 0), code.length(claim.what, code.objects.regions[claim.what].pages)
        call = f"reported({fd}, {region}, {length}, {page}, PAGE_IS_{claim.check.upper()})"
    if claim.expected not in (("yes",), ("no",)):
        raise ValueError(f"the check {claim.check} expects neither yes nor no")
    wanted, seen = ("!", "no") if claim.expected == ("yes",) else ("", "yes")
    return [f"if ({wanted}{call})", _quit(1, text, seen)]


def _check_word(actor: str, allowed: Many[str], text: str, unless: Many[str] = ()) -> list[str]:
    """*unless*: the access has raised one of these signals, which is as good."""
    if not all(re.fullmatch(r"\d{1,19}", word) for word in allowed):
        raise ValueError(f"not a word in decimal: {one_line(' '.join(allowed))}")
    differs = " && ".join(f"{actor}.value != {word}" for word in allowed) or "1"
    differs += f' && !strcmp({actor}.state, "done")' if unless else ""
    return [f"if ({differs})", _quit(1, text, "%llu", f"(unsigned long long){actor}.value")]


def _page(claim: Claim) -> int:
    if claim.page is None:
        raise ValueError(f"the check {claim.check} names no page")
    return claim.page


def _text(code: Code, sequence: s.Sequence, claim: Claim, lines: list[str]) -> str:
    signals = ["SIGBUS", "SIGSEGV"] if code.threads_run and _may_signal(sequence, claim) else []
    start = [*(["int error;", ""] if any(line.startswith("error = ") for line in lines) else []), "watch();"]
    start += [f"signal({name}, catch_signal);" for name in signals]
    main = "\n".join([*start, *code.start(), *lines, "_exit(0);"])
    body = f"int main(void)\n{{\n{textwrap.indent(main, chr(9))}\n}}\n"
    parts = _parts(
        code,
        signals=signals,
        messages=claim.check == "messages",
        log=claim.check == "crash",
        expectation=_literal(expectation(sequence, claim)),
    )
    title = _comment(in_words(sequence, claim)[-1])
    return "\n".join([_HEADER % "\n * ".join(line.strip("/* ") for line in title), _select(parts, body) + body])


def _may_signal(sequence: s.Sequence, claim: Claim) -> bool:
    """Whether an access may raise a signal, so that the program must survive it."""
    told = any(text.startswith("SIG") for text in (*claim.expected, claim.seen))
    return told or any(
        isinstance(step, s.Munmap | s.Mremap | s.Poison)
        or (isinstance(step, s.Mprotect | s.Map) and step.prot != "rw")
        or (isinstance(step, s.Madvise) and step.advice == "GUARD_INSTALL")
        or (isinstance(step, s.Access) and step.how == "hwpoison")
        for step in sequence.steps[: claim.step]
    )


def _parts(code: Code, **told: Any) -> list[tuple[list[str], str]]:
    """The parts of program/: the words each stands for, and its text."""
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("kselftests_py.explore", "program"),
        keep_trailing_newline=True,
        trim_blocks=True,
        lstrip_blocks=True,
        undefined=jinja2.StrictUndefined,
        autoescape=False,  # C, not HTML
    )
    given = {**code.template(), **told, "bound": BOUND_S, "constants": _CONSTANTS}
    text = "".join(environment.get_template(f"{name}.c.j2").render(given) for name in _FILES)
    parts = [part.partition("\n") for part in re.split(r"^@@ ", text, flags=re.MULTILINE)[1:]]
    return [(words.split(), body) for words, _, body in parts]


def _select(parts: list[tuple[list[str], str]], body: str) -> str:
    """The parts that *body* needs, and those that these need, in their order."""
    chosen: set[int] = set()
    words = _identifiers(body)
    while True:
        new = {n for n, (names, _) in enumerate(parts) if n not in chosen and not words.isdisjoint(names)}
        if not new:
            break
        chosen |= new
        words |= {word for n in new for word in _identifiers(parts[n][1])}
    return re.sub(r"\n{3,}", "\n\n", "".join(parts[n][1] for n in sorted(chosen)))


def _identifiers(text: str) -> set[str]:
    """Names in C text, without those in comments and strings."""
    return set(re.findall(r"\w+", re.sub(r'/\*.*?\*/|"(?:\\.|[^"\\\n])*"', " ", text, flags=re.DOTALL)))
