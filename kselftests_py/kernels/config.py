"""The configuration of a kernel that we build: fragments laid over each other, and proof that they came out."""

from __future__ import annotations

import difflib
import re
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path

from kselftests_py.errors import UsageError
from kselftests_py.paths import data_dir

Symbols = dict[str, str]
"""Name (without CONFIG_) -> value as in a .config, "n" for what is not set."""

_LINE = re.compile(r"CONFIG_(?P<name>\w+)=(?P<value>.+)|# CONFIG_(?P<unset>\w+) is not set")


def flavour_files(flavours: Iterable[str]) -> list[Path]:
    """The fragments of *flavours*, in their order."""
    return [data_dir("vm_images") / "configs" / f"{name}.config" for name in flavours]


def read(paths: Sequence[Path]) -> Symbols:
    """What the files ask for, a later one over an earlier one. Raises UsageError naming the file and the line."""
    found: Symbols = {}
    for path in paths:
        try:
            lines = path.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            reason = error.strerror if isinstance(error, OSError) else "is no text"
            raise UsageError(f"{path}: {reason}; +config: wants a file of CONFIG_NAME=value lines") from None
        for number, line in enumerate(lines, start=1):
            match = _LINE.fullmatch(line.strip())
            if match:
                found[match["name"] or match["unset"]] = match["value"] or "n"
            elif line.strip() and not line.startswith("#"):
                raise UsageError(f"{path}:{number}: {line[:80]!r} is neither CONFIG_NAME=value nor a comment")
    return found


def text(symbols: Symbols) -> str:
    """*symbols* as a file for KCONFIG_ALLCONFIG; the same symbols give the same text."""
    return "".join(f"CONFIG_{name}={value}\n" for name, value in sorted(symbols.items()))


def differing(one: Path, other: Path) -> list[str]:
    """The symbols that two configurations do not agree on, sorted."""
    ours, theirs = read([one]), read([other])
    return sorted(name for name in {*ours, *theirs} if ours.get(name, "n") != theirs.get(name, "n"))


def check(src: Path, dot_config: Path, ours: Symbols, users: Symbols, progress: Callable[[str], None]) -> None:
    """See that the configuration at *dot_config* is what was asked for.

    A symbol of *ours* that the source does not have is told to *progress*: kernels differ. Any other that is not as
    asked raises UsageError.
    """
    got = read([dot_config])
    unmet = [name for name, value in (ours | users).items() if got.get(name, "n") != value]
    if not unmet:
        return
    defined = _defined(src)
    unknown = [name for name in unmet if name not in defined and name not in users]
    if unknown:
        progress(f"this source does not have {', '.join(f'CONFIG_{name}' for name in unknown)}")
    refused = [name for name in unmet if name not in unknown]
    if not refused:
        return
    name = next((each for each in refused if each in users), refused[0])
    asked = f"CONFIG_{name}={(ours | users)[name]}"
    more = f" (and {len(refused) - 1} more)" if len(refused) > 1 else ""
    if name not in defined:
        close = difflib.get_close_matches(name, defined, n=1, cutoff=0.8)
        hint = f", did you mean CONFIG_{close[0]}?" if close else ""
        raise UsageError(f"the config cannot be satisfied: this source has no CONFIG_{name}{hint}{more}")
    raise UsageError(
        f"the config cannot be satisfied: {asked} was asked and came out as {got.get(name, 'n')}{more}; "
        "ask for what it depends on as well, or leave it out"
    )


def _defined(src: Path) -> set[str]:
    """Every symbol that some Kconfig file of the source defines."""
    return {
        name
        for path in src.rglob("Kconfig*")
        if path.is_file()
        for name in re.findall(r"(?m)^\s*(?:menu)?config\s+(\w+)\s*$", path.read_text(errors="replace"))
    }
