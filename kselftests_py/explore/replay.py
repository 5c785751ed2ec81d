"""A replay file on a kernel: whether the sequence still contradicts the model there, and in the same way."""

from __future__ import annotations

from dataclasses import dataclass

from kselftests_py.errors import UsageError
from kselftests_py.explore import known
from kselftests_py.explore import steps as s
from kselftests_py.explore.explorer import Explorer, signature
from kselftests_py.explore.words import claim_in_words
from kselftests_py.lab import Capabilities, Feature


def lacking(sequence: s.Sequence, caps: Capabilities) -> str | None:
    """What the sequence needs and the kernel does not have, with the step; None: nothing."""
    for number, step in enumerate(sequence.steps):
        why = _lacks(step, caps)
        if why is not None:
            return f"step {number} ({type(step).__name__}): {why}"
    return None


def _lacks(step: s.Step, caps: Capabilities) -> str | None:
    match step:
        case s.Open():
            absent = [name for name in step.features if Feature[name] not in caps.features]
            return caps.missing("uffd") or (f"UFFDIO_API does not offer UFFD_FEATURE_{absent[0]}" if absent else None)
        case s.Map() if step.kind.startswith("hugetlb"):
            return caps.missing("hugetlb")
        case s.Register() if "rwp" in step.mode:
            return caps.missing("rwp")
        case s.Protect() | s.Resolve() if step.ioctl == "rwprotect":
            return caps.missing("rwp")
        case s.SetMode():
            return caps.missing("rwp")
        case s.Move():
            return caps.missing("move")
        case s.SwapCycle():
            return caps.missing("swap")
        case _:
            return None


@dataclass(frozen=True)
class Outcome:
    """What became of a replay. ``claim``: the check that failed, or None; ``text`` tells it in a sentence."""

    claim: s.Claim | None
    text: str


def replay(explorer: Explorer, given: s.Replay, caps: Capabilities, name: str) -> Outcome:
    """Run the sequence once. :raises UsageError: it needs what the kernel lacks."""
    why = lacking(given.sequence, caps)
    if why is not None:
        raise UsageError(f"{name}: needs what this kernel lacks: {why}")
    claim = explorer.attempt(given.sequence, single=True)
    if claim is None:
        return Outcome(None, "nothing contradicts the model")
    text = claim_in_words(given.sequence, claim)
    if given.claim is not None:
        same = (
            signature(given.sequence, claim) == signature(given.sequence, given.claim)
            and claim.step == given.claim.step
        )
        text += " (as in the file)" if same else " (another contradiction than in the file)"
    finding = known.recognise(given.sequence, claim)
    if finding is not None:
        text += f" ({finding.finding}: {finding.what})"
    return Outcome(claim, text)
