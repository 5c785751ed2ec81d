"""The exploration: sequences until the time is up; what contradicts the model is shrunk, replayed and kept."""

from __future__ import annotations

import re
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import hypothesis
import msgspec
from hypothesis import HealthCheck, Phase, Verbosity
from hypothesis.configuration import set_hypothesis_home_dir
from hypothesis.errors import HypothesisException

from kselftests_py.errors import HarnessError
from kselftests_py.explore import known, perform
from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Claim
from kselftests_py.explore.generate import sequences
from kselftests_py.explore.ground import Ground
from kselftests_py.explore.judge import WHY, judge, readable
from kselftests_py.explore.model import Model
from kselftests_py.explore.offer import Offer
from kselftests_py.explore.reduce import fewer, reduce
from kselftests_py.machines.machine import Loss, MachineLost
from kselftests_py.paths import cache_dir

BATCH = 100
"""Sequences that Hypothesis chooses from one seed."""
SHRINK_S = 45.0
"""The longest that Hypothesis shrinks one contradiction, and again that ``reduce`` does."""
SHRINK_TRIES = 100
"""Sequences that Hypothesis may try in that: after it ``reduce`` is quicker."""
CRASH_S = 300.0
"""The longest that a crash is shrunk: each try is a fresh boot."""
REPLAYS = 3
"""How often a contradiction is tried again on a fresh boot before it counts as gone."""
LOST_MAX = 3
"""Machines lost in a row, for no fault of the kernel's, until the exploration ends."""
NOTE_S = 60.0


class _Contradiction(Exception):
    """Tells Hypothesis that a sequence fails."""


class _TimeUp(BaseException):
    """Ends Hypothesis at once: it takes any Exception for a failure."""


@dataclass(frozen=True)
class Found:
    """A contradiction, shrunk. ``confirmed``: seen again, on a fresh boot where one can be had."""

    sequence: s.Sequence
    claim: Claim
    confirmed: bool


@dataclass
class Count:
    """What an exploration has done; ``seconds`` are those in which it looked for contradictions, not the shrinking."""

    sequences: int = 0
    operations: int = 0
    seconds: float = 0.0
    known: Counter[str] = field(default_factory=Counter)  # by finding
    again: int = 0  # contradictions of a sort that was found before

    def __str__(self) -> str:
        rate = f", {self.sequences / self.seconds * 60:.0f} a minute" if self.seconds else ""
        return f"{self.sequences} sequences of {self.operations / max(self.sequences, 1):.0f} operations{rate}"


def signature(sequence: s.Sequence, claim: Claim) -> tuple[str, ...]:
    """What makes two failures one: the check, the operation that it fails after, and what was seen, if that is a word
    and not a number. Of a crash, what the kernel said, without the numbers in it.
    """
    if claim.check == "crash":
        return claim.check, re.sub(r"\s+", " ", re.sub(r"0x[0-9a-f]+|\b[0-9a-f]{8,}\b|\d+", "", claim.seen))
    step = sequence.steps[claim.step] if claim.step < len(sequence.steps) else None
    operation = "end" if step is None else type(step).__name__
    detail = str(getattr(step, "advice", "") or getattr(step, "ioctl", ""))
    words = claim.check in ("errno", "state", "marked", "accessed", "written")
    return claim.check, operation, detail, *((*claim.expected, claim.seen) if words else ())


