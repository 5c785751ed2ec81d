"""The clock of exact mode is believed only when it counts instructions; this machine's own does not."""

from __future__ import annotations

from collections.abc import Sequence
from types import SimpleNamespace
from typing import Any

import pytest

from kselftests_py.errors import HarnessError
from kselftests_py.lab import Lab
from kselftests_py.lab.native import NativeChannel
from kselftests_py.pytest_plugin.station import SPIN, check_clock


class Spun:
    """A lab whose path "spin" took *ticks*."""

    def __init__(self, ticks: Sequence[int]) -> None:
        self.histogram = SimpleNamespace(counts=[(one, ticks.count(one)) for one in sorted(set(ticks))])

    def subject(self) -> Any:
        return self

    def __enter__(self) -> Any:
        return SimpleNamespace(path_cost=lambda *_args, **_named: self)

    def __exit__(self, *_why: object) -> None:
        pass


@pytest.mark.parametrize(
    ("ticks", "counts"),
    [
        ([SPIN + 18] * 9, True),
        ([SPIN + 18] * 8 + [SPIN + 3000], True),
        ([SPIN] * 9, True),
        ([SPIN - 1] * 9, False),
        ([SPIN + 33] * 9, False),
        ([780] * 9, False),
        ([SPIN + 1 + one for one in range(9)], False),
    ],
    ids=["icount", "with-a-tick", "no-overhead", "too-few", "too-many", "a-real-machine", "unsteady"],
)
def test_only_a_counter_of_instructions_is_believed(ticks: list[int], counts: bool) -> None:
    lab: Any = Spun(ticks)
    if counts:
        check_clock(lab, "7.3")
    else:
        with pytest.raises(HarnessError, match=r"^7.3: 2000 instructions took .* does not count instructions"):
            check_clock(lab, "7.3")


def test_the_clock_of_this_machine_is_refused() -> None:
    with pytest.raises(HarnessError, match="does not count instructions"):
        check_clock(Lab(NativeChannel()), "host")
