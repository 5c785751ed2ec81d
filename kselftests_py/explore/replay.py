"""A replay file on a kernel: whether the sequence still contradicts the model there, and in the same way."""

from __future__ import annotations

from dataclasses import dataclass

from kselftests_py.errors import UsageError
from kselftests_py.explore import known
from kselftests_py.explore.claims import Claim, Replay
from kselftests_py.explore.explorer import Explorer, signature
from kselftests_py.explore.kept import lacking
from kselftests_py.explore.words import claim_in_words
from kselftests_py.lab import Capabilities


@dataclass(frozen=True)
class Outcome:
    """What became of a replay. ``claim``: the check that failed, or None; ``text`` tells it in a sentence."""

    claim: Claim | None
    text: str


def replay(explorer: Explorer, given: Replay, caps: Capabilities, name: str) -> Outcome:
    """Run the sequence once. :raises UsageError: it needs what the kernel lacks."""
    why = lacking(given.sequence, caps)
    if why is not None:
        raise UsageError(f"{name}: needs what this kernel lacks: {why}")
    of = None if given.claim is None else known.recognise(given.sequence, given.claim)
    claim = explorer.attempt(given.sequence, single=True, strict=of is known.PASSED)
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
