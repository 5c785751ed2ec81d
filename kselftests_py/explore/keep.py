"""Contradictions as files: what ``kst explore`` leaves. ``kept`` reads them back."""

from __future__ import annotations

from pathlib import Path

from kselftests_py.errors import HarnessError
from kselftests_py.explore.claims import Replay, encode
from kselftests_py.explore.cprogram import render
from kselftests_py.explore.explorer import Found
from kselftests_py.explore.words import draft, in_words


def write(folder: Path, number: int, found: Found, kernel: str) -> Path:
    """The sequence in words, as a C program, as the draft of a finding, and to be replayed; the folder they are in.

    What was not seen again goes into a folder that says so.
    """
    sort = "crash" if found.claim.check == "crash" else "contradiction"
    place = folder / (f"{sort}-{number}" if found.confirmed else f"{sort}-{number}-not-seen-again")
    replay = Replay(format=1, sequence=found.sequence, claim=found.claim)
    files = {
        "sequence.txt": "\n".join(in_words(found.sequence, found.claim)) + "\n",
        "finding.md": draft(found.sequence, found.claim, kernel),
        "replay.json": encode(replay).decode(),
    }
    try:
        files["program.c"] = render(found.sequence, found.claim)
    except ValueError as error:  # what was found is not lost for it
        files["sequence.txt"] += f"There is no C program: {error}.\n"
    try:
        place.mkdir()
        for name, text in files.items():
            (place / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise HarnessError(f"{place}: {error.strerror}; what was found: {files['replay.json']}") from None
    return place
