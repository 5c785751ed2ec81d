"""``kst history``: a path's exact figures over the kernels that were measured."""

from __future__ import annotations

import re

import msgspec

from kselftests_py.errors import UsageError
from kselftests_py.pytest_plugin.known import how
from kselftests_py.results import history
from kselftests_py.results.regression import figures, title


class Path(msgspec.Struct, frozen=True):
    """One path: its figure on each kernel, None where it has none."""

    title: str
    unit: str
    figures: list[float | None]


class History(msgspec.Struct, frozen=True):
    """The kernels, oldest release first, their paths, and how many were measured in another way only."""

    kernels: list[str]
    paths: list[Path]
    others: int


def gather(words: str, memory: str) -> History:
    """All paths whose title has every one of *words*, on every kernel measured as it would be measured now.

    Figures of another probe, suite or QEMU are not comparable and left out.
    :raises UsageError: nothing is left.
    """
    everything, now = history.everything(), how(memory)
    measured = sorted((one for one in everything if one.how == now), key=_numbers)
    columns = [figures(one.records.values()) for one in measured]
    titles = {key: (title(metric.name, metric.labels), metric.unit) for one in columns for key, metric in one.items()}
    paths = [
        Path(*named, [column[key].value if key in column else None for column in columns])
        for key, named in titles.items()
        if set(words.split()) <= set(named[0].split())
    ]
    others = len({one.kernel.digest for one in everything} - {one.kernel.digest for one in measured})
    if not paths:
        raise UsageError(
            f"no path of {len(measured)} kernels has the words '{words}' ({others} more kernels were measured "
            "with another probe, suite, QEMU or memory); kst compare measures"
        )
    return History([one.kernel.label for one in measured], paths, others)


def _numbers(one: history.Measured) -> tuple[list[int], str]:
    """Orders releases as people count: 7.10 comes after 7.9."""
    return [int(number) for number in re.findall(r"\d+", one.kernel.release)], one.when
