"""The capsule of a run: whole, the same bytes for the same run, and harmless to open whoever made it."""

from __future__ import annotations

import io
import json
import shutil
import stat
import subprocess
import tracemalloc
import zipfile
from pathlib import Path

import pytest
import results_factory as factory

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.results import RunFolder, capsule

RECIPE = {"kind": "debian", "want": "7.3.4-1"}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RunFolder:
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "cache"))
    return factory.run_folder(tmp_path / "run", [*factory.judged(), *factory.measured()])


def test_everything_of_the_run_is_in_it_and_comes_out_again(folder: RunFolder) -> None:
    folder.new_console("7.3").write_bytes(b"booting \xff\n")
    read = capsule.open_(capsule.write(folder))
    assert read.manifest == folder.manifest()
    assert read.records == folder.records()
    assert read.files["console/7.3-1.log"] == b"booting \xff\n"
    assert {"probe/uffd.c", "suites/pytest.ini", "suites/trapping/test_wp.py", "configs/lean.config"} <= set(read.files)
    assert [recipe.kind for recipe in read.index.recipes] == ["ssh", "ssh"]
    assert read.foreign() == []


def test_every_file_that_decides_a_run_is_in_it_and_nothing_that_was_built(
    folder: RunFolder, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A copy of the data of the package as git has it, and beside it what compilers and Python leave there."""
    places = {"native_probes": "probe", "suites": "suites", "vm_images/configs": "configs"}
    top = Path(__file__).parent.parent
    listed = subprocess.run(["git", "ls-files", *places], cwd=top, capture_output=True, text=True, check=True)
    for name in listed.stdout.splitlines():
        (tmp_path / "data" / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(top / name, tmp_path / "data" / name)
    for built in ("native_probes/build/agent", "native_probes/build/agent.o", "suites/__pycache__/x.pyc"):
        (tmp_path / "data" / built).parent.mkdir(exist_ok=True)
        (tmp_path / "data" / built).write_bytes(b"\x7fELF")
    monkeypatch.setattr(capsule, "data_dir", lambda name: tmp_path / "data" / name)
    found = {name for name in capsule.open_(capsule.write(folder)).files if name.split("/")[0] in places.values()}
    expected = set()
    for name in listed.stdout.splitlines():
        place = next(place for place in places if name.startswith(f"{place}/"))
        expected.add(places[place] + name.removeprefix(place))
    assert found == {name for name in expected if not name.endswith((".md", ".gitignore"))}
    assert any(name.startswith("suites/trapping/explored/") for name in found)


def test_another_explored_sequence_is_named(folder: RunFolder) -> None:
    members = members_of(capsule.write(folder))
    name = min(name for name in members if name.startswith("suites/trapping/explored/"))
    found = capsule.open_(packed(folder.path / "other.kst", members | {name: b"{}"})).foreign()
    assert found == [name]


def test_the_same_run_gives_the_same_bytes(folder: RunFolder) -> None:
    first = capsule.write(folder).read_bytes()
    assert capsule.write(folder).read_bytes() == first


def test_a_folder_without_one_gets_one(folder: RunFolder) -> None:
    assert capsule.open_(folder.path).path == folder.path / capsule.NAME
    assert (folder.path / capsule.NAME).exists()


def test_a_killed_runs_half_line_is_left_out(folder: RunFolder) -> None:
    whole = folder.records()
    with (folder.path / "results.jsonl").open("ab") as file:
        file.write(b'{"id": "trapp')
    assert capsule.open_(folder.path).records == whole


def test_consoles_are_bounded_and_that_is_told(folder: RunFolder) -> None:
    folder.new_console("loud").write_bytes(b"first" + b"x" * (capsule.MAX_CONSOLE * 2) + b"last")
    read = capsule.open_(folder.path)
    body = read.files["console/loud-1.log"]
    assert len(body) < capsule.MAX_CONSOLE + 100
    assert (body[:5], body[-4:]) == (b"first", b"last")
    assert read.index.cut == ["console/loud-1.log is cut"]


def test_more_than_a_capsule_holds_is_an_error_and_not_half_a_capsule(
    folder: RunFolder, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(capsule, "MAX_SIZE", 1 << 20)
    (folder.path / "results.jsonl").write_bytes(b"x" * (1 << 20))
    with pytest.raises(HarnessError, match=r"it would hold \d+ MiB, and at most 1 do"):
        capsule.write(folder)
    assert not (folder.path / capsule.NAME).exists()


def test_a_run_folder_that_lost_its_manifest_gives_no_capsule(folder: RunFolder) -> None:
    (folder.path / "manifest.json").unlink()
    with pytest.raises(HarnessError, match=r"no capsule: .*manifest\.json: No such file or directory$"):
        capsule.open_(folder.path)


def test_what_this_kst_has_otherwise_is_named(folder: RunFolder) -> None:
    folder.write_manifest(factory.manifest(options={"suites": ["trapping"]}))
    members = members_of(capsule.write(folder))
    members |= {"probe/uffd.c": b"other", "suites/trapping/test_more.py": b"", "suites/idle/test_x.py": b"not run"}
    del members["configs/lean.config"]
    found = capsule.open_(packed(folder.path / "other.kst", members)).foreign()
    assert found == ["configs/lean.config", "probe/uffd.c", "suites/trapping/test_more.py"]


def members_of(path: Path) -> dict[str, bytes]:
    with zipfile.ZipFile(path) as archive:
        return {name: archive.read(name) for name in archive.namelist()}


def packed(path: Path, members: dict[str, bytes], mode: int = stat.S_IFREG, twice: str = "") -> Path:
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in members.items():
            member = zipfile.ZipInfo(name)
            member.external_attr = (mode if name == "extra" else stat.S_IFREG) << 16
            archive.writestr(member, body, zipfile.ZIP_DEFLATED)
        if twice:
            archive.writestr(zipfile.ZipInfo(twice), b"again")
    return path


HOSTILE = {
    "above": ({"../extra": b""}, "no plain file"),
    "absolute": ({"/etc/extra": b""}, "no plain file"),
    "through": ({"suites/../../extra": b""}, "no plain file"),
    "hidden": ({"suites/.git/config": b""}, "no plain file"),
    "backslash": ({"..\\extra": b""}, "no plain file"),
    "newline": ({"suites/a\nb": b""}, "no plain file"),
    "folder": ({"suites/": b""}, "no plain file"),
    "long": ({"x" * 201: b""}, "no plain file"),
    "bomb": ({"zeros": bytes(capsule.MAX_SIZE)}, "at most"),
    "many": ({f"x{number}": b"" for number in range(capsule.MAX_FILES)}, "at most"),
    "format": ({"capsule.json": b'{"format": 2, "recipes": []}'}, "is of format 2, this kst reads 1"),
    "no-format": ({"capsule.json": b'{"recipes": []}'}, "is of format None"),
    "index": ({"capsule.json": b"[" * 100_000}, "does not hold what a capsule holds"),
    "recipes": ({"capsule.json": json.dumps({"format": 1, "recipes": [RECIPE]}).encode()}, "1 recipes for 2 kernels"),
    "want": (
        {"capsule.json": json.dumps({"format": 1, "recipes": [{"kind": "source", "want": "7+series:x"}] * 2}).encode()},
        "names no source kernel",
    ),
    "manifest": ({"manifest.json": b"{}}"}, "does not hold what a capsule holds"),
    "deep": ({"manifest.json": b'{"options": {"a":' + b"[" * 200_000}, "does not hold what a capsule holds"),
    "utf8": ({"manifest.json": b'{"argv": ["\xff"]}'}, "does not hold what a capsule holds"),
    "record": ({"results.jsonl": b"{}\n"}, "does not hold what a capsule holds"),
}


@pytest.mark.parametrize("case", HOSTILE)
def test_hostile_capsules_are_refused_in_one_line(folder: RunFolder, tmp_path: Path, case: str) -> None:
    more, told = HOSTILE[case]
    path = packed(tmp_path / "hostile.kst", members_of(capsule.write(folder)) | more)
    before = sorted(tmp_path.rglob("*"))
    with pytest.raises(UsageError, match=told) as raised:
        capsule.open_(path)
    assert len(str(raised.value).splitlines()) == 1
    assert sorted(tmp_path.rglob("*")) == before


@pytest.mark.parametrize("mode", [stat.S_IFLNK, stat.S_IFIFO, stat.S_IFDIR, stat.S_IFBLK])
def test_a_member_that_is_no_plain_file_is_refused(folder: RunFolder, tmp_path: Path, mode: int) -> None:
    members = members_of(capsule.write(folder)) | {"extra": b"/etc/passwd"}
    assert capsule.open_(packed(tmp_path / "good.kst", members))
    with pytest.raises(UsageError, match="'extra' is no plain file"):
        capsule.open_(packed(tmp_path / "bad.kst", members, mode))


@pytest.mark.filterwarnings("ignore:Duplicate name")
def test_a_name_that_is_there_twice_is_refused(folder: RunFolder, tmp_path: Path) -> None:
    path = packed(tmp_path / "twice.kst", members_of(capsule.write(folder)), twice="manifest.json")
    with pytest.raises(UsageError, match="is there twice"):
        capsule.open_(path)


def test_a_size_that_lies_is_found_out(folder: RunFolder, tmp_path: Path) -> None:
    """A member that says 10 bytes and unpacks to 64 MiB: no more than it says is unpacked, and it does not fit."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, body in (members_of(capsule.write(folder)) | {"zeros": bytes(64 << 20)}).items():
            archive.writestr(name, body)
        archive.getinfo("zeros").file_size = 10
    (tmp_path / "lies.kst").write_bytes(out.getvalue())
    del out
    tracemalloc.start()
    with pytest.raises(UsageError, match="damaged"):
        capsule.open_(tmp_path / "lies.kst")
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert peak < 16 << 20


@pytest.mark.parametrize("method", [zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA])
def test_a_compression_that_cannot_be_bounded_is_refused(folder: RunFolder, tmp_path: Path, method: int) -> None:
    with zipfile.ZipFile(tmp_path / "x.kst", "w", method) as archive:
        for name, body in members_of(capsule.write(folder)).items():
            archive.writestr(name, body)
    with pytest.raises(UsageError, match="no plain file"):
        capsule.open_(tmp_path / "x.kst")


def test_a_file_larger_than_any_capsule_is_not_even_looked_into(tmp_path: Path) -> None:
    with (tmp_path / "huge.kst").open("wb") as file:
        file.truncate(capsule.MAX_SIZE * 3)
    with pytest.raises(UsageError, match="larger than any capsule"):
        capsule.open_(tmp_path / "huge.kst")


@pytest.mark.parametrize("left", [0, 1, 100, 0.3, 0.9, 0.999])
def test_a_truncated_capsule_is_told(folder: RunFolder, tmp_path: Path, left: float) -> None:
    whole = capsule.write(folder).read_bytes()
    (tmp_path / "cut.kst").write_bytes(whole[: int(left * len(whole)) if left < 1 else int(left)])
    with pytest.raises(UsageError, match=r"cut\.kst: is no capsule, or a damaged one"):
        capsule.open_(tmp_path / "cut.kst")


def test_a_flipped_byte_is_told_or_changes_nothing(folder: RunFolder, tmp_path: Path) -> None:
    """Nothing: it lies in what a zip says twice, or says of no file's contents, as the time in a local header."""
    whole = capsule.write(folder).read_bytes()
    as_it_was, told = capsule.open_(folder.path).files, 0
    for place in range(len(whole) // 40, len(whole), len(whole) // 40):
        flipped = bytearray(whole)
        flipped[place] ^= 0x55
        (tmp_path / "flipped.kst").write_bytes(flipped)
        try:
            assert capsule.open_(tmp_path / "flipped.kst").files == as_it_was, place
        except UsageError:
            told += 1
    assert told >= 20


def test_a_flipped_byte_of_a_file_is_told(folder: RunFolder, tmp_path: Path) -> None:
    whole = bytearray(capsule.write(folder).read_bytes())
    with zipfile.ZipFile(folder.path / capsule.NAME) as archive:
        member = archive.getinfo("results.jsonl")
    whole[member.header_offset + 30 + len(member.filename) + member.compress_size // 2] ^= 0x55
    (tmp_path / "flipped.kst").write_bytes(whole)
    with pytest.raises(UsageError, match="damaged"):
        capsule.open_(tmp_path / "flipped.kst")


@pytest.mark.parametrize("name", ["capsule.json", "manifest.json", "results.jsonl"])
def test_a_part_that_is_not_there_is_named(folder: RunFolder, tmp_path: Path, name: str) -> None:
    members = members_of(capsule.write(folder))
    del members[name]
    with pytest.raises(UsageError, match=f"has no {name}, so it is no capsule"):
        capsule.open_(packed(tmp_path / "less.kst", members))


def test_what_is_no_capsule_at_all(tmp_path: Path) -> None:
    for path in (tmp_path / "none", tmp_path):
        with pytest.raises(UsageError):
            capsule.open_(path)
