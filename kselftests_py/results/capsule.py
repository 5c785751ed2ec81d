"""The capsule: one file with all that a run was made of and all that it said, for somebody else to run again.

A zip, the same bytes for the same contents. Who opens one holds a stranger's file: nothing of it is unpacked or run
here, and each name and size is checked before anything is read.
"""

from __future__ import annotations

import io
import re
import stat
import zipfile
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import msgspec

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.kernels import recipe, stored
from kselftests_py.kernels.image import file_digest
from kselftests_py.kernels.recipe import Recipe
from kselftests_py.paths import data_dir
from kselftests_py.results.manifest import KernelEntry, Manifest
from kselftests_py.results.record import Record
from kselftests_py.results.run_folder import CONSOLES, MANIFEST, RESULTS, RunFolder

NAME = "capsule.kst"
FORMAT = 1
MAX_SIZE = 64 << 20
"""Bytes of everything in a capsule, unpacked."""
MAX_FILES = 4096
MAX_CONSOLE = 256 << 10
"""Bytes of one console: more is cut in the middle."""
_MAX_CONSOLES = 16 << 20
_INDEX = "capsule.json"
# One level of hidden files, "..", absolute and empty parts are all excluded by how a part begins.
_SAFE = re.compile(r"(?:[A-Za-z0-9_][A-Za-z0-9._+-]*/)*[A-Za-z0-9_][A-Za-z0-9._+-]*")
_EPOCH = (1980, 1, 1, 0, 0, 0)
_SOURCES = {"probe": "native_probes", "suites": "suites", "configs": "vm_images/configs"}
_KINDS = {".c", ".h", ".py", ".toml", ".json", ".ini", ".config", ".seeds", ""}
_BUILT = "build"  # below native_probes/, by its Makefile


class Index(msgspec.Struct, frozen=True):
    """``capsule.json``: the recipe of each kernel of the manifest, in its order, and what was left out or cut."""

    format: int
    recipes: Annotated[list[Recipe], msgspec.Meta(max_length=64)]
    cut: Annotated[list[str], msgspec.Meta(max_length=MAX_FILES)] = []


class Capsule(msgspec.Struct, frozen=True):
    """A capsule that was read and checked; ``files`` has everything in it by name."""

    path: Path
    index: Index
    manifest: Manifest
    records: list[Record]
    files: dict[str, bytes]

    def kernel_files(self, number: int) -> recipe.Files:
        """What belongs to the recipe of kernel *number*: patches, the user's configuration."""
        prefix = f"kernels/{number}/"
        return {name.removeprefix(prefix): body for name, body in self.files.items() if name.startswith(prefix)}

    def foreign(self) -> list[str]:
        """The files of the probe, of the suites it ran and of the configurations in which this kst is another."""
        suites = self.manifest.options.get("suites") or []
        ours = dict(_sources())
        names = {name for name in {*ours, *self.files} if name.partition("/")[0] in _SOURCES}
        return sorted(
            name
            for name in names
            if ours.get(name) != self.files.get(name)
            and not (suites and name.count("/") > 1 and name.startswith("suites/") and name.split("/")[1] not in suites)
        )


