"""The compiler's warnings in the files that a commit touches, beside those of its parent."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from kselftests_py.errors import BootError
from kselftests_py.kernels import build, config, source, store
from kselftests_py.kernels.spec import BuildSpec

_WARNING = re.compile(r"^(?P<file>[^\s:]+):(?P<place>\d+(?::\d+)?): warning: (?P<text>.*)$", re.MULTILINE)
_CAN_WARN = (".c", ".h", ".S")


@store.disk_errors()
def new(wanted: BuildSpec, parent: str, files: Sequence[str], progress: Callable[[str], None]) -> list[str]:
    """The warnings that *files* give in *wanted* (a commit) and did not give in *parent*, as ``file: text``.

    make builds the parent and then the commit: each object that depends on what differs is compiled in both, so that
    headers and sources that are included by others warn too. Only what is said of *files* counts, once for each
    place. *progress* is told which of them this configuration does not compile: nothing is known of these.

    If the parent does not build there is nothing to compare with, and nothing is new. :raises BootError: the commit
    does not build.
    """
    sources = [name for name in files if name.endswith(_CAN_WARN)]
    if not sources:
        return []
    ours, users = config.read(config.flavour_files(wanted.flavours)), config.read(wanted.configs)
    with source.opened(wanted, progress) as workspace, source.scratch(workspace.folder) as scratch:
        patches = build.collect(wanted, scratch, progress)
        before = source.commit_of(workspace, workspace.git("rev-parse", "--verify", f"{parent}^{{tree}}"))
        differing = workspace.git("diff-tree", "-r", "-z", "--name-only", "--no-renames", before, workspace.base)
        out = workspace.folder / f"out-{wanted.flavour}"

        def said(commit: str) -> Counter[str]:
            build.lay_out(wanted, workspace, commit, patches)
            # What was built before, and how far, is not known: all that depends on these is to be compiled.
            for path in (workspace.src / name for name in differing.split("\0") if name):
                if path.is_file() and not path.is_symlink():
                    os.utime(path)
            build.configure(workspace.src, out, ours, users, progress)
            log = build.compile_kernel(wanted.spec, workspace.src, out, wanted.flavour, progress)
            return _said(log.read_text(errors="replace"), sources)

        try:
            old: Counter[str] | None = said(before)
        except BootError as error:
            progress(f"{parent[:12]}: {error}; which warnings are new after it is not known")
            old = None
        found = said(workspace.base)
        if unknown := _not_compiled(workspace.src, out, sources):
            progress(f"{wanted.spec}: not compiled with this configuration: {', '.join(unknown)}")
    return [] if old is None else sorted((found - old).elements())


def _said(text: str, files: Sequence[str]) -> Counter[str]:
    """How many places of each of *files* have a warning, by ``file: text``; a header warns in each that includes it."""
    found = set()
    for match in _WARNING.finditer(text):
        name = next((name for name in files if f"/{match['file']}".endswith(f"/{name}")), None)
        if name:
            found.add((name, match["place"], match["text"]))
    return Counter(f"{name}: {text}" for name, _, text in found)


def _not_compiled(src: Path, out: Path, files: Sequence[str]) -> list[str]:
    """Those of *files* that are there and on which no object depends, as kbuild has it written down."""
    left = [name for name in files if (src / name).is_file()]
    for path in out.rglob(".*.cmd"):
        text = path.read_text(errors="replace")
        left = [name for name in left if not re.search(rf"/{re.escape(name)}(?!\S)", text)]
        if not left:
            break
    return left