class Explorer:
    """Explores one kernel. ``note`` is told what happens; ``control`` makes the probe lie (docs/probe-protocol.md)."""

    def __init__(
        self,
        ground: Ground,
        offer: Offer,
        *,
        seed: int,
        note: Callable[[str], None],
        found: Callable[[Found], None],
        control: str | None = None,
    ) -> None:
        self._ground, self._offer, self._seed, self._note, self._found = ground, offer, seed, note, found
        self._control = control
        self.count = Count()
        self._seen: set[tuple[str, ...]] = set()
        self._lost = 0
        self._crashed: tuple[s.Sequence, Claim] | None = None
        self._target: tuple[str, ...] | None = None
        self._best: tuple[s.Sequence, Claim] | None = None
        self._until = self._shrink_until = self._next_note = self._failed = 0.0
        self._most: int | None = None
        self._tries, self._handed = 0, False
        self._sure = False  # something was found, and seen again
        self._passed: set[str] = set()  # findings that the sequence has met, and gone on

    def explore(self, seconds: float, most: int | None = None, *, fail_fast: bool = False) -> None:
        """Try sequences for *seconds*, or *most* of them, or with *fail_fast* until something is found for sure.

        :raises BootError, HarnessError: the machine is not to be had any more.
        """
        began = time.monotonic()
        self._until, self._next_note, self._most = began + seconds, began + NOTE_S, most
        batch = 0
        while not self._over() and not (fail_fast and self._sure):
            began = time.monotonic()
            self._batch(self._seed + batch * 1_000_003)
            self.count.seconds += (self._failed or time.monotonic()) - began
            batch += 1

    def _over(self) -> bool:
        return time.monotonic() >= self._until or (self._most is not None and self.count.sequences >= self._most)

    def _batch(self, seed: int) -> None:
        self._target = self._best = self._crashed = None
        self._failed, self._tries, self._handed = 0.0, 0, False
        try:
            self._hypothesis(seed)
            if self._crashed is not None:
                self._shrink_crash(*self._crashed)
            elif self._best is not None:
                self._shrink_until = time.monotonic() + SHRINK_S
                self._best = reduce(*self._best, self._still)
            pending = self._crashed or self._best
            if pending is not None:
                self._keep(*pending)
        except KeyboardInterrupt:
            pending = self._crashed or self._best
            if pending is not None and not self._handed:  # as far as it is shrunk
                self._found(Found(*pending, confirmed=False))
            raise

    def _shrink_crash(self, sequence: s.Sequence, claim: Claim) -> None:
        """Take steps away while what is left crashes a fresh boot in the same way; not if it does not come again."""
        until, target = time.monotonic() + CRASH_S, signature(sequence, claim)

        def still(shorter: s.Sequence) -> Claim | None:
            if time.monotonic() >= until:
                return None
            self._ground.renew()
            found = self.attempt(shorter, single=True)
            return found if found is not None and signature(shorter, found) == target else None

        if still(sequence) is not None:
            for self._crashed in fewer(sequence, still):
                self._note(f"{len(self._crashed[0].steps)} steps crash it too")

    def _hypothesis(self, seed: int) -> None:
        settings = hypothesis.settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            phases=(Phase.generate, Phase.shrink),
            suppress_health_check=list(HealthCheck),
            verbosity=Verbosity.quiet,
            print_blob=False,
            report_multiple_bugs=False,
        )

        set_hypothesis_home_dir(cache_dir() / "hypothesis")  # else it makes a folder where it is started
        broken: list[Exception] = []

        def one(sequence: s.Sequence) -> None:
            try:
                fails = self._crashed is None and self._fails(sequence)
            except Exception as error:  # no failure of the sequence: it shall not be shrunk
                broken.append(error)
                raise _TimeUp from error
            if fails:
                raise _Contradiction

        wrapped: Any = hypothesis.given(sequences(self._offer))(one)
        try:
            hypothesis.seed(seed)(settings(wrapped))()
        except (_Contradiction, _TimeUp, HypothesisException):  # the last: it stopped failing when its time was up
            if broken:
                raise broken[0] from None

    def _fails(self, sequence: s.Sequence) -> bool:
        """Whether Hypothesis shall take the sequence for a failure."""
        if self._target is not None:
            self._tries += 1
            found = self._still(sequence) if self._tries <= SHRINK_TRIES else None
            if found is None:
                return False
            if self._best is None or len(sequence.steps) <= len(self._best[0].steps):
                self._best = (sequence, found)
            return True
        if self._over():
            raise _TimeUp
        self._passed.clear()
        claim = self.attempt(sequence)
        self.count.known.update(self._passed)
        self.count.sequences += 1
        self.count.operations += len(sequence.steps)
        now = time.monotonic()
        if now >= self._next_note:
            self._next_note = now + NOTE_S
            self._note(f"{self.count.sequences} sequences")
        if claim is None or self._expected(sequence, claim):
            return False
        self._note(f"after {self.count.sequences} sequences, {len(sequence.steps)} steps: {claim.check}; shrinking")
        self._failed = now
        if claim.check == "crash":  # what costs a boot each time is not for Hypothesis to shrink
            self._crashed = (sequence, claim)
            return True
        self._target, self._best = signature(sequence, claim), (sequence, claim)
        self._shrink_until = now + SHRINK_S
        return True

    def _expected(self, sequence: s.Sequence, claim: Claim) -> bool:
        finding = known.recognise(sequence, claim)
        if finding is not None:
            self.count.known[finding.finding] += 1
            return True
        if signature(sequence, claim) in self._seen:
            self.count.again += 1
            return True
        return False

    def _still(self, sequence: s.Sequence) -> Claim | None:
        """The claim, if the sequence fails as the one does that is being shrunk, and there is time left."""
        if time.monotonic() >= self._shrink_until:
            return None
        claim = self.attempt(sequence)
        if claim is None or known.recognise(sequence, claim) or signature(sequence, claim) != self._target:
            return None
        return claim

    def attempt(self, sequence: s.Sequence, *, single: bool = False, strict: bool = False) -> Claim | None:
        """Run the sequence once; the first check that fails. *strict*: also of what is known and changes nothing."""
        places, categories = readable(sequence), self._offer.categories
        try:
            lab = self._ground.lab
            observed = perform.run(
                lab,
                sequence,
                places,
                categories=categories,
                control=self._control,
                single=single,
                one_cpu=self._ground.one_cpu,
            )
            if observed.lost is not None and not single:
                return self.attempt(sequence, single=True, strict=strict)
            splat = self._ground.splat()
        except MachineLost as lost:
            return self._machine_lost(sequence, lost)
        self._lost = 0
        if splat is not None:
            return self._crash(sequence, f"{splat.kind}: {splat.line}")
        return judge(sequence, observed) if strict else judge(sequence, observed, self._passes)

    def _passes(self, claim: Claim, after: Model) -> bool:
        finding = known.passed(claim, after)
        self._passed |= {finding.finding} if finding is not None else set()
        return finding is not None

    def _machine_lost(self, sequence: s.Sequence, lost: MachineLost) -> Claim | None:
        self._ground.renew()
        if lost.loss in (Loss.PANIC, Loss.OOPS, Loss.HANG):
            return self._crash(sequence, str(lost))
        self._lost += 1
        self._note(f"the machine was lost, and is started anew: {lost}")
        if self._lost >= LOST_MAX:
            raise HarnessError(f"{self._ground.label}: lost {self._lost} times in a row; last: {lost}") from lost
        return None

    @staticmethod
    def _crash(sequence: s.Sequence, seen: str) -> Claim:
        return Claim(step=len(sequence.steps), check="crash", seen=seen[:400], why=WHY["crash"])

    def _keep(self, sequence: s.Sequence, claim: Claim) -> None:
        """Replay the contradiction on a fresh boot, and hand it over."""
        sequence = msgspec.structs.replace(
            sequence, seed=self._seed, made_by=f"kst explore on {self._ground.label}"[:400]
        )
        self._target = signature(sequence, claim)
        self._seen.add(self._target)
        confirmed = False
        for _ in range(REPLAYS):
            self._ground.renew()
            again = self.attempt(sequence, single=True)
            if again is not None and signature(sequence, again) == self._target:
                confirmed, claim, self._sure = True, again, True
                break
        self._handed = True
        self._found(Found(sequence, claim, confirmed))
