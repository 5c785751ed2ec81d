"""The folder of one run: records, manifest, consoles. Reports are made from it and from nothing else."""

from __future__ import annotations

import fcntl
import hashlib
import os
import re
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from pathlib import Path

import msgspec

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.results.manifest import Manifest
from kselftests_py.results.record import Record, encode

RESULTS = "results.jsonl"
MANIFEST = "manifest.json"
CONSOLES = "console"


def default_root() -> Path:
    """Where that goes for which nobody named a place: ``kst-runs`` in the working directory. That may be a kernel tree:
    git does not see the folder there, so that it is no part of the kernel that ``tree:`` builds.

    :raises HarnessError: it cannot be made.
    """
    root = Path("kst-runs")
    with _as_harness_error(root), suppress(FileExistsError):
        root.mkdir()
        (root / ".gitignore").write_text("*\n")
    return root


class RunFolder:
    """An existing run folder; make one with `create`, take one with `open`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    @classmethod
    def create(cls, path: Path | None = None) -> RunFolder:
        """A new run folder; without a path ``kst-runs/<UTC time>`` in the working directory.

        Raises:
            UsageError: something is there already.
            HarnessError: it cannot be written.
        """
        if path is not None:
            return cls._claim(path)
        stamp = datetime.now(UTC).strftime("%Y%m%dT%H%M%SZ")
        root = default_root()
        for number in count(1):
            try:
                return cls._claim(root / (stamp if number == 1 else f"{stamp}-{number}"))
            except UsageError:
                continue  # another run began in the same second
        raise AssertionError("unreachable")

    @staticmethod
    def check_free(path: Path) -> None:
        """:raises UsageError: a run cannot be put there, as something is there already."""
        with _as_harness_error(path):
            if (path / RESULTS).exists() or (path / MANIFEST).exists():
                raise UsageError(f"{path}: holds a run already; give another --out, or remove it")
            if path.is_dir() and any(path.iterdir()):
                raise UsageError(f"{path}: is not empty and not a run; give another --out")

    @classmethod
    def _claim(cls, path: Path) -> RunFolder:
        cls.check_free(path)
        with _as_harness_error(path):
            try:
                path.mkdir(parents=True, exist_ok=True)
                (path / CONSOLES).mkdir()
                (path / RESULTS).touch(exist_ok=False)
            except (FileExistsError, NotADirectoryError):
                # Either a file in the way, or another run that claimed the folder between the check and here.
                raise UsageError(f"{path}: exists already; give another --out") from None
        return cls(path)

    @classmethod
    def open(cls, path: Path) -> RunFolder:
        """The run folder at that path.

        Raises:
            UsageError: there is none.
        """
        if not (path / RESULTS).is_file():
            raise UsageError(f"{path}: is not a run folder (no {RESULTS} in it)")
        return cls(path)

    def append(self, record: Record) -> None:
        """Writes one record so that it outlives a kill -9 of this process and a crash of the host.

        Raises:
            HarnessError: the folder cannot be written, or is full.
        """
        line = encode(record.bounded()) + b"\n"
        with _as_harness_error(self.path / RESULTS):
            descriptor = os.open(self.path / RESULTS, os.O_WRONLY | os.O_APPEND | os.O_CLOEXEC)
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX)
                end = os.lseek(descriptor, 0, os.SEEK_END)
                try:
                    _write_all(descriptor, line)
                except OSError:
                    # Half a line in the middle of the file would make what follows unreadable.
                    if os.lseek(descriptor, 0, os.SEEK_END) > end:
                        os.ftruncate(descriptor, end)
                    raise
                os.fsync(descriptor)
            finally:
                os.close(descriptor)

    def records(self) -> list[Record]:
        """Every record, in the order written. An unfinished last line (the run was killed) is left out.

        Raises:
            HarnessError: another line is not a record.
        """
        path = self.path / RESULTS
        with _as_harness_error(path):
            lines = path.read_bytes().split(b"\n")
        decoder = msgspec.json.Decoder(Record)
        records = []
        for number, line in enumerate(lines, start=1):
            if not line and number == len(lines):
                break
            try:
                records.append(decoder.decode(line))
            except (msgspec.DecodeError, UnicodeDecodeError) as error:
                if number == len(lines):
                    break
                raise HarnessError(
                    f"{path} line {number}: not a record ({error}); remove the line or the run folder"
                ) from None
        return records

    def ordered(self) -> list[Record]:
        """The same by kernel, as in the manifest, and by test: where guests run at once the order written is chance.

        Raises:
            HarnessError: as for ``records`` and ``manifest``.
        """
        place = {entry.label: number for number, entry in enumerate(self.manifest().kernels)}
        return sorted(self.records(), key=lambda one: (place.get(one.kernel, len(place)), one.id))

    def write_manifest(self, manifest: Manifest) -> None:
        """Writes the manifest; a reader sees the old one or the new one, never half of one."""
        self.write_file(MANIFEST, encode(manifest, indent=2) + b"\n")

    def manifest(self) -> Manifest:
        """The manifest; an empty one if the run was killed before it was written.

        Raises:
            HarnessError: it is not a manifest.
        """
        path = self.path / MANIFEST
        if not path.exists():
            return Manifest()
        with _as_harness_error(path):
            text = path.read_bytes()
        try:
            return msgspec.json.decode(text, type=Manifest)
        except (msgspec.DecodeError, UnicodeDecodeError) as error:
            raise HarnessError(f"{path}: not a manifest ({error}); restore it or remove the run folder") from None

    def new_console(self, kernel_label: str) -> Path:
        """A new file for the console of the kernel's next boot; a plain file name whatever the label holds.

        Raises:
            HarnessError: the folder cannot be written, or is full.
        """
        safe = re.sub(r"[^A-Za-z0-9._+-]", "_", kernel_label).lstrip(".")[:80]
        if safe != kernel_label:
            # Two labels that differ only in what was replaced must not share a file.
            safe += "-" + hashlib.sha256(kernel_label.encode("utf-8", "surrogatepass")).hexdigest()[:8]
        with _as_harness_error(self.path / CONSOLES):
            for number in count(1):
                path = self.path / CONSOLES / f"{safe}-{number}.log"
                with suppress(FileExistsError):  # two guests of one kernel may boot at once
                    path.touch(exist_ok=False)
                    return path
        raise AssertionError("unreachable")

    def write_file(self, name: str, content: bytes) -> Path:
        """Replaces one file of the folder at once.

        Raises:
            HarnessError: the folder cannot be written, or is full.
        """
        path = self.path / name
        part = self.path / f".{name}.{os.getpid()}"
        with _as_harness_error(path):
            try:
                with part.open("wb") as file:
                    file.write(content)
                    file.flush()
                    os.fsync(file.fileno())
                part.replace(path)
            finally:
                part.unlink(missing_ok=True)
        return path


def _write_all(descriptor: int, data: bytes) -> None:
    while data:
        data = data[os.write(descriptor, data) :]


@contextmanager
def _as_harness_error(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        reason = error.strerror or type(error).__name__
        raise HarnessError(f"{path}: {reason}; give another --out or make it writable, with room on it") from None
