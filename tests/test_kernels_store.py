"""The cache of kernels: whole or not there, for two processes at once, and without a network."""

from __future__ import annotations

import errno
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import psutil
import pytest
from kernels_mirror import Mirror, bzimage
from test_kernels_debian import get

from kselftests_py import prune
from kselftests_py.errors import HarnessError
from kselftests_py.kernels import list_images, resolve, store

pytest_plugins = ["kernels_fixtures"]

RESOLVE = "import sys; from kselftests_py.kernels import resolve; print(resolve(sys.argv[1]).digest)"
HOLD = RESOLVE + "; sys.stdout.flush(); sys.stdin.read()"


def start(code: str, spec: str) -> subprocess.Popen[str]:
    root = str(Path(store.__file__).parents[2])
    return subprocess.Popen(
        [sys.executable, "-c", code, spec],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": root},
    )


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[-1] ^= 1
    path.write_bytes(data)


DAMAGES: dict[str, Callable[[Path, Path], object]] = {
    "vmlinuz": lambda entry, modules: flip(modules / "vmlinuz"),
    "config": lambda entry, modules: (modules / "config").write_text(""),
    "modules.dep": lambda entry, modules: flip(modules / "modules.dep"),
    "module gone": lambda entry, modules: (modules / "kernel/net/9p.ko").unlink(),
    "module cut": lambda entry, modules: (modules / "kernel/net/9p.ko").write_bytes(b""),
    "all gone": lambda entry, modules: shutil.rmtree(entry / "lib"),
    "manifest": lambda entry, modules: (entry / "manifest.json").write_text("{"),
    "manifest of another": lambda entry, modules: (entry / "manifest.json").write_text("{}"),
}


def damage(how: str) -> None:
    kernel = get("debian:7.3")
    assert kernel.modules is not None
    DAMAGES[how](kernel.modules.parents[2], kernel.modules)


@pytest.mark.parametrize("how", DAMAGES)
def test_a_damaged_entry_is_listed_as_such_and_made_anew(kernels_mirror: Mirror, how: str) -> None:
    damage(how)
    [cached] = list_images()
    assert cached.problem
    notes: list[str] = []
    kernel = get("debian:7.3", notes)
    assert kernel.config_value("CONFIG_USERFAULTFD_RWP") == "y"
    assert "manifest" in how or any("is damaged" in note for note in notes)
    [cached] = list_images()
    assert not cached.problem


def test_a_damaged_entry_without_a_network_is_one_line(kernels_mirror: Mirror) -> None:
    damage("vmlinuz")
    kernels_mirror.stop()
    with pytest.raises(HarnessError, match=r"is damaged \(vmlinuz .*cannot be fetched again") as raised:
        resolve("debian:7.3")
    assert "\n" not in str(raised.value)


def test_without_network_and_cache(mirror: Mirror) -> None:
    mirror.stop()
    with pytest.raises(HarnessError, match="no usable Debian index"):
        resolve("debian:7.3")


@pytest.mark.parametrize("lost", ["nothing", "stamp", "index", "manifest of the index"])
@pytest.mark.parametrize("spec", ["debian:7.3", "debian:7.3.4-1~bpo13+1"])
def test_once_filled_no_network_is_needed(kernels_mirror: Mirror, tmp_path: Path, lost: str, spec: str) -> None:
    kernel = get(spec)
    kernels_mirror.stop()
    apt_root = tmp_path / "cache/kernels/apt"
    if lost == "stamp":
        (apt_root / "refreshed").unlink()
    elif lost == "index":
        shutil.rmtree(apt_root)
    elif lost == "manifest of the index":
        for path in (apt_root / "lists").glob("*InRelease"):
            path.write_text("rubbish")
    notes: list[str] = []
    assert get(spec, notes) == kernel
    if lost == "index" and spec == "debian:7.3":
        assert any("taking what debian:7.3 was last time: 7.3.4+deb13-amd64" in note for note in notes)


def test_a_newer_kernel_that_cannot_be_fetched_leaves_the_old_one(kernels_mirror: Mirror, tmp_path: Path) -> None:
    kernel = get("debian:7.3")
    kernels_mirror.add("7.3.5+deb13-amd64", "7.3.5-1")
    for deb in (kernels_mirror.folder / "pool").glob("*7.3.5*"):
        deb.unlink()
    (tmp_path / "cache/kernels/apt/refreshed").unlink()
    assert get("debian:7.3") == kernel