def write(folder: RunFolder) -> Path:
    """Write ``capsule.kst`` into the run folder. Raises HarnessError if it cannot be, or is more than MAX_SIZE."""
    try:
        files = _gathered(folder)
    except OSError as error:
        raise HarnessError(f"{folder.path}: no capsule: {error.filename}: {error.strerror}") from None
    size = sum(map(len, files.values()))
    if size > MAX_SIZE:
        raise HarnessError(
            f"{folder.path}: no capsule: it would hold {size >> 20} MiB, and at most {MAX_SIZE >> 20} do"
        )
    packed = io.BytesIO()
    with zipfile.ZipFile(packed, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in sorted(files.items()):
            member = zipfile.ZipInfo(name, _EPOCH)
            member.external_attr = (stat.S_IFREG | 0o644) << 16
            archive.writestr(member, body, zipfile.ZIP_DEFLATED)
    return folder.write_file(NAME, packed.getvalue())


def _gathered(folder: RunFolder) -> dict[str, bytes]:
    """What the capsule of a run holds, by name."""
    manifest = folder.manifest()
    files = {name: (folder.path / name).read_bytes() for name in (MANIFEST, RESULTS)}
    files |= dict(_sources())
    recipes, cut = [], []
    for number, entry in enumerate(manifest.kernels):
        found, more = recipe.of(entry.spec, entry.provenance)
        recipes.append(found)
        config = _config(entry)
        more |= {"config": config} if config else {}
        files |= {f"kernels/{number}/{name}": body for name, body in more.items()}
    room = _MAX_CONSOLES
    for path in sorted((folder.path / CONSOLES).glob("*.log")):
        body = path.read_bytes()
        if len(body) > MAX_CONSOLE:
            half = MAX_CONSOLE // 2
            body = body[:half] + b"\n[... cut ...]\n" + body[-half:]
        if len(body) > room or not _SAFE.fullmatch(path.name):
            cut.append(f"{CONSOLES}/{path.name} is left out")
            continue
        if len(body) < path.stat().st_size:
            cut.append(f"{CONSOLES}/{path.name} is cut")
        room -= len(body)
        files[f"{CONSOLES}/{path.name}"] = body
    files[_INDEX] = msgspec.json.format(msgspec.json.encode(Index(FORMAT, recipes, cut))) + b"\n"
    return files


def _sources() -> Iterator[tuple[str, bytes]]:
    """What this installation would run: the probe, the suites, the configurations of the flavours."""
    for kind, place in _SOURCES.items():
        root = data_dir(place.split("/")[0]).joinpath(*place.split("/")[1:])
        for path in sorted(root.rglob("*")):
            name = f"{kind}/{path.relative_to(root)}"
            if name.split("/")[1] != _BUILT and path.is_file() and path.suffix in _KINDS and _SAFE.fullmatch(name):
                yield name, path.read_bytes()


def _config(entry: KernelEntry) -> bytes | None:
    """The configuration of a kernel of the run, if it is still where it was and what it was."""
    kernel = stored(entry.digest) if entry.digest else None
    path = kernel.config if kernel else Path(entry.provenance.get("config", ""))
    known = path and path.is_file() and file_digest(path) == entry.config_digest
    return path.read_bytes() if path and known else None


def open_(given: Path) -> Capsule:
    """The capsule at *given*, or that of the run folder *given*, which is written if it has none.

    Raises UsageError if there is none, or if it is damaged, hostile, or of another format.
    """
    if given.is_dir():
        folder = RunFolder.open(given)
        path = given / NAME if (given / NAME).exists() else write(folder)
    else:
        path = given
    if not path.is_file():
        raise UsageError(f"{path}: no such capsule or run folder; kst run leaves a {NAME} in its folder")
    if path.stat().st_size > 2 * MAX_SIZE:
        raise UsageError(f"{path}: refused: larger than any capsule can be")
    try:
        with zipfile.ZipFile(path) as archive:
            files = {member.filename: _read(archive, member) for member in _checked(path, archive)}
        return _decoded(path, files)
    except (zipfile.BadZipFile, EOFError, OSError, NotImplementedError, zlib.error) as error:
        raise UsageError(f"{path}: is no capsule, or a damaged one ({error}); have it sent again") from None
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise UsageError(f"{path}: does not hold what a capsule holds ({error}); have it sent again") from None


def _read(archive: zipfile.ZipFile, member: zipfile.ZipInfo) -> bytes:
    # A plain read() would unpack all that is there before it is cut to the size that the member says it has.
    with archive.open(member) as file:
        return file.read(member.file_size + 1)


def _checked(path: Path, archive: zipfile.ZipFile) -> list[zipfile.ZipInfo]:
    """The members, none of which has been read, if each may be."""
    members = archive.infolist()
    size = sum(member.file_size for member in members)
    if len(members) > MAX_FILES or size > MAX_SIZE:
        raise UsageError(f"{path}: refused: {len(members)} files, {size} bytes; at most {MAX_FILES}, {MAX_SIZE} may be")
    seen = set()
    for member in members:
        name, kind = member.filename, stat.S_IFMT(member.external_attr >> 16)
        # zipfile unpacks the other methods without a bound.
        packed = member.compress_type in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED) and not member.flag_bits & 1
        plain = packed and kind in (0, stat.S_IFREG)
        if not _SAFE.fullmatch(name) or not plain or name in seen or len(name) > 200:
            raise UsageError(f"{path}: refused: {name[:100]!r} is no plain file of a capsule, or is there twice")
        seen.add(name)
    return members


def _decoded(path: Path, files: dict[str, bytes]) -> Capsule:
    if lacking := [name for name in (_INDEX, MANIFEST, RESULTS) if name not in files]:
        raise UsageError(f"{path}: has no {lacking[0]}, so it is no capsule of kst run")
    kind = msgspec.json.decode(files[_INDEX], type=dict[str, object]).get("format")
    if kind != FORMAT:
        raise UsageError(f"{path}: is of format {kind!r:.20}, this kst reads {FORMAT}; take the kst that wrote it")
    index = msgspec.json.decode(files[_INDEX], type=Index)
    manifest = msgspec.json.decode(files[MANIFEST], type=Manifest)
    if len(index.recipes) != len(manifest.kernels):
        raise UsageError(f"{path}: has {len(index.recipes)} recipes for {len(manifest.kernels)} kernels; refused")
    lines = [line for line in files[RESULTS].split(b"\n")[:-1] if line]
    return Capsule(path, index, manifest, [msgspec.json.decode(line, type=Record) for line in lines], files)
