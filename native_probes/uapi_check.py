"""Compares uapi.h, name by name, with the kernel headers of a directory.

Usage: ``python uapi_check.py [INCLUDE_DIR]`` (default: the system's headers).
Exit code 0 when every name that the headers have is the same in uapi.h, else 1.
"""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

HERE = Path(__file__).resolve().parent

# Which macros are the kernel's interface, of all that uapi.h and what it includes define.
_INTERFACE = re.compile(r"#define ((?:_?UFFD|USERFAULTFD_IOC|PAGE_IS_|PM_SCAN_|PAGEMAP_SCAN|MADV_)\w*) ")

# struct: (a macro that is there exactly where the struct is, its fields)
_RANGE = ("range.start", "range.len")
STRUCTS: dict[str, tuple[str, tuple[str, ...]]] = {
    "uffdio_api": ("UFFDIO_API", ("api", "features", "ioctls")),
    "uffdio_range": ("UFFDIO_WAKE", ("start", "len")),
    "uffdio_register": ("UFFDIO_REGISTER", (*_RANGE, "mode", "ioctls")),
    "uffdio_copy": ("UFFDIO_COPY", ("dst", "src", "len", "mode", "copy")),
    "uffdio_zeropage": ("UFFDIO_ZEROPAGE", (*_RANGE, "mode", "zeropage")),
    "uffdio_writeprotect": ("UFFDIO_WRITEPROTECT", (*_RANGE, "mode")),
    "uffdio_continue": ("UFFDIO_CONTINUE", (*_RANGE, "mode", "mapped")),
    "uffdio_poison": ("UFFDIO_POISON", (*_RANGE, "mode", "updated")),
    "uffdio_rwprotect": ("UFFDIO_RWPROTECT", (*_RANGE, "mode")),
    "uffdio_move": ("UFFDIO_MOVE", ("dst", "src", "len", "mode", "move")),
    "uffdio_set_mode": ("UFFDIO_SET_MODE", ("enable", "disable")),
    "uffd_msg": (
        "UFFD_API",
        (
            "event",
            "arg.pagefault.flags",
            "arg.pagefault.address",
            "arg.pagefault.feat.ptid",
            "arg.fork.ufd",
            "arg.remap.from",
            "arg.remap.to",
            "arg.remap.len",
            "arg.remove.start",
            "arg.remove.end",
        ),
    ),
    "page_region": ("PAGEMAP_SCAN", ("start", "end", "categories")),
    "pm_scan_arg": (
        "PAGEMAP_SCAN",
        (
            *("size", "flags", "start", "end", "walk_end", "vec", "vec_len", "max_pages"),
            *("category_inverted", "category_mask", "category_anyof_mask", "return_mask"),
        ),
    ),
}


@dataclass(frozen=True)
class Comparison:
    """Names (constants, ``sizeof S`` and ``offsetof S.field``) by how uapi.h and the headers agree on them."""

    same: dict[str, int]
    wrong: dict[str, tuple[int, int]]
    """What uapi.h says, what the headers say."""
    absent: list[str]
    """Known to uapi.h, not to these headers: not checked."""


def _run(command: list[str]) -> str:
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        raise RuntimeError(f"{' '.join(command[:2])} failed: {done.stderr.strip()[:500]}")
    return done.stdout


def _compiler() -> str:
    return os.environ.get("CC", "cc")


def constants() -> list[str]:
    """Every constant of the kernel's interface that uapi.h defines, sorted."""
    macros = _run([_compiler(), "-E", "-dM", str(HERE / "uapi.h")])
    return sorted({match[1] for match in map(_INTERFACE.match, macros.splitlines()) if match})


def _values(includes: Iterable[str], flags: list[str], names: list[str]) -> dict[str, int]:
    """What a program with these headers says of *names* and STRUCTS; names it does not have are left out."""
    lines = ["#include <stddef.h>", "#include <stdio.h>", *(f"#include {name}" for name in includes)]
    lines.append("int main(void) {")
    for name in names:
        lines += [f"#ifdef {name}", f'printf("{name}=%lld\\n", (long long)({name}));', "#endif"]
    for struct, (gate, fields) in STRUCTS.items():
        lines += [f"#ifdef {gate}", f'printf("sizeof {struct}=%zu\\n", sizeof(struct {struct}));']
        lines += [f'printf("offsetof {struct}.{f}=%zu\\n", offsetof(struct {struct}, {f}));' for f in fields]
        lines.append("#endif")
    with tempfile.TemporaryDirectory() as scratch:
        source, program = Path(scratch, "values.c"), Path(scratch, "values")
        source.write_text("\n".join([*lines, "return 0;", "}", ""]))
        _run([_compiler(), *flags, "-o", str(program), str(source)])
        pairs = (line.split("=") for line in _run([str(program)]).splitlines())
        return {name: int(value) for name, value in pairs}


def compare(include: Path | None = None) -> Comparison:
    """uapi.h against the headers under *include* (``linux/``, and ``asm/`` there or in the multiarch directory).

    Raises RuntimeError when the compiler fails.
    """
    flags = []
    if include is not None:
        multiarch = _run([_compiler(), "-print-multiarch"]).strip()
        flags = [f"-I{include}", f"-I{include / multiarch}"]
    names = constants()
    ours = _values(['"uapi.h"'], [f"-I{HERE}"], names)
    theirs = _values(["<linux/userfaultfd.h>", "<linux/fs.h>", "<linux/mman.h>"], flags, names)
    return Comparison(
        same={name: value for name, value in ours.items() if theirs.get(name) == value},
        wrong={n: (v, theirs[n]) for n, v in ours.items() if n in theirs and theirs[n] != v},
        absent=[name for name in ours if name not in theirs],
    )


def main(argv: list[str]) -> int:
    """Prints every name, then the ones that differ; see the module."""
    result = compare(Path(argv[0]) if argv else None)
    for name, value in result.same.items():
        print(f"{name}={value}")
    for name in result.absent:
        print(f"{name}: not in these headers, not checked")
    for name, (ours, theirs) in result.wrong.items():
        print(f"{name}: uapi.h says {ours}, the headers say {theirs}", file=sys.stderr)
    return 1 if result.wrong else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
