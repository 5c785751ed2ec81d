"""Tables of operations for the matrix: what is done, to which kinds, and the tests that pytest makes of them."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any

import pytest

from kselftests_py.lab import bystanders, judgement, matrix
from kselftests_py.lab.kinds import KINDS, NEVER
from kselftests_py.lab.matrix import Case
from kselftests_py.lab.subject import Subject

NEEDS = {
    "rwp": ("rwp", "rwp_async", "pagemap_scan", "page_accessed"),
    "wp": ("wp", "wp_shmem", "wp_async", "pagemap_scan"),
}
BY = [pytest.param(name, marks=pytest.mark.needs(*needs)) for name, needs in NEEDS.items()]
"""For ``parametrize("protection", BY)``."""


@dataclass(frozen=True)
class Operation:
    """What is done, between protecting and looking. Its docstring names the kernel's functions.

    ``needs`` are capabilities; ``absent`` says of each kind that cannot do it why; ``findings`` of each (kind,
    protection) that a kernel gets wrong, which; ``protections`` are those it means something for; ``beside`` are the
    kinds that have bystanders.
    """

    do: Callable[[Case], None]
    needs: tuple[str, ...] = ()
    absent: Mapping[str, str] = field(default_factory=dict)
    findings: Mapping[tuple[str, str], str] = field(default_factory=dict)
    protections: tuple[str, ...] = ("rwp", "wp")
    extra: int = 0
    beside: tuple[str, ...] = bystanders.STAND_BY

    def __post_init__(self) -> None:
        named = {*self.absent, *(kind for kind, _ in self.findings)}
        assert named <= set(KINDS), f"{self.do.__name__}: no kind is called {sorted(named - set(KINDS))}"

    def kinds(self, protection: str) -> list[str]:
        """The kinds that can do it."""
        return [name for name in KINDS if name not in self.absent and (name, protection) not in NEVER]


Row = Callable[[Operation, str, Iterable[str]], None]
"""The fixture ``check_row``: an operation, a protection, and the kinds to try it on."""


def only(kinds: Collection[str], reason: str) -> dict[str, str]:
    """``absent`` for an operation that *kinds* alone can do, the others not for *reason*."""
    return {name: reason for name in KINDS if name not in kinds}


def rows(operations: Iterable[Operation]) -> list[Any]:
    """A row for each operation and protection, with all its kinds; a row of its own for those that a finding spoils."""
    made = []
    for operation in operations:
        for protection in operation.protections:
            needs, name = pytest.mark.needs(*NEEDS[protection], *operation.needs), operation.do.__name__
            spoilt = {kind: text for (kind, which), text in operation.findings.items() if which == protection}
            kinds = tuple(kind for kind in operation.kinds(protection) if kind not in spoilt)
            if kinds:
                made.append(pytest.param(operation, protection, kinds, marks=needs, id=f"{name}-{protection}"))
            for finding in sorted(set(spoilt.values())):
                kinds = tuple(kind for kind in spoilt if spoilt[kind] == finding)
                marks = [needs, pytest.mark.finding(finding)]
                made.append(
                    pytest.param(operation, protection, kinds, marks=marks, id=f"{name}-{protection}-{finding}")
                )
    return made


def survive(subject: Subject, operation: Operation, protection: str, kinds: Iterable[str], control: str | None) -> None:
    """Protect, operate, judge; then close and kill. :raises AssertionError: see ``judge`` and ``bystanders.end``."""
    kinds = tuple(kinds)
    case = matrix.prepared(subject, kinds, protection, operation.extra)
    left = bystanders.beside(subject, {*kinds} & {*operation.beside}, protection, operation.extra)
    try:
        operation.do(replace(case, cells=[*case.cells, *left]))
        finish(case, left, judgement.judge(case), control)
    finally:
        for child in case.children:
            child.end()


def finish(case: Case, left: list[matrix.Cell], wrong: dict[str, str], control: str | None) -> None:
    """The end of a row whose judgement is *wrong*: its bystanders are closed or killed, and all is checked.

    :raises AssertionError: something is wrong with a cell.
    """
    wrong = wrong | bystanders.end(case.subject, left)
    # A bystander shows nothing but that its thread waits: of the controls it notices the one that takes its protection.
    seen = [*case.cells, *(left if control == "skip_protect" else [])]
    judgement.check_cells(wrong, seen, control)
