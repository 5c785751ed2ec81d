"""The last of the shrinking: a sequence without what it does not need, after Hypothesis has made its numbers small."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Claim
from kselftests_py.explore.judge import readable
from kselftests_py.explore.model import Unmodelled

_NAMES: dict[type, str] = {s.Map: "region", s.Open: "uffd", s.Thread: "actor"}
_FIELDS = {"region": ("region", "to"), "uffd": ("uffd", "event"), "actor": ("actor",)}


def without(steps: tuple[s.Step, ...], number: int) -> tuple[s.Step, ...] | None:
    """*steps* without one of them, the others renumbered; None: another one needs what it makes."""
    gone = steps[number]
    left = steps[:number] + steps[number + 1 :]
    sort = _NAMES.get(type(gone))
    if sort is None:
        # A fork makes a process, and may make a userfaultfd: only once nobody speaks of them may it go.
        return None if isinstance(gone, s.Fork) and _uses_child(steps, number, gone) else left
    if sort == "uffd" and any(isinstance(one, s.Fork) and one.event is not None for one in steps[:number]):
        return None
    index = sum(isinstance(one, type(gone)) for one in steps[:number])
    renumbered: list[s.Step] = []
    for step in left:
        changes = {}
        for name in _FIELDS[sort]:
            value = getattr(step, name, None)
            if value == index:
                return None
            if value is not None and value > index:
                changes[name] = value - 1
        renumbered.append(msgspec.structs.replace(step, **changes) if changes else step)
    return tuple(renumbered)


def _uses_child(steps: tuple[s.Step, ...], number: int, fork: s.Fork) -> bool:
    child = 1 + sum(isinstance(one, s.Fork) for one in steps[:number])
    brought = sum(isinstance(one, s.Open) for one in steps[:number]) if fork.event is not None else -1
    return any(
        getattr(one, "process", 0) >= child or (fork.event is not None and getattr(one, "uffd", -1) >= brought)
        for one in steps[number + 1 :]
    )


def simpler(step: s.Step) -> Iterator[s.Step]:
    """The step with less in it."""
    if isinstance(step, s.Open):
        for name in step.features:
            yield msgspec.structs.replace(step, features=tuple(one for one in step.features if one != name))
    if isinstance(step, s.Map) and step.pages > 1:
        yield from (
            msgspec.structs.replace(step, pages=pages) for pages in (1, 2, step.pages - 1) if pages < step.pages
        )
    if isinstance(step, s._Range) and step.count > 1:
        yield msgspec.structs.replace(step, count=1)
        yield msgspec.structs.replace(step, count=step.count - 1)


def fewer(sequence: s.Sequence, still: Callable[[s.Sequence], Claim | None]) -> Iterator[tuple[s.Sequence, Claim]]:
    """Ever shorter sequences of which *still* gives a claim, in few tries: halves, quarters and so on are taken away,
    the last steps first. For what is dear to try, such as a sequence that costs a boot.
    """
    chunk = len(sequence.steps) // 2
    while chunk:
        end = len(sequence.steps)
        while end > 0:
            steps = sequence.steps
            for number in reversed(range(max(0, end - chunk), end)):
                left = without(steps, number)
                steps = steps if left is None else left
            end -= chunk
            candidate = msgspec.structs.replace(sequence, steps=steps)
            found = still(candidate) if len(steps) < len(sequence.steps) and _judged(candidate) else None
            if found is not None:
                sequence = candidate
                yield sequence, found
        chunk //= 2


def _judged(sequence: s.Sequence) -> bool:
    try:
        readable(sequence)
    except Unmodelled:
        return False
    return True


def smaller(sequence: s.Sequence) -> Iterator[s.Sequence]:
    """Sequences simpler by one thing that the model can judge: first without a step, the last ones first."""
    steps = sequence.steps
    candidates = [without(steps, number) for number in reversed(range(len(steps)))]
    for number, step in enumerate(steps):
        candidates += [(*steps[:number], one, *steps[number + 1 :]) for one in simpler(step)]
    for candidate in candidates:
        if candidate is None:
            continue
        shorter = msgspec.structs.replace(sequence, steps=candidate)
        if _judged(shorter):
            yield shorter


def reduce(sequence: s.Sequence, claim: Claim, still: Callable[[s.Sequence], Claim | None]) -> tuple[s.Sequence, Claim]:
    """Take away what can go for as long as *still* gives a claim: that the sequence fails in the same way."""
    sequence = msgspec.structs.replace(sequence, steps=sequence.steps[: claim.step + 1])
    again = True
    while again:
        again = False
        for candidate in smaller(sequence):
            found = still(candidate)
            if found is not None:
                sequence, claim, again = candidate, found, True
                break
    return sequence, claim
