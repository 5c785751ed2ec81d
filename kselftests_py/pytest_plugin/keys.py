"""Where the plugin keeps its state in pytest's stashes."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest

from kselftests_py.results import Metric, Record

if TYPE_CHECKING:
    from kselftests_py.pytest_plugin.session import Run
    from kselftests_py.pytest_plugin.station import Station

RUN: pytest.StashKey[Run] = pytest.StashKey()
"""On the config: the run, when kernels were given."""
STATION: pytest.StashKey[Station] = pytest.StashKey()
"""On an item: the station it used, once it has one."""
METRICS: pytest.StashKey[list[Metric]] = pytest.StashKey()
"""On an item: what it measured."""
REPORTS: pytest.StashKey[list[pytest.TestReport]] = pytest.StashKey()
"""On an item: pytest's reports of its phases."""
ERRORS: pytest.StashKey[list[BaseException]] = pytest.StashKey()
"""On an item: what its phases raised."""
PARTS: pytest.StashKey[list[Record]] = pytest.StashKey()
"""On an item: records of its own parts, beside its own."""
