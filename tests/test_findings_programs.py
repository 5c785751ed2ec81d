"""docs/findings: each finding that a test names is written down, and its program compiles with a C compiler alone."""

from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FINDINGS = ROOT / "docs" / "findings"
PROGRAMS = sorted(FINDINGS.glob("*.c"))


def test_every_finding_of_the_suites_is_written_down() -> None:
    named = {
        name
        for path in (ROOT / "suites").rglob("test_*.py")
        for name in re.findall(r'mark\.finding\("(\w+)"\)', path.read_text())
    }
    assert "F001" in named
    missing = {name for name in named for kind in ("md", "c") if not (FINDINGS / f"{name}.{kind}").is_file()}
    assert missing == set()


@pytest.mark.parametrize("program", PROGRAMS, ids=[path.name for path in PROGRAMS])
def test_program_compiles(program: Path, tmp_path: Path) -> None:
    command = ["gcc", "-Wall", "-Wextra", "-Werror", "-o", str(tmp_path / "program"), str(program)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    text = (FINDINGS / f"{program.stem}.md").read_text()
    assert program.name in text, f"{program.stem}.md does not name its program"
