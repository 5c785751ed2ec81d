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
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path

import filelock

from kselftests_py import paths
from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import build, config, source, store
from kselftests_py.kernels.spec import BuildSpec, parse
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
                self._keep({edit.file for edit in defect.edit})
                apply(defect, self.src)
            yield
        finally:
            self.mend()

    def _keep(self, names: Iterable[str]) -> None:
        """Copies of the files *names*, all of them whole, or none."""
        unfinished = self.folder / "keeping"
        shutil.rmtree(unfinished, ignore_errors=True)
        for name in names:
            if (self.src / name).is_file():  # else the rule does not fit, and apply() says so
                (unfinished / name).parent.mkdir(parents=True, exist_ok=True)
                shutil.copyfile(self.src / name, unfinished / name)
        if unfinished.is_dir():
            unfinished.rename(self._kept)

    @property
    def _kept(self) -> Path:
        return self.folder / "kept"

    def mend(self) -> None:
        """The source as it was, also after whoever broke it was killed."""
        for path in [path for path in self._kept.rglob("*") if path.is_file()]:
            shutil.copyfile(path, self.src / path.relative_to(self._kept))
        shutil.rmtree(self._kept, ignore_errors=True)


@dataclass(frozen=True)
class Pinned:
    """What a campaign breaks: *spec* names one commit where it named a branch; *tree* is git's name of the source's
    contents, *symbols* what its configuration asks for."""

    spec: str
    tree: str
    symbols: str


@store.disk_errors()
def pinned(spec: str, note: Callable[[str], None]) -> Pinned:
    """What *spec* is now."""
    wanted = parse_kernel(spec)
    with source.opened(wanted, note) as workspace:
        if wanted.kind == "git":
            parts = [*(f"+config:{each}" for each in wanted.configs), *(f"+{each}" for each in wanted.flavours[1:])]
            spec = f"git:{wanted.want}@{workspace.provenance['commit']}{''.join(parts)}"
        return Pinned(spec, _tree(workspace), _symbols(wanted))


def _tree(workspace: source.Workspace) -> str:
    return workspace.git("rev-parse", f"{workspace.base}^{{tree}}")


def _symbols(wanted: BuildSpec) -> str:
    return config.text(config.read(config.flavour_files(wanted.flavours)) | config.read(wanted.configs))


def check(pin: Pinned) -> None:
    """:raises HarnessError: what *pin* names is not any more what it was."""
    wanted = parse_kernel(pin.spec)
    with source.opened(wanted, _quiet) as workspace:
        _check(pin, wanted, workspace)


def _check(pin: Pinned, wanted: BuildSpec, workspace: source.Workspace) -> None:
    tree = _tree(workspace)
    if (tree, _symbols(wanted)) != (pin.tree, pin.symbols):
        what = "source" if tree != pin.tree else "configuration"
        raise HarnessError(
            f"{pin.spec}: its {what} is not what it was when the campaign began; begin again, or give git:DIR@REV"
        )


def parse_kernel(spec: str) -> BuildSpec:
    """The kernel to break; :raises UsageError: it is none that we build."""
    wanted = parse(spec)
    if not isinstance(wanted, BuildSpec):
        raise UsageError(f"--kernel {spec}: a kernel is broken in its source; give source:, tree: or git:")
    if wanted.series:
        raise UsageError(f"--kernel {spec}: defects and a series do not go together; commit the series, give git:")
    return wanted


def _quiet(_text: str) -> None:
    pass


@contextlib.contextmanager
def taken(pin: Pinned) -> Iterator[Bench]:
    """A free bench for *pin*, made if there is none; alone in it.

    :raises HarnessError: what *pin* names is not what it was, or the bench cannot be made.
    """
    wanted = parse_kernel(pin.spec)
    root = paths.cache_dir().absolute() / "sabotage"
    root.mkdir(parents=True, exist_ok=True)
    with source.opened(wanted, _quiet) as workspace:
        _check(pin, wanted, workspace)
        key = f"{workspace.folder.name}-{workspace.base[:12]}-{wanted.flavour}"
        for number in range(_MOST):
            holder = filelock.FileLock(root / f"{key}-{number}.lock")
            with contextlib.suppress(filelock.Timeout):
                holder.acquire(timeout=0)
                break
        else:
            raise HarnessError(f"{root}: {_MOST} benches are in use; end what uses them")
        try:
            bench = Bench(root / f"{key}-{number}", wanted)
            if not bench.folder.is_dir():
                workspace.lay_out(workspace.base)
                with tempfile.TemporaryDirectory(prefix=".new-", dir=root) as scratch:
                    new = Path(scratch) / "bench"
                    new.mkdir()
                    _copy(workspace.src, new / "src")
                    new.rename(bench.folder)
        except BaseException:
            holder.release()
            raise
    try:
        bench.mend()
        ours = config.read(config.flavour_files(wanted.flavours))
        build.configure(bench.src, bench.out, ours, config.read(wanted.configs), _quiet)
        yield bench
    finally:
        holder.release()


def _copy(src: Path, to: Path) -> None:
    done = subprocess.run(["cp", "-a", "--reflink=auto", src, to], capture_output=True, text=True, errors="replace")
    if done.returncode:
        reason = (done.stderr.strip().splitlines() or [f"cp ended with {done.returncode}"])[-1]
        raise HarnessError(f"{src} cannot be copied for a bench: {reason[:200]}; free some space and try again")
