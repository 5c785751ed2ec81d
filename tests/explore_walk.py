"""Helper of the test_explore_* tests: a model walked by hand, and the explorer on the running kernel."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kselftests_py.explore import steps as s
from kselftests_py.explore.explorer import Explorer, Found
from kselftests_py.explore.ground import Ground
from kselftests_py.explore.model import Expected, Model, Page
from kselftests_py.explore.rules import apply
from kselftests_py.pytest_plugin.station import Settings
from kselftests_py.results import RunFolder

WP = ("PAGEFAULT_FLAG_WP", "WP_HUGETLBFS_SHMEM")


class Walk:
    """A model with one region, registered, and two threads; each method is a step on its whole region."""

    def __init__(
        self, kind: str = "anon", mode: str = "rwp", features: tuple[str, ...] = ("RWP",), pages: int = 2
    ) -> None:
        self.model = Model()
        self.ioctl = "rwprotect" if mode == "rwp" else "writeprotect"
        self.pages = pages
        self.do(s.Map(kind=kind, pages=pages))  # type: ignore[arg-type]
        self.do(s.Open(features=features))  # type: ignore[arg-type]
        for _ in range(2):
            self.do(s.Thread())
        self.populate(1)
        self.do(s.Register(uffd=0, mode=(mode,), region=0, first=0, count=pages))  # type: ignore[arg-type]

    def do(self, step: s.Step, seen: dict[int, str] | None = None) -> Expected:
        expected = apply(self.model, step)
        self.model.settle(seen)
        return expected

    def populate(self, count: int) -> None:
        self.do(s.Populate(region=0, first=0, count=count, value=10))

    def protect(self, first: int = 0, count: int | None = None) -> Expected:
        return self.do(s.Protect(uffd=0, ioctl=self.ioctl, region=0, first=first, count=count or self.pages))  # type: ignore[arg-type]

    def resolve(self, first: int = 0, count: int | None = None, *, dontwake: bool = False) -> Expected:
        range_ = {"region": 0, "first": first, "count": count or self.pages}
        return self.do(s.Resolve(uffd=0, ioctl=self.ioctl, dontwake=dontwake, **range_))  # type: ignore[arg-type]

    def access(self, how: str, page: int = 0, actor: int = 0, value: int = 0) -> frozenset[str]:
        """The outcomes that are allowed."""
        step = s.Access(actor=actor, how=how, region=0, page=page, value=value)  # type: ignore[arg-type]
        return self.do(step).outcomes(actor)

    def page(self, number: int = 0, process: int = 0) -> Page:
        return self.model.pages[process, 0, number]

    def marked(self, process: int = 0) -> list[set[bool]]:
        return [self.model.marked(self.page(number, process)) for number in range(self.pages)]


@contextmanager
def explorer_here(folder: Path, control: str | None = None, seed: int = 1) -> Iterator[tuple[Explorer, list[Found]]]:
    """The explorer on the running kernel, and what it finds; a skip where there is no userfaultfd."""
    found: list[Found] = []
    ground = Ground("host", RunFolder.create(folder / "run"), Settings(), lambda text: None, {})
    try:
        offer = ground.offer()
        if not offer.modes:
            pytest.skip("; ".join(offer.skipped))
        yield Explorer(ground, offer, seed=seed, note=lambda text: None, found=found.append, control=control), found
    finally:
        ground.close(complete=True)
