"""uapi.h says what the kernel's own headers say: every constant, size and offset."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from debian.debian_support import Version
from probe_agent import PROBE

from kselftests_py.kernels import apt, store


@pytest.fixture
def uapi_check(monkeypatch: pytest.MonkeyPatch) -> Iterator[object]:
    monkeypatch.syspath_prepend(str(PROBE))
    import uapi_check  # type: ignore[import-not-found]  # lies beside the C sources, not in a package

    yield uapi_check
    sys.modules.pop("uapi_check")


def test_constants_and_structs_are_the_kernels(uapi_check) -> None:  # type: ignore[no-untyped-def]
    """Against ``$KST_UAPI_INCLUDE`` (headers that have RWP: all is checked), else the system's."""
    given = os.environ.get("KST_UAPI_INCLUDE")
    result = uapi_check.compare(Path(given) if given else None)
    assert result.wrong == {}
    assert len(result.same) > 40
    assert "sizeof uffd_msg" in result.same
    if given:
        assert result.absent == []


def test_every_struct_of_uapi_h_is_compared(uapi_check) -> None:  # type: ignore[no-untyped-def]
    text = (PROBE / "uapi.h").read_text()
    assert set(re.findall(r"^struct (\w+) \{", text, re.MULTILINE)) == set(uapi_check.STRUCTS)
    names = set(uapi_check.constants())
    assert {
        "UFFDIO_RWPROTECT",
        "_UFFDIO_SET_MODE",
        "PAGE_IS_ACCESSED",
        "UFFD_FEATURE_RWP_ASYNC",
        "MADV_PAGEOUT",
    } <= names


def test_difference_is_found(uapi_check, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """Headers that disagree are seen to: a changed constant, a field more."""
    for name, text in {
        "userfaultfd.h": "#define UFFD_EVENT_FORK 0x14\n#define UFFDIO_WAKE 1\n"
        "struct uffdio_range { unsigned long long start, pad, len; };\n",
        "fs.h": "",
        "mman.h": "",
    }.items():
        (tmp_path / "linux").mkdir(exist_ok=True)
        (tmp_path / "linux" / name).write_text(text)
    wrong = uapi_check.compare(tmp_path).wrong
    assert wrong["UFFD_EVENT_FORK"] == (0x13, 0x14)
    assert wrong["sizeof uffdio_range"] == (16, 24)
    assert wrong["offsetof uffdio_range.len"] == (8, 16)


@pytest.mark.network
def test_everything_agrees_with_the_headers_of_debians_newest_kernel(uapi_check, tmp_path: Path) -> None:  # type: ignore[no-untyped-def]
    """linux-libc-dev of the newest kernel on the mirror (7.3 or later: it has RWP): nothing is left unchecked."""
    with store.lock(print) as root:
        apt.refresh(root / "apt", print)
        versions = [package["Version"] for package in apt.show(root / "apt", ["linux-libc-dev"])]
        newest = max(versions, key=Version)
        [deb] = apt.download(root / "apt", [("linux-libc-dev", newest)], tmp_path)
    subprocess.run(["dpkg-deb", "-x", deb, tmp_path / "headers"], check=True)
    result = uapi_check.compare(tmp_path / "headers" / "usr" / "include")
    assert (result.wrong, result.absent) == ({}, []), newest
