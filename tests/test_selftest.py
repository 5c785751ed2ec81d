"""``kst test``: a failed check fails the whole, pytest runs all the same and comes last."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest

from kselftests_py import selftest
from kselftests_py.errors import HarnessError

OK = [sys.executable, "-c", "print('hidden')"]
BAD = [sys.executable, "-c", "print('the complaint'); raise SystemExit(1)"]
GONE = ["/no/such/tool"]


@pytest.mark.parametrize(
    ("check", "body", "args", "status", "told"),
    [
        (OK, "def test_x(): pass", [], 0, "ok      lint"),
        (BAD, "def test_x(): pass", [], 1, "the complaint"),
        (GONE, "def test_x(): pass", [], 1, "/no/such/tool is not installed"),
        (OK, "def test_x(): assert 0", [], 1, "checks: all passed"),
        (OK, "def test_x(): assert 0\ndef test_y(): pass", ["-k", "test_y"], 0, "checks: all passed"),
        (OK, "def test_x(): pass", ["--no-such-option"], 4, "checks: all passed"),
    ],
)
def test_exit_code_and_what_is_told(
    check: list[str],
    body: str,
    args: list[str],
    status: int,
    told: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    (tmp_path / "pyproject.toml").touch()
    (tmp_path / "tests").mkdir()
    (tmp_path / "tests" / "test_it.py").write_text(body + "\n")
    monkeypatch.setattr(selftest, "checks", lambda scratch: {"lint": check})
    assert selftest.run(args, tmp_path) == status
    out = capfd.readouterr().out
    assert told in out
    assert "hidden" not in out
    if status != 4:
        assert " in " in out.splitlines()[-1], "pytest's closing line must be the last"


def test_without_a_checkout(tmp_path: Path) -> None:
    with pytest.raises(HarnessError, match="needs a checkout"):
        selftest.run([], tmp_path)
