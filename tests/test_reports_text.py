import unicodedata
from xml.etree import ElementTree

import pytest
from hypothesis import given
from hypothesis import strategies as st
from results_factory import HOSTILE

from kselftests_py.reports.text import one_line, printable


@given(st.text(st.characters(exclude_categories=[])))
def test_printable_text_is_fit_for_xml_utf8_and_terminals(text):
    clean = printable(text)
    assert {unicodedata.category(character) for character in clean} & {"Cc", "Cs"} <= {"Cc"}
    assert not [character for character in clean if unicodedata.category(character) == "Cc" and character not in "\t\n"]
    escaped = clean.replace("&", "&amp;").replace("<", "&lt;")
    assert (ElementTree.fromstring(f"<a>{escaped}</a>".encode()).text or "") == clean
    assert printable(clean) == clean


@given(st.text(st.characters(exclude_categories=[])), st.integers(1, 50))
def test_one_line_is_one_bounded_line(text, limit):
    line = one_line(text, limit)
    assert len(line) <= limit
    assert len(line.splitlines()) <= 1


@pytest.mark.parametrize(
    ("text", "clean"),
    [
        ("plain\ttext\n", "plain\ttext\n"),
        ("\x1b[1;31mred\x1b[0m", "red"),
        ("\x1b]0;window title\x07x", "x"),
        ("\x1b]52;c;cGF5bG9hZA==\x1b\\x", "x"),
        ("\x1bPq#0\x1b\\x", "x"),
        ("\x1bcx", "x"),
        ("a\r\nb\rc", "a\nb\ufffdc"),
        ("\x00\x07\x85\x9b31m", "\ufffd\ufffd\ufffd\ufffd31m"),
        ("\udcff\ufffe\u202e\u2066", "\ufffd" * 4),
        ("ünïcode 猫", "ünïcode 猫"),
    ],
)
def test_printable(text, clean):
    assert printable(text) == clean


def test_the_hostile_text_is_tamed():
    assert one_line(HOSTILE).startswith("red ]]> <script>")
