"""Contradictions and sequences as files: what ``kst explore`` leaves, and what it takes back."""

from __future__ import annotations

from pathlib import Path

import msgspec

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.explore import steps as s
from kselftests_py.explore.cprogram import render
from kselftests_py.explore.explorer import Found
from kselftests_py.explore.judge import readable
from kselftests_py.explore.model import Unmodelled
from kselftests_py.explore.words import draft, in_words

FILE_MAX = 1 << 20
"""Bytes of a replay file, at most."""


def write(folder: Path, number: int, found: Found, kernel: str) -> Path:
    """The sequence in words, as a C program, as the draft of a finding, and to be replayed; the folder they are in.

    What was not seen again goes into a folder that says so.
    """
    sort = "crash" if found.claim.check == "crash" else "contradiction"
    place = folder / (f"{sort}-{number}" if found.confirmed else f"{sort}-{number}-not-seen-again")
    replay = s.Replay(format=1, sequence=found.sequence, claim=found.claim)
    files = {
        "sequence.txt": "\n".join(in_words(found.sequence, found.claim)) + "\n",
        "program.c": render(found.sequence, found.claim),
        "finding.md": draft(found.sequence, found.claim, kernel),
        "replay.json": s.encode(replay).decode(),
    }
    try:
        place.mkdir()
        for name, text in files.items():
            (place / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise HarnessError(f"{place}: {error.strerror}; what was found: {files['replay.json']}") from None
    return place


def read(path: Path) -> s.Replay:
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


def decoded(raw: bytes, name: str) -> s.Replay:
    """The replay in *raw*; *name* is what errors call it."""
    try:
        version = msgspec.json.decode(raw, type=_Version).format
        if version != s.FORMAT:
            raise UsageError(
                f"{name}: is of format {version}; this kst replays format {s.FORMAT}: take the kst that made it"
            )
        replay = msgspec.json.decode(raw, type=s.Replay)
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
