"""Replay files, read back: whatever is in them, and whether a kernel can do it."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kselftests_py.errors import UsageError
from kselftests_py.explore import steps as s
from kselftests_py.explore.claims import FORMAT, Replay
from kselftests_py.explore.judge import readable
from kselftests_py.explore.model import Unmodelled
from kselftests_py.explore.offer import lacking_for
from kselftests_py.lab import Capabilities, Feature

FILE_MAX = 1 << 20
"""Bytes of a replay file, at most."""


def read(path: Path) -> Replay:
    """The replay in the file; :raises UsageError: it is none, or of another version, or the model cannot judge it."""
    try:
        with path.open("rb") as file:
            raw = file.read(FILE_MAX + 1)
    except OSError as error:
        raise UsageError(f"{path}: {error.strerror}") from None
    if len(raw) > FILE_MAX:
        raise UsageError(f"{path}: more than {FILE_MAX} bytes: no replay file of kst explore")
    return decoded(raw, str(path))


class _Version(msgspec.Struct):
    format: int


def decoded(raw: bytes, name: str) -> Replay:
    """The replay in *raw*; *name* is what errors call it."""
    try:
        version = msgspec.json.decode(raw, type=_Version).format
        if version != FORMAT:
            raise UsageError(
                f"{name}: is of format {version}; this kst replays format {FORMAT}: take the kst that made it"
            )
        replay = msgspec.json.decode(raw, type=Replay)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{name}: no replay file of kst explore: {error}") from None
    if replay.claim is not None and replay.claim.step > len(replay.sequence.steps):
        raise UsageError(
            f"{name}: the claim is of step {replay.claim.step}, and there are {len(replay.sequence.steps)}"
        )
    try:
        readable(replay.sequence)
    except Unmodelled as error:
        raise UsageError(f"{name}: the model cannot judge this sequence: {error}") from None
    return replay


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
        case s.Poison():
            return caps.missing("poison")
        case s.Madvise() if step.advice in ("GUARD_INSTALL", "GUARD_REMOVE"):
            return caps.missing("guard")
        case s.Madvise() if step.advice in ("MERGEABLE", "UNMERGEABLE"):
            return caps.missing("ksm")
        case s.Migrate():
            return caps.missing("nodes")
        case s.SwapCycle():
            return caps.missing("swap")
        case s.Access() if step.how == "hwpoison":
            return caps.missing("hwpoison") or caps.missing("guest")
        case s.KernelWork():
            return lacking_for(step.work, caps)
        case _:
            return None
