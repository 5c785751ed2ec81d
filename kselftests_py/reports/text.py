"""Making the guest's text harmless. Everything a report prints that came from a guest goes through here first."""

from __future__ import annotations

import re

_ESCAPE_SEQUENCE = re.compile(
    r"\x1b(?:\[[0-?]*[ -/]*[@-~]|\][^\x07\x1b]{0,4096}(?:\x07|\x1b\\)?|[PX^_][^\x1b]{0,4096}(?:\x1b\\)?|[ -/]*[0-~])"
)
# C0 but tab and newline, DEL, C1, surrogates, what XML 1.0 forbids, and the marks that reorder what a reader sees.
_FORBIDDEN = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\ud800-\udfff\u200b-\u200f\u2028-\u202e\u2066-\u2069\ufdd0-\ufdef\ufeff\ufffe\uffff"
    + "".join(f"{chr(plane + 0xFFFE)}{chr(plane + 0xFFFF)}" for plane in range(0x10000, 0x110000, 0x10000))
    + "]"
)
REPLACEMENT = "\ufffd"


def printable(text: str) -> str:
    """Text of several lines without terminal escapes, control characters or anything XML forbids."""
    text = text.replace("\r\n", "\n")
    return _FORBIDDEN.sub(REPLACEMENT, _ESCAPE_SEQUENCE.sub("", text))


def one_line(text: str, limit: int = 300) -> str:
    """The same on one line, at most `limit` characters."""
    line = " ".join(printable(text).split())
    return line if len(line) <= limit else line[: limit - 1] + "…"