def test_a_killed_download_leaves_nothing_half_made(kernels_mirror: Mirror, tmp_path: Path) -> None:
    kernels_mirror.mode = "stall"
    process = start(RESOLVE, "debian:7.3")
    assert kernels_mirror.stalled.wait(60), "the download never began"
    # psutil compares start times and may leave out a child for a moment, so its list is awaited too.
    deadline = time.monotonic() + 20
    while not (children := psutil.Process(process.pid).children(recursive=True)):
        assert time.monotonic() < deadline, "no process of apt seen although it asked the mirror"
    process.send_signal(signal.SIGKILL)
    process.communicate()
    _, alive = psutil.wait_procs(children, timeout=20)
    assert not alive, "apt outlives a killed kst"
    assert list_images() == []
    kernels_mirror.released.set()
    kernels_mirror.mode = "serve"
    assert get("debian:7.3").release == "7.3.4+deb13-amd64"
    assert not list((tmp_path / "cache/kernels").glob(".new-*"))


def test_two_processes_at_once_fetch_a_kernel_once(kernels_mirror: Mirror) -> None:
    both = [start(RESOLVE, spec) for spec in ("debian:7.3", "debian:newest")]
    told = [process.communicate(timeout=120)[0] for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert told[0] == told[1] != ""
    assert len(kernels_mirror.debs_asked()) == len(set(kernels_mirror.debs_asked())) == 4


def test_prune_empties_the_cache_but_for_what_is_in_use(kernels_mirror: Mirror) -> None:
    holder = start(HOLD, "debian:7.3")
    assert holder.stdout is not None
    in_use = holder.stdout.readline().strip()
    other = start(RESOLVE, "debian:7.2")
    other.communicate(timeout=120)
    removed, kept = store.prune()
    assert [cached.image.digest for cached in kept] == [in_use]
    assert [cached.image.release for cached in removed] == ["7.2.12+deb13-amd64"]
    assert [cached.image.digest for cached in list_images()] == [in_use]
    holder.communicate(timeout=60)
    removed, kept = store.prune()
    assert [cached.image.digest for cached in removed] == [in_use]
    assert removed[0].size > 1000
    assert (kept, list_images()) == ([], [])


def test_a_whole_entry_is_not_replaced_by_its_like_and_a_damaged_one_is(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("KST_CACHE", str(tmp_path))

    def build(entry: Path) -> None:
        (entry / "lib/modules/7.3").mkdir(parents=True)
        (entry / "lib/modules/7.3/vmlinuz").write_bytes(bzimage("7.3"))
        (entry / "lib/modules/7.3/config").touch()

    first, second = (store.add("tree:x", "7.3", {"commit": name}, build) for name in "ab")
    assert (second.digest, second.provenance) == (first.digest, {"commit": "a"})
    flip(first.vmlinuz)
    assert store.add("tree:x", "7.3", {"commit": "c"}, build).provenance == {"commit": "c"}
    [cached] = list_images()
    assert not cached.problem
    assert {path.name for path in (tmp_path / "kernels").iterdir()} == {first.digest}


def test_another_process_that_holds_the_cache_is_waited_for_and_said(kernels_mirror: Mirror) -> None:
    kernels_mirror.mode = "stall"
    other = start(RESOLVE, "debian:7.3")
    assert kernels_mirror.stalled.wait(60), "the download never began"
    kernels_mirror.mode = "serve"
    notes: list[str] = []

    def note(line: str) -> None:
        notes.append(line)
        if line.startswith("waiting"):
            other.kill()

    kernel = resolve("debian:7.3", note)
    other.communicate()
    assert "waiting for another kst that is fetching a kernel" in notes
    assert kernel.digest == list_images()[0].image.digest  # type: ignore[union-attr]


def test_a_cache_that_is_no_directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "file").touch()
    monkeypatch.setenv("KST_CACHE", str(tmp_path / "file"))
    for action in (lambda: resolve("debian:7.3"), list_images, prune.prune):
        with pytest.raises(HarnessError, match=r"file.*set KST_CACHE"):
            action()


def test_a_full_disk_leaves_nothing_half_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KST_CACHE", str(tmp_path))

    def build(entry: Path) -> None:
        (entry / "part").touch()
        raise OSError(errno.ENOSPC, "No space left on device", str(entry / "part"))

    with pytest.raises(HarnessError, match="No space left on device; free some space"), store.disk_errors():
        store.add("debian:7.3", "7.3", {}, build)
    assert list((tmp_path / "kernels").iterdir()) == []


def test_a_lock_left_by_a_killed_process_is_no_lock(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KST_CACHE", str(tmp_path))
    (tmp_path / "kernels/.new-left").mkdir(parents=True)
    (tmp_path / "kernels/lock").touch()
    # pytest.fail is the listener: a word about waiting is a failure.
    with store.lock(pytest.fail) as folder:
        assert not list(folder.glob(".new-*"))
