"""The twin: RWP made selectable, by a rule on the Kconfig of the source, so that it can be left out."""

from __future__ import annotations

import re
from pathlib import Path

from kselftests_py.errors import UsageError

_SYMBOL = "USERFAULTFD_RWP"
# A symbol without a prompt cannot be chosen. The prompt is all that is added; the default stays what it was.
_ENTRY = re.compile(rf"(?m)^(config {_SYMBOL}\n)\tdef_bool y\n")
_SELECTABLE = re.compile(rf"(?m)^config {_SYMBOL}\n(?:\t.*\n)*?\tbool \"")


def make_selectable(src: Path) -> None:
    """Give the symbol USERFAULTFD_RWP in ``mm/Kconfig`` of *src* a prompt.

    Raises UsageError if the source has no such symbol, or not in the form the rule knows.
    """
    path = src / "mm" / "Kconfig"
    text = path.read_text(encoding="utf-8")
    if _SELECTABLE.search(text):
        return
    changed, times = _ENTRY.subn(rf'\1\tbool "kst: {_SYMBOL}"\n\tdefault y\n', text)
    if times != 1:
        state = "is not in the form the rule knows" if f"config {_SYMBOL}\n" in text else "is not in this source"
        raise UsageError(f"+twin: {_SYMBOL} {state} (mm/Kconfig); build the kernel without +twin")
    path.write_text(changed, encoding="utf-8")
