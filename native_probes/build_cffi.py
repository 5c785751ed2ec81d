"""Builds the probe's second front end: the cffi module ``_kst_native``, for use inside a Python process.

Usage: ``python build_cffi.py OUTPUT_DIR``. The module has ``kst_agent_new``,
``kst_agent_handle`` (takes one request line, returns one reply line, to be
given to ``free``) and ``kst_agent_free``.
"""

from __future__ import annotations

import sys
from pathlib import Path

import uapi_check
from cffi import FFI

HERE = Path(__file__).resolve().parent

_INTERFACE = """
struct kst_agent *kst_agent_new(void);
char *kst_agent_handle(struct kst_agent *agent, const char *line, size_t len);
void kst_agent_free(struct kst_agent *agent);
void free(void *memory);
"""


def build(output: Path) -> Path:
    """Compiles into *output* and returns the shared object.

    Raises RuntimeError when uapi.h contradicts the system's headers.
    """
    wrong = uapi_check.compare().wrong
    if wrong:
        raise RuntimeError(f"uapi.h and the system's kernel headers differ in {', '.join(sorted(wrong))}")
    programs = {"main.c", *(path.name for path in HERE.glob("fuzz_*.c"))}
    ffi = FFI()
    ffi.cdef(_INTERFACE)
    ffi.set_source(
        "_kst_native",
        '#include <stdlib.h>\n#include "kst.h"',
        sources=sorted(str(path) for path in HERE.glob("*.c") if path.name not in programs),
        include_dirs=[str(HERE)],
        libraries=["jansson"],
        extra_compile_args=["-O2", "-g", "-Wall", "-std=gnu11", "-pthread"],
        extra_link_args=["-pthread"],
    )
    return Path(ffi.compile(tmpdir=str(output)))


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: build_cffi.py OUTPUT_DIR")
    print(build(Path(sys.argv[1]).resolve()))
