"""The corpus is well formed, carries no kernel code, and its rules fail loudly where they do not fit."""

from __future__ import annotations

import re
from collections import Counter
from pathlib import Path

import pytest

from kselftests_py.errors import HarnessError, UsageError
from kselftests_py.sabotage.defects import Defect, Edit, apply, chosen, load

ROOT = Path(__file__).resolve().parent.parent
SOURCE = """\
/* arm() does not arm: twice in this file, once before its own body */
static int arm(int page);

static __always_inline int
arm(int page)
{
\tif (page &&
\t    /* never the first */
\t    is_there(page))
\t\treturn protect(page);
\tflush(page);
\tflush(page);
\treturn 0;
}

void disarm(int page)
{
\tflush(page);
}

#ifdef A
int twin(int page)
{
\treturn 0;
}
#else
int twin(int page)
{
\treturn find(page);
}
#endif
"""


def defect(**edit: object) -> Defect:
    given = {"file": "mm/a.c", "function": "arm", "match": "return 0;", "replace": "return 1;"} | edit
    return Defect(name="a-b", breaks="I1", shows="something goes wrong", edit=[Edit(**given)])  # type: ignore[arg-type]


@pytest.fixture
def src(tmp_path: Path) -> Path:
    (tmp_path / "mm").mkdir()
    (tmp_path / "mm/a.c").write_text(SOURCE)
    return tmp_path


def test_corpus_is_large_enough_and_each_defect_is_told_apart() -> None:
    corpus = load()
    kinds = Counter(one.kind for one in corpus if not one.equivalent)
    assert len(corpus) >= 40
    assert kinds["race"] + kinds["kernel-access"] >= 8
    assert kinds["cost"] >= 4
    assert len({one.shows for one in corpus}) == len(corpus)


def test_each_defect_breaks_what_is_promised() -> None:
    """A sentence of docs/contract.md, or one of its invariants."""
    promised = set(re.findall(r"^\| ([A-Z]\d+) \|", (ROOT / "docs/contract.md").read_text(), re.MULTILINE))
    assert {"A1", "I1"} <= promised
    assert {one.breaks for one in load()} - promised == {"cost"}


def test_rules_carry_no_lines_of_kernel_code() -> None:
    for one in load():
        for edit in one.edit:
            assert "\n" not in edit.match + edit.replace, one.name
            assert edit.match != edit.replace, one.name


@pytest.mark.parametrize(
    ("edit", "was", "becomes"),
    [
        ({}, "\treturn 0;\n}\n\nvoid", "\treturn 1;\n}\n\nvoid"),
        ({"match": "if (page && is_there(page))", "replace": "if (page)"}, "is_there", "if (page)\n\t\treturn protect"),
        (
            {"match": "if (page ... return protect(page);", "replace": "{it}return 2;"},
            "",
            "return protect(page);return 2;",
        ),
        ({"match": "flush(page);", "replace": "x();", "nth": 2}, "", "\tflush(page);\n\tx();\n"),
        ({"function": "twin", "match": "return find(page);", "replace": "return 3;"}, "find", "return 3;"),
        ({"function": "disarm", "match": "flush(page);", "replace": ";"}, "", "disarm(int page)\n{\n\t;\n}"),
    ],
    ids=["plain", "white space and comments", "ellipsis", "nth", "under ifdef", "this function only"],
)
def test_rule_is_applied(src: Path, edit: dict[str, object], was: str, becomes: str) -> None:
    assert was in SOURCE
    assert apply(defect(**edit), src) == [src / "mm/a.c"]
    text = (src / "mm/a.c").read_text()
    assert becomes in text
    assert text != SOURCE


@pytest.mark.parametrize(
    ("edit", "told"),
    [
        ({"match": "flush(page);"}, "2 times in arm()"),
        ({"match": "flush(page);", "nth": 3}, "2 times in arm()"),
        ({"match": "return 7;"}, "0 times in arm()"),
        ({"match": "return find(page);"}, "0 times in arm()"),
        ({"function": "disarmed"}, "no disarmed()"),
        ({"file": "mm/b.c"}, "mm/b.c: No such file"),
        ({"file": "../a.c"}, "outside the source"),
    ],
    ids=["ambiguous", "too few", "not there", "elsewhere", "function", "file", "outside"],
)
def test_rule_that_does_not_fit_fails_loudly_and_changes_nothing(src: Path, edit: dict[str, object], told: str) -> None:
    with pytest.raises(UsageError) as error:
        apply(defect(**edit), src)
    assert "a-b" in str(error.value)
    assert told in str(error.value)
    assert (src / "mm/a.c").read_text() == SOURCE


def test_second_rule_that_does_not_fit_undoes_nothing_of_the_first(src: Path) -> None:
    one = defect()
    both = Defect(
        name="a-b", breaks="I1", shows="something goes wrong", edit=[*one.edit, *defect(match="nope();").edit]
    )
    with pytest.raises(UsageError):
        apply(both, src)
    assert (src / "mm/a.c").read_text() == SOURCE


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ('[[defect]]\nname = "A B"\nbreaks = "I1"\nshows = "something"\nedit = []', "name"),
        ('[[defect]]\nname = "a"\nbreaks = "I1"\nshows = "something else"\nedit = []', "edit"),
        ("[[defect]]\nnonsense = 1", "nonsense"),
        ("not toml", "TOML|toml|Expected|key"),
    ],
)
def test_corpus_that_is_broken_is_one_line(tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "x.toml").write_text(text)
    with pytest.raises((HarnessError, UsageError), match=told):
        load(tmp_path)


def test_words_choose_defects() -> None:
    corpus = load()
    assert chosen(corpus, "") == corpus
    assert {one.name for one in chosen(corpus, "lost-wake, swapoff")} == {
        "lost-wake",
        "lost-wake-hugetlb",
        "swapoff-disarms",
    }
    with pytest.raises(UsageError, match="--list"):
        chosen(corpus, "no-such-defect")
