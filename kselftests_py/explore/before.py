"""What the model expects of the steps before a failed check: a run that differs there has not got that far."""

from __future__ import annotations

from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Claim
from kselftests_py.explore.model import Model, Unmodelled
from kselftests_py.explore.rules import apply


def checks_before(sequence: s.Sequence, claim: Claim) -> list[Claim]:
    """The checks of ``errno`` and ``state`` that come before *claim*'s, up to the first step that is not modelled."""
    model, checks = Model(), []
    try:
        for number, step in enumerate(sequence.steps[: claim.step + 1]):
            # Of a thread that may be asleep or may be done, a later step says nothing: what it was is not known here.
            unsure = {actor for actor, one in enumerate(model.actors) if len(one.states) > 1}
            expected = apply(model, step)
            checks.append(Claim(step=number, check="errno", expected=tuple(sorted(expected.errno))))
            for actor in sorted({*expected.accesses, *expected.still} - unsure):
                states = tuple(sorted(expected.outcomes(actor)))
                checks.append(Claim(step=number, check="state", what=actor, expected=states))
            model.settle(None)
    except Unmodelled:
        pass
    return [check for check in checks if _precedes(check, claim)]


def _precedes(check: Claim, claim: Claim) -> bool:
    order = ("errno", "state")
    if check.step < claim.step or claim.check not in order:
        return claim.check not in ("crash", "hang") or check.step < claim.step
    return (order.index(check.check), check.what) < (order.index(claim.check), claim.what)
