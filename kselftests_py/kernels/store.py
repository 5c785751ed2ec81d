"""The cache of kernels: one directory per content, ``kernels/<digest>``, whole or not there at all.

Everything that writes holds ``lock``. A kernel in use is held (a shared lock on its directory, until the
process ends), so that another process's ``prune`` leaves it alone.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec

from kselftests_py import paths
from kselftests_py.errors import HarnessError
from kselftests_py.kernels import image, locks
from kselftests_py.kernels.image import Facts, KernelImage

_FORMAT = 1
# Read at every use; of the thousands of modules only the sizes are looked at.
_HASHED = ("vmlinuz", "config", "modules.dep")
_held: dict[Path, int] = {}


class _Manifest(msgspec.Struct, frozen=True):
    format: int
    spec: str
    release: str
    digest: str
    provenance: dict[str, str]
    files: Facts


class _Answer(msgspec.Struct, frozen=True):
    """What a spec, or the inputs of a build, came to when last asked."""

    digest: str


@dataclass(frozen=True)
class CachedImage:
    """A kernel in the cache: ``size`` in bytes, ``problem`` one line if it is damaged ("" if whole)."""

    image: KernelImage
    path: Path
    size: int
    problem: str = ""


def root() -> Path:
    """The directory of the cache of kernels."""
    folder = paths.cache_dir() / "kernels"
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@contextlib.contextmanager
def disk_errors() -> Iterator[None]:
    """Turn an OSError within into a HarnessError of one line: the cache cannot be read or written, or is full."""
    try:
        yield
    except OSError as error:
        full = error.errno in (errno.ENOSPC, errno.EDQUOT)
        place = error.filename or "kernels"
        advice = "free some space" if full else "set KST_CACHE to a directory you can write to"
        raise HarnessError(f"{place}: the cache of kernels cannot be used: {error.strerror}; {advice}") from error


@contextlib.contextmanager
def lock(progress: Callable[[str], None]) -> Iterator[Path]:
    """Hold the cache, alone; gives its root. What a killed process left half-made is removed."""
    folder = root()
    with locks.held(folder / "lock", 1, "is fetching a kernel", progress):
        for left in folder.glob(".new-*"):
            shutil.rmtree(left, ignore_errors=True)
        yield folder


def add(spec: str, release: str, provenance: dict[str, str], build: Callable[[Path], None]) -> KernelImage:
    """Let *build* make ``lib/modules/<release>`` in an empty directory, and take it into the cache whole.

    *build* is called with the directory; it leaves vmlinuz, config and, if the kernel has modules, these with
    modules.dep. A whole entry with the same contents stays as it is, provenance and all: somebody may boot it now. The
    caller holds ``lock``.
    """
    folder = root()
    temporary = Path(tempfile.mkdtemp(prefix=".new-", dir=folder))
    try:
        build(temporary)
        temporary.chmod(0o755)
        modules = temporary / "lib" / "modules" / release
        stated = image.read_release(modules / "vmlinuz")
        if stated != release:
            raise HarnessError(f"{spec}: what should be the kernel {release} is {stated}; report it")
        facts = image.measure(modules / "vmlinuz", modules / "config", modules)
        manifest = _Manifest(_FORMAT, spec, release, image.digest(facts), provenance, facts)
        (temporary / "manifest.json").write_bytes(msgspec.json.encode(manifest))
        entry = folder / manifest.digest
        there = _read(entry)
        if there and not _problem(entry, there):
            shutil.rmtree(temporary, ignore_errors=True)
            return _image(entry, there)
        _discard(entry)
        temporary.replace(entry)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    return _image(entry, manifest)


def _discard(entry: Path) -> None:
    """Remove an entry; renamed first, so that nobody ever finds half of it."""
    if entry.exists():
        grave = Path(tempfile.mkdtemp(prefix=".new-", dir=entry.parent))
        entry.replace(grave / "entry")
        shutil.rmtree(grave, ignore_errors=True)


def _image(entry: Path, manifest: _Manifest) -> KernelImage:
    folder = entry / "lib" / "modules" / manifest.release
    # A kernel that we built has no modules. A damaged entry never comes this far: its modules.dep is in the manifest.
    modules = folder if (folder / "modules.dep").exists() else None
    return KernelImage(
        manifest.spec, manifest.release, folder / "vmlinuz", modules, folder / "config", manifest.digest,
        manifest.provenance,
    )  # fmt: skip


def _entries() -> list[Path]:
    return sorted(path for path in root().iterdir() if re.fullmatch(r"[0-9a-f]{64}", path.name))


def _read(entry: Path) -> _Manifest | None:
    try:
        manifest = msgspec.json.decode((entry / "manifest.json").read_bytes(), type=_Manifest)
    except (OSError, msgspec.MsgspecError):
        return None
    return manifest if manifest.format == _FORMAT and manifest.digest == entry.name else None


def _problem(entry: Path, manifest: _Manifest | None) -> str:
    """What is wrong with an entry, or ""."""
    if manifest is None:
        return "its manifest cannot be read"
    modules = entry / "lib" / "modules" / manifest.release
    for name, (size, sha256) in manifest.files.items():
        path = modules / name
        try:
            if path.stat().st_size != size or (name in _HASHED and image.file_digest(path) != sha256):
                return f"{name} is not what was stored"
        except OSError as error:
            return f"{name}: {error.strerror}"
    return ""


@disk_errors()
def list_images() -> list[CachedImage]:
    """Every kernel in the cache, damaged ones too (whose release may then be "?"), by release."""
    found = []
    for entry in _entries():
        manifest = _read(entry)
        problem = _problem(entry, manifest)
        kernel = _image(entry, manifest or _Manifest(_FORMAT, "?", "?", entry.name, {}, {}))
        found.append(CachedImage(kernel, entry, _size(entry), problem))
    return sorted(found, key=lambda cached: cached.image.release)


def _size(entry: Path) -> int:
    total = 0
    for folder, _, names in os.walk(entry):
        for name in names:
            # Another process may be removing it.
            with contextlib.suppress(FileNotFoundError):
                total += (Path(folder) / name).lstat().st_size
    return total


def find(matches: Callable[[KernelImage], bool], damaged: Callable[[str], None]) -> KernelImage | None:
    """The whole kernel in the cache for which *matches* is true, held; *damaged* is told of one that is not whole."""
    for entry in _entries():
        manifest = _read(entry)
        if manifest is None or not matches(_image(entry, manifest)):
            continue
        hold(entry)
        problem = _problem(entry, manifest)
        if not problem:
            return _image(entry, manifest)
        damaged(f"the cached {manifest.release} is damaged ({problem})")
    return None


def hold(entry: Path) -> None:
    """Keep *entry* from being pruned as long as this process lives."""
    descriptor = os.open(entry, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
    fcntl.flock(descriptor, fcntl.LOCK_SH)
    previous = _held.pop(entry, None)
    if previous is not None:
        os.close(previous)
    _held[entry] = descriptor


@disk_errors()
def prune() -> tuple[list[CachedImage], list[CachedImage]]:
    """Empty the cache, what was remembered of specs and the mirror's index: (removed, kept as in use)."""
    removed, kept = [], []
    with lock(lambda _: None) as folder:
        for cached in list_images():
            descriptor = os.open(cached.path, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
                _discard(cached.path)
                removed.append(cached)
            except BlockingIOError:
                kept.append(cached)
            finally:
                os.close(descriptor)
        if not kept:
            (folder / "answers.json").unlink(missing_ok=True)
            shutil.rmtree(folder / "apt", ignore_errors=True)
    return removed, kept


def remember(spec: str, kernel: KernelImage) -> None:
    """Write down what *spec* meant, for the day when the mirror cannot be asked. The caller holds ``lock``."""
    answers = _answers() | {spec: _Answer(kernel.digest)}
    temporary = root() / ".new-answers"
    temporary.write_bytes(msgspec.json.encode(answers))
    temporary.replace(root() / "answers.json")


def recall(spec: str, damaged: Callable[[str], None]) -> KernelImage | None:
    """The kernel that *spec* meant last time, if the cache still has it whole."""
    answer = _answers().get(spec)
    found = find(lambda kernel: kernel.digest == answer.digest, damaged) if answer else None
    return found and replace(found, spec=spec)


def _answers() -> dict[str, _Answer]:
    try:
        return msgspec.json.decode((root() / "answers.json").read_bytes(), type=dict[str, _Answer])
    except (OSError, msgspec.MsgspecError):
        return {}
