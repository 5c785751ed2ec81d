"""Names of tests and suites: stable, unique, the same on every kernel."""

from __future__ import annotations

import pytest


def suite_of(item: pytest.Item) -> str:
    """The folder the test lies in: ``trapping``, ``eviction``, ..."""
    return item.path.parent.name


def test_id(item: pytest.Item, label: str) -> str:
    """``trapping/test_sync.py::test_name[params]``, without the kernel's *label* that pytest puts into the params."""
    name = item.name
    if name.endswith("]") and "[" in name:
        function, _, params = name[:-1].partition("[")
        for joined in (f"{label}-", f"-{label}", label):
            if joined in params:
                params = params.replace(joined, "", 1)
                break
        name = f"{function}[{params}]" if params else function
    return f"{suite_of(item)}/{item.path.name}::{name}"
