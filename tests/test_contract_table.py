"""docs/contract.md is what the suites' marks make of suites/trapping/contract.toml, and that table cannot rot."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from kselftests_py.contract import Sentence, sentences, table
from kselftests_py.errors import UsageError

ROOT = Path(__file__).resolve().parent.parent
ONE = Sentence("A1", "UFFDIO_API", "It is decided first.")
UNTESTED = Sentence("A2", "UFFDIO_API", "It is decided next.", "there is no such kernel")


def test_document_is_current() -> None:
    """In a process of its own: pytest inside pytest would share its state."""
    made = subprocess.run(
        [sys.executable, "-m", "kselftests_py.contract"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    assert made.returncode == 0, made.stderr
    assert (ROOT / "docs" / "contract.md").read_text() == made.stdout, (
        "run: python -m kselftests_py.contract > docs/contract.md"
    )


def test_a_sentence_has_its_tests_or_its_reason() -> None:
    text = table([ONE, UNTESTED], {"A1": {"test_b.py::test_two", "test_a.py::test_one"}})
    assert "| A1 | It is decided first. | `test_a.py::test_one`<br>`test_b.py::test_two` |" in text
    assert "| A2 | It is decided next. | none: there is no such kernel |" in text
    assert text.count("## UFFDIO_API") == 1


@pytest.mark.parametrize(
    ("contract", "tests", "says"),
    [
        ([ONE], {}, "A1.*neither a test nor a reason"),
        ([UNTESTED], {"A2": {"test_a.py::test_one"}}, "A2.*both a test and a reason"),
        ([ONE], {"A1": {"t"}, "Z9": {"test_a.py::test_one"}}, "'Z9'.*test_a.py::test_one.*no such sentence"),
    ],
    ids=["nothing", "both", "unknown"],
)
def test_what_does_not_fit_is_refused(contract: list[Sentence], tests: dict[str, set[str]], says: str) -> None:
    with pytest.raises(UsageError, match=says):
        table(contract, tests)


@pytest.mark.parametrize(
    "text",
    [
        "A1 = ",
        "A1 = 'no chapter'",
        "[A]\nA1 = 'no title'",
        "[A]\ntitle = 'T'\nB1 = 'of another chapter'",
        "[A]\ntitle = 'T'\nA1 = 3",
        "[A]\ntitle = 'T'\nA1 = { text = 'x', untold = 'y' }",
    ],
)
def test_broken_table_is_one_clear_line(tmp_path: Path, text: str) -> None:
    path = tmp_path / "contract.toml"
    path.write_text(text)
    with pytest.raises(UsageError, match=r"contract\.toml") as caught:
        sentences(path)
    assert "\n" not in str(caught.value)


def test_missing_table_is_one_clear_line(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match=r"contract\.toml"):
        sentences(tmp_path / "contract.toml")
