"""Fixtures of the matrix of operations."""

from __future__ import annotations

from collections.abc import Callable, Iterable

import pytest

from kselftests_py.lab import Capabilities, Subject
from kselftests_py.lab.kinds import KINDS
from kselftests_py.lab.operations import Operation, survive
from kselftests_py.results import Outcome


@pytest.fixture
def here(
    caps: Capabilities, record_part: Callable[[str, Outcome, str], None], request: pytest.FixtureRequest
) -> Callable[[str, Iterable[str]], list[str]]:
    """Those of some kinds of memory that this kernel has; a SKIP with its reason is recorded for each other one."""

    def present(name: str, kinds: Iterable[str]) -> list[str]:
        found = []
        for kind in kinds:
            missing = next((why for need in KINDS[kind].needs if (why := caps.missing(need))), None)
            if missing is None:
                found.append(kind)
            else:
                record_part(f"trapping/{request.path.name}::{name}-{kind}", Outcome.SKIP, missing)
        if not found:
            pytest.skip("none of the kinds of memory is to be had here")
        return found

    return present


@pytest.fixture
def check_row(
    subject: Subject, here: Callable[[str, Iterable[str]], list[str]], kst_control: str | None
) -> Callable[[Operation, str, Iterable[str]], None]:
    """Protect, operate, judge: one row of the matrix."""

    def judged(operation: Operation, protection: str, kinds: Iterable[str]) -> None:
        present = here(f"{operation.do.__name__}-{protection}", kinds)
        survive(subject, operation, protection, present, kst_control)

    return judged
