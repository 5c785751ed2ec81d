"""Whether the model allows what a run has seen: the first check that it does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import msgspec

from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Check, Claim
from kselftests_py.explore.execute import HELPER, Entry, Observed, Seen
from kselftests_py.explore.model import SIGNALS, Expected, Model, Page, Place, Settled, Words
from kselftests_py.explore.rules import apply

Pass = Callable[[Claim, Model], bool]
"""Whether a wrong report is to be passed over: it is one of those that change nothing, and a finding already."""


def readable(sequence: s.Sequence) -> list[Place]:
    """The pages that can be read once everything is closed; :raises Unmodelled: the model does not know some step."""
    model = Model()
    for step in sequence.steps:
        apply(model, step)
        model.settle(None)
    return [place for place, page in model.pages.items() if page.prot in ("r", "rw")]


WHY: dict[Check, str] = {
    "errno": "the UAPI contract (suites/trapping/contract.toml) says what a call accepts and refuses",
    "state": "I1: nobody sleeps for nothing; I3: no access is missed",
    "value": "I5: tracking never changes data; I6: after fork neither side sees the other's later writes",
    "messages": "userfaultfd.rst: each trapped access is told once, with its address and flags",
    "marked": "I2: marker and trap agree; I7: an error changes nothing; I8: a call does what it says",
    "accessed": "I3: no access is missed; I4: nothing untouched is hot",
    "written": "pagemap.rst, PAGE_IS_WRITTEN",
    "contents": "I5: tracking never changes data; I6: after fork neither side sees the other's later writes",
    "crash": "I9: the log is clean",
    "hang": "every call ends",
}
"""What each expectation rests on."""


def judge(sequence: s.Sequence, observed: Observed, passing: Pass = lambda claim, model: False) -> Claim | None:
    """The first contradiction, or None."""
    claim = _first(sequence, observed, passing)
    return claim and msgspec.structs.replace(claim, why=WHY[claim.check])


def _first(sequence: s.Sequence, observed: Observed, passing: Pass) -> Claim | None:
    model = Model()
    for number, (step, seen) in enumerate(zip(sequence.steps, observed.steps, strict=False)):
        if seen.errno is None:
            return _lost(number, observed)
        claim = _step(model, number, apply(model, step), seen, passing)
        if claim is not None:
            return claim
    return _final(model, len(sequence.steps), observed)


def _lost(number: int, observed: Observed) -> Claim:
    if observed.lost is None:
        raise AssertionError(f"step {number} was not run, though every check before it holds")
    return Claim(step=number, check="hang", seen=str(observed.lost)[:400])


def _step(model: Model, number: int, expected: Expected, seen: Seen, passing: Pass) -> Claim | None:
    if seen.errno not in expected.errno:
        return Claim(step=number, check="errno", expected=tuple(sorted(expected.errno)), seen=str(seen.errno))
    if seen.states.get(HELPER, "done") != "done":
        return Claim(step=number, check="state", what=HELPER, expected=("done",), seen=seen.states[HELPER])
    for actor in sorted([*expected.accesses, *expected.still]):
        outcomes = expected.outcomes(actor)
        if seen.states.get(actor, "") not in outcomes:
            state = seen.states.get(actor, "")
            return Claim(step=number, check="state", what=actor, expected=tuple(sorted(outcomes)), seen=state)
    settled = model.settle(seen.states)
    return (
        _values(number, settled, seen)
        or _messages(model, number, settled, seen)
        or _pages(model, number, seen.pages, passing)
    )


def _values(number: int, settled: Settled, seen: Seen) -> Claim | None:
    for actor, words in settled.values.items():
        if words is not None and actor in seen.values and seen.values[actor] not in words:
            return Claim(step=number, check="value", what=actor, expected=_texts(words), seen=str(seen.values[actor]))
    return None


def _texts(words: Words) -> tuple[str, ...]:
    return tuple(str(word) for word in sorted(words or ())[:16])


def _messages(model: Model, number: int, settled: Settled, seen: Seen) -> Claim | None:
    for uffd, found in sorted(seen.messages.items()):
        allowed = {
            tuple(sorted(one for one in chosen if one)) for chosen in itertools.product(*settled.messages.get(uffd, []))
        }
        if tuple(found) not in allowed:
            texts = sorted("; ".join(one) or "none" for one in allowed)[:16]
            seen_text = ("; ".join(found) or "none")[:400]
            return Claim(step=number, check="messages", what=uffd, expected=tuple(texts), seen=seen_text)
    return None


def _pages(model: Model, number: int, pages: dict[Place, Entry], passing: Pass) -> Claim | None:
    claims, told = [], []
    for place, entry in sorted(pages.items()):
        page = model.pages[place]
        if entry.marked not in model.marked(page):
            claims.append(_claim(number, "marked", place, model.marked(page), entry.marked))
        model.observe(page, _entry(page, entry), entry.marked)
    for place, entry in sorted(pages.items()):
        page = model.pages[place]
        if entry.accessed is not None and entry.accessed not in model.accessed(page):
            told.append(_claim(number, "accessed", place, model.accessed(page), entry.accessed))
    for place, entry in sorted(pages.items()):
        page = model.pages[place]
        if entry.written is not None and entry.written not in model.written(page):
            told.append(_claim(number, "written", place, model.written(page), entry.written))
    claims += [claim for claim in told if not passing(claim, model)]
    return claims[0] if claims else None


def _entry(page: Page, entry: Entry) -> set[str]:
    """The entries that pagemap may mean: a marker where nothing is shows as swapped; so may what raises a signal."""
    if entry.present:
        return {"present"}
    if entry.guard:
        return {"guard"}
    if not entry.swapped or page.file:
        return {"absent", *SIGNALS}
    return {"swapped", *SIGNALS} | ({"absent"} if entry.marked else set())


def _claim(number: int, check: Check, place: Place, allowed: set[bool], seen: bool) -> Claim:
    process, region, page = place
    texts = tuple(sorted("yes" if one else "no" for one in allowed))
    told = "yes" if seen else "no"
    return Claim(step=number, check=check, what=region, page=page, process=process, expected=texts, seen=told)


def _final(model: Model, number: int, observed: Observed) -> Claim | None:
    seen = observed.steps[-1]
    if seen.errno is None:
        return _lost(number, observed)
    for uffd, one in enumerate(model.uffds):
        if one.open and model.alive[one.process]:
            expected = apply(model, s.Close(uffd=uffd))
            for actor in expected.accesses:
                state = seen.states.get(actor, "")
                if state not in expected.outcomes(actor):
                    texts = tuple(sorted(expected.outcomes(actor)))
                    return Claim(step=number, check="state", what=actor, expected=texts, seen=state)
            model.settle(seen.states)
    for place, text in sorted(observed.contents.items()):
        allowed = model.contents(model.pages[place])
        if not (text.isdigit() if allowed is None else text in allowed):
            process, region, page = place
            return Claim(
                step=number,
                check="contents",
                what=region,
                page=page,
                process=process,
                expected=tuple(sorted(allowed or ()))[:16],
                seen=text,
            )
    if observed.lost is not None:
        return _lost(number, observed)
    return None
