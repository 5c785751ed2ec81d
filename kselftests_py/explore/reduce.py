"""The last of the shrinking: a sequence without what it does not need. (Hypothesis has made its numbers small.)"""

from __future__ import annotations

from collections.abc import Callable, Iterator

import msgspec

from kselftests_py.explore import steps as s
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


def smaller(sequence: s.Sequence) -> Iterator[s.Sequence]:
    """Sequences with one step less that the model can judge, the last steps first."""
    for number in reversed(range(len(sequence.steps))):
        steps = without(sequence.steps, number)
        if steps is None:
            continue
        candidate = msgspec.structs.replace(sequence, steps=steps)
        try:
            readable(candidate)
        except Unmodelled:
            continue
        yield candidate


def reduce(
    sequence: s.Sequence, still: Callable[[s.Sequence], s.Claim | None], claim: s.Claim
) -> tuple[s.Sequence, s.Claim]:
    """Take steps away for as long as *still* gives a claim: that the sequence fails in the same way."""
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
