"""How many defects were noticed, by whom and how fast: as a table, as JSON, and as one sentence."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import UTC, datetime

import msgspec
from rich.table import Table
from rich.text import Text

from kselftests_py.reports.text import one_line
from kselftests_py.results import Verdict
from kselftests_py.sabotage.campaign import Seen, Tried
from kselftests_py.sabotage.defects import Defect

_STYLES = {"killed": "green", "survived": "bold red", "does not build": "yellow", "equivalent": "dim"}


class Line(msgspec.Struct, frozen=True):
    """One defect with its verdict: ``killed``, ``survived``, ``equivalent`` or ``does not build``."""

    name: str
    breaks: str
    kind: str
    verdict: str
    tried: Tried


def judge(defect: Defect, tried: Tried) -> Line:
    """A defect with a proof that it cannot be seen is ``equivalent`` until somebody sees it."""
    if tried.error:
        verdict = "does not build"
    elif tried.ours.by:
        verdict = "killed"
    else:
        verdict = "equivalent" if defect.equivalent else "survived"
    return Line(defect.name, defect.breaks, defect.kind, verdict, tried)


def total(lines: Sequence[Line], upstream: bool) -> tuple[str, Verdict]:
    """The score in one sentence, and the verdict of the campaign."""
    able = [line for line in lines if line.verdict not in ("does not build", "equivalent")]
    killed = sum(line.verdict == "killed" for line in able)
    text = f"noticed {killed} of {len(able)}"
    if upstream:
        text += f"; the kernel's own selftests {sum(bool(line.tried.upstream.by) for line in able)} of {len(able)}"
    others = {word: sum(line.verdict == word for line in lines) for word in ("equivalent", "does not build")}
    text += "".join(f"; {count} {word}" for word, count in others.items() if count)
    survivors = [line.name for line in able if line.verdict == "survived"]
    if others["does not build"]:
        broken = next(line for line in lines if line.verdict == "does not build")
        return text, Verdict("BROKEN", f"{text}; {broken.name}: {one_line(broken.tried.error, 200)}", 3)
    if survivors:
        return text, Verdict("SURVIVED", f"{text}; nobody noticed {', '.join(survivors)}", 1)
    return text, Verdict("KILLED", text, 0)


def row(line: Line) -> Text:
    """One defect as a line of the log."""
    text = Text.assemble((f"{line.verdict:<14}", _STYLES[line.verdict]), f" {line.name}  {line.tried.seconds:.0f} s  ")
    return text.append(one_line(line.tried.error or _seen(line.tried.ours), 160))


def table(lines: Sequence[Line], upstream: bool) -> Table:
    """A line a defect."""
    out = Table(box=None, pad_edge=False)
    for heading in ("defect", "breaks", "kind", "verdict", "noticed by", *(["upstream"] if upstream else [])):
        out.add_column(heading)
    for line in sorted(lines, key=lambda line: line.name):
        theirs = [_seen(line.tried.upstream)] if upstream else []
        cells = [line.name, line.breaks, line.kind, line.verdict, line.tried.error or _seen(line.tried.ours), *theirs]
        out.add_row(
            *(Text(one_line(cell, 110), _STYLES[line.verdict] if cell is line.verdict else "") for cell in cells)
        )
    return out


def document(lines: Sequence[Line], spec: str, verdict: Verdict) -> bytes:
    """The campaign as JSON."""
    told = {
        "kernel": spec,
        "finished": datetime.now(UTC).isoformat(timespec="seconds"),
        "verdict": verdict,
        "defects": sorted(lines, key=lambda line: line.name),
    }
    return msgspec.json.format(msgspec.json.encode(told))


def _seen(seen: Seen) -> str:
    return f"{seen.outcome} {seen.by} {seen.seconds:.0f} s" if seen.by else "-"
