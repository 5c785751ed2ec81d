"""Where a defect is tried: a source of its own that is broken, built, and mended again.

A bench is a directory of the cache with the source as files (no git) and the objects of the last build: make compiles
what a defect touched, and ccache what mending touches. One process has a bench at a time; as many are made as are
used at once.
"""

from __future__ import annotations

import contextlib
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from kselftests_py import paths
from kselftests_py.errors import HarnessError
from kselftests_py.kernels import build, config, source
from kselftests_py.kernels.spec import BuildSpec
from kselftests_py.sabotage.defects import Defect, apply

_MOST = 64


@dataclass(frozen=True)
class Bench:
    """A source (``src``) that is as it was, and its build directory (``out``)."""

    folder: Path
    spec: BuildSpec

    @property
    def src(self) -> Path:
        return self.folder / "src"

    @property
    def out(self) -> Path:
        return self.folder / "out"

    def kernel(self, defect: Defect | None, into: Path) -> str:
        """Build the kernel with *defect* (None: as it is) and copy it to *into*; gives its spec.

        :raises BootError: it does not build. :raises UsageError: the rule does not fit this source.
        """
        with self._broken(defect):
            build.compile_kernel(self.spec.spec, self.src, self.out, "sabotage", _quiet)
        for name in ("arch/x86/boot/bzImage", ".config"):
            shutil.copyfile(self.out / name, into / Path(name).name.lstrip("."))
        return f"image:{into / 'bzImage'},config={into / 'config'}"

    @contextlib.contextmanager
    def _broken(self, defect: Defect | None) -> Iterator[None]:
        self.mend()
        try:
            if defect is not None:
                kept = self.folder / "kept"
                for name in {edit.file for edit in defect.edit}:
                    (kept / name).parent.mkdir(parents=True, exist_ok=True)
                    shutil.copyfile(self.src / name, kept / name)
                apply(defect, self.src)
            yield
        finally:
            self.mend()

    def mend(self) -> None:
        """The source as it was, also after whoever broke it was killed."""
        kept = self.folder / "kept"
        for path in [path for path in kept.rglob("*") if path.is_file()]:
            shutil.copyfile(path, self.src / path.relative_to(kept))
        shutil.rmtree(kept, ignore_errors=True)


def _quiet(_text: str) -> None:
    pass


@contextlib.contextmanager
def taken(wanted: BuildSpec) -> Iterator[Bench]:
    """A free bench for *wanted*, made if there is none; alone in it."""
    root = paths.cache_dir().absolute() / "sabotage"
    root.mkdir(parents=True, exist_ok=True)
    with source.opened(wanted, _quiet) as workspace:
        key = f"{workspace.folder.name}-{workspace.base[:12]}-{wanted.flavour}"
        for number in range(_MOST):
            holder = filelock.FileLock(root / f"{key}-{number}.lock")
            with contextlib.suppress(filelock.Timeout):
                holder.acquire(timeout=0)
                break
        else:
            raise HarnessError(f"{root}: {_MOST} benches are in use; end what uses them")
        bench = Bench(root / f"{key}-{number}", wanted)
        if not bench.folder.is_dir():
            workspace.lay_out(workspace.base)
            with tempfile.TemporaryDirectory(prefix=".new-", dir=root) as scratch:
                new = Path(scratch) / "bench"
                new.mkdir()
                subprocess.run(["cp", "-a", "--reflink=auto", workspace.src, new / "src"], check=True)
                new.rename(bench.folder)
    try:
        bench.mend()
        ours = config.read(config.flavour_files(wanted.flavours))
        build.configure(bench.src, bench.out, ours, config.read(wanted.configs), _quiet)
        yield bench
    finally:
        holder.release()
