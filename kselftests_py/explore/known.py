"""Contradictions that are findings already and do not stop the exploration; each entry is as narrow as its finding.

Most end their sequence, since nobody knows what the kernel makes of the rest. What is wrong only in what is told of a
page, and is told at every look, is passed over: else nothing that comes after it would ever be tried.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import Claim
from kselftests_py.explore.model import Model
from kselftests_py.explore.rules import apply


@dataclass(frozen=True)
class Finding:
    finding: str  # its page under docs/findings
    what: str


@dataclass(frozen=True)
class Known(Finding):
    """``fits``: the step, the failed check, and the model as it was before the step."""

    fits: Callable[[s.Step, Claim, Model], bool]


def _asleep_after_unregister(step: s.Step, claim: Claim, before: Model) -> bool:
    """Only where the page is not registered for missing pages: who sleeps in such a mapping is woken."""
    if not isinstance(step, s.Unregister) or claim.check != "state" or claim.seen != "blocked" or claim.what < 0:
        return False
    access = before.actors[claim.what].access
    if access is None or access.region != step.region or not step.first <= access.page < step.first + step.count:
        return False
    (page,) = before.span(before.uffds[step.uffd].process, step.region, access.page, 1)
    return not page.missing


def _prefix_protected(step: s.Step, claim: Claim, before: Model) -> bool:
    """Only pages of the range ahead of the first one without WP, and only where the call is refused for that."""
    if not isinstance(step, s.Protect | s.Resolve) or step.ioctl != "writeprotect" or claim.check != "marked":
        return False
    if claim.seen != ("yes" if isinstance(step, s.Protect) else "no") or claim.what != step.region:
        return False
    process = before.uffds[step.uffd].process
    pages = before.span(process, step.region, step.first, step.count)
    ahead = next((number for number, page in enumerate(pages, step.first) if page.mode != "wp"), None)
    return claim.process == process and ahead is not None and claim.page in range(step.first, ahead)


def _reclaimed_shared_memory(step: s.Step, claim: Claim, before: Model) -> bool:
    """Only read-write protected pages of a file that the advice is about, in whatever mapping."""
    if not isinstance(step, s.Madvise) or step.advice != "PAGEOUT" or claim.check != "marked" or claim.seen != "no":
        return False
    files = {page.file for page in before.span(step.process, step.region, step.first, step.count)}
    page = before.pages.get((claim.process, claim.what, claim.page if claim.page is not None else -1))
    return page is not None and page.file is not None and page.mode == "rwp" and page.file in files


def hangs(step: s.Step, before: Model) -> bool:
    """F030: guards where a file's page may have a marker of write protection."""
    if not isinstance(step, s.Madvise) or step.advice != "GUARD_INSTALL":
        return False
    pages = before.span(step.process, step.region, step.first, step.count)
    return any(page.file and page.mode == "wp" and True in before.marked(page) for page in pages)


def _guard_never_installed(step: s.Step, claim: Claim, before: Model) -> bool:
    return claim.check == "hang" and hangs(step, before)


def _guard_replaced(step: s.Step, claim: Claim, before: Model) -> bool:
    if not isinstance(step, s.Copy | s.Continue) or claim.check != "errno" or claim.seen != "0":
        return False
    pages = before.span(before.uffds[step.uffd].process, step.region, step.first, step.count)
    return all(one.entry == "guard" for page in pages for one in page.states)


def _locked_made_writable(step: s.Step, claim: Claim, before: Model) -> bool:
    """Only private memory, locked and not writable before, that is protected in async mode."""
    if not isinstance(step, s.Mprotect) or step.prot != "rw" or claim.check not in ("marked", "accessed", "written"):
        return False
    if (claim.process, claim.what) != (step.process, step.region) or claim.page is None:
        return False
    lost = claim.seen == ("no" if claim.check == "marked" else "yes")
    if not lost or not step.first <= claim.page < step.first + step.count:
        return False
    (page,) = before.span(step.process, step.region, claim.page, 1)
    return "locked" in page.advised and page.file is None and page.prot != "rw" and before.asynchronous(page)


TABLE = (
    Known("F001", "UFFDIO_UNREGISTER leaves blocked threads asleep", _asleep_after_unregister),
    Known("F003", "UFFDIO_WRITEPROTECT refused with ENOENT has done the pages ahead", _prefix_protected),
    Known("F025", "shared memory that is reclaimed loses its read-write protection", _reclaimed_shared_memory),
    Known("F030", "MADV_GUARD_INSTALL never ends on write-protected shared memory", _guard_never_installed),
    Known("F031", "UFFDIO_COPY and UFFDIO_CONTINUE replace a guard page", _guard_replaced),
    Known("F032", "mprotect that makes locked memory writable resolves protection", _locked_made_writable),
)


PASSED = Finding("F004", "guard pages and poisoned pages are PAGE_IS_ACCESSED for ever")


def passed(claim: Claim, after: Model) -> Finding | None:
    """The finding that *claim* is, if the sequence may go on; *after*: the model as it is after the step.

    Only a guard or poison, in an RWP range: the claim is one only if the page can be nothing accessed.
    """
    page = after.pages.get((claim.process, claim.what, claim.page if claim.page is not None else -1))
    if page is None or claim.check != "accessed" or claim.seen != "yes" or page.mode != "rwp":
        return None
    return PASSED if any(one.entry in ("guard", "poison") for one in page.states) else None


def recognise(sequence: s.Sequence, claim: Claim) -> Finding | None:
    """The finding that *claim* is, or None."""
    if claim.step >= len(sequence.steps):
        return None
    model = Model()
    for step in sequence.steps[: claim.step]:
        apply(model, step)
        model.settle(None)
    step = sequence.steps[claim.step]
    found = next((one for one in TABLE if one.fits(step, claim, model)), None)
    apply(model, step)
    model.settle(None)
    return found or passed(claim, model)
