"""The compiler's warnings in the files that a commit touches, beside those of its parent."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path

from kselftests_py.kernels import build, config, source
from kselftests_py.kernels.spec import BuildSpec

_WARNING = re.compile(r"^(?P<file>[^\s:]+):\d+(?::\d+)?: warning: (?P<text>.*)$", re.MULTILINE)


def new(wanted: BuildSpec, parent: str, files: Sequence[str], progress: Callable[[str], None]) -> list[str]:
    """The warnings that *files* give in *wanted* (a commit) and did not give in *parent*, as ``file: text``.

    Each touched source is compiled in both, whether or not it was before; headers warn in what includes them, so only
    what the compiler says of a touched file counts. :raises BootError: one does not compile.
    """
    sources = [name for name in files if name.endswith(".c")]
    if not sources:
        return []
    ours = config.read(config.flavour_files(wanted.flavours))
    with source.opened(wanted, progress) as workspace:
        before = workspace.git("rev-parse", "--verify", f"{parent}^{{tree}}")
        after = workspace.git("rev-parse", f"{workspace.base}^{{tree}}")
        out = workspace.folder / f"out-{wanted.flavour}"
        found = []
        for tree in (before, after):
            workspace.lay_out(source.commit_of(workspace, tree))
            build.configure(workspace.src, out, ours, config.read(wanted.configs), progress)
            built = [name for name in sources if (workspace.src / name).is_file() and _is_built(out, name)]
            found.append(_said(build.objects(wanted.spec, workspace.src, out, wanted.flavour, built), files))
    return sorted((found[1] - found[0]).elements())


def _is_built(out: Path, name: str) -> bool:
    """Whether the configuration wants the file: what it does not want need not compile."""
    return (out / name).with_suffix(".o").exists()


def _said(text: str, files: Sequence[str]) -> Counter[str]:
    found: Counter[str] = Counter()
    for match in _WARNING.finditer(text):
        name = next((name for name in files if match["file"].endswith(name)), None)
        if name:
            found[f"{name}: {match['text']}"] += 1
    return found
