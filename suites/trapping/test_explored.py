"""Sequences that `kst explore` came upon and that were kept: each step must be as the explorer's model has it.

They meet operations in orders that no table of operations has. Source: the sentences of contract.toml and the
invariants, as kselftests_py/explore/model.py and rules.py have them; docs/explore.md tells how one comes here.
"""

from __future__ import annotations

from pathlib import Path

import pytest

from kselftests_py.explore import known
from kselftests_py.explore.execute import categories_of
from kselftests_py.explore.judge import judge, readable
from kselftests_py.explore.kept import lacking, read
from kselftests_py.explore.perform import run
from kselftests_py.explore.words import claim_in_words
from kselftests_py.lab import Capabilities, Lab
from kselftests_py.pytest_plugin.station import Target

FILES = sorted((Path(__file__).parent / "explored").glob("*.json"))


@pytest.mark.needs("uffd")
@pytest.mark.control("skip_protect", "invert_marker")
@pytest.mark.parametrize("file", FILES, ids=[path.stem for path in FILES])
def test_sequence(lab: Lab, kst_target: Target, caps: Capabilities, kst_control: str | None, file: Path) -> None:
    """Errnos, who is blocked, messages, markers, what is accessed or written, and contents agree with the model."""
    sequence = read(file).sequence
    why = lacking(sequence, caps)
    if why is not None:
        pytest.skip(why)
    seen = run(
        lab,
        sequence,
        readable(sequence),
        categories=categories_of(caps),
        control=kst_control,
        one_cpu=kst_target.entry.emulated,
    )
    claim = judge(sequence, seen, lambda claim, after: known.passed(claim, after) is not None)
    assert claim is None, f"step {claim.step}: {claim_in_words(sequence, claim)}"
