"""``kst doctor`` and the table of requirements behind it."""

from __future__ import annotations

import io
import os
import re
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from rich.console import Console

from kselftests_py import doctor, requirements
from kselftests_py.errors import HarnessError


@dataclass(frozen=True)
class Chosen:
    name: str = "tcg"
    reason: str = "there is no [/dev/kvm]"


def diagnose(
    table: str, tmp: Path, monkeypatch: pytest.MonkeyPatch, choose: Callable[[], Chosen] = Chosen
) -> tuple[int, str]:
    """Exit code and text of the doctor on this table, on a narrow terminal."""
    path = tmp / "list.txt"
    path.write_text(table)
    monkeypatch.setenv("KST_REQUIREMENTS", str(path))
    out = io.StringIO()
    status = doctor.run(Console(file=out, width=40), choose)
    return status, out.getvalue()


@pytest.mark.parametrize(
    ("need", "check", "status", "line"),
    [
        ("required", "sh", 0, r"found +thing +/.*/sh: why\[it\] matters"),
        ("required", "no-such-command", 3, r"missing +thing +missing: no-such-command: why\[it\] matters"),
        ("optional", "/no/such/file", 0, r"optional +thing +missing: /no/such/file: why\[it\] matters"),
        ("setup", "module:nosuch", 0, r"optional +thing +missing: module:nosuch: why\[it\] matters"),
        ("setup", "module:sys", 0, rf"found +thing +{re.escape(sys.version.split()[0])} \(.*\): why\[it\] matters"),
    ],
)
def test_each_requirement_is_one_whole_line_and_only_required_ones_count(
    need: str, check: str, status: int, line: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # The table's words reach the terminal as they are, brackets and all, however narrow it is.
    monkeypatch.setattr(requirements, "versions", lambda packages: {})
    got, text = diagnose(f"# head\n\nthing  {need}  {check}  why[it] matters\n", tmp_path, monkeypatch)
    assert got == status
    assert re.fullmatch(line, text.splitlines()[0]), text


def fake_apt(said: str, tmp: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine whose apt-cache says this, whatever it is asked."""
    (tmp / "bin").mkdir()
    (tmp / "bin/apt-cache").write_text(f"#!/bin/sh\nprintf '%s' '{said}'\n")
    (tmp / "bin/apt-cache").chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp / 'bin'}:{os.environ['PATH']}")


def test_how_to_get_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    table = (
        "sh-package  required  sh    there\n"
        "one         required  no-1  a\n"
        "two         required  no-2  b\n"
        "three       optional  no-3  c\n"
        "four        optional  no-4  d\n"
        "five        optional  no-5  e\n"
        "-           optional  /no6  f\n"
    )
    # apt-cache(8): what only others mention has no candidate, and of what nobody mentions nothing is said.
    fake_apt(
        "three:\n  Installed: (none)\n  Candidate: 1.0\n  Version table:\n     1.0 500\n"
        "four:\n  Installed: (none)\n  Candidate: (none)\n  Version table:\n",
        tmp_path,
        monkeypatch,
    )
    _, text = diagnose(table, tmp_path, monkeypatch)
    assert re.search(r"^to get what is missing +apt-get install one two$", text, re.M)
    assert re.search(r"^to get the optional ones +apt-get install three$", text, re.M)
    assert re.search(r"^not known to apt here +four five \(apt-get update\?\)$", text, re.M)


def test_without_apt_nothing_is_recommended_to_be_got_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    _, text = diagnose("three  optional  no-3  c\n", tmp_path, monkeypatch)
    assert "apt-get install" not in text


def test_a_packages_version_is_not_claimed_for_a_tool_from_elsewhere(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(requirements, "versions", lambda packages: {"p": "1.2-3"})
    own = tmp_path / "own"
    own.touch()
    _, text = diagnose(f"p  required  /usr/bin/env  x\np  required  {own}  x\n", tmp_path, monkeypatch)
    assert [line.split()[2] for line in text.splitlines()[:2]] == ["1.2-3:", f"{own}:"]


def refuse() -> Chosen:
    raise HarnessError("QEMU does not run")


@pytest.mark.parametrize(
    ("table", "choose", "told"),
    [
        ("p required sh x\n", Chosen, "tcg: there is no [/dev/kvm]"),
        ("p required sh x\n", refuse, "cannot tell: QEMU does not run"),
        ("q required qemu-system-nosuch x\n", refuse, "none: QEMU is missing"),
    ],
)
def test_the_accelerator_and_why(
    table: str, choose: Callable[[], Chosen], told: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    _, text = diagnose(table, tmp_path, monkeypatch, choose)
    assert text.splitlines()[-1].split(maxsplit=1) == ["accelerator", told]


@pytest.mark.parametrize(
    ("table", "where"),
    [("a required sh\n", ":1:"), ("# x\nb wanted sh why\n", ":2:"), (None, "cannot read the table of requirements")],
)
def test_a_bad_table_is_one_line_that_says_where(table: str | None, where: str, tmp_path: Path) -> None:
    path = tmp_path / "list.txt"
    if table is not None:
        path.write_text(table)
    with pytest.raises(HarnessError, match=where) as caught:
        requirements.load(path)
    assert "\n" not in str(caught.value)


def test_the_projects_own_table() -> None:
    table = requirements.load(Path(requirements.__file__).with_name("debian-packages.txt"))
    names = [row.package or row.check for row in table]
    assert len(names) == len(set(names))
    required = {row.package for row in table if row.need == "required"}
    assert {"qemu-system-x86", "busybox-static", "gcc", "make", "libjansson-dev"} <= required
    assert all(row.need == "optional" for row in table if row.package is None), "nothing can install it"
